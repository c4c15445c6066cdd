"""Whether a pass is a function of what a step sees: of parameters, buffers and inputs, and of nothing else.

Passes in a row, as in a loop of the user's own, must give the same for the same, draw no random numbers, leave no
attribute, buffer, generator or global changed, reach no tensor by another way than its name, and round to no lower
precision than the training's.
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.errors import ModelError
from engine.models.functional import FunctionalModel
from engine.models.generators import Draws
from engine.models.hidden_state import fingerprints, process_generators

PASSES = 6  # in a row, at the same point

TRIES = 4  # at telling a pass that moves the process's generators from other threads that do

ALONE = 4  # images that are evaluated by themselves

AGREEMENT = 1e-9  # of logits in float64: rounding is a millionth of it

Point = tuple[Tensor, Tensor, Tensor]  # θ [P], b [Q] and inputs [B, ...]


def check_passes(model: FunctionalModel, inputs: Tensor) -> None:
    """Raises `ModelError`, which names the module, the attribute or the buffer where it can."""
    here = (model.theta0, model.buffers0, inputs)
    # Other parameters too: what was computed from them once, and is kept, would not follow a training.
    elsewhere = (0.9 * model.theta0, 0.9 * model.buffers0, inputs.flip(0) * 0.5)
    for training in (True, False):
        mode = "training" if training else "evaluation"
        _check_draws(model, here, training, mode)
        _check_repeats(model, here, elsewhere, training, mode)
        model.put_back()
    _check_alone(model, inputs)


def check_reach(model: FunctionalModel, inputs: Tensor) -> None:
    """The same of what a pass reads and rounds to, in the precision of the training."""
    for training in (True, False):
        reach = _Reach(model, inputs)
        begins = model.module.register_forward_pre_hook(reach.begin, prepend=True)
        try:
            with reach, torch.enable_grad():
                model.open_pass(model.theta0.clone(), model.buffers0, inputs, training)
        finally:
            begins.remove()
            model.put_back()
        if reach.fault is not None:
            raise ModelError(*reach.fault)


# -- random numbers


def _check_draws(model: FunctionalModel, point: Point, training: bool, mode: str) -> None:
    for _ in range(TRIES):
        before = process_generators()
        with Draws(lambda: where_now(model)) as draws:
            _pass(model, point, training)
        if draws.names:
            raise ModelError(
                f"The model's {mode} pass is random: it draws from torch's {', '.join(sorted(set(draws.names)))}.",
                "Write dropout as modules (nn.Dropout), which are replayed, not as functions, and remove other noise: "
                'images are varied by the recipe, Recipe(augment="flip,crop:4"). A replayed step must be the same.',
            )
        if process_generators() == before:
            return
    raise ModelError(
        f"The model's {mode} pass is random{_mover(model, point, training)}: it moves Python's or NumPy's generator.",
        "Remove the noise; a replayed step must be the same step.",
    )


def _mover(model: FunctionalModel, point: Point, training: bool) -> str:
    """Which module moves the process's generators, for the sentence."""
    before: dict[nn.Module, object] = {}
    movers: list[str] = []
    hooks = []
    for path, part in model.module.named_modules():

        def opens(part: nn.Module, _: object) -> None:
            before[part] = process_generators()

        def closes(part: nn.Module, _: object, __: object, path: str = path) -> None:
            if path and process_generators() != before[part]:
                movers.append(f" in «{path}» ({type(part).__name__})")

        hooks += [part.register_forward_pre_hook(opens), part.register_forward_hook(closes)]
    try:
        _pass(model, point, training)
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(movers), "")


# -- state


def _check_repeats(model: FunctionalModel, here: Point, elsewhere: Point, training: bool, mode: str) -> None:
    points = {"here": here, "elsewhere": elsewhere}
    fresh = {}
    for name, point in points.items():
        model.put_back()
        fresh[name] = _pass(model, point, training)
    model.put_back()
    first_prints = None
    for number in range(PASSES):
        outputs = _pass(model, here, training)
        prints = fingerprints(model.module)
        first_prints = prints if first_prints is None else first_prints
        for name in sorted(prints.keys() | first_prints.keys()):
            if prints.get(name) != first_prints.get(name):
                _refuse_state(name, mode)
        _check_same(model, outputs, fresh["here"], training, mode)
        if number % 2:
            _check_same(model, _pass(model, elsewhere, training), fresh["elsewhere"], training, mode)


def _check_same(
    model: FunctionalModel, outputs: dict[str, Tensor], fresh: dict[str, Tensor], training: bool, mode: str
) -> None:
    if outputs.keys() == fresh.keys() and all(_same(outputs[k], fresh[k]) for k in fresh):
        return
    names = {part: name for name, part in model.module.named_modules()}
    left = [names[part] for part, was in model.modes(training).items() if part.training != was]
    if left:
        raise ModelError(
            f"A {mode} pass leaves «{left[0] or 'the model'}» in another mode, and the next pass differs by that.",
            "Set modes in `train`, which is respected, and not in `forward`.",
        )
    raise ModelError(
        f"The model's {mode} pass is random, or remembers the passes before: two passes over the same images differ.",
        "Remove noise, and state that is neither a parameter nor a floating-point buffer; a replayed step must be the "
        "same step.",
    )


