"""The loss ℓ_i of one example, with label smoothing s and class weights c:

    ℓ_i = −(1 − s) c_{y_i} log p_{y_i} − (s / C) Σ_j c_j log p_j          p = softmax of the logits, C classes

as `F.cross_entropy(logits, labels, weight=c, label_smoothing=s, reduction="none")`. A step divides the sum of
w_i ℓ_i by the constant batch size B, never by the sum of the class weights that torch's "mean" divides by: that sum
is another in every batch, and an example's weight would then pull at the examples beside it. So the score of example
i stays dφ/dw_i of its own term, and a class of weight 2 counts twice, whatever stands beside it.

Balanced weights are c_j = N / (J n_j), n_j of N examples being of class j, and J classes having any: the mean over
the examples is 1, and so is the scale of the loss. A class without examples has 1. They are counted from the labels
once, and are constants: leaving an example out (w_i = 0) leaves the class weights as they are, in the score and in
the retraining alike; other labels (a what-if) are counted anew.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Recipe


@dataclass(frozen=True, eq=False)
class ExampleLoss:
    """ℓ of each example; see the module. Plain cross-entropy where nothing is given."""

    smoothing: float = 0.0  # s
    class_weights: Tensor | None = None  # c, [C] or fewer: classes beyond the last that is named have 1

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses [B] in nats, of `logits` [B, C] and `labels` int64 [B]."""
        weights = self.class_weights
        if weights is not None:
            weights = F.pad(weights, (0, logits.shape[1] - len(weights)), value=1.0)
        return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=self.smoothing)


def loss_for(recipe: Recipe, labels: Tensor, dtype: torch.dtype) -> ExampleLoss:
    """The loss of a recipe; `labels` int64 [N] of the training examples, `dtype` that of the logits."""
    if recipe.class_weights == "none":
        return ExampleLoss(recipe.label_smoothing)
    if recipe.class_weights == "balanced":
        counts = labels.bincount().double()
        weights = torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 1.0)
    else:
        weights = torch.tensor(recipe.class_weights, dtype=torch.float64)
    return ExampleLoss(recipe.label_smoothing, weights.to(labels.device, dtype))
