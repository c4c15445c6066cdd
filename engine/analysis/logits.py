"""Probabilities from logits. No torch. Values of target functions: `engine.targets.functions`."""

from typing import NamedTuple

import numpy as np

PIECE = 1 << 20  # logits that are looked at together: of all images and thousands of classes they are gigabytes


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log p, float64, along the last axis."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """p, float64, along the last axis."""
    return np.exp(log_probabilities(logits))


class Judged(NamedTuple):
    """What a model says of images: log p of the label given and of the predicted one, float64 [N], and the predicted
    class, int64 [N]."""

    given: np.ndarray
    predicted_label: np.ndarray
    best: np.ndarray


def judged(logits: np.ndarray, labels: np.ndarray) -> Judged:
    """Of logits [N, C], which may be a memory map, and labels int64 [N]."""
    result = Judged(np.empty(len(labels)), np.empty(len(labels), np.int64), np.empty(len(labels)))
    rows = max(1, PIECE // logits.shape[1])
    for start in range(0, len(labels), rows):
        piece = slice(start, start + rows)
        logp = log_probabilities(logits[piece])
        result.given[piece] = logp[np.arange(len(logp)), labels[piece]]
        result.predicted_label[piece] = logp.argmax(1)
        result.best[piece] = logp.max(1)
    return result
