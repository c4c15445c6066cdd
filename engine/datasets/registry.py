"""Data sets by name: those that are registered, and KIND:PLACE for what people bring (`engine.datasets.names`)."""

import contextlib
import threading
from collections.abc import Callable

from engine.datasets import names, saved, store
from engine.datasets.base import Dataset
from engine.datasets.names import DatasetName, name_error
from engine.datasets.source import Progress, nothing
from engine.errors import ConfigError, DataError
from engine.registry import Registry

DATASETS: Registry[Callable[[], Dataset]] = Registry(
    "data set",
    "dataset",
    {
        "fashion-mnist-sample": "engine.datasets.fashion_mnist:sample",
        "fashion-mnist-sample-noisy": "engine.datasets.fashion_mnist:noisy_sample",
        "fashion-mnist": "engine.datasets.fashion_mnist:whole",
    },
)

KINDS: Registry[Callable[[DatasetName, Progress], Dataset]] = Registry(
    "kind of data set",
    "dataset",
    {
        "folder": "engine.datasets.image_folder:load",
        "table": "engine.datasets.table:load",
        "arrays": "engine.datasets.arrays:load",
        "torchvision": "engine.datasets.torchvision_sets:load",
        "hf": "engine.datasets.huggingface:load",
        "saved": "engine.datasets.saved:load",
        "corrected": "engine.datasets.corrected:load",
    },
)

_loaded: dict[str, Dataset] = {}
_mutex = threading.Lock()


def register(name: str, loader: Callable[[], Dataset]) -> None:
    """Makes a data set known. `loader()` returns a `Dataset` of that name; it is called once a process."""
    DATASETS.register(name, loader)


def load(name: str, on_progress: Progress = nothing) -> Dataset:
    """The data set of a name, loaded once a process: later calls look only at whether its prepared files are as they
    were.

    Raises `ConfigError` for a name that is not known, `DataError` for one whose files are missing or damaged.
    `on_progress(done, of, seconds_left)` hears of preparing what is loaded for the first time ever.
    """
    dataset = _known(name)
    if dataset is None:
        dataset = _load(name, on_progress)
        with _mutex:
            dataset = _loaded.setdefault(name, dataset)
    return dataset


def _known(name: str) -> Dataset | None:
    """What was loaded, unless its prepared files have been deleted, replaced or written to since: then it is
    forgotten, for to read a map of a file that was cut short ends the process."""
    with _mutex:
        dataset = _loaded.get(name)
        if dataset is not None and not store.is_there(dataset):
            del _loaded[name]
            return None
        return dataset


def reload(name: str, on_progress: Progress = nothing) -> Dataset:
    """The data set as its files are now: for what trains or replays. A folder that has not changed costs a look at
    its names, sizes and times; then, and for registered names, the value is the one that `load` gave."""
    if name in DATASETS:
        return load(name)
    dataset = _load(name, on_progress)
    with _mutex:
        known = _loaded.get(name)
        if known is None or (known.fingerprint, known.mapped) != (dataset.fingerprint, dataset.mapped):
            _loaded[name] = dataset
        return _loaded[name]


def _load(name: str, on_progress: Progress) -> Dataset:
    if ":" not in name:
        dataset = DATASETS.get(name)()
        if dataset.name != name:
            raise DataError(
                f"The loader of «{name}» gave the data set «{dataset.name}».", "Correct the function that loads it."
            )
        return dataset.check()
    if (fault := problem(name)) is not None:
        raise name_error(name, fault)
    parsed = DatasetName.parse(name)
    return KINDS.get(parsed.kind)(parsed, on_progress).check()


def is_prepared(name: str) -> bool:
    """Whether `load` has it ready: a name that is registered, or one whose prepared files are there. For pages, which
    decode nothing."""
    if name in DATASETS or _known(name) is not None:
        return True
    if problem(name) is not None:
        return False
    if name.startswith("corrected:"):
        from engine.datasets import corrected  # which asks this module for its base

        return corrected.is_there(name)
    return saved.is_there(name) if name.startswith("saved:") else store.is_prepared(canonical(name))


def clear() -> None:
    """Forgets what was loaded: for tests, and after prepared files were deleted."""
    with _mutex:
        _loaded.clear()


def delete(name: str) -> int:
    """Deletes what was prepared for a data set and returns the bytes freed; its sources stay."""
    if name.startswith("corrected:"):
        from engine.datasets import corrected

        freed = corrected.delete(name)
    else:
        freed = store.delete(name)
    with _mutex:
        for known in [known for known, dataset in _loaded.items() if dataset.name == name]:
            del _loaded[known]
    return freed


def problem(name: object) -> str | None:
    """What is wrong with a name, as the end of a sentence, as far as that can be said without a look at the disk."""
    kinds = ", ".join(f"{kind}:…" for kind in KINDS)
    if not isinstance(name, str):
        return f"must be one of {', '.join(DATASETS)}, or begin with {kinds}"
    if name in DATASETS:
        return None
    try:
        parsed = DatasetName.parse(name)
        if parsed.kind in KINDS:
            names.canonical(parsed)
    except ConfigError as error:
        return error.problems["dataset"]
    if parsed.kind not in KINDS:
        return f"must be one of {', '.join(DATASETS)}, or begin with {kinds}, not {name[:80]!r}"
    return None


def canonical(name: str) -> str:
    """The name with absolute paths, so that it means the same wherever it is read; others as they are."""
    if problem(name) is not None or name in DATASETS:
        return name
    return names.canonical(DatasetName.parse(name))


def changes(name: str, fingerprint: str) -> str:
    """Which files of a data set differ from those that it had at `fingerprint`, as a sentence; or nothing."""
    with contextlib.suppress(ConfigError, DataError):
        lines = store.changes(load(name).name, fingerprint)
        return f" {'; '.join(lines)}." if lines else ""
    return ""


def require_same(dataset: Dataset, name: str, made_with: str | None, run: str, remedy: str, so_that: str = "") -> None:
    """`dataset` is what `name` stands for now; `made_with` the fingerprint of what the run was made with, None of runs
    that recorded none. Raises `DataError` where they differ, with the files that do; `run` names the run in words, and
    `so_that` says what would come of it."""
    if made_with not in (None, dataset.fingerprint):
        which = changes(name, str(made_with))
        raise DataError(f"The data set {dataset.name} has changed since {run} was made{so_that}.{which}", remedy)
