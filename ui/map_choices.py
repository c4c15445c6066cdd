"""What a map shows: of which images, by what they are near each other, how it is drawn, and what colours them.

Each choice is the link's, unless a person has just changed it (`link.follow`).
"""

from dataclasses import dataclass

import numpy as np
import streamlit as st

from engine.analysis import features, map_values, maps
from engine.analysis.map_values import Amounts, Groups
from engine.runs.scores import TargetRef
from ui import formats, link, ticks
from ui.run_choice import RunView

SOURCES = {"features": "Looks, to the model", "influence": "Acts alike", "pixels": "Pixels"}
WHY = {
    "features": "Near each other are images that look alike to the trained model: by what its last layer sees of them.",
    "influence": "Near each other are images that act alike: that help and harm the same of the run's targets, however "
    "strongly. Images in the middle act on few of them.",
    "pixels": "Near each other are images whose pixels are alike; the model has no say in it.",
}
METHODS = {"pca": "PCA", "umap": "UMAP"}
VIEWS = {"all": "All training images", "near": "Neighbours of the target"}
COLOURS = {
    "class": "Given label",
    "effect": "Help and harm to the target",
    "loss": "Loss on the given label",
    "agreement": "Whether the model agrees",
}
TAG = "tag:"  # before the name of a tag, among the colours
NEAR = (50, 100, 200, 500, 1000, 2000)  # neighbours
NO_TARGET = "\0"


@dataclass(frozen=True)
class Choices:
    source: str  # of `maps.SOURCES`
    method: str  # of `maps.METHODS`
    view: str  # of `VIEWS`
    count: int  # neighbours
    colour: str  # of `COLOURS`, or a tag
    ref: TargetRef | None  # the pinned target

    @property
    def key(self) -> str:
        """Tells the places of one map from those of another."""
        near = "" if self.view == "all" or self.ref is None else f"-{self.count}-{self.ref.key}"
        return f"{self.source}-{self.method}-{self.view}{near}"


def choose(run: RunView) -> Choices:
    """Two rows of choices; all of them stand in the link."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        ref = _target(run)
        view = _segments(run, "Images", "view", list(VIEWS) if ref is not None else ["all"], VIEWS, "all")
        count = _count(run) if view == "near" else maps.NEAREST
    with st.container(horizontal=True, vertical_alignment="bottom"):
        source = _segments(run, "Near each other by", "source", sources(run), SOURCES, first_source(run))
        methods = list(METHODS) if view == "all" else ["pca"]
        method = _segments(run, "Drawn with", "method", methods, METHODS, "pca")
        colour = _colour(run, ref)
    choices = Choices(source, method, view, count, colour, ref)
    link.keep(
        run=run.id,
        target=None if ref is None else ref.key,
        view=formats.unless(view, "all"),
        near=count if view == "near" else None,
        source=source,
        method=formats.unless(method, "pca"),
        colour=formats.unless(colour, "class"),
    )
    return choices


def sources(run: RunView) -> list[str]:
    """What a map can be made of. Of imported scores there is no model that could see the images."""
    return [source for source in SOURCES if source != "features" or not run.manifest.method]


def first_source(run: RunView) -> str:
    """What a map is made of where nobody says: the best that there is."""
    if features.TRAIN in run.manifest.files:
        return "features"
    return "influence" if len(run.targets) >= maps.TARGETS else "pixels"


def values(run: RunView, choices: Choices) -> Groups | Amounts:
    """What colours the points. Raises `ConfigError` where the run has not what it needs."""
    if choices.colour == "effect" and choices.ref is not None:
        return map_values.by_harm(run.manifest, choices.ref)
    if choices.colour == "loss":
        return map_values.by_loss(run.manifest, run.dataset)
    if choices.colour == "agreement":
        return map_values.by_agreement(run.manifest, run.dataset)
    if choices.colour.startswith(TAG):
        images, tag = len(run.dataset.train_labels), choices.colour.removeprefix(TAG)
        members = map_values.tags(ticks.read(run), images).get(tag, np.empty(0, np.int64))
        return map_values.by_tag(members, tag, images)
    return map_values.by_class(run.dataset)


def _target(run: RunView) -> TargetRef | None:
    """The pinned target: it is marked, and its neighbours can be drawn; none of a run without scores."""
    if not run.targets:
        return None
    keys, key = list(run.targets), f"map-target-{run.id}"
    link.follow(key, link.one_of("target", keys, keys[0]))
    chosen = st.selectbox("Pinned target", keys, key=key, format_func=lambda one: run.titles[one], width=320)
    return run.targets[chosen]


def _count(run: RunView) -> int:
    key, default = f"map-near-{run.id}", 500
    link.follow(key, link.one_of("near", NEAR, default))
    return st.selectbox("How many", NEAR, key=key, width=110, format_func=lambda count: f"{count:,}")


def _colour(run: RunView, ref: TargetRef | None) -> str:
    options = [name for name in COLOURS if name != "effect" or ref is not None]
    if map_values.TRAIN_LOGITS not in run.manifest.files:  # of a run of an older version, or of imported scores
        options = [name for name in options if name not in ("loss", "agreement")]
    options += [f"{TAG}{tag}" for tag in map_values.tags(ticks.read(run), len(run.dataset.train_labels))]
    key = f"map-colour-{run.id}"
    if st.session_state.get(key, "class") not in options:  # the last image of a tag lost it
        del st.session_state[key]
    link.follow(key, link.one_of("colour", options, "class"))
    return st.selectbox("Coloured by", options, key=key, format_func=_colour_name, width=260)


def _colour_name(option: str) -> str:
    return COLOURS.get(option) or f"Tag: {option.removeprefix(TAG)}"


def _segments(run: RunView, label: str, name: str, options: list[str], words: dict[str, str], default: str) -> str:
    """One of several; nothing to choose where there is one."""
    if not options[1:]:
        return options[0]
    key, asked = f"map-{name}-{run.id}", link.one_of(name, options, default)
    if st.session_state.get(key, asked) not in options:
        del st.session_state[key]
    link.follow(key, asked)
    return st.segmented_control(label, options, format_func=words.__getitem__, required=True, key=key)
