"""Score sets, and the targets in them: as the manifest records them, each file verified once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs import fields
from engine.runs.fields import Absent, finite, text, whole
from engine.targets import Target, target_function
from engine.targets.names import canonical

if TYPE_CHECKING:
    import pandas as pd

SIDECAR = {  # what is relied on of a score set's description
    "target_function": text,
    "norm_steps": Absent([whole]),
    "window_start": Absent(whole),  # the first step, from 0, at which weights count
    "targets": [
        {
            "name": text,
            "title": Absent(text),
            "value": Absent(finite),
            "images": Absent(whole),
            "adjoint_growth": Absent(finite),
            "norms": Absent([finite]),
            "logits": Absent([finite]),
        }
    ],
}


KEPT_BYTES = 1 << 20  # of a sidecar: a larger one, of thousands of norms, would be tens of megabytes as Python has it


def _read_sidecar(path: Path, recorded: str, remedy: str) -> dict:
    sidecar = files.read_json(path, remedy, recorded)
    try:
        fields.check(sidecar, SIDECAR)
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} does not describe a score set ({error}).", remedy) from None
    return sidecar


@lru_cache(maxsize=16)
def _known_sidecar(path: Path, recorded: str, remedy: str, sha256: str) -> dict:
    """By content, for a page asks at every click; nobody changes the value."""
    return _read_sidecar(path, recorded, remedy)


@dataclass(frozen=True)
class TargetRef:
    """One row of one score set: `name` as in the configuration, of one target function."""

    name: str
    function: str
    score_set: str
    row: int

    @property
    def key(self) -> str:
        """For links: unique within a run, such as `test:3.loss`."""
        return f"{self.name}.{self.function}"

    @cached_property
    def target(self) -> Target:
        """What it asks about, as a value."""
        return Target.parse(canonical(self.name))  # a record of schema 2 may hold another text of it

    def title(self, dataset: Dataset) -> str:
        """What a person reads: the target, and the function of it."""
        return f"{self.target.title(dataset)} · {self.function_in_words(dataset)}"

    def function_in_words(self, dataset: Dataset) -> str:
        """Such as «logit of Coat»; holds names of classes, which are plain text and no Markdown."""
        return target_function(self.function).in_words(dataset.classes)


class ScoreSets:
    """The scores of one run, `scores/<set>.npy` float32 [K, N] with `scores/<set>.json` beside each.

    `recorded` are the SHA-256 of the run's files by their path inside it. Every file is read and verified when
    it is first asked for, and never again by this value: make it once for a page or a job. Whatever is missing,
    changed or no score set raises `IntegrityError`.
    """

    def __init__(self, folder: Path, run_id: str, recorded: Mapping[str, str]):
        self._folder, self._run_id, self._recorded = folder, run_id, recorded
        self._matrices: dict[str, np.ndarray] = {}
        self._remedy = f"Delete the scores of run {run_id} and attribute the targets again."

    def names(self) -> list[str]:
        """Of all score sets, oldest first."""
        paths = map(PurePosixPath, self._recorded)
        return [p.stem for p in paths if p.parent.as_posix() == "scores" and p.suffix == ".json"]

    def sidecars(self) -> list[dict]:
        """What is said of each score set, oldest first, each with its name under `name`."""
        return self._sidecars

    @cached_property
    def _sidecars(self) -> list[dict]:
        return [self._sidecar(name) for name in self.names()]

    def _sidecar(self, name: str) -> dict:
        relative = f"scores/{name}.json"
        path = self._folder / relative
        if files.size_of(path) > KEPT_BYTES:
            sidecar = _read_sidecar(path, self._recorded[relative], self._remedy)
        else:
            sha256 = files.sha256_of(path, self._remedy)
            sidecar = _known_sidecar(path, self._recorded[relative], self._remedy, sha256)
        return {**sidecar, "name": name}

    def targets(self) -> list[TargetRef]:
        """All that have scores; of a target scored twice, the newest."""
        return list(self._targets.values())

    def target(self, key: str) -> TargetRef:
        """By its key; `ConfigError` where it has no scores."""
        if key not in self._targets:
            raise ConfigError(
                f"Run {self._run_id} has no scores for the target «{key}».",
                f"It has {', '.join(self._targets) or 'none'}.",
            )
        return self._targets[key]

    def loss_of_one(self, target: TargetRef) -> float | None:
        """The target's value at the trained model, in nats, where that is the loss of one image; None of any other, and
        where it was not recorded."""
        said = self._described[target.score_set]["targets"][target.row]
        return (
            said.get("value")
            if target.function == "loss" and said.get("images", said.get("test_images")) == 1
            else None
        )

    @cached_property
    def _described(self) -> dict[str, dict]:
        return {sidecar["name"]: sidecar for sidecar in self._sidecars}

    @cached_property
    def _targets(self) -> dict[str, TargetRef]:
        refs = (
            TargetRef(target["name"], sidecar["target_function"], sidecar["name"], row)
            for sidecar in self._sidecars
            for row, target in enumerate(sidecar["targets"])
        )
        return {ref.key: ref for ref in refs}

    def matrix(self, name: str) -> np.ndarray:
        """The scores of one set: float32 [K, N], memory-mapped."""
        if name not in self._matrices:
            relative = f"scores/{name}.npy"
            if relative not in self._recorded:
                raise IntegrityError(f"Run {self._run_id} has no score set {name}.", self._remedy)
            matrix = files.read_npy(self._folder / relative, self._recorded[relative], self._remedy)
            if matrix.ndim != 2 or matrix.dtype != np.float32:
                raise IntegrityError(f"{self._folder / relative} is no float32 [K, N].", self._remedy)
            self._matrices[name] = matrix
        return self._matrices[name]

    def row(self, target: TargetRef) -> np.ndarray:
        """The scores of all training images on one target: float32 [N], a view of its file."""
        matrix = self.matrix(target.score_set)
        if target.row >= len(matrix):
            raise IntegrityError(f"The score set {target.score_set} of run {self._run_id} is cut.", self._remedy)
        return matrix[target.row]

    def rows(self, targets: Iterable[TargetRef]) -> list[np.ndarray]:
        """The scores of K targets: K views float32 [N], in their order."""
        return [self.row(target) for target in targets]

    def to_pandas(self, keys: Iterable[str] | None = None) -> "pd.DataFrame":
        """Scores as a table: a row a training image, by its number, and a float32 column a target, by its key; all
        targets where `keys` names none. Its `attrs` say the run, and the unit and the meaning of each column.

        Raises `ConfigError` for a target without scores.
        """
        import pandas as pd

        refs = self.targets() if keys is None else [self.target(key) for key in keys]
        functions = {ref.key: target_function(ref.function) for ref in refs}
        n = len(self.row(refs[0])) if refs else 0
        frame = pd.DataFrame(
            np.array(self.rows(refs), np.float32).reshape(len(refs), n).T,
            index=pd.RangeIndex(n, name="training image"),
            columns=pd.Index(list(functions), name="target"),
        )
        frame.attrs = {
            "run": self._run_id,
            "units": {key: function.unit for key, function in functions.items()},
            "meanings": {key: function.meaning() for key, function in functions.items()},
        }
        return frame

    def sha256(self, name: str) -> str:
        """Of the file of one set's scores: it says what they are, where its name is used again after a deletion."""
        return self._recorded.get(f"scores/{name}.npy", "")
