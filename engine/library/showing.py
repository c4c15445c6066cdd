"""Scores of another program as a run: its pictures, its numbers, and the pages that need nothing else (docs/viewer.md).

    RUN/config.json      the data set, and `scores:METHOD` in place of a model; the recipe in it plays no part
    RUN/scores/          imported-000.npy float32 [K, N], and its sidecar: the targets, what a positive score means, and
                         what was noticed of them
    RUN/data/            the pictures and labels of both splits, unless they are those of a data set with a name
    RUN/model/           train_logits.npy, test_logits.npy, where they were given

There is no trajectory, no weights, and no unit but what the caller says. `engine.targets.functions.imported` is the
function that its scores are of. The matrix is read and written piece by piece, so that 10⁹ numbers pass through little
memory.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import files, spelling
from engine.config import RunConfig
from engine.datasets import registry as datasets
from engine.datasets import saved
from engine.datasets.base import SPLITS, Dataset
from engine.datasets.names import printable
from engine.datasets.source import Progress, nothing
from engine.errors import ConfigError
from engine.jobs import machine
from engine.library import matrices, serving, splits
from engine.library.matrices import Matrix
from engine.library.saving import filled
from engine.library.shown import class_names, target_name, write_pictures
from engine.library.splits import Split
from engine.runs import notes
from engine.runs.run import Run
from engine.targets import Target, TargetFunction, TestImage, TrainImage, read_targets, split_targets
from engine.targets.functions import SIGNS, imported

SCORES = "imported-000"

OPTIONS = (  # of `Imported`, as the command line has them
    *("scores", "train", "test", "method", "sign", "unit", "targets", "order"),
    *("train_logits", "test_logits", "title", "name", "note"),
)

MOST_CLASSES = 1_000_000  # that nobody named

LOOKED_AT = 200  # targets whose scores are held against the labels

SURE = 3.0  # standard errors

SHOW_HINTS = {
    **dict.fromkeys(("matrix", "attributions", "influence"), "The matrix is the first argument, `scores`."),
    **dict.fromkeys(("train_data", "dataset", "train_dataset"), "The training images are `train`."),
    **dict.fromkeys(("logits", "outputs"), "The model's logits are `test_logits` and `train_logits`."),
    **dict.fromkeys(("transpose", "transposed", "axis"), 'What the rows are is order="targets" or order="training".'),
    **dict.fromkeys(("path", "folder", "run_id"), "Where the run is kept is `place`."),
}


@dataclass(frozen=True, eq=False)
class Imported:
    """What a person brings, as `engine.show` takes it."""

    scores: Any
    train: Any
    test: Any = None
    method: str = ""
    sign: str = ""
    unit: str = ""
    targets: Any = None
    order: str | None = None
    train_logits: Any = None
    test_logits: Any = None
    classes: Sequence[str] | None = None
    title: str = ""
    name: str = ""
    note: str = ""


@spelling.names_unknown(SHOW_HINTS)
def show(
    scores: Any,
    train: Any,
    test: Any = None,
    *,
    method: str,
    sign: str,
    unit: str = "",
    targets: Any = None,
    order: str | None = None,
    train_logits: Any = None,
    test_logits: Any = None,
    classes: Sequence[str] | None = None,
    title: str = "",
    name: str = "",
    note: str = "",
    place: str | os.PathLike | None = None,
    open: bool = True,
) -> Path:
    """Keeps scores of another program (TRAK, kronfluence, dattri, captum) as a run, shows it in the app, and returns
    its folder.

    `scores` [K targets, N training images] or transposed: an array, a tensor, or a file
    (`help(engine.library.matrices)`). Where the sizes leave open which axis is which, `order` says what the rows are,
    "targets" or "training". `method` is who made them, such as "TRAK"; `sign` is "help" where a positive score means
    that the image helped the target, "harm" where it harmed it; `unit` is theirs, and none is claimed without.

    `train` and `test` are the images in the order of the scores, with their labels: the name of a data set, a folder of
    class folders, a `Dataset` of torch or torchvision before it is standardised, or (images, labels)
    (`help(engine.library.splits)`); `classes` are names in the order of the labels. `targets` says which the rows are,
    as for `Trained.save`: numbers of test images, texts such as "test:0-99" or "class:2", or a file of them; all test
    images where it is left out. `train_logits` [N, C] and `test_logits` [M, C] are what the model says: with them the
    pages also tell right from wrong. `title` names the data, `name` the run, `note` is a person's.

    `place` is as for `Trained.save`. `open`: the link is printed, and the app started where none shows this folder of
    runs; it lives on when this process ends.

    Pages that need a training say so; what minus a score foretells is said of no method but a replay.

    Raises `ConfigError` for what does not fit, with the place of the first number that is not finite; `DataError` for
    images that cannot be read; `StorageError` where memory or disk is too small, with what it would take.
    """
    given = Imported(
        scores, train, test, method, sign, unit, targets, order, train_logits, test_logits, classes, title, name, note
    )
    path = make(given, place)
    if open:
        serving.show(path, wait=False)
    return path


def make(given: Imported, place: str | os.PathLike | None = None, on_progress: Progress = nothing) -> Path:
    """Makes the run and returns its folder; see `engine.show`. What can be wrong with small things is looked at first:
    sizes and names before numbers, numbers before pictures."""
    _check_texts(given)
    if not given.sign:
        raise ConfigError(
            "It is not said what a positive score means.",
            "Say sign (--sign) help where an image of positive score helped the target, harm where it harmed it.",
        )
    function = imported(given.method, given.sign, given.unit)
    matrix = matrices.opened(given.scores)
    with filled(place, "scores") as (unfinished, path):
        data = _data(given, on_progress)
        names = _targets(given, matrix, data.known)
        n_train = len(data.known.train_labels)
        order = matrices.order_of(matrix, len(names), n_train, given.order, _are_named(given, matrix))
        shape = (len(names), n_train)
        matrices.check_disk(shape, unfinished)
        config = RunConfig(
            preset="scores",
            dataset=saved.OWN if data.name is None else data.name,
            model=f"scores:{given.method}",
            targets=names,
        )
        run = Run.create(unfinished, config, path.name)
        sha256 = _write_scores(run.path / "scores" / f"{SCORES}.npy", matrix, order, shape)
        logits = _write_logits(run, given, data.known)
        dataset = data.written(unfinished / "data", given.title or path.name)
        if data.name is None:
            with files.disk_errors(run.path):
                (unfinished / "data").rename(run.path / "data")
        _fill(run, given, function, dataset, names, sha256, logits)
    return path


def _check_texts(given: Imported) -> None:
    for name in ("method", "sign", "unit", "title", "name", "note"):
        value = getattr(given, name)
        if not isinstance(value, str):
            raise ConfigError(f"`{name}` is a {type(value).__name__}, and no text.", f'Write {name}="…".')


# -- the data


@dataclass(frozen=True, eq=False)
class Data:
    """`known`: labels, classes and sizes, before any picture is decoded; `name` of a data set that is referred to, else
    both `parts` are written into the run."""

    known: Dataset
    name: str | None = None
    parts: dict[str, Split] | None = None

    def written(self, folder: Path, title: str) -> Dataset:
        if self.parts is None:
            return self.known
        return write_pictures(
            folder,
            {split: part.images for split, part in self.parts.items()},
            {split: part.labels for split, part in self.parts.items()},
            self.known.classes,
            {split: part.files for split, part in self.parts.items()},
            title,
            what={split: f"{split} images" for split in SPLITS},
        )


def _data(given: Imported, on_progress: Progress) -> Data:
    name = splits.named(given.train, given.test)
    if name is not None:
        dataset = datasets.load(name, on_progress)
        if given.classes is not None and class_names(given.classes) != dataset.classes:
            raise ConfigError(
                f"The data set has the classes {', '.join(dataset.classes[:12])}.", "Leave `classes` out, it has names."
            )
        return Data(dataset, dataset.name)
    test = given.train if given.test is None else given.test
    parts = {"train": splits.read(given.train, "train", on_progress), "test": splits.read(test, "test", on_progress)}
    classes = _classes(given.classes, parts)
    parts = {split: _renumbered(part, classes, split) for split, part in parts.items()}
    blank = {split: np.broadcast_to(np.uint8(0), (len(part.labels), 1, 1, 1)) for split, part in parts.items()}
    known = Dataset(
        "saved", "", "", classes, blank["train"], parts["train"].labels, blank["test"], parts["test"].labels
    )
    return Data(known, None, parts)


def _classes(names: Sequence[str] | None, parts: dict[str, Split]) -> tuple[str, ...]:
    if names is None:
        names = parts["train"].classes or parts["test"].classes
    if names is not None:
        return class_names(names)
    last = max(int(part.labels.max()) for part in parts.values())
    if last >= MOST_CLASSES:
        raise ConfigError(
            f"The labels go up to {last:,}, and classes are numbered from 0.",
            "Number them: classes, labels = numpy.unique(labels, return_inverse=True).",
        )
    return tuple(map(str, range(1 + last)))


def _renumbered(part: Split, classes: tuple[str, ...], split: str) -> Split:
    """A split whose own classes have other numbers, such as a folder's that lacks one: by their names."""
    if part.classes is None or part.classes == classes:
        return part
    unknown = [name for name in part.classes if name not in classes]
    if not unknown:
        numbers = np.array([classes.index(name) for name in part.classes])
        return replace(part, labels=numbers[part.labels])
    if len(part.classes) == len(classes):  # other names for the same classes
        return part
    raise ConfigError(
        f"The {split} images have the class {unknown[0]!r:.60}, which is not one of {', '.join(classes[:12])}.",
        "Give both splits the same classes, or `classes` in the order of the labels.",
    )


