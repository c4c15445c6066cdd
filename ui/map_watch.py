"""What a person does on the chart of a map: shapes that are drawn, and the point that the pointer rests on.

Streamlit's own selection sends every selected point with all that it has, megabytes of 60,000 points, and plotly's
looks at all of them at each movement. `map_watch.js` draws the line itself and sends the corners of what was drawn;
`engine.analysis.selection` finds the points.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
_component = st.components.v2.component(
    "map_watch",
    html='<div class="beside-pointer" aria-hidden="true" hidden></div>',
    css=(HERE / "map_watch.css").read_text(encoding="utf-8"),
    js=(HERE / "map_watch.js").read_text(encoding="utf-8"),
)


def shapes(
    key: str, plot: str, standing: Sequence[dict[str, list[float]]], on_shapes: Callable[[object], None]
) -> None:
    """`on_shapes` is called with what the browser sent, whatever it is, before the page is drawn anew; `standing` are
    the shapes that show on this map what is chosen. `plot`: the key of the container that the chart stands in."""
    _component(
        key=key,
        data={**_data(plot, "selected"), "shapes": list(standing)},
        on_selected_change=lambda: on_shapes(st.session_state[key].get("selected")),
    )


def pointer(key: str, plot: str, look: str, picture_of: Callable[[int], dict | None], smooth: bool) -> None:
    """Shows what `picture_of` makes of the image under the pointer: {index, src, alt, lines}. Draw it in a fragment of
    its own: each pause of the pointer draws that anew. The browser keeps pictures while `look` stays the same."""
    at = st.session_state.get(f"{key}-at")
    picture = picture_of(at) if isinstance(at, int) else None
    _component(
        key=key,
        data={**_data(plot, "hovered"), "look": look, "picture": picture, "smooth": smooth},
        on_hovered_change=lambda: st.session_state.update({f"{key}-at": st.session_state[key].get("hovered")}),
    )


def _data(plot: str, what: str) -> dict:
    return {"plot": f"st-key-{plot}", "what": what, "look": "", "shapes": [], "picture": None, "smooth": True}
