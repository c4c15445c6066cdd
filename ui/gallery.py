"""Images as tiles in one component: click to enlarge, arrow keys to go on, ticks. `gallery.js` draws it."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from engine.datasets.base import Dataset
from ui import pictures
from ui.text import line

HERE = Path(__file__).parent
WANTED = {"S": 64, "M": 96, "L": 144}  # CSS pixels of a tile's picture, about: see `whole`
NARROW = 72  # CSS pixels of a picture below which the words under it are small
ENLARGED = 384  # CSS pixels of an enlarged picture, at most
BESIDE = 260  # and where another stands beside it
_component = st.components.v2.component(
    "gallery",
    html='<ul class="grid"></ul><dialog></dialog>',
    css=(HERE / "gallery.css").read_text(encoding="utf-8"),
    js="\n".join((HERE / name).read_text(encoding="utf-8") for name in ("labelling.js", "gallery.js")),
)


@dataclass(frozen=True)
class Labels:
    """What a person decides on labels, by image: the number of the class `given`, the one `suggested`, which the model
    gives, and the one `chosen`, where one is. `on_label` is called with what changed: a class, or None for a ticked
    image without another label."""

    classes: tuple[str, ...]
    given: Mapping[int, int]
    suggested: Mapping[int, int]
    chosen: Mapping[int, int]
    on_label: Callable[[dict[int, int | None]], None]

    def choice(self, index: int) -> dict[str, int | None]:
        return {"given": self.given[index], "suggested": self.suggested[index], "chosen": self.chosen.get(index)}


@dataclass(frozen=True)
class Tile:
    """One image; `lines` stand below it, `sentence`, `details` and `bars` beside it enlarged."""

    split: str  # "train" or "test"
    index: int
    title: str
    lines: tuple[str, ...] = ()  # the first says in words what `effect` draws, if any
    details: tuple[tuple[str, str], ...] = ()
    bars: tuple[tuple[str, float, str], ...] = ()  # name, share of the largest (above 0 where it helps), its text
    link: str = ""  # offered where the image is enlarged
    link_text: str = ""
    image: np.ndarray | None = None  # uint8 [H, W, C], where it is in no split
    effect: tuple[float, str] | None = None  # `Scale.effect`: share of the list's largest, above 0 where it helps
    sentence: str = ""  # what follows from the details, above them
    bars_note: str = ""  # in what the bars' texts count
    shares: tuple[tuple[str, float, str], ...] = ()  # enlarged: name, from 0 to 1, and its text
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()  # enlarged: a title, and training images below it, small


@dataclass(frozen=True)
class Beside:
    """The image that a page explains, which stands beside every enlarged one."""

    title: str
    src: str  # its address, a data URL
    alt: str


def whole(side: int, wanted: int) -> int:
    """The width to draw an image of `side` pixels at: the whole multiple of it that is nearest to `wanted`, so that
    its pixels are squares of one size; `wanted` itself where the image is larger, and is made smaller smoothly."""
    return wanted if side > wanted else side * max(1, (2 * wanted + side) // (2 * side))


def whole_below(side: int, most: int) -> int:
    """The largest whole multiple of `side` up to `most`; `most` itself where the image is larger."""
    return side * max(1, most // side) if side <= most else most


def sizes(side: int) -> dict[str, int]:
    """Widths of tiles, small, medium and large, of images of `side` pixels: each larger by a quarter, at least, than
    the one before."""
    widths: dict[str, int] = {}
    for name, wanted in WANTED.items():
        least = math.ceil(1.25 * max(widths.values(), default=0))
        width = whole(side, wanted)
        widths[name] = width if width >= least else side * math.ceil(least / side)
    return widths


def show(
    dataset: Dataset,
    tiles: list[Tile],
    key: str,
    *,
    size: int = 96,
    ticked: Collection[int] = (),
    on_tick: Callable[[dict[int, bool]], None] | None = None,
    bars_title: str = "",
    beside: Beside | None = None,
    shares_title: str = "",
    labels: Labels | None = None,
) -> None:
    """Draws the tiles with pictures about `size` CSS pixels wide (`whole`). `on_tick` is called with what changed
    before the page runs again; without it there is nothing to tick. `beside` is drawn beside each enlarged image.
    With `labels` each image's label can be chosen."""
    side, enlarged = max(dataset.image_shape[:2]), BESIDE if beside else ENLARGED

    def decided() -> None:
        sent = st.session_state[key].get("decided") or {}
        if on_tick and (ticks := sent.get("ticks")):
            on_tick({int(index): bool(on) for index, on in ticks.items()})
        if labels and (chosen := sent.get("labels")):
            labels.on_label({int(index): label if label is None else int(label) for index, label in chosen.items()})

    drawn = []
    for tile in tiles:
        given = {name: value for name, value in vars(tile).items() if name != "image"}
        if tile.image is None:
            src, alt = (f(dataset, tile.split, tile.index) for f in (pictures.image_url, pictures.alt))
        else:
            src, alt = pictures.data_url(tile.image), tile.title
        drawn.append(
            {
                **given,
                "src": src,
                "alt": alt,
                "ticked": tile.index in ticked,
                "tick_label": f"{tile.split}:{tile.index}",
                "choice": labels.choice(tile.index) if labels else None,
            }
        )
    alike = {index for tile in tiles for _, indices in tile.groups for index in indices}
    with st.container(key=f"gallery-{key}"):
        _component(
            key=key,
            data={
                "size": whole(side, size),
                "small": whole(side, size) < NARROW,
                "smooth": side > size,
                "enlarged": whole_below(side, enlarged) * dataset.image_shape[1] // side,
                "smooth_enlarged": side > enlarged,
                "ticking": on_tick is not None,
                "bars_title": bars_title,
                "beside": vars(beside) if beside else None,
                "tiles": drawn,
                "shares_title": shares_title,
                "pictures": {
                    index: {
                        "src": pictures.small_url(dataset, "train", index),
                        "alt": pictures.alt(dataset, "train", index),
                    }
                    for index in sorted(alike)
                },
                "labels": {"classes": [line(name) for name in labels.classes]} if labels else None,
            },
            on_decided_change=decided,
        )
