"""The examples of a training, and the batches that its steps see."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Examples(NamedTuple):
    """All examples of a split on the device; a batch is rows of it.

    `inputs` [N, ...]: floats as the model takes them, or uint8 channels-last images, which a
    batch scales to 0..1, standardises by channel and moves to channels-first.
    """

    inputs: Tensor
    labels: Tensor  # int64 [N]
    dtype: torch.dtype
    mean: Tensor | None = None  # [C]
    std: Tensor | None = None  # [C]

    def __len__(self) -> int:  # not the tuple's five fields
        return self.labels.shape[0]

    def batch(self, index) -> tuple[Tensor, Tensor]:
        """Inputs [B, ...] and labels [B] of the examples `index`, int64 [B] (NumPy or torch)."""
        index = torch.as_tensor(index, device=self.labels.device)
        inputs = self.inputs[index]
        if self.mean is not None:
            inputs = ((inputs.to(self.dtype) / 255 - self.mean) / self.std).movedim(-1, 1)
            inputs = inputs.contiguous()
        return inputs.to(self.dtype), self.labels[index]


def examples(dataset, split: str, device: torch.device, dtype: torch.dtype) -> Examples:
    """A split of an `engine.data.Dataset` on the device, its pixels still bytes. Memory maps, which torch
    cannot keep from being written, are copied."""
    return Examples(
        *(
            torch.from_numpy(np.require(array, requirements="W")).to(device)
            for array in (dataset.images(split), dataset.labels(split))
        ),
        dtype,
        torch.as_tensor(dataset.mean, dtype=dtype, device=device),
        torch.as_tensor(dataset.std, dtype=dtype, device=device),
    )
