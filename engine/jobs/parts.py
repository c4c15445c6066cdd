"""Long sets of targets in parts, each whole on disk as soon as it is done. No torch.

    a pass    `width` targets that go through a step backwards side by side
    a part    some passes after one another that go through the whole training together: rows `first` to `stop` − 1

What decides the bits of a target's scores is the width of its pass: kernels add in an order that depends on the
shapes that they are given. Not its neighbours, its place among them or who computes the other passes (docs/clusters.md
has the measurement). So the width is decided once for a set of targets, passes are cut from the whole set by number,
and what is given out to processes, kept and gone on from is always whole passes.

    scores/plan-<set>.json                        what was decided: targets, function, width, kind of device
    scores/part-<set>_<first>_<stop>.npy          float32 [stop − first, N]
    scores/part-<set>_<first>_<stop>.json         its sidecar, as of any score set, with `part` beside; the parts of
                                                  shards have `_<i>of<n>` behind

Where one process does a set in one part, there are no such files. Parts are listed in the manifest as score sets by
whoever holds the run, so that the pages show what is finished while others are worked on; once all are there, they
make way for the set.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import files
from engine.errors import IntegrityError
from engine.runs import fields
from engine.runs.fields import Absent, number, optional, sha256, text, whole
from engine.runs.run import Run
from engine.runs.scores import SIDECAR

TARGETS_A_PART = 64  # at most: partial results come often, and walking through the training again costs little

PART = re.compile(r"part-([0-9a-f]{16})_(\d{5,})_(\d{5,})(?:_(\d+)of(\d+))?\.json")

# What readers rely on of a part's sidecar, beside what they do of any; and of a plan, of targets or of retrainings.
SHAPE = {
    "checksum": text,
    "sha256": sha256,
    "shape": [whole],
    "training_digest": text,
    "part": {
        **dict.fromkeys(("first", "stop", "of", "width"), whole),
        "set": text,
        "kind": text,
        "shard": optional(text),
    },
}

PLAN_SHAPE = {
    **dict.fromkeys(("training", "kind"), text),
    "width": whole,
    **dict.fromkeys(("function", "mode"), Absent(text)),
    "targets": Absent([text]),
    **dict.fromkeys(("subsets", "seed", "repeats"), Absent(whole)),
    "drops": Absent([number]),
}


@dataclass(frozen=True, order=True)
class Part:
    """Rows `first` to before `stop` of a set."""

    first: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.stop)

    def __len__(self) -> int:
        return self.stop - self.first


def pass_of(number: int, width: int, targets: int) -> Part:
    """The rows of one pass; the last of a set may be narrower."""
    return Part(number * width, min(targets, (number + 1) * width))


def shares(items: Sequence, n: int) -> list[list]:
    """Items in n shares, in their order, as even as whole items allow; the last shares are the larger ones."""
    cuts = [len(items) * i // n for i in range(n + 1)]
    return [list(items[start:stop]) for start, stop in zip(cuts, cuts[1:])]


def cut(passes: Iterable[int], width: int, targets: int, most: int) -> list[Part]:
    """Passes, by number, as parts: runs of neighbours, of at most `most` targets each, or of one pass."""
    parts: list[Part] = []
    for order in passes:
        each = pass_of(order, width, targets)
        if parts and parts[-1].stop == each.first and each.stop - parts[-1].first <= most:
            parts[-1] = Part(parts[-1].first, each.stop)
        else:
            parts.append(each)
    return parts


def split(todo: Iterable[Part], ends: Collection[int]) -> list[Part]:
    """Parts cut once more at the rows `ends`, where they lie inside."""
    pieces = []
    for part in todo:
        rows = [part.first, *sorted(end for end in set(ends) if part.first < end < part.stop), part.stop]
        pieces += [Part(first, stop) for first, stop in zip(rows, rows[1:])]
    return pieces


@dataclass(frozen=True)
class Shard:
    """One of n processes that know nothing of each other, counted from 1."""

    i: int
    n: int

    def __str__(self) -> str:
        return f"{self.i}/{self.n}"


@dataclass(frozen=True)
class TargetSet:
    """Targets that are scored together by one function. `training`: digest of the training they are asked of, from its
    step `start` on."""

    training: str
    function: str
    targets: tuple[str, ...]
    width: int
    start: int = 0
    key: str = field(init=False)  # names its files

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", set_key(self.training, self.function, self.targets, self.start))

    @property
    def passes(self) -> range:
        return range(-(-len(self.targets) // self.width))

    def cut(self, passes: Iterable[int], most: int) -> list[Part]:
        return cut(passes, self.width, len(self.targets), most)

    def passes_of(self, part: Part) -> range:
        return range(part.first // self.width, -(-part.stop // self.width))

    def is_whole(self, part: Part) -> bool:
        """Whether it consists of whole passes of this set."""
        ends = {pass_of(number, self.width, len(self.targets)).stop for number in self.passes}
        return part.first % self.width == 0 and part.first < part.stop and part.stop in ends

    def name(self, part: Part, shard: Shard | None = None) -> str:
        """Of a part's files in `scores/`, without suffix."""
        return f"part-{self.key}_{part.first:05d}_{part.stop:05d}" + (f"_{shard.i}of{shard.n}" if shard else "")


def set_key(training: str, function: str, targets: Sequence[str], start: int = 0) -> str:
    return files.json_digest([training, function, *targets, *([start] if start else [])])[:16]


