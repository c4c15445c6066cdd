"""What `engine.train` gives: a trained model and what its replay needs."""

from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from engine.core.state import State
from engine.core.stream import Stream
from engine.core.trunk import Trunk
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel
from engine.trajectory.modes import Checkpoints, EveryState


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what its replay needs. `model_state` loads into your module.

    `save` keeps it as a run, which the app shows and `engine.load` reads again. It can neither be pickled, nor saved
    with `torch.save`, nor copied.
    """

    model: FunctionalModel  # what is trained: of a network with a frozen trunk, what comes behind it
    stream: Stream
    trajectory: EveryState | Checkpoints
    state: State  # after the last step
    classes: int  # C, columns of the logits
    versions: tuple[int, ...] = ()  # of its tensors when it was made
    shape: tuple[int, ...] = ()  # of one input
    trunk: Trunk | None = None  # whose features the stream holds, where there is one
    losses: tuple[float, ...] = ()  # mean batch loss of each step

    @property
    def whole(self) -> FunctionalModel:
        """The model with its trunk, where it has one."""
        return self.model if self.trunk is None else self.trunk.whole

    @property
    def model_state(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers by name: `module.load_state_dict(trained.model_state, strict=False)`."""
        return self.whole.load(self.state.theta, self.state.buffers)

    def __getstate__(self) -> NoReturn:
        raise ConfigError(
            "A trained model and its trajectory can neither be pickled nor copied.",
            "Keep it with trained.save(folder, …), and read it with engine.load(folder, model).",
        )


def versions(model: FunctionalModel, stream: Stream, state: State) -> tuple[int, ...]:
    """How often each tensor that a replay reads was changed in place; those of torch.inference_mode are not counted."""
    tensors = [model.theta0, model.buffers0, stream.data.inputs, stream.data.labels, stream.weights, *state.parts]
    return tuple(t._version if isinstance(t, Tensor) and not t.is_inference() else 0 for t in tensors)


def check_trained(trained: Any) -> None:
    """Raises `ConfigError` for what `train` did not give, or what was changed since."""
    if not isinstance(trained, Trained):
        raise ConfigError(
            f"`trained` is a {type(trained).__name__}, not what `train` gives.", "Call engine.train first."
        )
    if trained.versions != versions(trained.model, trained.stream, trained.state):
        raise ConfigError(
            "A tensor of the training was changed in place since: its state, its data or its weights.",
            "Train again, and work on copies: trained.model_state gives them.",
        )
