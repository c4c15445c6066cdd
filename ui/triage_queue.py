"""Which suspects *Triage* goes through, and in which order: chosen on the page, and in its link."""

import functools
import zlib
from dataclasses import dataclass

import streamlit as st

from engine.analysis import duplicates, suspects
from engine.analysis import self_influence as self_influences
from engine.analysis.suspects import DUPLICATES, SELF, UNREADABLE, Suspect
from engine.errors import IntegrityError
from ui import folding, link, shell, ticks
from ui.run_choice import RunView

TICKED = "ticked"
TITLES = {
    "loss": "Loss on the label given",
    "harm": "Harm to the target",
    SELF: "Self-influence",
    DUPLICATES: "Duplicates",
    UNREADABLE: "Unreadable files",
    TICKED: "What is ticked",
}
WHY = {
    "loss": "The trained model gives the first images' labels the lowest probability: what finds wrong labels best.",
    "harm": "Training on the first images harmed the target most. A hard or unusual image may do that, too.",
    SELF: "The model knows the first images most by heart. Only images that it was computed for are here.",
    DUPLICATES: "The same as another image, of training or of testing; those whose labels differ come first.",
    UNREADABLE: "Files that could not be read when the data were prepared: the model has never seen them.",
    TICKED: "Ticked on any page, by number: a theme, what was drawn around on the map, what harmed a target.",
}
SIZES = (50, 200, 1000, 5000)
FIRST = 200


@dataclass(frozen=True)
class Queue:
    """`key` tells it from others; `target` is that of harm, None of other sources."""

    source: str
    target: str | None
    suspects: tuple[Suspect, ...]
    key: str

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Positions, from 0, by what an item is called."""
        return {suspect.item: at for at, suspect in enumerate(self.suspects)}

    def place_of(self, index: int) -> int | None:
        return self.places.get(str(index))


@st.cache_data(max_entries=16, show_spinner=False)
def _queue(content: tuple, source: str, target: str | None, most: int, _manifest, _dataset) -> tuple[Suspect, ...]:
    return suspects.queue(_manifest, _dataset, source, target, most)


def choose(run: RunView) -> Queue | None:
    """None, after it was said why, where there is nothing to go through."""
    ticked = ticks.of(run)
    there = (*suspects.sources(run.manifest, run.dataset), *([TICKED] if ticked else []))
    if not there:
        st.info(
            "There are no suspects to go through: the run has neither the model's answers for its training images, nor "
            "scores, nor files with problems. A run that is trained here has them.",
            icon=":material/info:",
        )
        return None
    state = st.session_state
    key, size = f"triage-source-{run.id}", f"triage-size-{run.id}"
    if state.get(key, there[0]) not in there:  # nothing is ticked any more
        del state[key]
    link.follow(key, link.one_of("queue", there, there[0]))
    link.follow(size, link.one_of("most", SIZES, FIRST))
    source = st.segmented_control("Queue", there, key=key, required=True, format_func=TITLES.__getitem__)
    target = None
    said = [f"{state[size]:,} images"] * (state[size] != FIRST)
    if source == "harm":
        best = suspects.target_key(run.manifest)
        by = f"triage-target-{run.id}"
        link.follow(by, link.one_of("target", run.targets, best))
        said += [f"harm to {run.titles[state[by]]}"] * (state[by] != best)
    with folding.row("Filters", said):
        st.selectbox("The first", SIZES, key=size, format_func=lambda n: f"{n:,}", width=140)
        if source == "harm":
            target = st.selectbox(
                "Harm to the target", list(run.targets), key=by, format_func=run.titles.__getitem__, width=320
            )
    st.caption(WHY[source])
    try:
        found = _found(run, source, target, state[size], ticked)
    except IntegrityError as error:
        shell.show_error(error.what, error.remedy)
        return None
    link.keep(run=run.id, queue=source, target=target, most=None if state[size] == FIRST else state[size])
    names = zlib.crc32(" ".join(suspect.item for suspect in found).encode())  # others may be as many
    return Queue(source, target, found, f"{run.id}-{source}-{target}-{len(found)}-{names:08x}")


def _found(run: RunView, source: str, target: str | None, most: int, ticked: list[int]) -> tuple[Suspect, ...]:
    if source == TICKED:
        return tuple(Suspect(str(index), index) for index in ticked[:most])
    return _queue(_content(run, source, target), source, target, most, run.manifest, run.dataset)


def _content(run: RunView, source: str, target: str | None) -> tuple:
    """What a queue is made of, by its checksums: names are used again after a deletion."""
    record = run.manifest
    own = record.files.get(self_influences.recorded_name(record) or "", "")
    scores = "" if target is None else record.score_sets.sha256(run.targets[target].score_set)
    alike = tuple(record.files[duplicates.path_of(by)] for by in duplicates.ways(record))
    return (
        run.dataset.fingerprint,
        record.files.get(suspects.LOGITS, ""),
        own if source == SELF else "",
        alike if source == DUPLICATES else (),
        scores,
    )
