"""How much memory a step backwards takes, and how many targets fit into a pass."""

import torch
from torch import Tensor

from engine.device import memory_free, memory_total
from engine.models.functional import FunctionalModel

# Copies of a forward pass's saved values that one target holds while it is carried through a
# step: its tangents forwards and backwards, and work space. `tests/test_gpu.py` measures it.
TANGENT_COPIES = 3

# On a CPU, wider passes leave the caches: 8 targets of the sample took 0.59 s a step in chunks of
# 4 and 0.76 s in one. A GPU wants them wide.
LARGEST_CHUNK = {"cpu": 4, "cuda": 64}


def bytes_per_target(model: FunctionalModel, batch_shape: tuple[int, ...]) -> int:
    """Memory, in bytes, that one target adds to a step backwards; from the shapes alone."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    shape_only = model.to("meta", model.theta0.dtype)
    theta = shape_only.theta0.clone().requires_grad_()
    inputs = torch.empty(batch_shape, device="meta", dtype=theta.dtype)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        shape_only(theta, shape_only.buffers0, inputs, training=True)
    return TANGENT_COPIES * saved + 6 * theta.numel() * theta.element_size()


def chunk_that_fits(per_target: int, targets: int, device: torch.device) -> int:
    """Targets a pass, so that their tangents take at most a quarter of the device's memory, and
    half of what is free: where memory is ample, the same number whatever else the run keeps in it,
    for sums of other shapes are rounded differently."""
    fit = min(memory_total(device) // 4, memory_free(device) // 2) // per_target
    return int(max(1, min(fit, targets, LARGEST_CHUNK[device.type])))
