"""What a person decided on the labels of a run's training images, with all that leads back from it. No torch.

It stands in `outputs/<run_id>/corrections.jsonl` (`engine.runs.corrections_file`), beside the notes and like them no
part of what was computed: it stands under no checksum, stays when the run is cleaned up, and has a lock of its own
(`.corrections.lock`).

Each thing that a person does is a step, and `undo` takes the last step back, and so on to the first. A tick stands in
the run's notes (`engine.runs.notes`), for it is that of all pages; its step is here, so that one key undoes either.

Before there was this file, the notes held what *Find bad labels* had decided, as a set of their own: it is read as the
corrections of a run that has no file yet.
"""

from collections.abc import Iterable, Mapping

from engine.errors import ConfigError, IntegrityError
from engine.runs import corrections_file as file
from engine.runs import notes
from engine.runs.corrections_file import EXCLUDED as EXCLUDED
from engine.runs.corrections_file import NAME as NAME
from engine.runs.corrections_file import Corrections, Decision, Record, Step
from engine.runs.lock import FileLock
from engine.runs.run import Run

MOST_FILES = 100_000  # that cannot be read, among what was looked at

# -- reading


def read(run: Run, images: int | None = None, classes: int | None = None) -> Corrections:
    """Raises `IntegrityError` where the file holds no corrections of a run, or (with `images` and `classes`, how many
    there are) speaks of one that is not there."""
    return read_record(run, images, classes).corrections


def read_record(run: Run, images: int | None = None, classes: int | None = None) -> Record:
    """With what was looked at and the history; raises as `read`."""
    record = file.read(run.path) or Record(_of_notes(run))
    if images is not None and classes is not None:
        try:
            record.corrections.check(images, classes)
        except ConfigError as error:
            raise IntegrityError(
                f"The corrections in {run.path} are of other data: {error.what} {error.remedy}", file.REMEDY
            ) from None
    return record


def _of_notes(run: Run) -> Corrections:
    before = notes.read(run)
    labels = before.labels_in(notes.LABELS)
    return Corrections(dict(labels), frozenset(before.ticked_in(notes.LABELS)) - labels.keys())


# -- writing


def write(
    run: Run,
    corrections: Corrections,
    *,
    expected: Corrections | None = None,
    images: int | None = None,
    classes: int | None = None,
) -> None:
    """The corrections from now on, as one step that can be undone. With `expected`, those that the writer saw: raises
    `ConfigError`, and writes nothing, where another tab or process has written others since."""
    with _lock(run):
        before = read_record(run)
        if expected is not None and before.corrections != expected:
            raise ConfigError(
                f"The corrections of run {run.id} were changed in another tab meanwhile. Yours were not saved.",
                "Look at them again, and then save yours.",
            )
        images_of_both = sorted({*corrections.labels, *corrections.excluded, *_images_of(before.corrections)})
        _decide(run, before, {i: corrections.of(i) for i in images_of_both}, (), images, classes)


def decide(
    run: Run,
    decisions: Mapping[int, Decision],
    images: int,
    classes: int,
    *,
    seen: Mapping[int, Decision] | None = None,
    looked_at: Iterable[str] = (),
) -> None:
    """Decides on some training images, as one step; what others decided meanwhile on other images stays. With `seen`,
    what the person saw of them: raises `ConfigError`, and writes nothing, where another has decided otherwise since."""
    with _lock(run):
        before = read_record(run)
        for index, was in (seen or {}).items():
            now = before.corrections.of(index)
            if now not in (was, decisions[index]):
                raise ConfigError(
                    f"Training image {index} was decided on in another tab meanwhile. Yours was not saved.",
                    "It is shown as it is now: press the key again if yours is right.",
                )
        _decide(run, before, decisions, looked_at, images, classes)


def mark(run: Run, changes: Mapping[int, bool], images: int, classes: int) -> None:
    """Says of some training images, as one step, that their label is wrong (True), so that each is left out unless it
    has another label by now, which it keeps; or that it is right (False)."""
    with _lock(run):
        before = read_record(run)
        now = {i: before.corrections.of(i) for i in changes}
        decisions = {i: (EXCLUDED if now[i] is None else now[i]) if on else None for i, on in changes.items()}
        _decide(run, before, decisions, (), images, classes)


def look(run: Run, items: Iterable[str]) -> None:
    """Remembers what a person has gone through: numbers of training images as texts, `file:NAME`."""
    with _lock(run):
        before = read_record(run)
        if more := _not_yet(before, items):
            file.add_passed(run.path, before, more)


def tick(run: Run, changes: Mapping[int, bool], images: int) -> None:
    """Ticks (True) and unticks training images in the run's one selection, that of its notes, as a step that can be
    undone."""
    with _lock(run):
        before = read_record(run)
        ticked = notes.tick(run, changes, images)
        step = Step(ticked=tuple((i, i in ticked, on) for i, on in changes.items() if (i in ticked) != on))
        if step != Step():
            file.add(run.path, before, step)


def undo(run: Run, images: int) -> Step | None:
    """Takes the last step back, and returns it; None where there is none. What it changed is as it was before."""
    with _lock(run):
        before = read_record(run)
        if not before.history:
            return None
        step = before.history[-1]
        if step.ticked:
            notes.tick(run, {i: was for i, was, _ in step.ticked if i < images}, images)
        file.take_back(run.path, before)
        return step


def _images_of(corrections: Corrections) -> set[int]:
    return {*corrections.labels, *corrections.excluded}


def _not_yet(record: Record, items: Iterable[str]) -> tuple[str, ...]:
    new = [item for item in dict.fromkeys(items) if item not in record.looked_at]
    names = [item for item in new if item.startswith("file:")]
    if names:
        room = MOST_FILES - sum(item.startswith("file:") for item in record.looked_at)
        too_many = {*names[max(0, room) :]}
        new = [item for item in new if item not in too_many]
    return tuple(new)


def _decide(
    run: Run,
    before: Record,
    decisions: Mapping[int, Decision],
    looked_at: Iterable[str],
    images: int | None,
    classes: int | None,
) -> None:
    """For who holds the lock."""
    corrections = before.corrections.changed(decisions)
    if images is not None and classes is not None:
        Corrections(
            {i: label for i, label in corrections.labels.items() if i in decisions},
            corrections.excluded & decisions.keys(),
        ).check(images, classes)
    was = before.corrections
    decided = tuple((i, was.of(i), what) for i, what in decisions.items() if was.of(i) != what)
    step = Step(decided=decided, looked_at=_not_yet(before, looked_at))
    if step != Step():
        file.add(run.path, before, step)


def _lock(run: Run) -> FileLock:
    Run.open(run.root, run.id)  # deleted in another tab, perhaps
    busy = f"The corrections of run {run.id} are being written by another process.", "Try again."
    return FileLock(run.path / ".corrections.lock", busy, notes.PATIENCE)
