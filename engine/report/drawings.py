"""Charts as SVG in the page itself: no script, the page's own colours (report.css), in light, in dark and in print.

Every text goes into the drawing by `Markup.format`, which escapes it. Coordinates have one decimal, so that the same
numbers give the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from engine.analysis.wording import figure
from engine.visible import line as one_line

DRAWN = 300  # points of a curve

LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 40  # of the frame, for what stands around it

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Frame:
    """A drawing of `width` × `height`, and the numbers at the edges of its inside."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)

    def point(self, x: float, y: float) -> str:
        return f"{self.at_x(x):.1f},{self.at_y(y):.1f}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _number(value: float, step: float) -> str:
    """With the decimals that tell it from the next tick; a power of ten where that would be many."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4 or step >= 1e6:
        power = math.floor(math.log10(step))
        return f"{round(value / 10.0**power)}·10{str(power).translate(SUPERSCRIPT)}".replace("-", "−") if value else "0"
    return f"{value:,.{digits}f}".replace("-", "−")


def spread(values: Sequence[float], at_least: float = 0.0) -> tuple[float, float]:
    """Edges that hold all values with a margin, and that differ, whatever the values are."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or at_least or 1.0
    return low - margin, high + margin


def _framed(frame: Frame, title: str, x_words: str, y_words: str, inside: Markup) -> Markup:
    title, x_words, y_words = map(one_line, (title, x_words, y_words))
    lines = Markup()
    for value in (xs := ticks(*frame.x)):
        at, step = frame.at_x(value), xs[1] - xs[0] if len(xs) > 1 else 1.0
        lines += Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
            at, TOP, frame.height - BOTTOM
        )
        lines += Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            at, frame.height - BOTTOM + 15, _number(value, step)
        )
    for value in (ys := ticks(*frame.y)):
        at, step = frame.at_y(value), ys[1] - ys[0] if len(ys) > 1 else 1.0
        lines += Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
            LEFT, frame.width - RIGHT, at
        )
        lines += Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 6, at + 4, _number(value, step)
        )
    words = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
        (LEFT + frame.width - RIGHT) / 2, frame.height - 6, x_words
    )
    if y_words:
        words += Markup('<text transform="translate(12 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (TOP + frame.height - BOTTOM) / 2, y_words
        )
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}">{}{}{}</svg>').format(
        title, frame.width, frame.height, frame.width, lines, inside, words
    )


def curve(
    xs: Sequence[float], ys: Sequence[float], title: str, x_words: str, y_words: str, least: float | None = None
) -> Markup:
    """A line through points. `least`: what the vertical axis begins with, at most; else it begins near the lowest."""
    low, high = spread(ys, at_least=1e-9)
    low = low if least is None else min(least, min(ys))
    frame = Frame(460, 240, (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, min(xs) + 0.5), (low, high))
    points = " ".join(frame.point(x, y) for x, y in zip(xs, ys, strict=True))
    line = Markup('<polyline class="curve" points="{}"/>').format(points)
    if len(xs) <= 30:
        for x, y in zip(xs, ys, strict=True):
            line += Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(frame.at_x(x), frame.at_y(y))
    return _framed(frame, title, x_words, y_words, line)


def thinned(values: Sequence[float], most: int = DRAWN) -> tuple[list[float], list[float], int]:
    """(steps, values, how many steps a point is the mean of): one point for so many steps, at their middle."""
    every = -(-len(values) // most)
    groups = [values[i : i + every] for i in range(0, len(values), every)]
    middles = [i * every + (len(group) + 1) / 2 for i, group in enumerate(groups)]
    return middles, [sum(group) / len(group) for group in groups], every


def scatter(predicted: Sequence[float], actual: Sequence[float], title: str, unit: str) -> Markup:
    """What was predicted against what happened; on the dashed line both are the same."""
    edges = spread([*predicted, *actual], at_least=1e-9)
    frame = Frame(360, 280, edges, edges)
    inside = Markup('<line class="same" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        frame.at_x(edges[0]), frame.at_y(edges[0]), frame.at_x(edges[1]), frame.at_y(edges[1])
    )
    for x, y in zip(predicted, actual, strict=True):
        inside += Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(frame.at_x(x), frame.at_y(y))
    return _framed(frame, title, f"predicted change ({unit})", f"retrained ({unit})", inside)


def agreements(rows: Sequence[tuple[str, float | None, float | None, float | None]], title: str) -> Markup:
    """One line a target: name, LDS as a dot, and its interval. A target that did not vary has neither, and says so."""
    names, row = 190, 20
    ends = [end for _, value, low, high in rows for end in (value, low, high) if end is not None]
    low = min([0.0, *ends])
    width, height = 600, TOP + row * len(rows) + BOTTOM

    def at(value: float) -> float:
        return names + (value - low) / (1.0 - low) * (width - names - 60)

    inside = Markup()
    for value in ticks(low, 1.0):
        inside += Markup(
            '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text x="{0:.1f}" y="{3}" '
            'text-anchor="middle">{4}</text>'
        ).format(at(value), TOP, height - BOTTOM, height - BOTTOM + 15, figure(value, 1))
    for number, (name, value, first, last) in enumerate(rows):
        y = TOP + row * (number + 0.5)
        inside += Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(names - 10, y + 4, _short(name))
        if value is None:
            inside += Markup('<text x="{:.1f}" y="{:.1f}">did not vary</text>').format(at(low) + 6, y + 4)
            continue
        if first is not None and last is not None:
            inside += Markup('<line class="interval" x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
                at(first), at(last), y=y
            )
        inside += Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(at(value), y)
        inside += Markup('<text x="{}" y="{:.1f}">{}</text>').format(width - 48, y + 4, figure(value))
    words = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">LDS, with its 95 % interval</text>').format(
        (names + width - 60) / 2, height - 6
    )
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}">{}{}</svg>').format(
        one_line(title), width, height, width, inside, words
    )


def _short(name: str, most: int = 28) -> str:
    name = one_line(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
