"""Training and test images as tiles, and charts. Encoded once, cached with a bound."""

import base64
import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from engine.analysis.stability import Place
from engine.config import Recipe
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.errors import DataError
from engine.jobs import preview
from engine.runs import uploads
from engine.runs.manifest import Manifest
from engine.targets import target_function
from ui import formats
from ui.text import line, markup

Made = TypeVar("Made")

DRAWN = 1200  # points of a curve that are worth sending every second
EPOCHS = 6  # whose augmentations are shown
SMALL = 32  # pixels of a side, of an image that is shown small beside another
COLOURS, GREY = ("#3f83c4", "#cf8632", "#4a9d78"), "#8a939c"  # to be told apart on light and on dark
MOST_CLASSES = 100  # of a matrix of classes
SIGNED = [[0, "#2c6cb0"], [0.5, "#f3f3f1"], [1, "#c4701c"]]  # below zero, zero, above


def dataset(name: str) -> datasets_base.Dataset:
    """A data set that is ready. Pages decode no files: a name that comes in a link or with another's run must not
    make the server read a folder."""
    if not dataset_registry.is_prepared(name):
        raise DataError(
            f"The data set {name} is not prepared on this machine.", "Add it on the page Data, and come back."
        )
    with st.spinner("Reading the images …"):
        return dataset_registry.load(name)


def dataset_of(record: Manifest) -> datasets_base.Dataset:
    """A run's data set. Raises `DataError` where its files are not those that the run was made with: what the scores
    are of is then no longer what would be shown."""
    found = dataset(record.config.dataset)
    remedy = "Restore its files, and look at them again on the page Data; or start a new run."
    dataset_registry.require_same(found, record.config.dataset, record.data_fingerprint, "this run", remedy)
    return found


def image_url(dataset: datasets_base.Dataset, split: str, index: int) -> str:
    """PNG of an image as a data URL; the browser enlarges it with its pixels kept square.

    Of the data set that the page has in hand, never of what its name stands for by now: it may be prepared anew
    while the page is drawn.
    """
    return _urls.get((dataset.name, dataset.fingerprint, split, index), lambda: data_url(dataset.images(split)[index]))


