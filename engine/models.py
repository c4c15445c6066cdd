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

from engine.config import RunConfig
from engine.data import Dataset
from engine.errors import ModelError

NATIVE_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) over all dimensions but 1, in elementary operations.

    As `nn.BatchNorm*d`: normalises with the biased variance, and
    running' = (1 − momentum) · running + momentum · batch, with the unbiased variance.
    """

    def __init__(self, native: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        self.eps, self.momentum = native.eps, native.momentum
        self.weight, self.bias = native.weight, native.bias
        self.register_buffer("running_mean", native.running_mean)
        self.register_buffer("running_var", native.running_var)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.training:
            dims = [d for d in range(x.dim()) if d != 1]
            var, mean = torch.var_mean(x, dim=dims, correction=0)
            n = x.numel() // x.shape[1]
            if n < 2:
                raise ModelError("BatchNorm needs at least two values per channel in training.",
                                 "Use a larger batch size.")
            keep = 1 - self.momentum
            self.running_mean = keep * self.running_mean + self.momentum * mean
            self.running_var = keep * self.running_var + self.momentum * n / (n - 1) * var
        else:
            mean, var = self.running_mean, self.running_var
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        # One multiply-add over the activations, as the fused kernels do.
        return torch.addcmul(shift.view(shape), x, scale.view(shape))


def _replace_batch_norms(module: nn.Module, path: str = "", done: dict | None = None) -> nn.Module:
    done = {} if done is None else done
    if module in done:
        return done[module]
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
        where = f"The module «{path or type(module).__name__}»"
        if type(module) not in NATIVE_BATCH_NORMS:
            raise ModelError(f"{where} is a {type(module).__name__}, whose running statistics "
                             "cannot be replayed.", "Use nn.BatchNorm1d, 2d or 3d itself, or a norm "
                             "without running statistics such as nn.GroupNorm.")
        if module.momentum is None:
            raise ModelError(f"{where} averages its statistics cumulatively (momentum=None).",
                             "Give it a momentum, such as 0.1.")
        done[module] = BatchNorm(module).train(module.training)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ModelError(f"The module «{path}» has track_running_stats=False, so an evaluation would "
                         "depend on the images beside the target.", "Track the statistics, or use "
                         "nn.GroupNorm.")
    else:
        done[module] = module
        for name, child in module.named_children():
            setattr(module, name, _replace_batch_norms(child, f"{path}.{name}".strip("."), done))
    return done[module]


class FunctionalModel:
    """See the module's docstring. The module given is copied, never changed.

    `parameters` P, `buffers` Q. `theta0` [P] and `buffers0` [Q] are the module's own values.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32):
        module = _replace_batch_norms(copy.deepcopy(module)).to(device, dtype)
        self.module = module
        trainable = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}
        floats = {k: b.detach() for k, b in module.named_buffers() if b.is_floating_point()}
        if not trainable:
            raise ModelError("The model has no trainable parameter.", "Set requires_grad=True on some.")
        self._parameter_shapes = {k: p.shape for k, p in trainable.items()}
        self._buffer_shapes = {k: b.shape for k, b in floats.items()}
        self._constants = {k: t.detach() for k, t in
                           [*module.named_parameters(), *module.named_buffers()]
                           if k not in trainable and k not in floats}
        self.theta0 = _flatten(trainable, device, dtype)
        self.buffers0 = _flatten(floats, device, dtype)
        self.parameters, self.buffers = self.theta0.numel(), self.buffers0.numel()

    def __call__(self, theta_P: Tensor, buffers_Q: Tensor, inputs: Tensor,
                 training: bool) -> tuple[Tensor, Tensor]:
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
        parts = [torch.full((math.prod(s),), float(decay_norm_bias or len(s) > 1))
                 for s in self._parameter_shapes.values()]
        return torch.cat(parts).to(self.theta0)

    def load(self, theta_P: Tensor, buffers_Q: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers by name, for `nn.Module.load_state_dict(..., strict=False)`."""
        return {**_unflatten(theta_P, self._parameter_shapes),
                **_unflatten(buffers_Q, self._buffer_shapes)}

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


# -- the models that ship: no max-pooling, BatchNorm before GELU, for smooth training


def _conv(inputs: int, outputs: int, kernel: int, norm=nn.BatchNorm2d, activation=nn.GELU, **kwargs) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, bias=False, **kwargs), norm(outputs), activation()]


def small_cnn(channels: int, side: int, classes: int, width: float, norm=nn.BatchNorm2d, activation=nn.GELU,
              scale: float = 0.5) -> nn.Module:
    """Two convolutions; 23,578 parameters at width 1 on 28 × 28 grey images.

    The first convolution takes 6 × 6 pixels in strides of 4: 49 positions keep a step cheap on a
    CPU, where the replay's cost is the memory traffic of the activations. Logits are multiplied by
    `scale`: a half took the LDS of the sample from 0.82 to 0.99 and its accuracy from 0.849 to 0.855.
    """
    a, b = round(24 * width), round(32 * width)
    kind = {"norm": norm, "activation": activation}
    return nn.Sequential(*_conv(channels, a, 6, stride=4, padding=1, **kind), *_conv(a, b, 3, padding=1, **kind),
                         nn.Flatten(), nn.Linear(b * ((side - 4) // 4 + 1)**2, classes), Scale(scale))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class GlobalAverage(nn.Module):
    """Mean over the image's two dimensions. (`nn.AdaptiveAvgPool2d` has no batching rule in vmap.)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Scale(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def resnet9(channels: int, side: int, classes: int, width: float, norm=nn.BatchNorm2d, activation=nn.GELU,
            scale: float = 0.125, gain: float = 1.0) -> nn.Module:
    """ResNet-9 as in DAWNBench entries (64, 128, 256, 512 channels at width 1), smoothed:
    average pooling throughout, and logits scaled by 1/8, which keeps the loss's curvature low.

    Convolutions begin with a standard deviation of `gain` / √(inputs), √3 times torch's own: behind
    BatchNorm the size of a weight sets how fast it turns, and small ones make the first steps chaotic
    (metasmoothness −0.10 with torch's, 0.99 with these, at the preset's rate)."""
    a, b, c, d = (max(1, round(n * width)) for n in (64, 128, 256, 512))
    if side < 16:
        raise ModelError(f"ResNet-9 halves its images three times and these have {side} pixels a "
                         "side.", "Choose small-cnn.")

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return _conv(inputs, outputs, 3, norm, activation, padding=1)

    model = nn.Sequential(
        *conv(channels, a),
        *conv(a, b), nn.AvgPool2d(2),
        Residual(*conv(b, b), *conv(b, b)),
        *conv(b, c), nn.AvgPool2d(2),
        *conv(c, d), nn.AvgPool2d(2),
        Residual(*conv(d, d), *conv(d, d)),
        GlobalAverage(), nn.Linear(d, classes), Scale(scale))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
    return model


BUILDERS = {"small-cnn": small_cnn, "resnet9": resnet9}


def functional(config: RunConfig, dataset: Dataset, device: torch.device | str = "cpu") -> FunctionalModel:
    """The model that a configuration asks for, with initial weights decided by its seed alone."""
    _, side, _, channels = dataset.train_images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.recipe.seed)
        module = BUILDERS[config.model](channels, side, len(dataset.classes), config.width)
    return FunctionalModel(module, device, getattr(torch, config.precision))
