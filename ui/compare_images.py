"""The training images that matter in all of several runs, in most, and in one alone, beside what chance gives."""

import functools
from collections.abc import Sequence

import numpy as np
import streamlit as st

from engine.analysis import overlap
from engine.analysis.overlap import Overlap, OverRuns
from ui import cards, download, formats, link, shell, ticks
from ui.run_choice import RunView
from ui.text import line, plain

SHOWN = 24  # images of a gallery
SIDES = {"helpful": "Most helpful", "harmful": "Most harmful"}
SMALL = 1e-6  # a chance that is not written out


def draw(a: RunView, of: OverRuns, names: Sequence[str], what: str = "runs") -> dict:
    """The lists of one target in several runs, held against each other: `names` of the runs, in their order, and
    `what` they are. Ticks are those of A. Returns what the link says."""
    side, k = choose()
    found = overlap.overlap(of, side, k)
    draw_counts(found, what)
    shown = np.concatenate([found.images(band)[:SHOWN] for band in ("all", "most", "one")])
    scale = formats.Scale.of(of.scores_SN[:, shown].ravel(), of.target.function)
    st.caption(
        f"{formats.sign_in_words(of.target.function)} Numbers: {plain(scale.unit)}; the mean over {what}, and ± its "
        f"standard error. Ticks are kept with run A, {plain(a.id)}."
    )
    for band in ("all", "most", "one"):
        if len(found.counts(band)):
            draw_band(a, of, found, band, names, scale, what)
    download.button(
        "All images as CSV",
        lambda: formats.csv(overlap.table(of, k, a.dataset)),
        f"over-{len(of.rows)}-runs-{formats.file_name(of.target.key)}.csv",
    )
    return {"side": formats.unless(side, overlap.SIDES[0]), "k": formats.unless(k, overlap.PROPOSED)}


def choose() -> tuple[str, int]:
    """Which side, and how long a list is."""
    link.follow("overlap-side", link.one_of("side", overlap.SIDES, overlap.SIDES[0]))
    link.follow("overlap-k", link.one_of("k", overlap.SIZES, overlap.PROPOSED))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        side = st.segmented_control(
            "List", list(SIDES), format_func=lambda side: SIDES[side], required=True, key="overlap-side"
        )
        k = st.selectbox("Images on a list", overlap.SIZES, key="overlap-k", width=150)
    return side, k


def draw_counts(found: Overlap, what: str) -> None:
    """On how many lists images stand, beside what chance would give; and how likely that is."""
    s, everywhere = len(found.on_SN), len(found.images("all"))
    st.table(
        [
            {
                f"Of the {found.k} most {found.side} images": band_in_words(found, band, what),
                "Images": f"{len(found.images(band)):,}",
                "By chance": by_chance(found.expected(band)),
            }
            for band in overlap.BANDS
            if len(found.counts(band))
        ]
    )
    shorter = [size for size in found.sizes if size < found.k]
    less = f" {formats.count(len(shorter), 'lists')} had fewer images with an effect." if shorter else ""
    st.caption(
        f"By chance: how many to expect were each list {found.k} of the {found.on_SN.shape[1]:,} training images at "
        f"random.{less} {likelihood(found, everywhere, s, what)}"
    )


def likelihood(found: Overlap, everywhere: int, s: int, what: str) -> str:
    """How often chance would do as much, and what it means."""
    if not everywhere:
        return f"No image is on all {s} lists: each of these {what} found its own."
    chance = found.chance
    often = "less than once in a million" if chance < SMALL else formats.percent(chance)
    return f"That as many as {everywhere} would be on all {s} by chance: {often}."


def band_in_words(found: Overlap, band: str, what: str) -> str:
    """«In all 4 runs», «in most: 3 of 4», «in one alone»."""
    s, counts = len(found.on_SN), found.counts(band)
    if band == "all":
        return f"In all {s} {what}"
    if band == "one":
        return "In one alone"
    some = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"In {'most' if band == 'most' else 'some'}: {some} of {s}"


def by_chance(expected: float) -> str:
    return f"{expected:,.1f}" if expected >= 0.05 or not expected else "< 0.1"


def draw_band(
    a: RunView, of: OverRuns, found: Overlap, band: str, names: Sequence[str], scale: formats.Scale, what: str
) -> None:
    """The images of one band as tiles."""
    images = found.images(band)
    st.header(f"{band_in_words(found, band, what)}: {formats.count(len(images), 'images')}")
    if not len(images):
        st.caption("None.")
        return
    lines, extra = [], []
    for image in images[:SHOWN].tolist():
        scores_S = of.scores_SN[:, image].tolist()
        mean = f"{scale.words(float(of.mean_N[image]))} ± {scale.size(float(of.error_N[image]))}"
        if band == "one":
            only = found.only_on(image)
            lines.append((line(f"{names[only]}: {scale.words(scores_S[only])}"), f"mean {mean}"))
        else:
            lines.append((mean, f"in {found.counts_N[image]} of {len(names)}"))
        extra.append([(line(name), scale.exact(score)) for name, score in zip(names, scores_S, strict=True)])
    key = f"{band}-{found.side}"
    ticks.tiles(a, cards.training(a, images[:SHOWN], lines, extra), key, 96, f"Effects on the targets of A, {a.id}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(images) > SHOWN:
            st.caption(f"The {SHOWN} strongest of {len(images):,}.", width="content")
        st.button(
            f"Tick all {len(images):,}" if len(images) > 1 else "Tick it",
            key=f"tick-{key}",
            icon=":material/check_box:",
            on_click=functools.partial(ticks.add, a, images.tolist()),
            **shell.acting(),
        )
