"""Probabilities and margins from logits. No torch."""

import numpy as np


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_probabilities(logits))


def margins(right: np.ndarray) -> np.ndarray:
    """From log p of the label: log p − log(1 − p), the label's logit minus log-sum-exp of the others."""
    return right - np.log(-np.expm1(np.minimum(right, -1e-15)))