# -- the targets


def _are_named(given: Imported, matrix: Matrix) -> bool:
    return given.targets is not None or matrix.targets is not None


def _targets(given: Imported, matrix: Matrix, dataset: Dataset) -> tuple[str, ...]:
    """The text of each row's target, in their order; all test images where nobody said which."""
    asked = matrix.targets if given.targets is None else given.targets
    if asked is None:
        return tuple(f"test:{index}" for index in range(len(dataset.test_labels)))
    if isinstance(asked, str | os.PathLike):
        asked = _listed(os.fspath(asked))
    if not isinstance(asked, Iterable) or isinstance(asked, Mapping | bytes):
        raise ConfigError(f"`targets` is a {type(asked).__name__}.", "Name one a row: targets=[0, 5, 9], or a text.")
    names: list[str] = []
    for k, each in enumerate(asked):
        if isinstance(each, str):
            names += _of_text(each, dataset)
        else:
            names.append(target_name(each, k, dataset))
    if not names:
        raise ConfigError("`targets` is empty.", "Name one for each row of the scores, such as 0-99 or test:5.")
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ConfigError(f"The target {twice} is named twice.", "Give each row of the scores one of its own.")
    return tuple(names)


def _listed(text: str) -> Sequence[Any]:
    """What a text, or a file, lists."""
    path = Path(files.expanded(text))
    if not os.path.isfile(path):  # nor is a list of targets that is too long for a file's name
        return split_targets(text)
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).tolist()
        return split_targets(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{printable(str(path))} cannot be read ({error}).", "List targets, one a line.") from None


def _of_text(text: str, dataset: Dataset) -> list[str]:
    text = text.strip()
    if re.fullmatch("[0-9]{1,9}( *[-–] *[0-9]{1,9})?", text):
        text = f"test:{text}"
    found = read_targets([text], dataset)
    if any(target.of_the_model for target in found):
        raise ConfigError(f"«{text:.100}» depends on what a model answers.", "Name test images, or class:C.")
    return [str(target) for target in found]


# -- the numbers


def _write_scores(path: Path, matrix: Matrix, order: str, shape: tuple[int, int]) -> str:
    """Streams the matrix into an .npy file and returns its SHA-256. The disk gives all of the space first: a map of a
    file that cannot grow ends the process."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with files.disk_errors(path):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            os.posix_fallocate(file.fileno(), 0, offset + 4 * shape[0] * shape[1])
        scores_KN = np.memmap(path, np.float32, "r+", offset, shape)
    matrices.fill(scores_KN, matrix, order)
    with files.disk_errors(path):
        scores_KN.flush()
    del scores_KN
    return files.sha256_of(path)


def _write_logits(run: Run, given: Imported, dataset: Dataset) -> dict[str, np.ndarray]:
    """Of the splits of which they were given, float32 [n, C]."""
    found = {}
    for split, values in (("train", given.train_logits), ("test", given.test_logits)):
        if values is None:
            continue
        shape = (len(dataset.labels(split)), len(dataset.classes))
        found[split] = matrices.whole(values, f"{split}_logits", shape, f"{split} images × classes")
        files.write_npy(run.path / "model" / f"{split}_logits.npy", found[split])
    return found


def noticed(scores_KN: np.ndarray, dataset: Dataset, names: Sequence[str], function: TargetFunction) -> list[str]:
    """What the labels say of the order and the sign, in sentences: images of a target's own class help it more than
    others in every method that works. Of up to `LOOKED_AT` single test images, the difference of the two means in
    standard errors; no sentence where it is as it should be, or cannot be told."""
    single = [(k, Target.parse(name)) for k, name in enumerate(names)]
    single = [(k, target) for k, target in single if isinstance(target, TestImage)]
    differences = []
    for k, target in single[:: max(1, len(single) // LOOKED_AT)]:
        helps_N = -function.harmful_sign * np.asarray(scores_KN[k], np.float64)
        same_N = dataset.train_labels == dataset.test_labels[target.index]
        ours, others = int(same_N.sum()), int((~same_N).sum())
        error = helps_N.std() * np.sqrt(1 / max(ours, 1) + 1 / max(others, 1))
        if ours and others and error > 0:
            differences.append((helps_N[same_N].mean() - helps_N[~same_N].mean()) / error)
    if not differences:
        return []
    together = float(np.sum(differences) / np.sqrt(len(differences)))
    if together < -SURE:
        other = next(sign for sign in SIGNS if SIGNS[sign] != function.harmful_sign)
        return [
            "Training images of a target's own class harm it on average, more than those of other classes: perhaps a "
            f"positive score means the contrary (sign={other})."
        ]
    if together < SURE:
        return [
            "Training images of a target's own class help it no more than others do: perhaps the scores are in another "
            "order than the training images, or the targets than the test images."
        ]
    return []


# -- the folder


def _fill(
    run: Run,
    given: Imported,
    function: TargetFunction,
    dataset: Dataset,
    names: tuple[str, ...],
    sha256: str,
    logits: dict[str, np.ndarray],
) -> None:
    scores_KN = files.read_npy(run.path / "scores" / f"{SCORES}.npy", None, "Show them again.")
    digest = files.json_digest([sha256, dataset.fingerprint, function.name, list(names)])
    remarks = noticed(scores_KN, dataset, names, function)
    sidecar = {
        "schema": 1,
        "dtype": "float32",
        "target_function": function.name,
        "unit": function.unit,
        "sign": function.meaning(dataset.classes),
        "training_digest": digest,
        "data_fingerprint": dataset.fingerprint,
        "noticed": remarks,
        "targets": [_record(name, dataset, logits) for name in names],
        "shape": list(scores_KN.shape),
        "sha256": sha256,
    }
    kept = {
        **run.manifest().files,
        f"scores/{SCORES}.npy": sha256,
        f"scores/{SCORES}.json": files.write_json(run.path / "scores" / f"{SCORES}.json", sidecar),
        **{
            f"model/{split}_logits.npy": files.sha256_of(run.path / "model" / f"{split}_logits.npy") for split in logits
        },
    }
    if (run.path / "data").is_dir():
        kept |= {f"data/{path.name}": files.sha256_of(path) for path in sorted((run.path / "data").iterdir())}
    run.events_log.append("note", text=f"Scores of {given.method}, made elsewhere and shown here.")
    for text in remarks:
        run.events_log.append("note", text=text)
    run.events_log.append("finished", scores=SCORES)
    accuracy = None
    if "test" in logits:
        accuracy = float((logits["test"].argmax(1) == dataset.test_labels).mean())
    run.update_manifest(
        status_said="finished",
        jobs=(),
        files=kept,
        dataset=run.manifest().config.dataset if not (run.path / "data").is_dir() else dataset.title,
        training_digest=digest,
        data_fingerprint=dataset.fingerprint,
        versions=machine.versions(),
        scored=True,
        test_accuracy=accuracy,
    )
    if given.note:
        notes.write_note(run, notes.RUN, given.note)
    if given.name:
        notes.write_name(run, given.name)
    run.update_manifest(**run.totals())


def _record(name: str, dataset: Dataset, logits: dict[str, np.ndarray]) -> dict[str, Any]:
    """A target as the sidecar has it; a training image with its logits, as in other runs."""
    target = Target.parse(name)
    record: dict[str, Any] = {"name": name, "title": target.title(dataset)}
    if isinstance(target, TrainImage) and "train" in logits:
        record["logits"] = logits["train"][target.index].tolist()
    return record
