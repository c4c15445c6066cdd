"""Runs and storage: what fills the disk, deleting it after a look at the bytes, and rebuilding checkpoints."""

import streamlit as st

from engine import files, space
from engine.errors import ReplayError
from engine.jobs.rebuild import Rebuild
from engine.runs import notes
from engine.runs.manifest import IN_PROGRESS
from engine.runs.run import Run, Summary, passed_over
from ui import export_form, formats, report_form, run_choice, run_names, seed_group, shell
from ui.run_choice import RunView
from ui.text import line, plain

ACTIONS = {
    "Delete checkpoints": (
        "trajectory",
        "The scores stay. Further targets will train once more, to the same states. "
        "A run that stopped halfway loses what it could go on from, and starts over when resumed.",
    ),
    "Delete scores": (
        "scores",
        "Model and checkpoints stay: Influence can compute scores again, other than imported ones, which are gone.",
    ),
    "Delete validation": ("validation", "The scores stay, without the results that checked them."),
    "Delete features": ("features", "The scores stay. Maps, themes and duplicates by features ask for them again."),
    "Delete duplicates": ("duplicates", "The scores stay. What was alike is looked for again where it is asked for."),
    "Delete exports": ("exports", "The files that were made for other programs; they can be exported again."),
    "Delete logs": ("logs", "The scores stay. The curves, meters and messages on Live go."),
    "Delete whole runs": (None, "Nothing of these runs stays."),
}
REBUILDS = {
    "disk": "Every state on disk: further targets need no training.",
    "recompute": "Every c-th full state on disk: little disk, and a replay trains the rest again.",
}


# -- what fills the disk


def draw_folder(sizes: dict[str, dict[str, int]]) -> None:
    free_bytes = space.disk_free(shell.root())
    used = sum(sum(parts.values()) for parts in sizes.values())
    shell.metrics({"Used by all runs": formats.size(used), "Free on this disk": formats.size(free_bytes)})
    if formats.disk_low(free_bytes):
        st.warning(
            f"The disk is nearly full: {formats.size(free_bytes)} are free. Runs in progress wait when it is; "
            "checkpoints are the big part of what can be deleted.",
            icon=":material/hard_drive:",
        )
    if files.read_only():
        return
    st.caption(
        f"Folder of all runs: {plain(shell.root())}. To have it elsewhere, set `REPLAY_OUTPUTS_DIR`, start the app "
        "with `streamlit run app.py -- --outputs DIR`, or make `outputs` a symbolic link."
    )


def draw_table(runs: list[Summary], sizes: dict[str, dict[str, int]]) -> None:
    """All runs, and what each takes; their names can be typed over."""
    rows = [row_of(run, sizes[run.id]) for run in runs]
    settings = {
        "Run": st.column_config.TextColumn(
            pinned=True,
            width="medium",
            max_chars=notes.LONGEST_NAME,
            help="Type over it to call a run otherwise; empty, it is called by what it is.",
        ),
        **({} if any(run.remark for run in runs) else {"Remark": None}),
    }
    if files.read_only():
        st.dataframe(rows, hide_index=True, column_config=settings)
    else:
        # By what it shows: the next table has no edits of this one.
        key = f"runs-{hash(tuple((run.id, row['Run']) for run, row in zip(runs, rows)))}"
        st.data_editor(
            rows,
            hide_index=True,
            num_rows="fixed",
            column_config=settings,
            disabled=[name for name in rows[0] if name != "Run"],
            key=key,
            on_change=take_names,
            args=(key, runs),
        )
    if others := passed_over(shell.root()):
        with st.expander(f"{formats.count(len(others), 'entries')} of the folder not shown"):
            st.dataframe([{"Entry": line(name), "Why": line(reason)} for name, reason in others], hide_index=True)


def take_names(key: str, runs: list[Summary]) -> None:
    for row, changed in st.session_state[key]["edited_rows"].items():
        run, name = runs[int(row)], changed.get("Run") or ""
        run_choice.rename(run.id, "" if name == run_names.made_of(run) else name)


