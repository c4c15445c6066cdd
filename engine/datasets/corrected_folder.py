"""The files of a folder of images by the corrections of a person: a corrected copy, or the files moved where they are.

A copy is a new folder, whole or absent, with `train/CLASS/FILE` and `test/CLASS/FILE`, so that it has the very test
images that the run had, also where they had been drawn from the folder. What cannot be read is not in it. The folder
itself stays as it is, and that is the way to take: a run whose folder has changed can be neither shown nor replayed.

Files that are moved stay in their folder: a relabelled one goes to the folder of its class, one that is left out to
`.excluded/`, which is hidden and so no part of the data. A list of the moves is written before the first.

No file is ever overwritten: one whose name is taken gets the name of its old class in front, and a number where that is
taken too. Links are followed nowhere.
"""

import contextlib
import dataclasses
import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import files
from engine.datasets import corrected, registry
from engine.datasets.base import SPLITS, Dataset
from engine.datasets.builder import stored_path
from engine.datasets.image_folder import ImageFolder
from engine.datasets.names import DatasetName, printable
from engine.datasets.source import Stamp, opened
from engine.errors import ConfigError, DataError, StorageError

EXCLUDED = ".excluded"

MOVED = ".moved-by-corrections"  # and a number, of the list of moves

BLOCK = 1 << 20  # bytes that are copied at a time


@dataclass(frozen=True)
class Change:
    """One file of the folder, by its path below it: where it goes, None where it is left out; `why`, in a word or two,
    where it does not simply stay."""

    stamp: Stamp
    to: str | None
    why: str = ""

    def line(self) -> str:
        """For people, with every sign of the names to be seen."""
        if self.to is None:
            return f"leave out  {printable(self.stamp.path)}  ({self.why})"
        verb = "relabel" if self.why == "relabelled" else "keep"
        return f"{verb:10} {printable(self.stamp.path)}  →  {printable(self.to)}"


@dataclass(frozen=True)
class Plan:
    """What is to be done with the files of `root`."""

    root: Path
    changes: tuple[Change, ...]

    @property
    def corrected(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.why)


# -- what is to be done


def for_copy(dataset: Dataset, labels: Mapping[int, int], excluded: Collection[int]) -> Plan:
    """A copy of every file, in the folders of its split and its class. Raises as `_Folder.of`."""
    folder, taken = _Folder.of(dataset, labels, excluded), _Names()
    changes = []
    for split, index, stamp in folder.images():
        label, why = folder.decided(split, index)
        if label is None:
            changes.append(Change(stamp, None, why))
            continue
        first, *rest = stamp.path.split("/")
        place = "train" if split == "train" else first if len(rest) > 1 and first != "train" else "test"
        to = taken.free(f"{place}/{folder.classes[label]}", stamp.path)
        changes.append(Change(stamp, to, why))
    known = {change.stamp.path for change in changes}
    unread = [stamp for stamp in folder.stamps if stamp.path not in known]
    return Plan(folder.root, (*changes, *(Change(stamp, None, "cannot be read") for stamp in unread)))


def for_moving(dataset: Dataset, labels: Mapping[int, int], excluded: Collection[int]) -> Plan:
    """The files that are moved, and no others. Raises as `_Folder.of`."""
    folder = _Folder.of(dataset, labels, excluded)
    taken = _Names(folder.root)
    changes = []
    for split, index, stamp in folder.images():
        label, why = folder.decided(split, index)
        if not why:
            continue
        above = os.path.dirname(os.path.dirname(stamp.path))
        place = f"{EXCLUDED}/{os.path.dirname(stamp.path)}" if label is None else folder.classes[label]
        place = place if label is None or not above else f"{above}/{place}"
        changes.append(Change(stamp, taken.free(place, stamp.path), why))
    return Plan(folder.root, tuple(changes))


class _Names:
    """Names that are taken by what was planned before, and by what is in `root`."""

    def __init__(self, root: Path | None = None):
        self._root, self._planned = root, set()

    def free(self, place: str, path: str) -> str:
        """A path in `place` for the file that is at `path` now."""
        name, old = os.path.basename(path), os.path.basename(os.path.dirname(path))
        stem, ending = os.path.splitext(name)
        for number in range(1, len(self._planned) + 1_000_000):
            of_old = name if number == 1 else f"{old}-{name}" if number == 2 else f"{old}-{stem}-{number}{ending}"
            to = f"{place}/{of_old}"
            if to not in self._planned and not (self._root is not None and os.path.lexists(self._root / to)):
                self._planned.add(to)
                return to
        raise StorageError(f"Every name for {printable(path)} in {printable(place)} is taken.", "Rename the files.")


