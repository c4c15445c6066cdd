"""Images as tiles in one component: click to enlarge, arrow keys to go on, ticks. `gallery.js` draws it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from engine.datasets.base import Dataset
from ui import pictures

HERE = Path(__file__).parent
_component = st.components.v2.component(
    "gallery",
    html='<ul class="grid"></ul><dialog></dialog>',
    css=(HERE / "gallery.css").read_text(encoding="utf-8"),
    js=(HERE / "gallery.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Tile:
    """One image; `lines` stand below it, `details` and `bars` (name, signed value, its text) beside it enlarged."""

    split: str  # "train" or "test"
    index: int
    title: str
    lines: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    bars: tuple[tuple[str, float, str], ...] = ()
    link: str = ""  # offered where the image is enlarged
    link_text: str = ""
    image: np.ndarray | None = None  # uint8 [H, W, C], where it is in no split


def show(
    dataset: Dataset,
    tiles: list[Tile],
    key: str,
    *,
    size: int = 96,
    ticked: Collection[int] = (),
    on_tick: Callable[[dict[int, bool]], None] | None = None,
    bars_title: str = "",
) -> None:
    """Draws the tiles, `size` pixels wide. `on_tick` is called with what changed before the page runs again;
    without it there is nothing to tick."""

    def changed() -> None:
        if ticks := st.session_state[key].get("ticks"):
            on_tick({int(index): bool(on) for index, on in ticks.items()})

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
            }
        )
    with st.container(key=f"gallery-{key}"):
        _component(
            key=key,
            data={"size": size, "ticking": on_tick is not None, "bars_title": bars_title, "tiles": drawn},
            on_ticks_change=changed,
        )