def small_url(dataset: datasets_base.Dataset, split: str, index: int) -> str:
    """`image_url`, of every so many pixels of an image with more than `SMALL` on a side."""
    step = -(-max(dataset.image_shape[:2]) // SMALL)
    if step == 1:
        return image_url(dataset, split, index)
    return _urls.get(
        (dataset.name, dataset.fingerprint, split, index, step),
        lambda: data_url(np.ascontiguousarray(dataset.images(split)[index][::step, ::step])),
    )


class _Recent(Generic[Made]):
    """What was made lately, by what it was made of: at most `most`. What makes it is not kept, so that files that are
    deleted are not held open, and what is made is not copied: nobody changes it."""

    def __init__(self, most: int):
        self._most, self._made, self._mutex = most, OrderedDict[tuple, Made](), threading.Lock()

    def get(self, key: tuple, make: Callable[[], Made]) -> Made:
        with self._mutex:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = make()
        with self._mutex:
            self._made[key] = made
            if len(self._made) > self._most:
                self._made.popitem(last=False)
        return made


_urls = _Recent[str](4000)
_epochs = _Recent[np.ndarray](64)


def data_url(image: np.ndarray) -> str:
    """PNG of an image, uint8 [H, W, C]."""
    return "data:image/png;base64," + base64.b64encode(uploads.png(image)).decode()


def alt(dataset: datasets_base.Dataset, split: str, index: int) -> str:
    label = dataset.classes[dataset.labels(split)[index]]
    file = dataset.file_name(split, index)
    return f"{'Training' if split == 'train' else 'Test'} image {index}, label {label}{f', {file}' if file else ''}"


def picture(dataset: datasets_base.Dataset, split: str, index: int) -> str:
    """HTML of one image with its alternative text."""
    return _full_width(image_url(dataset, split, index), alt(dataset, split, index))


def _full_width(url: str, alt_text: str) -> str:
    return (
        f'<img src="{url}" alt="{markup(alt_text)}" '
        'style="width:100%;image-rendering:pixelated;border-radius:4px;display:block">'
    )


def array_picture(image: np.ndarray, alt_text: str, size: int) -> str:
    """HTML of an image that is in no data set, uint8 [H, W, C]."""
    return (
        f'<img src="{data_url(image)}" alt="{markup(alt_text)}" width="{size}" '
        'style="image-rendering:pixelated;border-radius:4px;display:block">'
    )


def augmented(dataset: datasets_base.Dataset, recipe: Recipe, indices: Sequence[int], size: int = 56) -> None:
    """A row a training image: itself, and as the first epochs show it to the model; smaller in a narrow window."""
    # Only what augmentation depends on, so that other settings make no image anew.
    alone, rows = Recipe(seed=recipe.seed, augment=recipe.augment), []
    epochs = [
        _epochs.get(
            (dataset.name, dataset.fingerprint, recipe.seed, recipe.augment, tuple(indices), epoch),
            functools.partial(preview.augmented, dataset, alone, tuple(indices), epoch),
        )
        for epoch in range(min(EPOCHS, recipe.epochs))
    ]
    for row, index in enumerate(indices):
        cells = [picture(dataset, "train", index)]
        for number, images in enumerate(epochs, 1):
            words = f"{alt(dataset, 'train', index)}, as epoch {number} shows it to the model"
            cells.append(_full_width(data_url(images[row]), words))
        drawn = "".join(f'<div style="flex:1 1 0;max-width:{size}px">{cell}</div>' for cell in cells)
        rows.append(f'<div style="display:flex;gap:0.3rem;margin-bottom:0.3rem">{drawn}</div>')
    st.html("".join(rows))


def plain_tiles(dataset: datasets_base.Dataset, split: str, indices: list[int], size: int = 56) -> None:
    tiles = "".join(f'<div style="width:{size}px">{picture(dataset, split, i)}</div>' for i in indices)
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:0.3rem">{tiles}</div>')


# Figures that are drawn anew at every click are made of one layout: each `update_` of Plotly's takes milliseconds.


def histogram(scores_N: np.ndarray, scale: formats.Scale, low: float | None, high: float | None) -> go.Figure:
    """Dragging along it selects a range, in multiples of `scale.one`; that from `low` to `high`, scores, is shaded."""
    bars, edges = _bars_of_counts(scores_N, scale)
    layout = _of_counts(f"Score ({markup(scale.unit)})")
    if low is not None or high is not None:
        x0 = edges[0] if low is None else low / scale.one
        x1 = edges[-1] if high is None else high / scale.one
        look = dict(fillcolor=COLOURS[1], opacity=0.2, line=dict(width=0))
        layout["shapes"].append(dict(type="rect", x0=x0, x1=x1, y0=0, y1=1, xref="x", yref="y domain", **look))
    return go.Figure(bars, layout | dict(dragmode="select", selectdirection="h"))


def rises(rises_M: np.ndarray, scale: formats.Scale) -> go.Figure:
    """How the self-influence of M images is distributed, in multiples of `scale.one`."""
    bars, _ = _bars_of_counts(rises_M, scale)
    layout = _of_counts(f"Self-influence ({markup(scale.unit)})")
    for axis in ("xaxis", "yaxis"):
        layout[axis]["fixedrange"] = True
    return go.Figure(bars, layout)


def _bars_of_counts(scores_N: np.ndarray, scale: formats.Scale) -> tuple[go.Bar, np.ndarray]:
    """How many images have scores of each size, and the edges of the bars."""
    counts, edges = np.histogram(np.asarray(scores_N, np.float64) / scale.one, bins=81)
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker=dict(line=dict(width=0), color=COLOURS[0]),
        hovertemplate=f"%{{x:.{scale.decimals}f}} {markup(scale.unit)}<br>%{{y:,}} images<extra></extra>",
    )
    return bars, edges


def _of_counts(title: str) -> dict:
    """The layout of `_bars_of_counts`, with a line at zero."""
    zero = dict(type="line", x0=0, x1=0, y0=0, y1=1, xref="x", yref="y domain", line=dict(width=1, dash="dot"))
    return dict(
        **_calm(240),
        shapes=[zero],
        xaxis=dict(title=dict(text=title), exponentformat="power"),
        # Most scores are near zero: on a linear axis the tails, which matter, would not show.
        yaxis=dict(title=dict(text="Training images"), type="log", dtick=1),
    )


