"""A module as a pure function of flat vectors.

`FunctionalModel` turns any `nn.Module` into

    logits [B, C], buffers' [Q]  =  model(theta [P], buffers [Q], inputs [B, ...], training)

with every trainable parameter in `theta` and every floating-point buffer in `buffers`, so that
a buffer updated in training (BatchNorm's running statistics) is an output like any other and
gets an adjoint. Frozen parameters and other buffers are constants.

BatchNorm, dropout and weight norm become those of `batch_norm.py`, `dropout.py` and `weight_norm.py`; what
`torch.compile` wrapped is unwrapped. What cannot be replayed (functional calls, state or randomness that a step cannot
see) is found by `engine.core.check`.
"""

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.errors import ModelError, ReplayError
from engine.loading import load_derivatives
from engine.models import batch_norm, copies, dropout, refusals, weight_norm
from engine.models.copies import first_line
from engine.models.hidden_state import Attributes

COMPLEX = {torch.float16: torch.complex32, torch.float32: torch.complex64, torch.float64: torch.complex128}

_IN = "In "  # how an error begins that names its module

REMEDY = (
    "Its passes must be made of operations that torch can differentiate twice, forwards over backwards, without "
    "randomness other than dropout modules, keep to the dtype and device of their inputs, and take batches of any size."
)

REMEDIES = {
    "saved tensor hooks": "Switch gradient checkpointing off: torch.func cannot differentiate through it.",
    "setup_context": "Write the autograd.Function with setup_context, a differentiable backward and a jvp "
    "(torch.func's notes on autograd.Function), or in torch's own operations.",
    "implement the jvp": "Give the autograd.Function a jvp, or write it in torch's own operations.",
    "forward AD with": "Use another operation in its place: torch has no forward derivative of this one.",
    "doesn't have storage": "Stay with torch's operations: no .numpy(), and no packed sequences.",
    "same dtype": "Make new tensors with dtype=x.dtype, and register all layers, so that they are converted.",
    "missing 1 required positional": "Its forward must take the images alone.",
    "sparse tensors": "Use sparse=False: gradients must be dense.",
}
"""By words of torch's errors."""


