"""A dummy target function: the Brier score, by NumPy and by torch."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.core import targets
from engine.targets import TargetFunction
from engine.targets.functions import register


def brier(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    logits_SC = np.asarray(logits_SC, np.float64)
    p_SC = np.exp(logits_SC - logits_SC.max(1, keepdims=True))
    p_SC /= p_SC.sum(1, keepdims=True)
    return ((p_SC - np.eye(p_SC.shape[1])[labels_S]) ** 2).sum(1)


def torch_brier(logits_SC: Tensor, labels_S: Tensor) -> Tensor:
    right_SC = functional.one_hot(labels_S, logits_SC.shape[1])
    return (torch.softmax(logits_SC, 1) - right_SC).square().sum(1)


register(TargetFunction("brier", "points", 1, "Brier score of the target, in points.", brier))
targets.register("brier", torch_brier)