def probabilities(shares: np.ndarray, classes: tuple[str, ...]) -> str:
    """A table in HTML, with a bar a class, from the first at the top; of many classes the likeliest. No chart of
    Plotly's: the target's panel has it, and each click on another target would wait for that to be drawn."""
    name = formats.of_which_probabilities(classes)
    classes, shares = formats.likeliest(classes, shares)
    rows = (
        f'<tr><th scope="row">{markup(label)}</th>'
        f'<td class="share"><div style="width:{100 * share:.2f}%;background:{COLOURS[0]}"></div></td>'
        f"<td>{formats.percent(share)}</td></tr>"
        for label, share in zip(classes, shares.tolist(), strict=True)
    )
    return f'<table class="probabilities" aria-label="{name}"><tbody>{"".join(rows)}</tbody></table>'


def confusion(counts: np.ndarray, classes: tuple[str, ...]) -> go.Figure:
    """Counts [true, predicted]; the colour is the share of its row, so that rare mistakes show."""
    names = list(map(markup, classes))
    shares = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(range(len(classes))),
            y=list(range(len(classes))),
            colorscale=[[0, "#f3f3f1"], [1, "#2c6cb0"]],
            zmin=0,
            zmax=1,
            showscale=False,
            text=counts,
            texttemplate="%{text:,}",
            xgap=1,
            ygap=1,
            customdata=[
                [(t, p, n) for p, n in zip(names, row, strict=True)]
                for t, row in zip(names, counts.tolist(), strict=True)
            ],
            hovertemplate="true: %{customdata[0]}<br>predicted: %{customdata[1]}<br>%{customdata[2]:,} test images"
            "<extra></extra>",
        )
    )
    for update, title in ((figure.update_xaxes, "Predicted label"), (figure.update_yaxes, "True label")):
        update(tickvals=list(range(len(classes))), ticktext=names, title=title, fixedrange=True, showgrid=False)
    return calm(_clickable(figure), 90 + 26 * len(classes))


def heat(matrix: np.ndarray, rows: list[str], columns: list[str], function: str, chosen: tuple[int, int]) -> go.Figure:
    """Scores on a target function, in shares of the largest of each row: the blue of what helps, the orange of what
    harms. The cell `chosen`, (row, column), is framed; every cell can be clicked and has its number written in it, as a
    multiple of the power of ten beside its row's name."""
    scales = [formats.Scale.of(row, function) for row in matrix]
    told = [[scale.with_unit(value) for value in row] for scale, row in zip(scales, matrix, strict=True)]
    figure = _signed(target_function(function).harmful_sign * matrix, rows, columns, told, 1)
    texts, powers = zip(*map(formats.with_power, matrix), strict=True)
    figure.update_traces(text=texts, texttemplate="%{text}")
    names = [f"{markup(row).replace(' of ', ' of<br>', 1)} ({power})" for row, power in zip(rows, powers, strict=True)]
    figure.update_yaxes(ticktext=names)
    row, column = chosen
    figure.add_shape(
        type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5, line=dict(color=GREY, width=3)
    )
    return calm(_clickable(figure), 110 + 36 * len(rows))


def side_by_side(
    harm_MK: np.ndarray, rows: list[str], columns: list[str], told: list[list[str]], images: list[str]
) -> go.Figure:
    """What M training images did to K targets, above zero where it harms: the blue of what helps, the orange of what
    harms, in shares of each target's largest. `told` are the words of each cell, `images` the addresses of pictures,
    which stand at the ends of the rows."""
    figure = _signed(harm_MK, rows, columns, told, 0)
    for row, source in enumerate(images):
        place = dict(xref="paper", x=1, xanchor="left", yref="y", y=row, yanchor="middle")
        figure.add_layout_image(source=source, sizex=0.1, sizey=0.92, sizing="contain", **place)
    calm(figure, 110 + 30 * len(rows))
    return figure.update_layout(margin_r=44)


