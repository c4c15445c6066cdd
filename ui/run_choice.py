"""The run that a page shows: chosen from all of them, its manifest read once."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import streamlit as st

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ReplayError
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run, Summary, summary
from engine.runs.scores import TargetRef
from ui import imported, link, pictures, run_names, run_watch, shell
from ui.text import line, plain


@dataclass(frozen=True)
class RunView:
    """A run as it was when the page began to be drawn: all of the page shows one state of it."""

    folder: Run  # for what people change meanwhile: notes, ticks, the log
    manifest: Manifest

    @classmethod
    def of(cls, folder: Run) -> "RunView":
        """Raises `RunNotFoundError` or `IntegrityError`."""
        return cls(folder, folder.manifest())

    @property
    def id(self) -> str:
        return self.folder.id

    @cached_property
    def dataset(self) -> Dataset:
        return pictures.dataset_of(self.manifest)

    @cached_property
    def targets(self) -> dict[str, TargetRef]:
        """Those that have scores, by their key."""
        return {ref.key: ref for ref in self.manifest.score_sets.targets()}

    @cached_property
    def titles(self) -> dict[str, str]:
        """What a person reads of each target, by its key."""
        return {key: line(ref.title(self.dataset)) for key, ref in self.targets.items()}


def hold(*, run: str, target: str | None = None, set: str | None = None) -> None:
    """Takes a run in hand, and the target and the set of it that a person looks at: the sidebar's links lead to them on
    other pages. What is not named stays as it was of the same run, and is let go with another."""
    before = st.session_state.get("in hand", {})
    kept = before if before.get("run") == run else {}
    hand = {**kept, "run": run, **{name: value for name, value in (("target", target), ("set", set)) if value}}
    if hand != before:
        st.session_state["in hand"] = hand
        shell.draw_navigation()


def chosen(empty: str, first: Collection[str] = (), label: str = "Run") -> RunView:
    """The run of `?run=`, or one that is chosen: without a link, the first that there is of `first`, of the run in
    hand, and of the newest with scores. It is kept in the URL and taken in hand. Stops the page where there is no run,
    with the words `empty`. `label` is what the choice is called."""
    runs = {run.id: run for run in shell.all_runs()}
    asked = st.query_params.get("run")
    if asked is not None and asked not in runs:
        with shell.guarded():  # says what is wrong with it; the others can still be chosen
            runs = {asked: shell.named(summary(Run.open(shell.root(), asked))), **runs}
    if not runs:
        say_empty(empty)
        st.stop()
    with st.container(key="run-row", horizontal=True, vertical_alignment="bottom"):
        run_id = _selectbox(runs, asked, default(list(runs.values()), first), label)
        if run_id is None:
            st.stop()
        badge = st.container(key="run-badge", width="content", gap=None)
        if not files.read_only():
            _rename(runs[run_id])
    st.session_state["run changed"] = asked in runs and run_id != asked
    if run_id != asked:
        st.query_params["run"] = run_id
        link.is_written("run")
    hold(run=run_id)
    run = RunView.of(Run.open(shell.root(), run_id))
    with badge:
        run_watch.begin(run.folder, run.manifest)
    say_window(run.manifest)
    if run.manifest.method:
        imported.describe(run.manifest)
    if run.manifest.from_python:
        st.caption(
            "Saved from Python, with its pictures and scores. Whatever needs its model, such as further targets and "
            "retrainings, is computed there: engine.load (docs/python.md)."
        )
    return run


def say_window(record: Manifest) -> None:
    """What the scores of a run are the effect of, where that is not the whole training: below the run that a page
    shows, and so beside all that it shows of them."""
    if record.window_phrase:
        st.caption(
            f":material/hourglass_bottom: Its scores are the **{plain(record.window_phrase)}**: what the images did "
            f"from step {record.window_start + 1:,} of {record.steps:,} on. The training before that is fixed."
        )


def say_empty(empty: str) -> None:
    """Of a page that has no run to show: that, what it would show, and where one is made."""
    st.info(f"{empty} {shell.shows()}".strip(), icon=":material/info:")
    if not files.read_only():
        st.page_link("app.py", label="Run the sample from the Overview", icon=":material/play_arrow:")


def default(runs: list[Summary], first: Collection[str] = ()) -> str:
    """The id of the run, of one or more, that a page opens on without a link."""
    in_hand = st.session_state.get("in hand", {}).get("run")
    scored = [run for run in runs if run.scored]
    if files.read_only():  # guests see results first, and not work in progress
        scored.sort(key=lambda run: run.status != "finished")
    wanted = [*first, in_hand, *(run.id for run in scored), runs[0].id]
    ids = {run.id for run in runs}
    return next(run_id for run_id in wanted if run_id in ids)


def _selectbox(runs: dict[str, Summary], asked: str | None, default: str, label: str) -> str | None:
    """The run that is chosen; None where the link asks for one that is not there, and none was chosen yet."""
    opened = default if asked is None else asked if asked in runs else None
    link.follow("run", opened)
    # Said at every drawing: the choices are told by their names, which change.
    st.session_state["run"] = st.session_state["run"]
    labels = run_names.labels(runs.values())
    return st.selectbox(
        label,
        list(runs),
        format_func=lambda run_id: labels.get(run_id, line(run_id)),
        key="run",
        index=None if opened is None else 0,
        placeholder="Choose another run",
        width="stretch",
    )


def _rename(run: Summary) -> None:
    """The run's name, to be changed."""
    if run.remark:
        return
    key = f"name-{run.id}"
    with st.popover("Name", icon=":material/edit:"):
        link.follow(key, run.name)
        st.text_input(
            "Name of this run",
            key=key,
            max_chars=notes.LONGEST_NAME,
            placeholder=line(run_names.made_of(run)),
            on_change=lambda: rename(run.id, st.session_state[key]),
            help="It is kept with the run. Without one, a run is called by what it is.",
        )
        st.caption(f"Run {run.id}")


def rename(run_id: str, name: str) -> None:
    with shell.guarded():
        notes.write_name(Run.open(shell.root(), run_id), name)


def stop_without_scores(run: RunView) -> None:
    """Stops a page that shows scores, where the run has none, or has not what the page needs beside them."""
    imported.stop_without(run.manifest)
    if not run.targets:
        say_no_scores(run)
        st.stop()


def stop_without_images(run: RunView) -> None:
    """Stops a page that is about images, where those of the run are gone, or others by now: says which, once, with what
    to do, and offers nothing that would fail for the same reason."""
    try:
        _ = run.dataset
    except ReplayError as error:
        shell.show_error(error.what, error.remedy)
        st.stop()


def say_no_scores(run: RunView) -> None:
    """Says so, and where to go on."""
    # Cleaning sets `scored` to false; before the first replay it is not there at all.
    st.info(
        "The scores of this run were deleted."
        if run.manifest.scored is False
        else f"This run has no scores yet; it is {plain(run.manifest.status)}. {shell.shows()}".strip(),
        icon=":material/info:",
    )
    if not run.manifest.method:
        link_to_live(run)


def link_to_live(run: RunView) -> None:
    st.page_link("pages/Live.py", label="See it on Live", query_params={"run": run.id}, icon=":material/monitoring:")
