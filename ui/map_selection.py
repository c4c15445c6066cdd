"""The images that are chosen on a map: by a lasso or a box on the chart, or by numbers; as a gallery, to be ticked.

Chosen is what a person looks at; ticked is what is to be left out (`ui.ticks`), on every page the same. What is chosen
stays chosen while the map is coloured, drawn or made otherwise: so one sees where the same images lie elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from engine.analysis import selection, target_view
from engine.targets import target_function
from ui import cards, formats, map_chart, paging, shell, ticks
from ui.map_choices import Choices
from ui.run_choice import RunView
from ui.text import plain

ORDERS = {"number": "By number", "harmful": "Most harmful", "helpful": "Most helpful"}
MOST_NEAREST = 10_000
SIZE = 96  # CSS pixels of a tile


@dataclass(frozen=True, eq=False)
class Chosen:
    """`images` int64, in order; `how` they were chosen, in words; of those drawn around the `shapes`, as the browser
    sent them, and `on` which map (`Choices.key`)."""

    images: np.ndarray
    how: str
    on: str = ""
    shapes: tuple[dict[str, list[float]], ...] = ()


def key_of(run: RunView) -> str:
    return f"map-chosen-{run.id}"


def of(run: RunView) -> Chosen | None:
    """None where nothing is chosen; of images that are there."""
    chosen = st.session_state.get(key_of(run))
    return chosen if chosen is not None and chosen.images.max(initial=-1) < len(run.dataset.train_labels) else None


def choose(run: RunView, images: np.ndarray, how: str, on: str = "", shapes: Sequence[selection.Shape] = ()) -> None:
    """An empty choice is none."""
    sent = tuple({"x": x.tolist(), "y": y.tolist()} for x, y in shapes)
    st.session_state[key_of(run)] = Chosen(np.asarray(images, np.int64), how, on, sent)
    st.session_state[f"map-page-{run.id}"] = 1


def forget(run: RunView) -> None:
    st.session_state.pop(key_of(run), None)


def take_shapes(run: RunView, choices: Choices, places: np.ndarray, images: np.ndarray, sent: object) -> None:
    """What lies within the shapes that the browser sent."""
    shapes = selection.shapes_of(sent)
    if not shapes:
        forget(run)
        return
    rows = selection.within(places, shapes)
    choose(run, np.sort(images[rows]), "drawn around on the map", choices.key, shapes)


def shapes_on(run: RunView, choices: Choices) -> list[dict[str, list[float]]]:
    """Those that show on this map what is chosen."""
    chosen = of(run)
    return list(chosen.shapes) if chosen is not None and chosen.on == choices.key else []


def look_of(choices: Choices) -> str:
    """Tells charts apart on which other words stand beside a point."""
    return f"{choices.key}-{choices.colour}-{'' if choices.ref is None else choices.ref.key}"


def is_ringed(chosen: Chosen | None, choices: Choices) -> bool:
    """Whether the chosen images are marked, one by one: where no shape on this map shows them."""
    return chosen is not None and chosen.on != choices.key and 0 < len(chosen.images) <= map_chart.RINGED


# -- without a pointer


def draw_by_numbers(
    run: RunView, places: np.ndarray, images: np.ndarray, nearest: Callable[[str, int, int], np.ndarray], place: str
) -> None:
    """Fields that choose what a lasso would: the nearest images to the target or to an image, and ranges of both axes.

    `nearest(to, image, count)` gives training images, `to` being "target" or "image"; `place` is why the target has
    none on this map, or ""."""
    with st.expander("Choose by numbers", key="map-by-numbers"):
        with st.form("map-nearest", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            count = st.number_input("The nearest", 1, min(MOST_NEAREST, len(images)), min(50, len(images)), width=140)
            options = ["image"] if place else ["target", "image"]
            to = st.radio("images to", options, format_func=_to_in_words, horizontal=True)
            last = len(run.dataset.train_labels) - 1
            image = st.number_input(f"training image, from 0 to {last:,}", 0, last, 0, width=220)
            if st.form_submit_button("Choose the nearest", icon=":material/near_me:"):
                with shell.guarded():
                    what = f"train:{image}" if to == "image" else "the target"
                    choose(run, np.sort(nearest(to, int(image), int(count))), f"nearest to {what}")
                    st.rerun()
        low, high = places.min(0, initial=np.inf), places.max(0, initial=-np.inf)
        with st.form("map-ranges", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            ends = [
                st.number_input(f"{axis}, {end}", value=float(value), format="%.4g", width=150)
                for axis, at in (("First axis", 0), ("Second axis", 1))
                for end, value in (("from", low[at]), ("to", high[at]))
            ]
            if st.form_submit_button("Choose within", icon=":material/crop_free:"):
                inside = (places >= np.array(ends)[[0, 2]]) & (places <= np.array(ends)[[1, 3]])
                choose(run, np.sort(images[inside.all(1)]), "within the ranges")
                st.rerun()


def _to_in_words(to: str) -> str:
    return {"target": "the pinned target", "image": "the image with this number"}[to]


# -- what is chosen


def draw(run: RunView, choices: Choices) -> None:
    """The gallery, a page of it at a time, and the buttons that tick."""
    st.header("Chosen images")
    chosen = of(run)
    if chosen is None:
        st.caption(
            "Draw around some points, or choose by numbers: their images stand here, to be looked at and ticked."
        )
        return
    count = len(chosen.images)
    if not count:
        st.info(f"No image is {chosen.how}.", icon=":material/filter_alt_off:")
        return
    ticked = set(ticks.of(run))
    here = sum(index in ticked for index in chosen.images.tolist())
    place = st.empty()
    order = _draw_actions(run, choices, chosen, here)
    images, effects, unit = _in_order(run, choices, chosen.images, order)
    place.caption(
        f"{formats.count(count, 'images')}, {chosen.how}; {here:,} of them ticked.{unit and ' ' + plain(unit)}"
    )
    page = paging.choose(count, f"map-page-{run.id}", name=None)
    on_page = paging.of_page(images, page)
    tiles = cards.training(run, on_page, effects=effects and effects(on_page))
    ticks.tiles(run, tiles, "map", SIZE, cards.OUTWARDS)


def _draw_actions(run: RunView, choices: Choices, chosen: Chosen, ticked: int) -> str:
    """Ticks all, unticks all, forgets; returns the order that is asked for."""
    count = len(chosen.images)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = "number"
        if choices.ref is not None and target_function(choices.ref.function).classes == ():
            key = f"map-order-{run.id}"
            order = st.segmented_control(
                "Order", list(ORDERS), format_func=ORDERS.get, required=True, key=key, default="number"
            )
        st.button(
            f"Tick all {count:,}",
            key="map-tick",
            icon=":material/select_all:",
            on_click=ticks.add,
            args=(run, chosen.images.tolist()),
            **shell.acting(ticked == count),
        )
        st.button(
            "Untick them",
            key="map-untick",
            icon=":material/deselect:",
            on_click=ticks.change,
            args=(run, dict.fromkeys(chosen.images.tolist(), False)),
            **shell.acting(not ticked),
        )
        st.button("Choose none", key="map-forget", icon=":material/clear:", on_click=forget, args=(run,))
    return order


def _in_order(run: RunView, choices: Choices, images: np.ndarray, order: str):
    """The images, what makes of those of a page their effects on the pinned target, None without one, and the unit of
    these."""
    if choices.ref is None:
        return images, None, ""
    ref, scores_N = choices.ref, run.manifest.score_sets.row(choices.ref)
    if order != "number":
        harm = target_function(ref.function).harmful_sign * np.asarray(scores_N[images], np.float64)
        images = images[np.argsort(-harm if order == "harmful" else harm, kind="stable")]
    scale = formats.Scale.of(scores_N[images], ref.function)

    def effects(on_page: np.ndarray) -> cards.Effects:
        with shell.guarded():
            view = target_view.view(run.manifest, run.dataset, ref.target, ref.function)
            return cards.Effects(scores_N, scale, view)
        return cards.Effects(scores_N, scale)

    return images, effects, f"Effects on the pinned target are in {scale.unit}."
