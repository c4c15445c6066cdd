"""A module as a pure function of flat vectors, and the two models that ship.

`FunctionalModel` turns any `nn.Module` into

    logits [B, C], buffers' [Q]  =  model(theta [P], buffers [Q], inputs [B, ...], training)

with every trainable parameter in `theta` and every floating-point buffer in `buffers`, so that
a buffer updated in training (BatchNorm's running statistics) is an output like any other and
gets an adjoint. Frozen parameters and integer buffers are constants.

Native BatchNorm is replaced by `BatchNorm` below. torch 2.13's fused kernel updates the running
statistics out of autograd's sight, and its second derivative through `grad` of `jvp` is wrong.
What cannot be replaced (functional calls, subclasses) is found by `engine.check`.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.errors import ModelError
from engine.models.batch_norm import _replace_batch_norms


class FunctionalModel:
    """See the module's docstring. The module given is copied, never changed.

    `parameters` P, `buffers` Q. `theta0` [P] and `buffers0` [Q] are the module's own values.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        module = _replace_batch_norms(copy.deepcopy(module)).to(device, dtype)
        self.module = module
        trainable = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}
        floats = {k: b.detach() for k, b in module.named_buffers() if b.is_floating_point()}
        if not trainable:
            raise ModelError("The model has no trainable parameter.", "Set requires_grad=True on some.")
        self._parameter_shapes = {k: p.shape for k, p in trainable.items()}
        self._buffer_shapes = {k: b.shape for k, b in floats.items()}
        self._constants = {
            k: t.detach()
            for k, t in [*module.named_parameters(), *module.named_buffers()]
            if k not in trainable and k not in floats
        }
        self.theta0 = _flatten(trainable, device, dtype)
        self.buffers0 = _flatten(floats, device, dtype)
        self.parameters, self.buffers = self.theta0.numel(), self.buffers0.numel()

    def __call__(self, theta_P: Tensor, buffers_Q: Tensor, inputs: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        tensors = _unflatten(theta_P, self._parameter_shapes)
        # Clones, so that a module that updates a buffer in place does so on this call's own value.
        own = {**_unflatten(buffers_Q, self._buffer_shapes), **self._constants}
        tensors.update((k, tensor.clone()) for k, tensor in own.items())
        self.module.train(training)
        # functional_call writes reassigned buffers back into this very dictionary.
        logits = functional_call(self.module, tensors, (inputs,))
        if not self._buffer_shapes:
            return logits, buffers_Q
        return logits, torch.cat([tensors[k].reshape(-1) for k in self._buffer_shapes])

    def decay_mask(self, decay_norm_bias: bool) -> Tensor:
        """[P]: 1 where weight decay applies. Vectors and scalars are biases and norms."""
        parts = [
            torch.full((math.prod(s),), float(decay_norm_bias or len(s) > 1)) for s in self._parameter_shapes.values()
        ]
        return torch.cat(parts).to(self.theta0)

    def load(self, theta_P: Tensor, buffers_Q: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers by name, for `nn.Module.load_state_dict(..., strict=False)`."""
        return {**_unflatten(theta_P, self._parameter_shapes), **_unflatten(buffers_Q, self._buffer_shapes)}

    def to(self, device, dtype: torch.dtype) -> "FunctionalModel":
        """A copy on another device or in another precision; on "meta", its shapes alone."""
        return FunctionalModel(self.module, device, dtype)


def _flatten(tensors: dict[str, Tensor], device, dtype) -> Tensor:
    if not tensors:
        return torch.empty(0, device=device, dtype=dtype)
    return torch.cat([t.reshape(-1) for t in tensors.values()]).to(device, dtype)


def _unflatten(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    # One split: its backward is one concatenation, where slices would each fill a whole vector.
    pieces = flat.split([math.prod(s) for s in shapes.values()])
    return {k: piece.view(s) for (k, s), piece in zip(shapes.items(), pieces, strict=True)}
