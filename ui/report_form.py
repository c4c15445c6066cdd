"""A report to be mailed, of the target that a page shows or of a whole run: a row that folds away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from engine import files
from engine.report import choice, content, origin, writing
from engine.report.choice import Choice
from engine.runs.run import Run, Summary
from engine.runs.scores import TargetRef
from ui import download, formats, run_names, shell
from ui.run_choice import RunView
from ui.text import line

LABEL = "Report: one file to send"
MADE = "report-made"  # of the session: the last one


def draw(run: RunView, refs: Sequence[TargetRef]) -> None:
    """Of these targets of a run, folded away; nothing of it is worked out before it is opened."""
    with st.expander(LABEL, icon=":material/description:", key="report-form", on_change="rerun") as form:
        if form.open:
            with shell.guarded():
                _draw_choices(run, tuple(refs))


def draw_of_runs(runs: dict[str, Summary]) -> None:
    """Of one of these runs, all of its targets."""
    scored = {run.id: run for run in runs.values() if run.scored}
    if not scored:
        return
    with st.expander(LABEL, icon=":material/description:", key="report-form", on_change="rerun") as form:
        if not form.open:
            return
        labels = run_names.labels(scored.values())
        run_id = st.selectbox(
            "Run to report on", list(scored), format_func=lambda run_id: labels.get(run_id, line(run_id))
        )
        with shell.guarded():
            run = RunView.of(Run.open(shell.root(), run_id))
            _draw_choices(run, choice.targets_of(run.manifest, run.dataset))


def _draw_choices(run: RunView, refs: tuple[TargetRef, ...]) -> None:
    what = "this target" if len(refs) == 1 else f"the run's {len(refs):,} targets"
    st.caption(
        f"One HTML file of {what}: pictures, what the model says, the images that helped and harmed most, how far to "
        "rely on it and what retraining gave, and all that makes it again. It has no script, asks nothing of any "
        "server, opens in every browser and prints well (from there also as PDF)."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        images = st.number_input(
            "Images of each side",
            min_value=1,
            max_value=choice.MOST_IMAGES,
            value=choice.IMAGES,
            key=f"report-images-{run.id}",
            width=180,
        )
        notes = st.checkbox(
            "With notes and ticks",
            key=f"report-notes-{run.id}",
            help="What people wrote on the run and its images is left out otherwise: a report travels further than a "
            "run does.",
        )
        chosen = Choice(int(images), notes)
        with st.empty():
            _draw_making(run, refs, chosen)
    foretold = choice.foretold_bytes(run.dataset, len(refs), chosen.images)
    mail = (
        " That is too large for most mail servers: fewer images make it smaller." if foretold > choice.FOR_MAIL else ""
    )
    st.caption(f"About {formats.size(foretold)}.{mail}")
    if not files.read_only():
        st.code(origin.this(run.id, run.manifest, refs, chosen), language=None, wrap_lines=True)
        st.caption("The same from the command line; with `--pdf FILE.pdf` it is printed, too.")


@dataclass(frozen=True)
class Made:
    """A report that a session has made, and what it is of: it is given to nobody once that is otherwise."""

    of: tuple
    html: bytes


def _draw_making(run: RunView, refs: tuple[TargetRef, ...], chosen: Choice) -> None:
    """The button that makes the file; how far it is; and, once it is made, the button that takes it away."""
    made: Made | None = st.session_state.get(MADE)
    if made is None or made.of != what_it_is_of(run.folder, refs, chosen):
        if not st.button("Make the report", icon=":material/description:", key=f"report-make-{run.id}"):
            return
        made = _made(run, refs, chosen)
        st.session_state[MADE] = made
    whole = made
    download.button(
        f"Download the report · {formats.size(len(made.html))}",
        lambda: as_it_is_now(whole, run.folder, refs, chosen),
        file_name(run, refs),
        mime="text/html",
        key=f"report-{run.id}",
        type="primary",
    )


def _made(run: RunView, refs: tuple[TargetRef, ...], chosen: Choice) -> Made:
    """Of 50 targets it takes seconds: a bar says how far it is."""
    count = len(refs)
    with st.container(width=320):
        bar = st.progress(0.0, text="Making the report …")

    def say(number: int) -> None:
        bar.progress((number - 1) / count, text=f"Making the report: target {number:,} of {count:,}")

    of = what_it_is_of(run.folder, refs, chosen)  # before it is read: what changes meanwhile is not in it
    return Made(of, make(run, refs, chosen, say))


def make(
    run: RunView,
    refs: tuple[TargetRef, ...],
    chosen: Choice,
    on_target: Callable[[int], None] = lambda number: None,
) -> bytes:
    return writing.html(
        content.build(run.folder, run.manifest, run.dataset, refs, chosen, on_target=on_target)
    ).encode()


def as_it_is_now(made: Made, folder: Run, refs: tuple[TargetRef, ...], chosen: Choice) -> bytes:
    """The file that was made, or one that is made now, where the run or its notes have changed since: a page that was
    left open does not know."""
    if made.of == what_it_is_of(folder, refs, chosen):
        return made.html
    run = RunView.of(Run.open(folder.root, folder.id))
    return make(run, choice.targets_of(run.manifest, run.dataset, [ref.key for ref in refs]), chosen)


def what_it_is_of(folder: Run, refs: tuple[TargetRef, ...], chosen: Choice) -> tuple:
    """Tells a report from every other one: what was chosen, and the state of the files that it is made of. Of the log
    it tells whether it is there: what a report has of it was written before there were scores."""
    states = [_status(folder.path / name) for name in ("manifest.json", "notes.json", "events.jsonl")]
    return folder.path, tuple(ref.key for ref in refs), chosen, *states


def _status(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    whole = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return whole[:2] if path.name == "events.jsonl" else whole


def file_name(run: RunView, refs: tuple[TargetRef, ...]) -> str:
    one = f"-{formats.file_name(refs[0].key)}" if len(refs) == 1 else ""
    return f"{run.id}{one}-report.html"
