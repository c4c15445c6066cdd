"""The chart of a map: one point an image, its colour, and marks of the target and of its strongest images.

Points are drawn by the graphics card (`scattergl`), so that 60,000 of them move with the pointer. Each has its image's
number for `customdata`; what it says is drawn by `ui.map_watch`, with the picture.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from engine.analysis.map_values import Amounts, Groups
from engine.analysis.scale import Scale
from ui import formats, pictures
from ui.text import line, markup

HEIGHT = 620  # CSS pixels
MOST_NAMED = 12  # groups that have a line of the legend
LARGE, MIDDLING = 20_000, 2_000  # points: beyond, they are drawn smaller
SIGNED = [[0, "#2c6cb0"], [0.5, "#a9aeb4"], [1, "#c4701c"]]  # helps, neither, harms; seen on light and on dark
RISING = [[0, "#a9aeb4"], [0.5, "#b06aa8"], [1, "#8a1f5c"]]
PAIR = ("#8a97a6", "#d2691e")
RINGED = 5_000  # chosen images that are marked, at most
TRANSPARENT = "rgba(0,0,0,0)"
BUTTONS = [["lasso2d", "select2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]


@dataclass(frozen=True, eq=False)
class Mark:
    """Places [M, 2] that stand out, each an image's number of `images`; -1 where it is none of the training images."""

    name: str
    places: np.ndarray
    images: np.ndarray
    symbol: str
    colour: str
    size: int = 13


def show(chart: go.Figure, key: str, alt: str) -> None:
    """Without Streamlit's own selection: `ui.map_watch` sends what is drawn."""
    config = {"displayModeBar": True, "modeBarButtons": BUTTONS, "doubleClick": False}
    st.plotly_chart(chart, key=key, config=config, alt=line(alt))


def figure(
    places: np.ndarray,
    images: np.ndarray,
    values: Groups | Amounts,
    marks: Sequence[Mark],
    axes: tuple[str, str],
    scale: Scale | None = None,
    ends: tuple[str, str] = ("helps", "harms"),
) -> go.Figure:
    """`places` float32 [n, 2] of the training images `images` int64 [n]; `values` of all training images. `scale` says
    in what unit signed amounts are written, `ends` what is said of them below and above zero."""
    chart, size = go.Figure(), 3 if len(images) > LARGE else 5 if len(images) > MIDDLING else 8
    if isinstance(values, Groups):
        _draw_groups(chart, places, images, values, size)
    else:
        _draw_amounts(chart, places, images, values, size, scale, ends)
    for mark in marks:
        chart.add_scattergl(
            x=mark.places[:, 0],
            y=mark.places[:, 1],
            mode="markers",
            name=markup(mark.name),
            customdata=np.asarray(mark.images, np.int32),
            marker=dict(symbol=mark.symbol, color=mark.colour, size=mark.size, line=dict(width=2, color=mark.colour)),
            hoverinfo="none",
            showlegend=True,
        )
    chart.update_xaxes(title=axes[0], zeroline=False, nticks=6)
    # Distances count: a unit is as long upwards as sideways.
    chart.update_yaxes(title=axes[1], zeroline=False, nticks=6, scaleanchor="x")
    pictures.calm(chart, HEIGHT)
    return chart.update_layout(
        dragmode="lasso",
        hovermode="closest",
        uirevision="map",
        showlegend=True,
        legend=dict(orientation="h", yanchor="bottom", y=1.01, x=0, itemsizing="constant", bgcolor=TRANSPARENT),
        # Beside the plot, where it hides neither the legend nor a point.
        modebar=dict(orientation="v", bgcolor=TRANSPARENT),
        margin=dict(t=36, b=8, l=8, r=40),
    )


def _draw_groups(chart: go.Figure, places: np.ndarray, images: np.ndarray, groups: Groups, size: int) -> None:
    """A layer each, where they have names in the legend; else one layer, and the picture beside the pointer says it."""
    of, count = groups.of[images], len(groups.names)
    colours = PAIR if count == 2 else palette(count)
    if count > MOST_NAMED:
        rising = [[i / max(1, count - 1), colour] for i, colour in enumerate(colours)]
        marker = dict(color=of.astype(np.int32), colorscale=rising, cmin=0, cmax=count - 1, size=size, opacity=0.75)
        _points(chart, places, images, marker, "training images", False)
        return
    for number, name in enumerate(groups.names):
        here = of == number
        if here.any():
            marker = dict(color=colours[number], size=size, opacity=0.75)
            _points(chart, places[here], images[here], marker, line(name), True)


def _draw_amounts(
    chart: go.Figure,
    places: np.ndarray,
    images: np.ndarray,
    amounts: Amounts,
    size: int,
    scale: Scale | None,
    ends: tuple[str, str],
) -> None:
    """The strongest last, above the others."""
    of = amounts.of[images]
    order = np.argsort(np.abs(of), kind="stable")
    one, unit = (scale.one, scale.unit) if scale is not None else (1.0, "nats")
    words = f"← {ends[0]} · {ends[1]} → ({unit})" if amounts.signed else f"Loss on the given label ({unit})"
    marker = dict(
        color=(of[order] / one).astype(np.float32),
        colorscale=SIGNED if amounts.signed else RISING,
        cmin=-amounts.end / one if amounts.signed else 0,
        cmax=amounts.end / one,
        size=size,
        opacity=0.8,
        colorbar=dict(
            orientation="h",
            y=-0.09,
            yanchor="top",
            thickness=10,
            len=0.7,
            title=dict(text=markup(words), side="bottom"),
        ),
    )
    _points(chart, places[order], images[order], marker, "training images", False)


def _points(chart: go.Figure, places: np.ndarray, images: np.ndarray, marker: dict, name: str, named: bool) -> None:
    chart.add_scattergl(
        x=places[:, 0],
        y=places[:, 1],
        mode="markers",
        name=markup(name),
        customdata=images.astype(np.int32),
        marker=marker,
        hoverinfo="none",
        showlegend=named,
    )


def palette(count: int) -> list[str]:
    """Colours that are told apart on light and on dark: hues as far from each other as so many can be, and neighbours
    in number not neighbours in hue."""
    golden, colours = 0.618033988749895, []
    for number in range(count):
        hue = (0.58 + number * golden) % 1
        light = (0.5, 0.4, 0.6)[number % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.6)
        colours.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return colours


def axes_in_words(method: str, explained: tuple[float, ...] | None) -> tuple[str, str]:
    if explained is None:
        return f"{method.upper()} 1", f"{method.upper()} 2"
    first, second = (formats.percent(share) for share in explained[:2])
    return f"First component: {first} of the variance", f"Second component: {second}"