@dataclass(frozen=True)
class _Folder:
    """A folder of images as it is now, and the decisions on its training images."""

    root: Path
    dataset: Dataset
    stamps: tuple[Stamp, ...]
    by_name: Mapping[str, Stamp]
    classes: Mapping[int, str]  # the folder of each label, as the disk names it
    labels: Mapping[int, int]
    excluded: frozenset[int]

    @classmethod
    def of(cls, dataset: Dataset, labels: Mapping[int, int], excluded: Collection[int]) -> "_Folder":
        """Raises `ConfigError` for a data set that was not made of a folder, `DataError` for one that has changed."""
        if dataset.name.startswith(f"{corrected.KIND}:"):
            dataset, labels, left_out = corrected.of_its_base(dataset, labels, excluded)
            excluded = left_out
        name = DatasetName.parse(dataset.name)
        if name.kind != "folder":
            raise ConfigError(
                f"The images of {dataset.name} are no files in a folder.",
                "Take labels.csv, or train again with the corrections (corrected:NAME): both go for all data sets.",
            )
        now = registry.reload(dataset.name)
        if now.fingerprint != dataset.fingerprint:
            raise DataError(
                f"The folder of {dataset.name} has changed since the run was made."
                f"{registry.changes(dataset.name, dataset.fingerprint)}",
                "Restore it; or correct the labels of a run on the folder as it is now.",
            )
        source = ImageFolder(name)
        by_name: dict[str, Stamp] = {}
        for stamp in source.stamps:
            shown = printable(stamp.path)
            if shown in by_name:
                raise DataError(f"Two files of {source.root} are both written {shown}.", "Rename one of them.")
            by_name[shown] = stamp
        folder = cls(source.root, now, tuple(source.stamps), by_name, {}, dict(labels), frozenset(excluded))
        classes = {
            int(now.labels(split)[index]): os.path.basename(os.path.dirname(stamp.path))
            for split, index, stamp in folder.images()
        }
        return dataclasses.replace(folder, classes=classes)

    def images(self) -> Iterator[tuple[str, int, Stamp]]:
        for split in SPLITS:
            names = self.dataset.train_names if split == "train" else self.dataset.test_names
            for index, name in enumerate(names or ()):
                yield split, index, self.by_name[name]

    def decided(self, split: str, index: int) -> tuple[int | None, str]:
        """The label of an image, None where it is left out, and why; "" where nothing was decided."""
        given = int(self.dataset.labels(split)[index])
        if split == "train" and index in self.excluded:
            return None, "left out"
        label = self.labels.get(index, given) if split == "train" else given
        return label, "relabelled" if label != given else ""


# -- doing it


def copy(plan: Plan, to: Path) -> int:
    """Copies the files to a new folder, and returns how many. It is there whole or not at all.

    Raises `ConfigError` for a place that will not do, `DataError` where a file is not as it was listed.
    """
    to = check_place(plan.root, to)
    temporary = to.parent / f"{files.TEMPORARY}{secrets.token_hex(4)}"
    wanted = [change for change in plan.changes if change.to is not None]
    with files.new_folder(temporary):
        for change in wanted:
            assert change.to is not None
            target = temporary / change.to
            with files.disk_errors(to / change.to):
                target.parent.mkdir(parents=True, exist_ok=True)
            with (
                opened(plan.root, change.stamp) as file,
                files.disk_errors(to / change.to),
                target.open("xb") as copied,
            ):
                shutil.copyfileobj(file, copied, BLOCK)
        with files.disk_errors(to):
            os.rename(temporary, to)  # over an empty folder, and over nothing else
    return len(wanted)


def check_place(root: Path, to: Path) -> Path:
    """The absolute path of a folder that a copy may be written to. Raises `ConfigError`."""
    to = Path(os.path.abspath(files.expanded(str(to))))
    there, root = Path(os.path.realpath(to)), Path(os.path.realpath(root))
    if there == root or root in there.parents or there in root.parents:
        raise ConfigError(f"{to} and the folder of images {root} are inside each other.", "Name a place beside it.")
    if to.is_symlink() or (os.path.lexists(to) and not to.is_dir()):
        raise ConfigError(f"{to} is there already, and is no folder.", "Name a folder that is not there yet.")
    if to.is_dir() and any(os.scandir(to)):
        raise ConfigError(
            f"{to} holds something already, and nothing is overwritten.", "Name a new or an empty folder."
        )
    if not to.parent.is_dir():
        raise ConfigError(f"There is no folder {to.parent} to put {to.name} in.", "Make it first.")
    return to


def move(plan: Plan) -> Path:
    """Moves the files in their folder, and returns the list of what is moved, which is written first. What would lead
    out of the folder is refused before any is moved."""
    files.check_writable(plan.root)
    for change in plan.changes:
        _places(plan.root, change)
    record = _record_of(plan.root)
    moves = [[stored_path(change.stamp.path), stored_path(change.to or "")] for change in plan.changes]
    files.write_json(record, {"moved": moves, "paths": "each character stands for one byte"})
    for change in plan.changes:
        source, target = _places(plan.root, change)
        with opened(plan.root, change.stamp):
            pass  # it is the file that was listed
        with files.disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _rename(source, target)
    return record


def _places(root: Path, change: Change) -> tuple[Path, Path]:
    """Where a file is and where it goes. Raises `StorageError` where either is outside the folder, or behind a link."""
    assert change.to is not None
    source, target = root / change.stamp.path, root / change.to
    files.check_inside(root, source)
    files.check_inside(root, target)
    return source, target


def _record_of(root: Path) -> Path:
    numbers = (root / f"{MOVED}-{number}.json" for number in range(1, 10_000))
    return next(path for path in numbers if not os.path.lexists(path))


def _rename(source: Path, target: Path) -> None:
    """Never over a file that is there: a second name is made, and then the first taken away."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(target):  # a file system without second names
            raise FileExistsError(errno.EEXIST, "File exists", str(target)) from None
        os.rename(source, target)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source)
