"""Targets as a strip of thumbnails, each with what the model made of it: chosen by looking. `target_strip.js` draws it.

For as many as `MOST`: beyond, a list that can be searched says more than a strip that nobody scrolls to its end.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

MOST = 60  # targets
SIDE = 56  # pixels, at most, of a picture

HERE = Path(__file__).parent
_component = st.components.v2.component(
    "target_strip",
    html='<ul class="strip" role="listbox" aria-orientation="horizontal"></ul>',
    css=(HERE / "target_strip.css").read_text(encoding="utf-8"),
    js=(HERE / "target_strip.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Thumbnail:
    """One target. `right`: whether the model gives its one image the label asked about; None for a set, or unknown."""

    name: str  # what `on_choose` is called with
    title: str  # all of it, for a pointer that rests on it and for a screen reader
    words: str  # below the picture, in one short line
    images: tuple[str, ...] = ()  # URLs: of one image, or some of a set's; a target without any shows its words alone
    right: bool | None = None


def choose(key: str, label: str, thumbnails: list[Thumbnail], chosen: str, on_choose: Callable[[str], None]) -> None:
    """Draws the strip. `on_choose` hears the name of another target before the page is drawn anew."""

    def taken() -> None:
        if (name := st.session_state[key].get("chosen")) in {one.name for one in thumbnails}:
            on_choose(name)

    _component(
        key=key,
        data={"label": label, "chosen": chosen, "side": SIDE, "targets": [asdict(one) for one in thumbnails]},
        on_chosen_change=taken,
    )