@dataclass(frozen=True)
class PartFile:
    """A part on disk, as its sidecar says."""

    path: Path  # of the sidecar
    part: Part
    shard: str | None
    sidecar: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    def checksums(self) -> dict[str, str]:
        """SHA-256 of both files by their path in the run, once both have been read and found right."""
        self.scores()
        sidecar = files.sha256_of(self.path, remedy_for(self.path))
        return {f"scores/{self.name}.npy": self.sidecar["sha256"], f"scores/{self.name}.json": sidecar}

    def scores(self) -> np.ndarray:
        """float32 [k, N]. Raises `IntegrityError` where the file is not what was written."""
        scores = files.read_npy(self.path.with_suffix(".npy"), self.sidecar["sha256"], remedy_for(self.path))
        if scores.dtype != np.float32 or list(scores.shape) != self.sidecar["shape"]:
            raise IntegrityError(f"{self.path.with_suffix('.npy')} is no float32 {self.sidecar['shape']}.")
        return scores


def remedy_for(path: Path) -> str:
    return f"Delete {path.stem}.npy and .json, and do this part again."


def write(
    folder: Path, whole: TargetSet, part: Part, scores: np.ndarray, sidecar: dict, shard: Shard | None
) -> dict[str, str]:
    """Writes a part, scores first, and returns the SHA-256 of its files by their path in the run. A part with a
    sidecar is whole."""
    name = whole.name(part, shard)
    sha = files.write_npy(folder / f"{name}.npy", scores)
    sidecar = {**sidecar, "sha256": sha, "shape": list(scores.shape)}
    about = {
        "set": whole.key,
        "first": part.first,
        "stop": part.stop,
        "of": len(whole.targets),
        "width": whole.width,
        "shard": str(shard) if shard else None,
    }
    sidecar["part"] = {**sidecar.get("part", {}), **about}
    sidecar_sha = files.write_json(folder / f"{name}.json", {**sidecar, "checksum": files.json_digest(sidecar)})
    return {f"scores/{name}.npy": sha, f"scores/{name}.json": sidecar_sha}


def read(path: Path, whole: TargetSet) -> PartFile:
    """The part that the sidecar at `path` tells of. Raises `IntegrityError` where it is damaged, stands under another
    name, or is of another set, another training or another width."""
    remedy, match = remedy_for(path), PART.fullmatch(path.name)
    sidecar = files.read_json(path, remedy)
    try:
        fields.check(sidecar, SIDECAR | SHAPE)
        if match is None:
            raise ValueError("its name is that of no part")
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} is no part of a set of targets ({error}).", remedy) from None
    about = sidecar["part"]
    rest = {name: value for name, value in sidecar.items() if name != "checksum"}
    if sidecar.get("checksum") != files.json_digest(rest):
        raise IntegrityError(f"{path} is damaged: it has changed since it was written.", remedy)
    part = Part(about["first"], about["stop"])
    if (int(match[2]), int(match[3])) != (part.first, part.stop):
        raise IntegrityError(
            f"{path} stands under another part's name: it holds targets {part.first} to {part.stop - 1}.", remedy
        )
    said = sidecar["training_digest"], sidecar["target_function"], tuple(t["name"] for t in sidecar["targets"])
    if said != (whole.training, whole.function, whole.targets[part.rows]):
        raise IntegrityError(f"{path} is foreign: its scores are of other targets, or of another training.", remedy)
    if sidecar.get("window_start", 0) != whole.start:
        raise IntegrityError(
            f"{path} is foreign: its weights count from step {sidecar['window_start'] + 1}, and those of this set from "
            f"step {whole.start + 1}.",
            remedy,
        )
    if about["width"] != whole.width or about["of"] != len(whole.targets) or not whole.is_whole(part):
        raise IntegrityError(
            f"{path} is foreign: it was computed with {about['width']} targets a pass, and this set has {whole.width}.",
            remedy,
        )
    return PartFile(path, part, about["shard"], sidecar)


def paths(folder: Path, whole: TargetSet) -> list[Path]:
    """The sidecars of a set's parts, by name."""
    return sorted(folder.glob(f"part-{whole.key}_*.json"))


def agree(path: Path, value: dict) -> dict:
    """What stands at `path`; where nothing does, `value` is put there, whole or not at all. All who ask, at whatever
    time and on whatever host, get the same. Raises `StorageError` where the file system has no hard links."""
    temporary = path.with_name(f"{files.TEMPORARY}{secrets.token_hex(8)}")
    remedy = f"Delete {path} and the parts beside it."
    if not path.exists():
        files.write_json(temporary, value)
        try:
            with files.disk_errors(path), contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    agreed = plan_at(path)
    if agreed.keys() != value.keys():
        raise IntegrityError(f"{path} is no plan of this version.", remedy)
    return agreed


def plan_at(path: Path) -> dict:
    """What was agreed. Raises `IntegrityError` where the file is damaged."""
    remedy = f"Delete {path} and what belongs to it beside it."
    plan = files.read_json(path, remedy)
    try:
        fields.check(plan, PLAN_SHAPE)
        if plan["width"] < 1:
            raise ValueError("a width of 0")
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} is no plan of parts ({error}).", remedy) from None
    return plan


def plan_path(run: Run, key: str) -> Path:
    return run.path / "scores" / f"plan-{key}.json"


def remove(run: Run, whole: TargetSet) -> None:
    """Deletes a set's parts and its plan, once they are in no manifest any more."""
    folder = run.path / "scores"
    for path in paths(folder, whole):
        for each in (path, path.with_suffix(".npy")):
            if each.exists():
                files.remove_inside(run.path, each)
    if plan_path(run, whole.key).exists():
        files.remove_inside(run.path, plan_path(run, whole.key))