def row_of(run: Summary, sizes: dict[str, int]) -> dict[str, str]:
    """What is asked for most stands first: where the window is narrow, the rest is scrolled to."""
    return {
        "Run": line(run_names.of(run)),
        "Status": line(run.status),
        "Remark": line(run.remark),
        "In all": formats.size(sum(sizes.values())),
        **{name: formats.size(sizes[part]) for part, name in formats.PARTS.items()},
        "Replays in": "—" if run.remark else formats.replays_in(run),
        "Test accuracy": formats.percent(run.test_accuracy),
        "Age": formats.age(run.created),
        "Id": run.id,
    }


# -- deleting


def draw_cleaning(runs: dict[str, Summary]) -> None:
    chosen = [run_id for run_id in st.session_state.get("chosen", []) if run_id in runs]
    if chosen != st.session_state.get("chosen", []):  # deleted here or in another tab
        st.session_state["chosen"] = chosen
    labels = run_names.labels(runs.values())
    chosen = st.multiselect(
        "Runs to clean",
        list(runs),
        key="chosen",
        format_func=lambda run_id: labels.get(run_id, line(run_id)),
        placeholder="Choose one or more runs",
    )
    st.caption(
        "Checkpoints are the states that a replay in disk or recompute mode reads; they are the big part. Before "
        "anything is deleted you see how many bytes it frees."
    )
    with st.container(horizontal=True):
        for action in ACTIONS:
            if st.button(action, **shell.acting(disabled=not chosen)):
                confirm(action, chosen, labels)


def confirm(action: str, run_ids: list[str], labels: dict[str, str]) -> None:
    """A dialog with the bytes to be freed, before anything is deleted."""
    part, consequence = ACTIONS[action]

    @st.dialog(f"{action}?")
    def ask() -> None:
        with shell.guarded():
            total = sum(free(run_id, part, dry_run=True) for run_id in run_ids)
            st.markdown(
                f"This frees **{formats.size(total)}** ({total:,} bytes) of {formats.count(len(run_ids), 'runs')}:"
            )
            st.code("\n".join(labels[run_id] for run_id in run_ids), language=None)
            st.write(consequence)
            yes, no = st.columns(2)
            label = f"{action}: free {formats.size(total)}"
            if yes.button(label, key="confirm", type="primary", width="stretch", **shell.acting()):
                free_all(action, run_ids)
            if no.button("Keep", width="stretch"):
                st.rerun()

    ask()


def free(run_id: str, part: str | None, dry_run: bool = False) -> int:
    """Bytes of a part of a run, or of the whole run; of a damaged one too."""
    run = Run(shell.root(), run_id)
    if part is None:
        return run.storage().delete(dry_run)
    if not dry_run:
        run = Run.open(run.root, run_id)  # raises where it was deleted in another tab meanwhile
    return run.storage().clean((part,), dry_run)


def free_all(action: str, run_ids: list[str]) -> None:
    """Deletes, and says what was freed and what each run that could not be cleaned says: one does not stop others."""
    freed, refusals = [], []
    for run_id in run_ids:
        try:
            freed.append(free(run_id, ACTIONS[action][0]))
        except ReplayError as error:  # in use, or deleted in another tab
            refusals.append((error.what, error.remedy))
    if freed:
        st.session_state["notice"] = f"{action}: {formats.size(sum(freed))} freed ({sum(freed):,} bytes)."
        st.session_state["refusals"] = refusals
        st.rerun()
    for what, remedy in refusals:
        shell.show_error(what, remedy)


# -- rebuilding


