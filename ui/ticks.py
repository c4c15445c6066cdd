"""Training images that a person has ticked: one set a run, kept with it, the same in every tab and after a restart."""

import functools
from collections.abc import Iterable

from engine import files
from engine.errors import IntegrityError
from engine.runs import notes
from ui import gallery, shell
from ui.run_choice import RunView


def read(run: RunView) -> notes.Notes:
    """The run's ticks and notes; none, said once on the page, where their file is damaged: its scores are not."""
    try:
        return notes.read(run.folder)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return notes.Notes()


def of(run: RunView) -> list[int]:
    """The indices ticked. A file that was made for more images than there are may hold others, which are none."""
    return [index for index in read(run).ticked if index < len(run.dataset.train_labels)]


def change(run: RunView, changes: dict[int, bool]) -> None:
    with shell.guarded():
        notes.tick(run.folder, changes, len(run.dataset.train_labels))


def add(run: RunView, indices: Iterable[int]) -> None:
    change(run, {int(index): True for index in indices})


def clear(run: RunView) -> None:
    change(run, dict.fromkeys(of(run), False))


def write_note(run: RunView, what: int | str, text: str) -> None:
    with shell.guarded():
        notes.write_note(run.folder, what, text)


def tiles(run: RunView, images: list[gallery.Tile], key: str, size: int = 96, bars_title: str = "") -> None:
    """Training images with their ticks."""
    on_tick = None if files.read_only() else functools.partial(change, run)
    gallery.show(run.dataset, images, key, size=size, ticked=set(of(run)), bars_title=bars_title, on_tick=on_tick)
