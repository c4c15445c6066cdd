"""What comes of corrections: a file, a command for the folder, and a run that is trained with them."""

import os
import shlex
from pathlib import Path

import streamlit as st

from engine.analysis import labels_file
from engine.datasets import corrected
from engine.datasets.names import DatasetName, absolute
from engine.errors import ReplayError
from engine.jobs import correct
from engine.runs import corrections, notes
from engine.runs.corrections import Corrections
from engine.runs.run import Run
from ui import download, formats, shell, ticks
from ui.run_choice import RunView
from ui.text import plain

MEGABYTES = labels_file.MOST_BYTES >> 20


def draw(run: RunView) -> None:
    """What was decided, and what can be done with it."""
    decided = ticks.corrected(run)
    st.markdown(f"**Corrections:** {plain(in_words(decided))}")
    with st.container(horizontal=True):
        if not run.manifest.method and st.button(
            "Train again with these corrections",
            type="primary",
            icon=":material/model_training:",
            **shell.acting(not len(decided), "A run of its own, beside this one, which stays as it is.", run.manifest),
        ):
            with shell.guarded():
                train(run)
        download.button(
            "labels.csv",
            lambda: labels_file.text(run.dataset, ticks.corrected(run)),
            f"{run.id}-labels.csv",
            mime="text/csv",
            disabled=not len(decided),
            help="index, file, old_label, new_label, excluded: one line for each image that is corrected.",
        )
        with st.popover("Read a labels.csv", icon=":material/upload_file:", **shell.acting()):
            _draw_reading(run)
        with st.popover("Correct the files", icon=":material/drive_file_move:", **shell.acting(not len(decided))):
            _draw_command(run)
    if ticked := len(ticks.of(run)):
        st.page_link(
            "pages/Influence.py",
            label=f"Ticked for all pages: {formats.count(ticked, 'images')}. "
            f"{'See them on Influence' if run.manifest.method else 'What if they had not been there?'}",
            icon=":material/check_box:",
            query_params={"run": run.id},
        )


def in_words(decided: Corrections) -> str:
    if not len(decided):
        return "none yet. Nothing is changed in the data: what is decided here is kept with the run."
    parts = [f"{formats.count(len(decided.labels), 'other labels')}"] * bool(decided.labels)
    parts += [f"{formats.count(len(decided.excluded), 'images')} left out"] * bool(decided.excluded)
    return f"{', '.join(parts)}. The data stay as they are."


def train(run: RunView) -> None:
    """Starts the run, and goes on to *Live*."""
    config = correct.config_of(run.folder, run.manifest, run.dataset)
    run_id = shell.queue().start(config)
    if name := correct.name_of(run.folder):
        notes.write_name(Run.open(shell.root(), run_id), name)
    st.switch_page("pages/Live.py", query_params={"run": run_id})


def _draw_reading(run: RunView) -> None:
    st.caption(
        "As this page writes it, or as another tool does: **index** and **new_label**, and perhaps **file**, "
        "**old_label** and **excluded** (yes or no). Every line is checked before any is taken; images that it does "
        "not name stay as they are decided. One key (u) takes all of it back."
    )
    file = st.file_uploader(
        "labels.csv",
        type=["csv", "tsv", "txt"],
        max_upload_size=MEGABYTES,
        key=f"labels-file-{run.id}",
        **shell.acting(),
    )
    if file is None:
        return
    try:
        decisions = labels_file.read(file.getvalue(), run.dataset, file.name)
    except ReplayError as error:
        shell.show_error(error.what, error.remedy)
        return
    st.markdown(f"It decides on {formats.count(len(decisions), 'images')}.")
    st.button("Take it", type="primary", on_click=_take, args=(run, decisions), **shell.acting())


def _take(run: RunView, decisions: dict[int, corrections.Decision]) -> None:
    with shell.guarded():
        corrections.decide(run.folder, decisions, len(run.dataset.train_labels), len(run.dataset.classes))
        st.session_state[f"triage-{run.id}"]["message"] = f"Taken: {formats.count(len(decisions), 'images')}."


def _draw_command(run: RunView) -> None:
    place = folder_of(run)
    if place is None:
        st.caption(
            "The images of this run are no files in a folder of classes: take labels.csv, or train again here. Both go "
            "for every kind of data."
        )
        return
    st.caption(
        "This app moves no files. In a terminal on the machine where they are, this makes a copy of the folder with "
        "the corrections; the first line shows what it would do. Nothing is overwritten, and the folder stays as it is."
    )
    to = st.text_input("The copy's folder", f"{place}-corrected", key=f"copy-to-{run.id}")
    st.code(f"{command(run, to)} --dry-run\n{command(run, to)}", language=None, wrap_lines=True)
    st.caption(
        "--apply in place of --copy-to moves the files in the folder itself. Runs on it, this one too, can then be "
        "neither shown nor replayed."
    )


def folder_of(run: RunView) -> Path | None:
    """The folder of images that the run's data were made of; None of other kinds of data."""
    name = run.manifest.config.dataset
    if name.startswith(f"{corrected.KIND}:"):
        name = corrected.read(name).base
    parsed = DatasetName.parse(name)
    return absolute(parsed.place) if parsed.kind == "folder" else None


def command(run: RunView, to: str) -> str:
    """For a shell: whatever the names hold is one word of it, and no option."""
    words = ["python", "-m", "engine", "corrections", run.id, f"--outputs={shell.root()}", f"--copy-to={to}"]
    data = os.environ.get("REPLAY_DATA_DIR")  # where the app has prepared the folder
    setting = f"REPLAY_DATA_DIR={shlex.quote(data)} " if data else ""
    return setting + shlex.join(words)