def draw_rebuilding(runs: dict[str, Summary]) -> None:
    st.subheader("Rebuild checkpoints")
    trained = {run.id: run for run in runs.values() if run.trained and run.status not in IN_PROGRESS}
    if not trained:
        st.caption("There is no run that was trained to its end and is not in progress.")
        return
    which, how = st.columns(2)
    labels = run_names.labels(trained.values())
    run_id = which.selectbox("Run to rebuild", list(trained), format_func=lambda run_id: labels.get(run_id, run_id))
    mode = how.radio(
        "Checkpoints for",
        list(REBUILDS),
        captions=list(REBUILDS.values()),
        horizontal=True,
        format_func=lambda mode: f"{mode} mode",
    )
    run = RunView.of(Run.open(shell.root(), run_id))
    draw_cost(run, mode)
    if st.button("Rebuild checkpoints", icon=":material/history:", **shell.acting(model_of=run.manifest)):
        shell.submit(run_id, Rebuild(mode))


def draw_cost(run: RunView, mode: str) -> None:
    """What rebuilding takes, and what it leaves as it is."""
    kept = run.manifest.kept_mode
    if kept == mode:
        cost = "This run keeps them: only what is missing or damaged is made again."
    else:
        once = formats.duration(run.manifest.timings.get("train_seconds"))
        replaced = " The checkpoints it keeps now are replaced." if kept else ""
        cost = f"This trains once more ({once} when the run was made), to the same states.{replaced}"
    st.caption(
        f"{cost} Each segment's first state is checked against the digest recorded in training. "
        "The scores stay as they are."
    )
    if run.manifest.resumable:
        st.warning(
            "This run has unfinished work, which stays as it is: resume the run on Live to finish it.",
            icon=":material/warning:",
        )


def draw_unfinished(runs: list[Summary]) -> None:
    """The runs of which something can be resumed."""
    resumable = [run for run in runs if run.resumable]
    if not resumable:
        return
    st.subheader("Unfinished work")
    st.caption("Resume or discard it on Live.")
    with st.container(horizontal=True):
        for run in resumable[:12]:
            name = plain(run_names.of(run))
            st.page_link("pages/Live.py", label=name, icon=":material/resume:", query_params={"run": run.id})


def draw_repeating(runs: dict[str, Summary]) -> None:
    trained = {run.id: run for run in runs.values() if run.trained}
    if not trained or files.read_only():
        return
    with st.expander(
        "Repeat a run with other seeds", icon=":material/casino:", key="repeat-a-run", on_change="rerun"
    ) as form:
        if not form.open:
            return
        labels = run_names.labels(trained.values())
        run_id = st.selectbox("Run to repeat", list(trained), format_func=lambda run_id: labels.get(run_id, run_id))
        run = RunView.of(Run.open(shell.root(), run_id))
        if run.manifest.from_python:
            st.caption("It was saved from Python: train it there with another seed.")
        else:
            seed_group.draw_choices(run)


def draw_export(runs: dict[str, Summary]) -> None:
    """Of a run that is chosen in the row, whatever it has."""
    sound = {run.id: run for run in runs.values() if not run.remark}

    def choose() -> RunView:
        labels = run_names.labels(sound.values())
        run_id = st.selectbox(
            "Run to export", list(sound), key="run-to-export", format_func=lambda run_id: labels.get(run_id, run_id)
        )
        return RunView.of(Run.open(shell.root(), run_id))

    if sound:
        export_form.draw(choose, "storage")


with shell.page("Runs and storage"):
    for what, remedy in st.session_state.pop("refusals", []):
        shell.show_error(what, remedy)
    runs = shell.all_runs()
    sizes = {run.id: Run(shell.root(), run.id).storage().sizes() for run in runs}
    draw_folder(sizes)
    if not runs:
        run_choice.say_empty("No runs yet.")
        st.stop()
    by_id = {run.id: run for run in runs}
    draw_table(runs, sizes)
    report_form.draw_of_runs(by_id)
    if files.read_only():
        st.stop()
    draw_cleaning(by_id)
    draw_unfinished(runs)
    with shell.guarded():
        draw_rebuilding(by_id)
    with shell.guarded():
        draw_repeating(by_id)
    with shell.guarded():
        draw_export(by_id)