class FunctionalModel:
    """See the module's docstring. The module given is copied, never changed.

    `parameters` P, `buffers` Q. `theta0` [P] and `buffers0` [Q] are the module's own values.

    In training, each part runs in the mode in which it was given: a backbone in `eval()` stays so, and so
    does what an overridden `train()` puts there. An evaluation runs after `module.eval()`. Running statistics of
    norms that training leaves alone are constants. `notes`: what a person should know of it, a sentence each.

    Raises `ModelError` for a module that has no trainable parameter, or one that cannot be replayed
    whatever its passes do. One call runs at a time: a call puts its tensors into the module.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        refusals.check_module(module)
        unwrapped = copies.unwrapped_names(module)
        own_modes = {unwrapped(path): part.training for path, part in module.named_modules()}
        own_names = [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]
        self._own_names = {unwrapped(name): name for name in own_names}
        self.notes: list[str] = []
        if any(copies.is_compiled(part) for part in module.modules()):
            self.notes += ["Modules wrapped by torch.compile are unwrapped: the engine runs what they wrap."]
        load_derivatives()
        self._noise = dropout.Noise()
        self._lock = threading.RLock()
        with _preparing():
            module = copies.copied(module)
            # A call of train() first, so that what it is overridden to do is done; `and`, so that no part
            # leaves the evaluation mode that it was given in.
            module.train()
            training = {part: part.training and own_modes.get(path, True) for path, part in module.named_modules()}
            batch_norm.make_replayable(module, training)
            weight_norm.make_replayable(module, training)
            dropout.make_replayable(module, self._noise)
            resting = batch_norm.resting_buffers(module, training) | _endless_buffers(module)
            module.eval()
            evaluation = {part: part.training for part in module.modules()}
        self._modes = {True: training, False: evaluation}
        self._mode: bool | None = None
        self._attributes: Attributes | None = None  # as they are before a pass in this mode
        _convert(module, torch.device(device), dtype)
        self.module, self.dtype = module, dtype
        trainable = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}
        floats = {k: b.detach() for k, b in module.named_buffers() if b.is_floating_point() and k not in resting}
        self._parameter_shapes = {k: p.shape for k, p in trainable.items()}
        self._buffer_shapes = {k: b.shape for k, b in floats.items()}
        self._constants = {
            k: t.detach()
            for k, t in [*module.named_parameters(), *module.named_buffers()]
            if k not in trainable and k not in floats
        }
        self._resting = {k: t for k, t in self._constants.items() if k in resting}
        self.theta0 = _flatten(trainable, device, dtype)
        self.buffers0 = _flatten(floats, device, dtype)
        self.parameters, self.buffers = self.theta0.numel(), self.buffers0.numel()

    def __call__(
        self,
        theta_P: Tensor,
        buffers_Q: Tensor,
        inputs: Tensor,
        training: bool,
        key: int = 0,
        index_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the buffers after the pass [Q].

        `key` of the step and `index_B`, int64, of the examples decide the masks of dropout in training; examples are
        numbered from 0 where not given.

        Whatever else the pass changes is put back. Raises `ModelError`, with the module's name, where the
        module's own code fails, and where it gives no logits.
        """
        with self._lock, self.errors():
            try:
                logits, tensors = self.open_pass(theta_P, buffers_Q, inputs, training, key, index_B)
            finally:
                self.put_back()
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != inputs.shape[0]:
            form = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"The model gives {form} for {inputs.shape[0]} inputs.",
                f"It must give logits of shape [{inputs.shape[0]}, C].",
            )
        if not self._buffer_shapes:
            return logits, buffers_Q
        self.check_buffers(tensors)
        return logits, torch.cat([tensors[k].reshape(-1).to(self.dtype) for k in self._buffer_shapes])

    def open_pass(
        self,
        theta_P: Tensor,
        buffers_Q: Tensor,
        inputs: Tensor,
        training: bool,
        key: int = 0,
        index_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the module gives, and all its tensors by name as they are afterwards. What it keeps in
        attributes stays there until `put_back`, as in a loop of the user's own: the check looks at it."""
        tensors = _unflatten(theta_P, self._parameter_shapes)
        # Clones, so that a module that updates a buffer in place does so on this call's own value.
        own = {**_unflatten(buffers_Q, self._buffer_shapes), **self._constants}
        tensors.update((k, tensor.clone()) for k, tensor in own.items())
        self._set_mode(training)
        self.begin_noise(inputs, key, index_B)
        # functional_call writes reassigned buffers back into this very dictionary.
        logits = functional_call(self.module, tensors, (inputs,))
        return logits, tensors

    def begin_noise(self, inputs: Tensor, key: int = 0, index_B: Tensor | None = None) -> None:
        """Dropout draws the masks of a pass from its beginning."""
        self._noise.begin(key, torch.arange(inputs.shape[0], device=inputs.device) if index_B is None else index_B)

    def check_buffers(self, tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
        """Raises `ModelError` where a pass has given a buffer another shape, or not the `dtype`, where that counts: a
        step that computes in bfloat16 keeps its state in float32."""
        for name, shape in self._buffer_shapes.items():
            after = tensors[name]
            if not isinstance(after, Tensor) or after.shape != shape or (dtype and after.dtype != dtype):
                form = f"{tuple(after.shape)} of {after.dtype}" if isinstance(after, Tensor) else str(after)
                raise ModelError(
                    f"A pass makes of the buffer «{name}», {tuple(shape)} of {self.dtype}, {form}.",
                    "A state keeps its shape and its dtype: register it as large as it gets, and convert what goes "
                    "into it.",
                )

    @property
    def buffer_names(self) -> list[str]:
        """Of the floating-point buffers, which are part of the state."""
        return list(self._buffer_shapes)

    def put_back(self) -> None:
        """Undoes what passes left in attributes."""
        if self._attributes is not None:
            self._attributes.put_back()

    def _set_mode(self, training: bool) -> None:
        if training == self._mode:
            return
        with _preparing():
            self.module.train(training)  # for what an override does beside
            for part, mode in self._modes[training].items():
                part.training = mode
        self._mode, self._attributes = training, Attributes(self.module)

    def modes(self, training: bool) -> dict[nn.Module, bool]:
        """Of each part, whether such a pass runs it in training mode."""
        return dict(self._modes[training])

    def part(self, module: nn.Module) -> "FunctionalModel":
        """A model of some of this one's parts, in the modes in which they are trained here."""
        with self._lock:
            self._set_mode(True)
            part = FunctionalModel(module, self.theta0.device, self.dtype)
        part._own_names = {**{name: name for name in part._own_names}, **self._own_names}
        part.notes = list(self.notes)
        return part

    @property
    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers that are no floats, by name."""
        return dict(self._constants)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Failures of the module's own code, and of torch with it, as `ModelError`s that name the module.

        Of what means something else outside of a pass (a file that cannot be read, the end of the process), what comes
        out of the module's own code.
        """
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except ReplayError as error:
            if type(error) is not ModelError or error.what.startswith(_IN) or not (where := self._where(error)):
                raise
            raise ModelError(f"{_IN}{where}: {error.what}", error.remedy) from error
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError | SystemExit) and not self._in_module(error):
                raise
            if "can't allocate memory" in str(error):
                raise MemoryError(first_line(error)) from error
            where = self._where(error)
            raise ModelError(
                f"The model cannot be replayed: {f'in {where}, ' if where else ''}{type(error).__name__}: "
                f"{first_line(error).rstrip('.')}.",
                _remedy(error),
            ) from error

    def _in_module(self, error: BaseException) -> bool:
        return any(True for _ in self._running(error))

    def _where(self, error: BaseException) -> str:
        """The innermost module that was running, but for the model itself."""
        return next((f"«{path}» ({kind})" for path, kind in reversed(list(self._running(error))) if path), "")

    def _running(self, error: BaseException) -> Iterator[tuple[str, str]]:
        """Name and class of the parts that were running, the innermost last."""
        names = {id(part): name for name, part in self.module.named_modules()}
        frame = error.__traceback__
        while frame is not None:
            part = frame.tb_frame.f_locals.get("self")
            if isinstance(part, nn.Module) and id(part) in names:
                yield names[id(part)], type(part).__name__
            frame = frame.tb_next

    def decay_mask(self, decay_norm_bias: bool) -> Tensor:
        """[P]: 1 where weight decay applies. Vectors and scalars are biases and norms."""
        parts = [
            torch.full((math.prod(s),), float(decay_norm_bias or len(s) > 1)) for s in self._parameter_shapes.values()
        ]
        return torch.cat(parts).to(self.theta0)

    def named(self, theta_P: Tensor, buffers_Q: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Views of both vectors by the module's names: parameters, and floating-point buffers."""
        return _unflatten(theta_P, self._parameter_shapes), _unflatten(buffers_Q, self._buffer_shapes)

    def load(self, theta_P: Tensor, buffers_Q: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers by name, for `nn.Module.load_state_dict(..., strict=False)`. Copies."""
        parameters, buffers = self.named(theta_P, buffers_Q)
        tensors = {**parameters, **buffers, **self._resting}
        return {self._own_names[name]: tensor.clone() for name, tensor in tensors.items()}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "FunctionalModel":
        """A copy on another device or in another precision; on "meta", its shapes alone."""
        with self._lock:
            self._set_mode(True)
            return FunctionalModel(self.module, device, dtype)


@contextlib.contextmanager
def _preparing() -> Iterator[None]:
    """Failures of what a module overrides beside its forward, such as `train`, as `ModelError`s."""
    try:
        yield
    except (ReplayError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"The model cannot be prepared: {type(error).__name__}: {first_line(error).rstrip('.')}.",
            "Its train(mode) and eval() must work as those of nn.Module, and its attributes be free to set.",
        ) from error


def _remedy(error: BaseException) -> str:
    """What to do about a failure of a pass, by torch's words where they are known."""
    return next((remedy for words, remedy in REMEDIES.items() if words in str(error)), REMEDY)


def _endless_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that hold nan or inf, such as a mask of attention. Nothing that trains holds either, so they
    are constants; the check sees to it that they are."""
    return {
        name
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point() and not buffer.double().isfinite().all()
    }


def _convert(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves parameters and buffers, and plain tensors in attributes, which `nn.Module.to` leaves behind.

    Attributes change their precision where they have that of the parameters; a table that is kept in
    another one on purpose stays in it.
    """
    own = next(p.dtype for p in module.parameters() if p.requires_grad)

    def moved(tensor: Tensor, always: bool) -> Tensor:
        if tensor.is_floating_point() and (always or tensor.dtype == own):
            return tensor.to(device, dtype)
        if tensor.is_complex() and (always or tensor.dtype == COMPLEX.get(own)):
            return tensor.to(device, COMPLEX.get(dtype, torch.complex64))
        return tensor.to(device)

    def visit(value: object, depth: int) -> object:
        if isinstance(value, Tensor):
            return moved(value, always=False)
        if depth > 6:
            return value
        if type(value) is list:
            value[:] = [visit(v, depth + 1) for v in value]
        elif type(value) is dict:
            value.update((k, visit(v, depth + 1)) for k, v in list(value.items()))
        elif type(value) is tuple:
            return tuple(visit(v, depth + 1) for v in value)
        return value

    module._apply(lambda tensor: moved(tensor, always=True))
    hidden = ("_parameters", "_buffers", "_modules")
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name not in hidden and not name.endswith("_hooks"):
                vars(part)[name] = visit(value, 0)


def _flatten(tensors: dict[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    if not tensors:
        return torch.empty(0, device=device, dtype=dtype)
    return torch.cat([t.reshape(-1) for t in tensors.values()]).to(device, dtype)


def _unflatten(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    # One split: its backward is one concatenation, where slices would each fill a whole vector.
    pieces = flat.split([math.prod(s) for s in shapes.values()])
    return {k: piece.view(s) for (k, s), piece in zip(shapes.items(), pieces, strict=True)}
