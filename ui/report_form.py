"""A report to be mailed, of the target that a page shows or of a whole run: a row that folds away."""

from collections.abc import Sequence

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
        download.button(
            "Make and download",
            lambda: make(run, refs, chosen),
            file_name(run, refs),
            mime="text/html",
            key=f"report-{run.id}",
        )
    foretold = choice.foretold_bytes(run.dataset, len(refs), chosen.images)
    mail = (
        " That is too large for most mail servers: fewer images make it smaller." if foretold > choice.FOR_MAIL else ""
    )
    st.caption(f"About {formats.size(foretold)}.{mail}")
    if not files.read_only():
        st.code(origin.this(run.id, run.manifest, refs, chosen), language=None, wrap_lines=True)
        st.caption("The same from the command line; with `--pdf FILE.pdf` it is printed, too.")


def make(run: RunView, refs: tuple[TargetRef, ...], chosen: Choice) -> bytes:
    """The file, made when it is asked for: of 50 targets it takes seconds."""
    return writing.html(content.build(run.folder, run.manifest, run.dataset, refs, chosen)).encode()


def file_name(run: RunView, refs: tuple[TargetRef, ...]) -> str:
    one = f"-{formats.file_name(refs[0].key)}" if len(refs) == 1 else ""
    return f"{run.id}{one}-report.html"
