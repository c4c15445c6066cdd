"""A folder of small drawings, for pictures of the app: six things in random colours, places and sizes.

Free to show anywhere, for nobody made them but this script. A few lie in a folder that is not theirs.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, FINE = 40, 4  # pixels of a file, and how many times finer it is drawn

GROUNDS = ((250, 247, 240), (226, 238, 247), (235, 243, 229), (247, 233, 236), (240, 236, 250), (44, 56, 84))

INKS = ((196, 62, 52), (222, 150, 38), (64, 132, 84), (52, 104, 176), (126, 80, 160), (230, 196, 60), (70, 160, 170))

Points = list[tuple[float, float]]


def _ring(n: int, *radii: float, turn: float = -math.pi / 2) -> Points:
    """n corners around the middle, their distances from it taken in turn from `radii`."""
    angles = [turn + 2 * math.pi * i / n for i in range(n)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def _heart() -> Points:
    ts = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(ts) ** 3
    y = 13 * np.cos(ts) - 5 * np.cos(2 * ts) - 2 * np.cos(3 * ts) - np.cos(4 * ts)
    return [(float(a) / 17, float(-b) / 17) for a, b in zip(x, y, strict=True)]


def _moon() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 40)]
    inner = [(0.35 + 0.75 * math.cos(a), 0.75 * math.sin(a)) for a in np.linspace(1.62 * math.pi, 0.38 * math.pi, 40)]
    return outer + inner


# Each thing: polygons in a square from −1 to 1, and which of its two inks each has.
THINGS: dict[str, list[tuple[Points, int]]] = {
    "flower": [([(x + 0.55 * c, y + 0.55 * s) for x, y in _ring(24, 0.42)], 0) for c, s in _ring(6, 1.0)]
    + [(_ring(24, 0.32), 1)],
    "heart": [(_heart(), 0)],
    "house": [([(-0.7, -0.1), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9)], 0), ([(-1, -0.1), (0, -1), (1, -0.1)], 1)],
    "moon": [(_moon(), 0)],
    "star": [(_ring(10, 1.0, 0.42), 0)],
    "tree": [
        ([(-0.14, 0.3), (0.14, 0.3), (0.14, 1), (-0.14, 1)], 1),
        ([(-0.8, 0.45), (0, -0.45), (0.8, 0.45)], 0),
        ([(-0.62, -0.1), (0, -1), (0.62, -0.1)], 0),
    ],
}


def drawing(thing: str, rng: np.random.Generator) -> Image.Image:
    size = SIDE * FINE
    ground = GROUNDS[rng.integers(len(GROUNDS))]
    inks = [INKS[i] for i in rng.permutation(len(INKS))[:2]]
    image = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(image)
    scale, turn = size * rng.uniform(0.24, 0.4), rng.uniform(-0.35, 0.35)
    x0, y0 = size / 2 + rng.uniform(-0.12, 0.12, 2) * size
    for points, ink in THINGS[thing]:
        turned = [
            (
                x0 + scale * (x * math.cos(turn) - y * math.sin(turn)),
                y0 + scale * (x * math.sin(turn) + y * math.cos(turn)),
            )
            for x, y in points
        ]
        draw.polygon(turned, fill=inks[ink])
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(root: Path, each: int = 160, mislabelled: int = 24) -> Path:
    """ROOT/THING/THING-NUMBER.png; of all of them, `mislabelled` in another thing's folder."""
    rng, names = np.random.default_rng(0), list(THINGS)
    wrong = set(rng.choice(each * len(names), mislabelled, replace=False).tolist())
    for k, thing in enumerate(names):
        (root / thing).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            is_wrong = k * each + number in wrong
            folder = names[(k + 1 + int(rng.integers(len(names) - 1))) % len(names)] if is_wrong else thing
            (root / folder).mkdir(exist_ok=True)
            drawing(thing, rng).save(root / folder / f"{thing}-{number:03d}.png")
    return root