def _check_alone(model: FunctionalModel, inputs: Tensor) -> None:
    """A target is evaluated by itself, or among others: it must make no difference."""
    together = _pass(model, (model.theta0, model.buffers0, inputs), False)["logits"]
    for i in range(min(ALONE, len(inputs))):
        model.put_back()
        alone = _pass(model, (model.theta0, model.buffers0, inputs[i : i + 1]), False)["logits"]
        if not (alone - together[i]).abs().max() <= AGREEMENT * together.abs().max():
            raise ModelError(
                "In evaluation, the logits of an image depend on the images beside it: alone, it has others.",
                "Take batch statistics and comparisons within a batch out of evaluation: running statistics as in "
                "nn.BatchNorm2d, or a norm of each image such as nn.GroupNorm.",
            )
    model.put_back()


def _pass(model: FunctionalModel, point: Point, training: bool) -> dict[str, Tensor]:
    """Everything that a pass gives, by name. What it may not change is compared here."""
    theta, buffers, inputs = point[0].clone(), point[1], point[2].clone()
    with torch.no_grad():
        logits, tensors = model.open_pass(theta, buffers, inputs, training)
    if not torch.equal(theta, point[0]):
        raise ModelError(
            "A pass changes the model's parameters themselves.",
            "Leave that to the optimizer: a step sees changes of parameters nowhere else.",
        )
    if not _same(inputs, point[2]):
        raise ModelError("A pass changes its inputs themselves, in place.", "Let the model begin with a copy of them.")
    for name, constant in model.constants.items():
        if not _same(tensors[name], constant):
            if constant.is_floating_point() and not constant.isfinite().all():
                raise ModelError(
                    f"The buffer «{name}» changes, and begins with values that are not finite.",
                    "Begin with finite numbers, so that it can be part of the state.",
                )
            _refuse_state(f"«{name}», {str(constant.dtype).removeprefix('torch.')}", "training" if training else "")
    model.check_buffers(tensors, model.dtype)
    return {"logits": logits.clone(), **{name: tensors[name].clone() for name in model.buffer_names}}


def _refuse_state(name: str, mode: str) -> None:
    raise ModelError(
        f"The model keeps a state that a step cannot see: {name} changes from one {mode} pass to the next.".replace(
            "  ", " "
        ),
        "Register it as a floating-point buffer, which is part of the state, or take it out.",
    )


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, nan equal to itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


# -- what a pass reads, and rounds to


class _Reach(TorchDispatchMode):
    """Watches a pass from `begin` on. `fault`: what it does wrong first, and the remedy."""

    def __init__(self, model: FunctionalModel, inputs: Tensor):
        super().__init__()
        self.model, self.fault, self.begun = model, None, False
        self.made = {inputs.untyped_storage().data_ptr(): inputs}  # by the pass, by address: alive, so that these stay
        # A pass works on copies of these: who reads them themselves does not read what is trained.
        self.own = {
            tensor.untyped_storage().data_ptr(): name
            for name, tensor in [*model.module.named_parameters(), *model.module.named_buffers()]
            if tensor.numel()
        }
        self.bits = torch.finfo(model.dtype).bits

    def begin(self, *_: object) -> None:
        self.begun = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.begun and self.fault is None:
            inputs, outputs = (
                [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.layout == torch.strided]
                for tree in ((args, kwargs), out)
            )
            self.fault = next(self._faults(inputs, outputs), None)
            self.made.update((t.untyped_storage().data_ptr(), t) for t in outputs)
        return out

    def _faults(self, inputs: list[Tensor], outputs: list[Tensor]) -> Iterator[tuple[str, str]]:
        for tensor in inputs:
            address = tensor.untyped_storage().data_ptr()
            if (name := self.own.get(address)) is not None:
                yield (
                    f"The model reads «{name}»{self._where()} by another way than its name: an attribute, a list or a "
                    "function holds the same memory, and does not follow what is trained.",
                    "Read it where it is registered.",
                )
            if tensor.requires_grad and tensor.is_leaf and address not in self.made:
                yield (
                    f"The model uses{self._where()} a trainable tensor {tuple(tensor.shape)} that is none of its "
                    "parameters, so that it would not be trained.",
                    "Register its module or itself (nn.ModuleList, nn.ParameterList, an attribute), or set "
                    "requires_grad=False on it.",
                )
        finest = max((torch.finfo(t.dtype).bits for t in inputs if t.is_floating_point()), default=0)
        for tensor in outputs:
            if tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < min(finest, self.bits):
                yield (
                    f"The model computes{self._where()} in {str(tensor.dtype).removeprefix('torch.')}, and is trained "
                    f"in {str(self.model.dtype).removeprefix('torch.')}: its derivative is only as exact as that.",
                    "Take autocast and casts out of its passes.",
                )

    def _where(self) -> str:
        where = where_now(self.model)
        return f" in {where}" if where else ""


def where_now(model: FunctionalModel) -> str:
    """The innermost module that is running, but for the model itself, as a name for people."""
    names = {id(part): path for path, part in model.module.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        part = frame.f_locals.get("self")
        if isinstance(part, nn.Module) and names.get(id(part)):
            return f"«{names[id(part)]}» ({type(part).__name__})"
        frame = frame.f_back
    return ""
