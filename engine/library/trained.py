"""What `engine.train` gives: a trained model and what its replay needs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from engine import spelling
from engine.core.state import State
from engine.core.stream import Stream
from engine.core.trunk import Trunk
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel
from engine.trajectory.modes import Checkpoints, EveryState

SAVE_HINTS = {
    **dict.fromkeys(("train_images", "pictures"), "The training pictures are `images`."),
    **dict.fromkeys(("folder", "path", "run_id"), "Where it is kept is the first argument, `place`."),
    **dict.fromkeys(("labels", "train_labels"), "Those of the training are known; the test images' are `test_labels`."),
    **dict.fromkeys(("class_names", "names"), "The classes' names are `classes`."),
}


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
    loaded: bool = False  # by `engine.load`: the states before its steps need not be there yet

    @property
    def whole(self) -> FunctionalModel:
        """The model with its trunk, where it has one."""
        return self.model if self.trunk is None else self.trunk.whole

    @property
    def model_state(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers by name: `module.load_state_dict(trained.model_state, strict=False)`."""
        return self.whole.load(self.state.theta, self.state.buffers)

    @spelling.names_unknown(SAVE_HINTS)
    def save(
        self,
        place: str | os.PathLike | None = None,
        *,
        images: Any = None,
        classes: Sequence[str] | None = None,
        test_images: Any = None,
        test_labels: Any = None,
        test_inputs: Any = None,
        scores: np.ndarray | None = None,
        targets: Sequence[Any] | None = None,
        function: str = "loss",
        window: float = 0,
        title: str = "",
        note: str = "",
    ) -> Path:
        """Keeps the training as a run, which the app shows and `engine.load` reads, and returns its folder.

        `place`: a new folder, or the id of a run in the app's own folder of runs; None makes an id. The folder is there
        whole or not at all.

        `images`: the training pictures in their order, and `test_images` those of the test set, with `test_labels`
        whole numbers [M]: uint8 arrays, floats from 0 to 1, Pillow's images of one size, or file names
        (`help(engine.library.pictures)`). `images` may be left out where the model was trained on pictures from 0 to 1.
        `test_inputs` [M, ...] are the test images as the model takes them; they may be left out where it takes the
        pictures themselves, from 0 to 1. `classes` are names in the order of the labels.

        `scores` [K, N] are what `attribute` gave for K `targets` of one `function`, each a text of the app
        ("test:3", "class:2", "test:all", "train:17"), a test image's number, or an index set of test images; without
        `targets` each row is a test image. `window` is the one that `attribute` was called with. `title` names the
        data, `note` is a person's note on the run.

        Raises `ConfigError` for what does not fit, or a folder that is there already, `DataError` for a file that is no
        image, `StorageError` where the disk refuses it.
        """
        from engine.library.saving import save
        from engine.library.shown import Shown

        return save(
            self,
            place,
            Shown(
                images, classes, test_images, test_labels, test_inputs, scores, targets, function, window, title, note
            ),
        )

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
