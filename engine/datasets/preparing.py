"""Data sets that are being prepared in the background, for pages: one thread each, owned by the process."""

import atexit
import itertools
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from engine import files
from engine.datasets import archive, registry
from engine.datasets.base import Dataset
from engine.datasets.names import DatasetName, image_options, name_error
from engine.datasets.prepared import data_folder
from engine.datasets.source import Progress
from engine.errors import CancelledError, ReplayError

WAIT = 10.0  # seconds for what is cancelled because the process ends


@dataclass
class Preparation:
    """One data set on its way. Read by pages, written by its thread; each field is replaced whole.

    `done` and `of` count images, or bytes while an archive is unpacked or files are fetched; `seconds_left` is None
    until it is known.
    """

    key: str
    done: int = 0
    of: int = 0
    seconds_left: float | None = None
    name: str = ""  # the data set's canonical name, once it is there
    error: ReplayError | None = None
    details: str = ""  # a traceback, where the error was not foreseen
    finished: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, of: int, seconds_left: float | None) -> None:
        """Raises `CancelledError` once somebody has cancelled."""
        if self.cancelled.is_set():
            raise CancelledError("Preparing the data set was cancelled.", "Nothing of it is left.")
        self.done, self.of, self.seconds_left = done, of, seconds_left


class Preparations:
    """All of this process, by key; a second start of what is running joins it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._all: dict[str, Preparation] = {}

    def start(self, key: str, work: Callable[[Progress], Dataset], alone: bool = False) -> Preparation:
        """Runs `work`, which gets the progress to report to, in a thread of its own. `alone`: it joins nothing, and
        gets a number where its key is taken."""
        with self._mutex:
            if alone and key in self._all:
                key = next(each for n in itertools.count(2) if (each := f"{key} ({n})") not in self._all)
            running = self._all.get(key)
            if running is not None and not running.finished.is_set():
                return running
            preparation = self._all[key] = Preparation(key)
        threading.Thread(target=_run, args=(preparation, work), name=f"prepare {key[:40]}", daemon=True).start()
        return preparation

    def all(self) -> list[Preparation]:
        with self._mutex:
            return list(self._all.values())

    def stop(self) -> None:
        """Cancels all, and waits a while until nothing of theirs is left: the process is on its way out."""
        running = [preparation for preparation in self.all() if not preparation.finished.is_set()]
        for preparation in running:
            preparation.cancelled.set()
        for preparation in running:
            preparation.finished.wait(WAIT)

    def forget(self, key: str) -> None:
        """Drops one that has finished."""
        with self._mutex:
            preparation = self._all.get(key)
            if preparation is not None and preparation.finished.is_set():
                del self._all[key]


preparations = Preparations()

# As the queue of jobs does: an interpreter that ends would leave threads where they stand, with half a folder.
atexit.register(preparations.stop)


def add(name: str) -> Preparation:
    """Begins to prepare a data set, or to look at its files again. `ConfigError` for a name that is none."""
    files.check_writable(data_folder())
    if (fault := registry.problem(name)) is not None:
        raise name_error(name, fault)
    name = registry.canonical(name)
    return preparations.start(name, lambda on_progress: registry.reload(name, on_progress))


def add_archive(file: IO[bytes], file_name: str, options: tuple[tuple[str, str], ...]) -> Preparation:
    """Begins to unpack an uploaded archive and to prepare what is in it as a folder of images."""
    files.check_writable(data_folder())
    image_options(DatasetName("folder", file_name, options))  # before anything is unpacked

    def work(on_progress: Progress) -> Dataset:
        place = archive.unpack(file, file_name, on_progress)
        name = registry.canonical(str(DatasetName("folder", str(place), options)))
        try:
            return registry.reload(name, on_progress)
        except ReplayError:
            archive.discard(place)
            raise

    return preparations.start(f"archive {file_name}", work, alone=True)  # one of the same name need not be the same


def _run(preparation: Preparation, work: Callable[[Progress], Dataset]) -> None:
    try:
        preparation.name = work(preparation.progress).name
    except ReplayError as error:
        preparation.error = error
    except BaseException as error:  # shown on the page with its traceback: nobody else would see it
        preparation.error = ReplayError(
            f"Preparing the data set stopped: {type(error).__name__}: {error}", "Report the traceback if it stays."
        )
        preparation.details = traceback.format_exc()
    finally:
        preparation.finished.set()