def _signed(matrix: np.ndarray, rows: list[str], columns: list[str], told: list[list[str]], across: int) -> go.Figure:
    """A heat map of signed values in shares of the largest of each column (`across` 0) or row (1)."""
    rows, columns = list(map(markup, rows)), list(map(markup, columns))
    largest = np.abs(matrix).max(across, keepdims=True)
    figure = go.Figure(
        go.Heatmap(
            z=matrix / np.where(largest > 0, largest, 1),
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            zmin=-1,
            zmax=1,
            colorscale=SIGNED,
            showscale=False,
            xgap=1,
            ygap=1,
            customdata=[
                [(r, c, markup(words)) for c, words in zip(columns, row, strict=True)]
                for r, row in zip(rows, told, strict=True)
            ],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=list(range(len(columns))), ticktext=columns, side="top", fixedrange=True, showgrid=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed", fixedrange=True, showgrid=False
    )
    return figure


def _clickable(figure: go.Figure) -> go.Figure:
    """Plotly selects no cells of a heat map: unseen marks at their centres are chosen in their place."""
    cells = figure.data[0]
    rows, columns = (at.ravel() for at in np.indices(np.shape(cells.z)))
    unseen = dict(marker=dict(opacity=0))
    figure.add_scatter(
        x=columns,
        y=rows,
        mode="markers",
        marker=dict(size=20, opacity=0),
        selected=unseen,
        unselected=unseen,
        hovertemplate=cells.hovertemplate,
        customdata=[cells.customdata[r][c] for r, c in zip(rows, columns, strict=True)],
    )
    cells.update(hoverinfo="skip", hovertemplate=None)
    figure.update_xaxes(range=(-0.5, columns.max() + 0.5), zeroline=False)  # marks would widen them
    figure.update_yaxes(range=(rows.max() + 0.5, -0.5), autorange=None, zeroline=False)
    return figure.update_layout(hovermode="closest", hoverdistance=-1)  # the nearest centre, however far


def curve(values: list[float], title: str, unit: str) -> go.Figure:
    """One value a training step, thinned to what can be seen."""
    every = len(values) // DRAWN + 1
    steps = range(len(values), 0, -every)[::-1]  # the newest always
    figure = go.Figure(
        go.Scatter(
            x=list(steps),
            y=[values[t - 1] for t in steps],
            mode="lines",
            hovertemplate=f"step %{{x}}<br>%{{y:.4g}} {unit}<extra></extra>",
        )
    )
    figure.update_xaxes(title="Step")
    figure.update_yaxes(title=f"{title} ({unit})", rangemode="tozero")
    return calm(figure if values else _nothing_yet(figure), 240)


def accuracies(points: list[tuple[int, float]]) -> go.Figure:
    """Shares of test images that are right, after so many steps each."""
    steps, shares = zip(*points, strict=True)
    figure = go.Figure(
        go.Scatter(
            x=steps,
            y=[100 * share for share in shares],
            mode="lines+markers",
            hovertemplate="after step %{x}<br>%{y:.1f} % right<extra></extra>",
        )
    )
    figure.update_xaxes(title="Step", rangemode="tozero")
    figure.update_yaxes(title="Right", ticksuffix=" %", nticks=6, autorangeoptions=dict(clipmin=0, clipmax=100))
    return calm(figure, 240)


def agreement(report: dict, key: str | None, words: str) -> go.Figure:
    """Predicted against actual change of one target, or of all, with the line of equality; `words` are those of the
    target function."""
    figure, unit, function = go.Figure(), markup(report["unit"]), markup(words)
    shown = [t for t in report["targets"] if key in (None, t["key"])]
    values = [v for t in shown for v in (*t["predicted"], *t["actual"])]
    for target in shown:
        figure.add_scatter(
            x=target["predicted"],
            y=target["actual"],
            mode="markers",
            name=markup(target["title"]),
            customdata=list(range(len(target["actual"]))),
            marker=dict(size=6, opacity=0.75, color=COLOURS[0]),
            hovertemplate=f"{markup(target['title'])}<br>subset %{{customdata}}<br>predicted %{{x:.3g}} {unit}"
            f"<br>retrained %{{y:.3g}} {unit}<extra></extra>",
        )
    figure.update_xaxes(title=f"Predicted change of the {function} ({unit})")
    figure.update_yaxes(title=f"Change after retraining ({unit})")
    return calm(_equal(figure, values), 420)


def against(
    a: np.ndarray,
    b: np.ndarray,
    indices: np.ndarray,
    unit: str,
    chosen: int | None = None,
    unit_b: str | None = None,
) -> go.Figure:
    """Two runs' scores of the same training images, with the line of equality; without it where those of B count in a
    unit of their own, `unit_b`. The image `chosen` is marked; every point can be chosen."""
    figure, unit, of_b = go.Figure(), markup(unit), markup(unit if unit_b is None else unit_b)
    unmarked = dict(marker=dict(opacity=0.5))  # which point is chosen is drawn by a mark of its own
    figure.add_scatter(
        x=a,
        y=b,
        mode="markers",
        marker=dict(size=5, opacity=0.5, color=COLOURS[0]),
        selected=unmarked,
        unselected=unmarked,
        customdata=indices,
        hovertemplate=f"train:%{{customdata}}<br>A %{{x:.3g}} {unit}<br>B %{{y:.3g}} {of_b}<extra></extra>",
    )
    at = np.flatnonzero(indices == chosen) if chosen is not None else []
    if len(at):
        figure.add_scatter(
            x=a[at],
            y=b[at],
            mode="markers",
            marker=dict(size=16, color=COLOURS[1], symbol="circle-open", line_width=3),
            hoverinfo="skip",
        )
    figure.update_xaxes(title=f"Score in A ({unit})")
    figure.update_yaxes(title=f"Score in B ({of_b})")
    if unit_b is not None:
        figure.update_xaxes(exponentformat="power", zeroline=True)
        figure.update_yaxes(exponentformat="power", zeroline=True)
        return calm(figure, 460)
    return calm(_equal(figure, [*a.tolist(), *b.tolist()]), 460)


def _equal(figure: go.Figure, values: list[float]) -> go.Figure:
    """Both axes from the least value to the greatest, a little beyond, a unit as long on one as on the other, and the
    line on which both are the same."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    beyond = 0.04 * (high - low) or abs(high) or 1.0
    ends = [low - beyond, high + beyond]
    figure.add_shape(
        type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=dict(color=GREY, dash="dash", width=1)
    )
    figure.update_xaxes(range=ends, exponentformat="power", constrain="domain", zeroline=True)
    figure.update_yaxes(range=ends, exponentformat="power", constrain="domain", scaleanchor="x")
    return figure


def norms(score_set: dict, marked: int, place: Place) -> go.Figure:
    """The adjoint's norm before each step that was looked at, one line a target; that of number `marked` in colour."""
    figure, looks = go.Figure(), score_set["norm_steps"]
    order = [i for i in range(len(score_set["targets"])) if i != marked] + [marked]  # above the others
    for i in order:
        target = score_set["targets"][i]
        figure.add_scatter(
            x=looks,
            y=target["norms"],
            mode="lines",
            name=markup(target["title"]),
            line=dict(color=COLOURS[0] if i == marked else GREY, width=2.5 if i == marked else 1),
            opacity=1 if i == marked else 0.5,
            hovertemplate=f"{markup(target['title'])}<br>before step %{{x}}<br>norm %{{y:.3g}}<extra></extra>",
        )
    ticks = _one_two_five([norm for target in score_set["targets"] for norm in target["norms"]])
    figure.update_yaxes(
        title="Norm of the adjoint", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    return calm(_over_steps(figure, place), 260)


def curvatures(report: dict, place: Place) -> go.Figure:
    """Largest curvature × rate at the steps that were looked at, with the limit of the optimizer where it is known."""
    figure = go.Figure()
    figure.add_scatter(
        x=report["steps"],
        y=report["values"],
        mode="lines+markers",
        line=dict(color=COLOURS[0], width=2.5),
        hovertemplate="step %{x}<br>curvature × rate %{y:.3g}<extra></extra>",
    )
    if report["limit"] is not None:
        figure.add_hline(y=report["limit"], line=dict(color=COLOURS[1], dash="dash", width=2))
        figure.add_annotation(
            xref="paper", x=1, y=report["limit"], yanchor="bottom", xanchor="right", showarrow=False, text="limit"
        )
    top = max([value for value in report["values"] if value is not None] + [report["limit"] or 0])
    figure.update_yaxes(title="Curvature × rate", range=[0, 1.15 * top or 1])
    return calm(_over_steps(figure, place), 220)


def _over_steps(figure: go.Figure, place: Place) -> go.Figure:
    """Both charts of the smoothness in time over the same axis, with what is chaotic shaded."""
    steps = place.steps
    if place.broken:
        figure.add_vrect(
            x0=place.first, x1=place.start, fillcolor=COLOURS[1], opacity=0.16, line_width=0, layer="below"
        )
    return figure.update_xaxes(title="Training step", range=[-0.01 * steps, 1.01 * steps])


def _one_two_five(values: list[float]) -> list[float]:
    """Marks of a logarithmic axis that read as numbers: 1, 2, 5, 10 …; of many orders of magnitude, powers alone."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return []
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    if high - low > 3:
        return [10.0**k for k in range(low, high + 1, (high - low) // 6 + 1)]
    marks = [m * 10.0**k for k in range(low, high + 1) for m in (1, 2, 5)]
    return [mark for mark in marks if min(positive) / 2 <= mark <= 2 * max(positive)]


def meters(lines: dict[str, tuple[list, list]], limit: str, powers: bool = False) -> go.Figure:
    """Bytes over minutes; the line named `limit` is grey and dotted. `powers` for sizes of different orders."""
    figure, colours = go.Figure(), _colours(lines, limit)
    for name, (minutes, sizes) in lines.items():
        figure.add_scatter(
            x=minutes,
            y=[value or None for value in sizes] if powers else sizes,  # a logarithmic axis has no zero
            name=name,
            mode="lines" if len(minutes) > 1 else "markers",  # one point makes no line
            text=[formats.size(value) for value in sizes],
            line=dict(color=colours[name], dash="dot" if name == limit else "solid"),
            hovertemplate=f"{name}: %{{text}}<br>after %{{x:.1f}} min<extra></extra>",
        )
    found = [value for _, sizes in lines.values() for value in sizes if value]
    ticks = _powers(found) if powers else _even(found)
    figure.update_xaxes(title="Minutes", rangemode="tozero")
    figure.update_yaxes(
        tickvals=ticks,
        ticktext=[formats.size(tick) for tick in ticks],
        **(dict(type="log") if powers else dict(rangemode="tozero")),
    )
    return calm(figure if found else _nothing_yet(figure), 200)


def _nothing_yet(figure: go.Figure) -> go.Figure:
    """A chart that waits for its first value: Plotly would number its axes, and nothing is at those numbers."""
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(range=[0, 1], tickmode="array", tickvals=[], ticktext=[], type="linear")
    return figure.add_annotation(text="Nothing yet", xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)


def legend(values: dict[str, str], limit: str) -> None:
    """The lines of `meters` with what each says now; it wraps where Plotly's own would shrink the chart."""
    colours = _colours(values, limit)
    marks = {name: "┅" if name == limit else "━" for name in values}
    st.html(
        '<p style="margin:0;font-size:0.875rem;line-height:1.6">'
        + "".join(
            f'<span style="white-space:nowrap;margin-right:1rem"><b style="color:{colours[name]}">{marks[name]}</b> '
            f"{markup(name)} {markup(value)}</span> "
            for name, value in values.items()
        )
        + "</p>"
    )


def _colours(names, limit: str) -> dict[str, str]:
    return {limit: GREY} | dict(zip((name for name in names if name != limit), COLOURS))


def _even(values: list[float]) -> list[float]:
    """Round numbers from zero to the largest value, four steps or fewer; none where there are no values."""
    if not values:
        return []
    top = max(values)
    unit = 10 ** math.floor(math.log10(top))
    step = max(1, next(m * unit for m in (0.25, 0.5, 1, 2.5) if m * unit * 4 >= top))  # there is no half of a byte
    return [i * step for i in range(int(top / step) + 1)]


def _powers(values: list[float]) -> list[int]:
    """Powers of ten from the smallest value to the largest, six or fewer; none where there are no values."""
    if not values:
        return []
    low, high = (math.floor(math.log10(f(values))) for f in (min, max))
    return [10**k for k in range(low, high + 2, (high - low) // 5 + 1)]


def calm(figure: go.Figure, height: int) -> go.Figure:
    """Without a legend, and with narrow margins."""
    figure.update_layout(**_calm(height))
    return figure


def _calm(height: int) -> dict:
    return dict(height=height, margin=dict(l=8, r=8, t=12, b=8), showlegend=False, bargap=0)


def chart(figure: go.Figure, key: str, alt: str, on_select=None, selection_mode=("points",)) -> None:
    """`alt` says in words what the chart shows. `on_select` is called when a part of it is chosen."""
    chosen = {} if on_select is None else {"on_select": on_select, "selection_mode": selection_mode}
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=line(alt), **chosen)
