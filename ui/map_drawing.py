"""The map as it is drawn: its places, the marks on it, what it says, and the picture beside the pointer."""

from collections.abc import Callable

import numpy as np
import streamlit as st

from engine import files
from engine.analysis import map_values, maps
from engine.analysis.ranking import rank
from engine.analysis.scale import verbs
from engine.errors import ConfigError
from engine.jobs import umap
from engine.targets import TestImage, TrainImage, target_function
from ui import features_button, formats, map_chart, map_choices, map_selection, map_watch, pictures, shell
from ui.map_chart import Mark
from ui.map_choices import Choices
from ui.run_choice import RunView
from ui.text import line

STRONGEST = 12  # images a side that are marked
STRONGLY = {
    "helps": "most helpful",
    "harms": "most harmful",
    "raises": "raise it most",
    "lowers": "lower it most",
}
SMOOTH = 96  # pixels of a side above which a picture is made smaller smoothly
PLOT = "map-plot"  # the container of the chart


def drawn_map(run: RunView, choices: Choices) -> tuple[maps.Map, np.ndarray, np.ndarray | None] | None:
    """The map, the training images that its rows are of, and where the target lies, [2], where it has a place; None
    where something has to be computed first, which is offered."""
    record, dataset = run.manifest, run.dataset
    if choices.source == "features" and features_button.of(run) is None:
        st.info("The features of this run's images are not there yet.", icon=":material/scatter_plot:")
        features_button.draw(run)
        return None
    if choices.view == "near" and choices.ref is not None:
        near = maps.neighbourhood(record, dataset, choices.source, choices.ref.target, choices.count)
        return near.map, near.images, near.target
    drawn = maps.whole(record, dataset, choices.source, choices.method)
    if drawn is None:
        offer_umap(run, choices.source)
        return None
    place = None
    if choices.ref is not None:
        place = maps.target_on(drawn, record, dataset, choices.ref.target)
    return drawn, np.arange(len(drawn.train)), place


def offer_umap(run: RunView, source: str) -> None:
    """The button that has it drawn, or what it lacks."""
    if not umap.installed():
        st.info(f"UMAP is not installed here. {umap.INSTALL}", icon=":material/extension_off:")
        return
    if files.read_only() or run.manifest.from_python or not run.manifest.trained:
        st.info(
            "UMAP maps are drawn by a job of the run, and there is none here; PCA needs none.", icon=":material/info:"
        )
        return
    seconds = umap.SECONDS_AN_IMAGE * (len(run.dataset.train_labels) + len(run.dataset.test_labels))
    st.info("This map has not been drawn with UMAP yet.", icon=":material/info:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Draw it with UMAP", icon=":material/scatter_plot:", **shell.acting(run.manifest.in_progress)):
            shell.submit(run.id, umap.Umap(source))
        st.caption(f"In about {formats.duration(max(10.0, seconds))}; it is kept with the run.")


def marks(run: RunView, choices: Choices, drawn: maps.Map, images: np.ndarray, place: np.ndarray | None) -> list[Mark]:
    """Where the target lies, its strongest images, and what was chosen elsewhere."""
    found = []
    rows = np.full(len(run.dataset.train_labels), -1)
    rows[images] = np.arange(len(images))

    def on_map(name: str, which: np.ndarray, symbol: str, colour: str, size: int = 13) -> None:
        here = which[rows[which] >= 0]
        if len(here):
            found.append(Mark(name, drawn.train[rows[here]], here, symbol, colour, size))

    chosen = map_selection.of(run)
    if chosen is not None and map_selection.is_ringed(chosen, choices):
        on_map("chosen", chosen.images, "circle-open", pictures.GREY, 9)
    if choices.ref is not None:
        ranking = rank(run.manifest.score_sets.row(choices.ref), choices.ref.function, STRONGEST)
        good, bad = sides(choices)
        on_map(STRONGLY[good], ranking.helpful, "triangle-up-open", map_chart.SIGNED[0][1])
        on_map(STRONGLY[bad], ranking.harmful, "triangle-down-open", map_chart.SIGNED[-1][1])
        if place is not None:
            own = choices.ref.target.index if isinstance(choices.ref.target, TrainImage) else -1
            found.append(Mark("the target", place[None], np.array([own]), "x", "#d81b60", 16))
    return found


