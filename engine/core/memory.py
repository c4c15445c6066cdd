"""How much memory a step backwards takes, how many targets fit into a pass, and how many examples into a step.

An estimate: it decides how many targets are carried through one pass, which changes time and memory, and rounding; it
refuses a batch where not even one target would have room in an empty memory. From the shapes alone where the model runs
on the "meta" device, else measured on a few inputs of zeros, else a cautious guess.
"""

import logging
import math

import torch
from torch import Tensor

from engine.device import memory_free, memory_total
from engine.models.functional import FunctionalModel

logger = logging.getLogger(__name__)

# Copies of a forward pass's saved values that one target holds while it is carried through a
# step: its tangents forwards and backwards, and work space. `tests/test_gpu.py` measures it.
TANGENT_COPIES = 3

# On a CPU, wider passes leave the caches: 8 targets of the sample took 0.59 s a step in chunks of
# 4 and 0.76 s in one. A GPU wants them wide.
LARGEST_CHUNK = {"cpu": 4, "cuda": 64}

MEASURED = 2  # inputs of the measured pass, where shapes alone do not do

GUESSED_LAYERS = 100  # tensors of the batch's size that a pass saves, where not even that pass runs


def bytes_per_target(model: FunctionalModel, batch_shape: tuple[int, ...]) -> int:
    """Memory, in bytes, that one target adds to a step backwards, for inputs of `batch_shape` [B, ...]."""
    item = model.theta0.element_size()
    return TANGENT_COPIES * _saved_bytes(model, batch_shape) + 6 * model.parameters * item


def chunk_that_fits(per_target: int, targets: int, device: torch.device) -> int:
    """Targets a pass, so that their tangents take at most a quarter of the device's memory, and
    half of what is free: where memory is ample, the same number whatever else the run keeps in it,
    for sums of other shapes are rounded differently."""
    fit = min(memory_total(device) // 4, memory_free(device) // 2) // max(1, per_target)
    return int(max(1, min(fit, targets, LARGEST_CHUNK[device.type])))


def largest_batch(model: FunctionalModel, batch_shape: tuple[int, ...], copies: float, device: torch.device) -> int:
    """How many examples a step may have, of inputs like `batch_shape` [B, ...], for a pass that holds `copies` of what
    a forward pass saves to fit into all of the device's memory."""
    room = memory_total(device) - 8 * model.parameters * model.theta0.element_size()
    return int(room * batch_shape[0] / max(1.0, copies * _saved_bytes(model, batch_shape)))


def _saved_bytes(model: FunctionalModel, batch_shape: tuple[int, ...]) -> int:
    """What a forward pass saves for its derivative."""
    try:
        return _count(model.to("meta", model.theta0.dtype), batch_shape)
    except Exception as error:  # whatever a model's own code says to tensors without values
        logger.info("The model does not run on shapes alone (%s); its memory is measured.", error)
    few = min(MEASURED, batch_shape[0])
    try:
        return _count(model, (few, *batch_shape[1:])) * -(-batch_shape[0] // few)
    except Exception as error:  # a pass on real inputs will say what is wrong, where something is
        logger.info("The model does not run on %d inputs of zeros (%s); its memory is guessed.", few, error)
    return (GUESSED_LAYERS * math.prod(batch_shape) + model.parameters) * model.theta0.element_size()


def _count(model: FunctionalModel, shape: tuple[int, ...]) -> int:
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    theta = model.theta0.clone().requires_grad_()
    inputs = torch.zeros(shape, device=theta.device, dtype=theta.dtype)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        model(theta, model.buffers0, inputs, training=True)
    return saved
