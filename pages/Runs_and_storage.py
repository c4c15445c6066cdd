"""Runs and storage: what fills the disk, deleting it after a look at the bytes, and rebuilding checkpoints."""

import streamlit as st

from engine import files, space
from engine.errors import ReplayError
from engine.jobs.rebuild import Rebuild
from engine.runs.manifest import IN_PROGRESS
from engine.runs.run import Run
from ui import formats, shell
from ui.text import line

ACTIONS = {
    "Delete checkpoints": (
        "trajectory",
        "The scores stay. Further targets will train once more, to the same states. "
        "A run that stopped halfway loses what it could go on from, and starts over when resumed.",
    ),
    "Delete scores": ("scores", "Model and checkpoints stay: Influence can compute scores again."),
    "Delete validation": ("validation", "The scores stay, without the results that checked them."),
    "Delete logs": ("logs", "The scores stay. The curves, meters and messages on Live go."),
    "Delete whole runs": (None, "Nothing of these runs stays."),
}
REBUILDS = {
    "disk": "Every state on disk: further targets need no training.",
    "recompute": "Every c-th full state on disk: little disk, and a replay trains the rest again.",
}


def free(run, part: str | None, dry_run: bool = False) -> int:
    storage = run.storage()
    return storage.delete(dry_run) if part is None else storage.clean((part,), dry_run)


def free_all(chosen: list, part: str | None) -> tuple[list[int], list[tuple[str, str]]]:
    """Bytes freed of each run, and what and remedy of each that cannot be: one does not stop the others."""
    freed, refused = [], []
    for run in chosen:
        try:
            freed.append(free(Run(run.root, run.id), part))  # gone, if deleted in another tab
        except ReplayError as error:
            refused.append((error.what, error.remedy))
    return freed, refused


def confirm(action: str, chosen: list) -> None:
    part, consequence = ACTIONS[action]

    @st.dialog(f"{action}?")
    def ask() -> None:
        with shell.guarded():
            total = sum(free(run, part, dry_run=True) for run in chosen)
            st.markdown(
                f"This frees **{formats.size(total)}** ({total:,} bytes) of {formats.count(len(chosen), 'runs')}:"
            )
            st.code("\n".join(run.id for run in chosen), language=None)
            st.write(consequence)
            yes, no = st.columns(2)
            if yes.button(
                f"{action}: free {formats.size(total)}",
                key="confirm",
                type="primary",
                width="stretch",
                **shell.acting(),
            ):
                freed, refused = free_all(chosen, part)
                if freed:
                    st.session_state["notice"] = f"{action}: {formats.size(sum(freed))} freed ({sum(freed):,} bytes)."
                    st.session_state["refused"] = refused
                    st.rerun()
                for what, remedy in refused:
                    shell.show_error(what, remedy)
            if no.button("Keep", width="stretch"):
                st.rerun()

    ask()


def row(run) -> dict:
    sizes = run.storage().sizes()
    shown = {"Run": run.id, "Status": run.status}
    try:
        record = run.manifest()
        shown |= {
            "Remark": "",
            "Age": formats.age(record.created),
            "Test accuracy": formats.percent(record.test_accuracy),
            "Replays in": formats.replays_in(run),
        }
    except ReplayError as error:
        shown |= {"Remark": line(error.what), "Age": "—", "Test accuracy": "—", "Replays in": "—"}
    shown["In all"] = formats.size(sum(sizes.values()))
    return shown | {name: formats.size(sizes[part]) for part, name in formats.PARTS.items()}


def trained(runs: list) -> dict:
    """The runs, by id, whose checkpoints can be made again."""
    found = {}
    for run in runs:
        try:
            record = run.manifest()
            if record.trained and record.status not in IN_PROGRESS:
                found[run.id] = run
        except ReplayError:
            continue  # the table says what is wrong with it
    return found


def rebuild(candidates: dict) -> None:
    st.subheader("Rebuild checkpoints")
    if not candidates:
        st.caption("There is no run that was trained to its end and is not in progress.")
        return
    which, how = st.columns(2)
    run = candidates[
        which.selectbox("Run to rebuild", list(candidates), format_func=lambda i: formats.run_label(candidates[i]))
    ]
    mode = how.radio(
        "Checkpoints for",
        list(REBUILDS),
        captions=list(REBUILDS.values()),
        horizontal=True,
        format_func=lambda m: f"{m} mode",
    )
    record = run.manifest()
    if record.kept_mode == mode:
        cost = "This run keeps them: only what is missing or damaged is made again."
    else:
        once = formats.duration(record.timings.get("train_seconds"))
        cost = f"This trains once more ({once} when the run was made), to the same states."
        replaced = " The checkpoints it keeps now are replaced." if record.kept_mode else ""
        cost = f"{cost}{replaced}"
    st.caption(
        f"{cost} Each segment's first state is checked against the digest recorded in training. "
        "The scores stay as they are."
    )
    if record.resumable:
        st.warning(
            "This run has unfinished work, which stays as it is: resume the run on Live to finish it.",
            icon=":material/warning:",
        )
    if st.button("Rebuild checkpoints", icon=":material/history:", **shell.acting()):
        shell.manager().submit(run.id, Rebuild(mode))
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def folder() -> None:
    free_bytes = space.disk_free(shell.root())
    shell.metrics(
        {"Used by all runs": formats.size(files.size_of(shell.root())), "Free on this disk": formats.size(free_bytes)}
    )
    if formats.disk_low(free_bytes):
        st.warning(
            f"The disk is nearly full: {formats.size(free_bytes)} are free. Runs in progress wait when it is; "
            "checkpoints are the big part of what can be deleted.",
            icon=":material/hard_drive:",
        )
    st.caption(
        f"Folder of all runs: `{shell.root()}`. To have it elsewhere, set `REPLAY_OUTPUTS_DIR`, start the app with "
        "`streamlit run app.py -- --outputs DIR`, or make `outputs` a symbolic link."
    )


with shell.page("Runs and storage"):
    for what, remedy in st.session_state.pop("refused", []):
        shell.show_error(what, remedy)
    runs = shell.runs()
    folder()
    if not runs:
        st.info("No runs, and so nothing to clean.", icon=":material/info:")
        st.page_link("app.py", label="Run the sample from the Overview", icon=":material/play_arrow:")
        st.stop()
    rows = [row(run) for run in runs]
    remarks = any(r["Remark"] for r in rows)
    st.dataframe(rows, hide_index=True, column_config={} if remarks else {"Remark": None})
    by_id = {run.id: run for run in runs}
    kept = [i for i in st.session_state.get("chosen", []) if i in by_id]
    if kept != st.session_state.get("chosen", []):  # deleted here or in another tab
        st.session_state["chosen"] = kept
    chosen = st.multiselect(
        "Runs to clean",
        list(by_id),
        key="chosen",
        format_func=lambda i: formats.run_label(by_id[i]) if i in by_id else i,
        placeholder="Choose one or more runs",
    )
    st.caption(
        "Checkpoints are the states that a replay in disk or recompute mode reads; they are the big part. Before "
        "anything is deleted you see how many bytes it frees."
    )
    with st.container(horizontal=True):
        for action in ACTIONS:
            if st.button(action, **shell.acting(disabled=not chosen)):
                confirm(action, [by_id[i] for i in chosen])
    rebuild(trained(runs))
