"""Probabilities from logits. No torch. Values of target functions: `engine.targets.functions`."""

import numpy as np


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log p, float64, along the last axis."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """p, float64, along the last axis."""
    return np.exp(log_probabilities(logits))
