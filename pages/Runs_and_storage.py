"""Runs and storage: what fills the disk, and deleting it after a look at the bytes."""

import streamlit as st

from engine import runs as storage
from engine.errors import ReplayError
from ui import formats, shell

ACTIONS = {
    "Delete checkpoints": ("trajectory", "The scores stay; further targets will need a new run."),
    "Delete scores": ("scores", "The checkpoints stay, so the scores can be computed again where they are kept."),
    "Delete whole runs": (None, "Nothing of these runs stays."),
}


def free(run, part: str | None, dry_run: bool = False) -> int:
    return run.delete(dry_run) if part is None else run.clean((part,), dry_run)


def free_all(chosen: list, part: str | None) -> tuple[list[int], list[tuple[str, str]]]:
    """Bytes freed of each run, and what and remedy of each that cannot be: one does not stop the others."""
    freed, refused = [], []
    for run in chosen:
        try:
            freed.append(free(storage.Run.open(run.root, run.id), part))     # gone, if deleted in another tab
        except ReplayError as error:
            refused.append((error.what, error.remedy))
    return freed, refused


def confirm(action: str, chosen: list) -> None:
    part, consequence = ACTIONS[action]

    @st.dialog(f"{action}?")
    def ask() -> None:
        with shell.guarded():
            total = sum(free(run, part, dry_run=True) for run in chosen)
            st.markdown(f"This frees **{formats.size(total)}** ({total:,} bytes) of "
                        f"{formats.count(len(chosen), 'runs')}:")
            st.code("\n".join(run.id for run in chosen), language=None)
            st.write(consequence)
            yes, no = st.columns(2)
            if yes.button(f"{action}: free {formats.size(total)}", key="confirm", type="primary", width="stretch"):
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
    sizes = run.sizes()
    shown = {"Run": run.id, "Status": run.status}
    try:
        manifest = run.manifest
        shown |= {"Age": formats.age(manifest.get("created")),
                  "Test accuracy": formats.percent(manifest.get("test_accuracy"))}
    except ReplayError as error:
        shown |= {"Age": "—", "Test accuracy": "—", "Remark": error.what}
    shown |= {name: formats.size(sizes[part]) for part, name in formats.PARTS.items()}
    return {**shown, "In all": formats.size(sum(sizes.values()))}


with shell.page("Runs and storage"):
    for what, remedy in st.session_state.pop("refused", []):
        shell.show_error(what, remedy)
    runs = shell.runs()
    shell.metrics({"Used by all runs": formats.size(storage.files.size_of(shell.root())),
                   "Free on this disk": formats.size(storage.disk_free(shell.root()))})
    st.caption(f"Folder of all runs: `{shell.root()}`")
    if not runs:
        st.info("No runs, and so nothing to clean.", icon=":material/info:")
        st.page_link("app.py", label="Run the sample from the Overview", icon=":material/play_arrow:")
        st.stop()
    st.dataframe([row(run) for run in runs], hide_index=True)
    by_id = {run.id: run for run in runs}
    kept = [i for i in st.session_state.get("chosen", []) if i in by_id]
    if kept != st.session_state.get("chosen", []):      # deleted here or in another tab
        st.session_state["chosen"] = kept
    chosen = st.multiselect("Runs to clean", list(by_id), key="chosen",
                            format_func=lambda i: formats.run_label(by_id[i]) if i in by_id else i,
                            placeholder="Choose one or more runs")
    st.caption("Checkpoints are the states that a replay in disk mode reads; they are the big part. Before anything is "
               "deleted you see how many bytes it frees.")
    for column, action in zip(st.columns(len(ACTIONS)), ACTIONS):
        if column.button(action, disabled=not chosen, width="stretch"):
            confirm(action, [by_id[i] for i in chosen])
