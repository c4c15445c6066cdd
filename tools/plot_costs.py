"""Draws what a replay costs against each of its sizes: `python -m tools.plot_costs COSTS.json… --svg FILE`.

Of the files that `tools.bench_costs` writes, a panel an axis each; of those of `tools.bench_replay`, one of a compiled
step backwards against K in each precision. Points are measured; the line through them is the one of least squares, its
equation above it; the shaded limits are those of `tools.bench_costs`. No library: an SVG is text.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM, COLUMNS = 340, 250, 58, 50, 16, 42, 2

INKS = ("#1f5fa8", "#b3541e", "#2d7d4f")

NAMES = {
    "K": "targets, K",
    "T": "steps, T",
    "P": "parameters, P (thousands)",
    "B": "images a step, B",
}

WHAT = {
    "K": "a step backwards",
    "T": "a replay of 4 targets",
    "P": "a target-step",
    "B": "a target-step",
}

TARGETS_OF_T = 4

UNIT = {"P": 1e-3}  # by which a size is drawn


@dataclass
class Series:
    """Points of one colour, and what no program passes there."""

    name: str
    sizes: np.ndarray
    seconds: np.ndarray
    limits: dict[str, np.ndarray]

    def fit(self) -> tuple[float, float]:
        """a and b of a + b · size, in seconds, by least squares of relative errors: small sizes count too."""
        rows = np.stack([np.ones_like(self.sizes), self.sizes], 1) / self.seconds[:, None]
        a, b = np.linalg.lstsq(rows, np.ones(len(self.sizes)), rcond=None)[0]
        return float(a), float(b)


@dataclass
class Panel:
    title: str
    axis: str
    series: list[Series]


def panels_of(found: dict) -> list[Panel]:
    if "axes" not in found:
        return [panel_of_replay(found)]
    made = []
    for axis, points in sorted(found["axes"].items(), key=lambda each: "KTPB".index(each[0])):
        sizes = np.array([p["size"] for p in points], float) * UNIT.get(axis, 1)
        of_a_point = {"K": sizes, "T": TARGETS_OF_T * sizes}.get(axis, np.ones(len(sizes)))  # target-steps
        limits = {
            name: of_a_point * np.array([p[name] for p in points]) / found["rates"][name]
            for name in ("operations", "bytes")
        }
        seconds = np.array([p["seconds"] for p in points])
        title = f"{place(found)}: {WHAT[axis]}, s"
        made.append(Panel(title, axis, [Series("one operation at a time", sizes, seconds, limits)]))
    return made


def panel_of_replay(found: dict) -> Panel:
    """A compiled step backwards against K, of a file of `tools.bench_replay`."""
    series = []
    for precision in found["steps_per_target_k8_by_precision"]:
        named = {
            int(name.partition("_k")[2].partition("/")[0]): seconds
            for name, seconds in found["measured"]["seconds"].items()
            if name.startswith("target_compiled_k") and name.endswith(f"/{precision}")
        }
        ks = np.array(sorted(named), float)
        limits = {name: ks * seconds for name, seconds in found.get("limits", {}).get(precision, {}).items()}
        series.append(Series(f"compiled, {precision}", ks, ks * np.array([named[int(k)] for k in ks]), limits))
    return Panel(f"{place(found)}: {WHAT['K']}, s", "K", series)


def place(found: dict) -> str:
    """What was measured where, in a few words."""
    return f"{found['preset']}, {found['threads']} cores" if "CPU" in found["device"] else f"{found['preset']}, GPU"


# -- drawing


def drawn(panel: Panel) -> list[str]:
    """Elements of a panel at (0, 0)."""
    most_x = 1.04 * max(s.sizes.max() for s in panel.series)
    most_y = 1.08 * max(s.seconds.max() for s in panel.series)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> str:
        return f"{LEFT + wide * x / most_x:.1f},{TOP + high * (1 - min(y, most_y) / most_y):.1f}"

    out = [f'<text x="{LEFT}" y="14" font-weight="bold">{panel.title}</text>']
    for tick in ticks(most_x):
        x = LEFT + wide * tick / most_x
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    for tick in ticks(most_y):
        y = TOP + high * (1 - tick / most_y)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 8}" text-anchor="middle">{NAMES[panel.axis]}</text>')
    for i, series in enumerate(panel.series):
        ink, (a, b) = INKS[i % len(INKS)], series.fit()
        for dash, values in zip(("2,3", "6,3"), series.limits.values(), strict=False):
            line = " ".join(at(x, y) for x, y in zip(series.sizes, values, strict=True))
            out.append(f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-dasharray="{dash}"/>')
        out.append(f'<polyline points="{at(0, max(a, 0))} {at(most_x, a + b * most_x)}" fill="none" stroke="{ink}"/>')
        out += [
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{ink}"/>'
            for p in (at(x, y) for x, y in zip(series.sizes, series.seconds, strict=True))
        ]
        said = f"{series.name}: {equation(a, b, panel.axis)}"
        out.append(f'<text x="{LEFT + 4}" y="{TOP - 20 + 12 * i}" fill="{ink}">{said}</text>')
    return out


def equation(a: float, b: float, axis: str) -> str:
    """For people: milliseconds."""
    size = "P/1000" if axis == "P" else axis
    return f"{1e3 * a:.3g} + {1e3 * b:.3g} {size} ms"


def ticks(most: float) -> list[float]:
    """A few round numbers from 0."""
    step = 10 ** np.floor(np.log10(most / 2))
    step *= next(f for f in (1, 2, 5, 10) if most / (f * step) <= 5)
    return [float(f"{i * step:.6g}") for i in range(int(most / step) + 1)]


def figure(panels: list[Panel]) -> str:
    rows = -(-len(panels) // COLUMNS)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{rows * HEIGHT + 24}" '
    out = [
        head + 'font-family="sans-serif" font-size="11" fill="#333">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for i, panel in enumerate(panels):
        out.append(f'<g transform="translate({i % COLUMNS * WIDTH},{i // COLUMNS * HEIGHT})">')
        out += [*drawn(panel), "</g>"]
    said = "Lines: least squares. Limits of the machine: by operations dotted, by bytes dashed."
    out += [f'<text x="{LEFT}" y="{rows * HEIGHT + 14}">{said}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="of tools.bench_costs and tools.bench_replay")
    parser.add_argument("--svg", type=Path, required=True)
    options = parser.parse_args()
    panels = [panel for path in options.files for panel in panels_of(json.loads(path.read_text()))]
    options.svg.write_text(figure(panels))


if __name__ == "__main__":
    main()