def sides(choices: Choices) -> tuple[str, str]:
    """What images on either side did to the pinned target: «helps» and «harms», or «lowers» and «raises»."""
    assert choices.ref is not None
    above, below = verbs(choices.ref.function)
    return (below, above) if target_function(choices.ref.function).harmful_sign > 0 else (above, below)


def describe(run: RunView, choices: Choices, drawn: maps.Map, place: np.ndarray | None) -> None:
    """What near means, how much the plane shows, and why the target is not on it."""
    told = [map_choices.WHY[choices.source]]
    if drawn.explained is not None:
        told.append(f"The plane shows {formats.percent(sum(drawn.explained[:2]))} of the variance.")
    else:
        told.append("UMAP keeps neighbours together; sizes of groups and distances between them mean nothing.")
    if choices.ref is not None and place is None and choices.source == "influence":
        told.append("The target itself is what these images act on, and has no place among them.")
    st.caption(" ".join(told), help=formats.help_text("features") if choices.source == "features" else None)


def draw(run: RunView, choices: Choices) -> None:
    found = drawn_map(run, choices)
    if found is None:
        return
    drawn, images, place = found
    describe(run, choices, drawn, place)
    values = map_choices.values(run, choices)
    scale, ends = None, ("", "")
    if choices.ref is not None and isinstance(values, map_values.Amounts) and values.signed:
        scale, ends = formats.Scale.of([values.end], choices.ref.function), sides(choices)
    axes = map_chart.axes_in_words(drawn.method, drawn.explained)
    chart = map_chart.figure(drawn.train, images, values, marks(run, choices, drawn, images, place), axes, scale, ends)
    with st.container(key=PLOT):
        map_chart.show(
            chart,
            f"map-{run.id}",
            f"Map of {len(images):,} training images, by {map_choices.SOURCES[choices.source].lower()}, drawn with "
            f"{map_choices.METHODS[choices.method]}. Images are chosen by numbers below, too",
        )
    map_watch.shapes(
        f"map-shapes-{run.id}",
        PLOT,
        map_selection.shapes_on(run, choices),
        lambda sent: map_selection.take_shapes(run, choices, drawn.train, images, sent),
    )
    st.fragment(map_watch.pointer)(
        f"map-pointer-{run.id}",
        PLOT,
        map_selection.look_of(choices),
        lambda index: picture_of(run, choices, index),
        max(run.dataset.image_shape[:2]) > SMOOTH,
    )
    map_selection.draw_by_numbers(run, drawn.train, images, nearest(run, choices), why_no_place(run, choices))


def nearest(run: RunView, choices: Choices) -> Callable[[str, int, int], np.ndarray]:
    """The nearest training images to the target, or to an image, by what the map is made of."""

    def of(to: str, image: int, count: int) -> np.ndarray:
        target = choices.ref.target if to == "target" and choices.ref is not None else TrainImage(image)
        return maps.nearest_to(run.manifest, run.dataset, choices.source, target, count)

    return of


def why_no_place(run: RunView, choices: Choices) -> str:
    """Why nothing can be nearest to the target; "" where it has a place."""
    if choices.ref is None:
        return "no target"
    try:
        maps.place_of(
            maps.rows_of(run.manifest, run.dataset, choices.source), run.manifest, run.dataset, choices.ref.target
        )
    except ConfigError as error:
        return error.what
    return ""


def picture_of(run: RunView, choices: Choices, index: int) -> dict | None:
    """What is drawn beside the pointer: the image, its number, its label, and what it did to the target; the target's
    own picture where it is a test image, which has no number on the map."""
    if index == -1 and choices.ref is not None and isinstance(choices.ref.target, TestImage):
        at = choices.ref.target.index
        src, alt = (f(run.dataset, "test", at) for f in (pictures.image_url, pictures.alt))
        return {"index": -1, "src": src, "alt": alt, "lines": [run.titles[choices.ref.key]]}
    if not 0 <= index < len(run.dataset.train_labels):
        return None
    lines = [f"train:{index}", line(run.dataset.classes[run.dataset.train_labels[index]])]
    if choices.ref is not None:
        score = float(run.manifest.score_sets.row(choices.ref)[index])
        scale = formats.Scale.of([score], choices.ref.function)
        lines.append(f"{scale.words(score)} {scale.unit}")
    src, alt = (f(run.dataset, "train", index) for f in (pictures.image_url, pictures.alt))
    return {"index": index, "src": src, "alt": alt, "lines": lines}
