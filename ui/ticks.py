"""Training images that a person has ticked: one set a run, kept with it, the same in every tab and after a restart."""

import functools

from engine import files
from engine.errors import IntegrityError
from engine.runs import notes
from ui import gallery, pictures, shell


def kept(run) -> notes.Notes:
    """The run's ticks and notes; none, said once on the page, where their file is damaged: its scores are not."""
    try:
        return notes.read(run)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return notes.Notes()


def of(run) -> list[int]:
    return list(kept(run).ticked)


def change(run, changes: dict[int, bool]) -> None:
    with shell.guarded():
        notes.tick(run, changes, len(pictures.dataset(run.manifest().config.dataset).train_labels))


def add(run, indices) -> None:
    change(run, {int(i): True for i in indices})


def clear(run) -> None:
    change(run, dict.fromkeys(of(run), False))


def tiles(run, shown: list[gallery.Tile], key: str, size: int = 96, bars_title: str = "") -> None:
    """Training images with their ticks."""
    on_tick = None if files.read_only() else functools.partial(change, run)
    gallery.show(
        run.manifest().config.dataset,
        shown,
        key,
        size=size,
        ticked=set(of(run)),
        bars_title=bars_title,
        on_tick=on_tick,
    )
