"""The status of the run that a page shows, beside its name and never older than a look.

A page is drawn again once what it shows of the run is no longer so: when work on it begins or ends, when it has been
trained, when there are other scores.
"""

from pathlib import Path

import streamlit as st

from engine.errors import ReplayError
from engine.runs.manifest import Manifest
from engine.runs.run import Run, Summary

HERE = Path(__file__).parent
A_LOOK = 2.0  # seconds
_component = st.components.v2.component(
    "watch",
    html='<button type="button" hidden></button>',
    css=(HERE / "copy_link.css").read_text(encoding="utf-8"),
    js=(HERE / "watch.js").read_text(encoding="utf-8"),
)
COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "cancelled": "orange", "interrupted": "orange"}
ICONS = {
    "finished": "check",
    "failed": "error",
    "damaged": "error",
    "cancelled": "cancel",
    "interrupted": "warning",
    "queued": "hourglass_empty",
}


def begin(run: Run, manifest: Manifest) -> None:
    """The badge of the run that a page shows, which has read `manifest`."""
    _draw(run, state(manifest), [manifest])


@st.fragment(run_every=A_LOOK)
def _draw(run: Run, drawn: str, first: list[Manifest]) -> None:
    """The badge as it is now; and the page once more, where it was `drawn` of another state. What the page itself has
    just read is not read again: it is the `first` that is shown."""
    changed = ""  # the state that the page does not show yet
    with st.container(gap=None):
        try:
            manifest = first.pop() if first else run.manifest()
        except ReplayError:  # deleted, or damaged: the page says which
            changed = "gone"
        else:
            badge(status(manifest))
            changed = "" if state(manifest) == drawn else state(manifest)
        watched = _component(
            key="watch", data={"changed": changed, "label": "The run has changed: show it"}, on_show_change=lambda: None
        )
    if watched.show:
        st.rerun()


def state(manifest: Manifest) -> str:
    """What decides what a page shows of the run. Its phases do not: pages that show them follow them by themselves."""
    return f"{manifest.in_progress} {manifest.trained} {manifest.scored} {manifest.targets_scored}"


def status(run: Manifest | Summary) -> str:
    """As a person reads it: a finished run is one that has scores."""
    return "no scores" if run.status == "finished" and not run.scored else run.status


def badge(status: str) -> None:
    st.badge(
        status.capitalize(),
        icon=f":material/{ICONS.get(status, 'play_arrow')}:",
        color=COLOURS.get(status, "blue"),
    )
