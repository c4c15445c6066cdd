"""Themes of a target as the page shows them: each with its pictures, what it is in facts, and what can be done with it;
and what a retraining without it gave, beside what its scores said."""

import functools
from dataclasses import dataclass

import numpy as np
import streamlit as st

from engine import files
from engine.analysis import certainty, seeds, trust
from engine.analysis import themes as theme_finding
from engine.analysis.features import Features
from engine.analysis.scale import verbs
from engine.analysis.target_view import TargetView
from engine.analysis.themes import AUTOMATIC, MOST_THEMES, SIDES, TOP, Side, Theme, Themes
from engine.jobs.what_if import WhatIf
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage
from ui import cards, features_button, folding, formats, link, paging, seed_group, shell, ticks
from ui.run_choice import RunView
from ui.text import line, plain

HEADINGS = {
    "harms": "Harmful themes",
    "helps": "Helpful themes",
    "raises": "Themes that raise it",
    "lowers": "Themes that lower it",
}
SHOWN = {"both": "Both", "harmful": "Harmful", "helpful": "Helpful"}
TOPS = (50, 100, TOP, 500)
AS_FIT = 0  # the choice of as many themes as fit
FIRST = 10  # images of a theme that are shown at once
SIZE = 84  # CSS pixels of a tile
SILHOUETTE = (
    "Near 1: images are far nearer to their own theme than to the next; near 0: themes run into each other, and where "
    "one ends is a matter of convenience."
)


@dataclass(frozen=True)
class Choices:
    """What the row says: the sides shown, the images of a side that are grouped, and the themes of a side (`AS_FIT`:
    as many as fit)."""

    side: str = "both"
    top: int = TOP
    count: int = AS_FIT


# -- what is asked for


def choose(run: RunView) -> Choices:
    """The link's, or what a person chose before on this run: whoever comes back from a retraining finds the theme."""
    kept = f"themes-of-{run.id}"
    before = st.session_state.get(kept, Choices())
    link.follow(f"{kept}-side", link.one_of("side", SHOWN, before.side))
    link.follow(f"{kept}-top", link.one_of("top", TOPS, before.top))
    link.follow(f"{kept}-count", link.one_of("themes", (AS_FIT, *range(1, MOST_THEMES + 1)), before.count))
    chosen = Choices(*(st.session_state[f"{kept}-{name}"] for name in ("side", "top", "count")))
    with folding.row("Grouping", _in_words(chosen)):
        st.segmented_control("Effect", list(SHOWN), key=f"{kept}-side", required=True, format_func=SHOWN.__getitem__)
        st.selectbox("Images a side", TOPS, key=f"{kept}-top", width=140)
        st.selectbox(
            "Themes a side",
            (AS_FIT, *range(1, MOST_THEMES + 1)),
            key=f"{kept}-count",
            width=180,
            format_func=lambda count: f"As many as fit, up to {AUTOMATIC}" if count == AS_FIT else str(count),
            help="As many as fit: the number whose mean silhouette is largest (docs/themes.md).",
        )
    st.session_state[kept] = chosen
    return chosen


def _in_words(chosen: Choices) -> list[str]:
    said = [f"{chosen.side} only"] if chosen.side != "both" else []
    said += [f"{chosen.top} images a side"] if chosen.top != TOP else []
    return said + ([f"{formats.count(chosen.count, 'themes')} a side"] if chosen.count != AS_FIT else [])


def keep_link(run: RunView, ref: TargetRef, chosen: Choices) -> None:
    first = Choices()
    link.keep(
        run=run.id,
        target=ref.key,
        side=formats.unless(chosen.side, first.side),
        top=formats.unless(chosen.top, first.top),
        themes=formats.unless(chosen.count, first.count),
    )


# -- what is shown


@dataclass(frozen=True)
class Shown:
    """What all themes of a page have in common: `scale` is that of their sums, `effects` what single images did."""

    run: RunView
    ref: TargetRef
    scale: formats.Scale
    effects: cards.Effects
    others: tuple[Manifest, ...] = ()  # trainings of the run's group, with other seeds, that have scores of the target

    def verb(self, side: str) -> str:
        """What images of this side did to the target."""
        positive, negative = verbs(self.ref.function)
        harmful_first = self.scale.function.harmful_sign > 0
        return positive if (side == "harmful") == harmful_first else negative


def draw(run: RunView, ref: TargetRef, view: TargetView, found: Themes, chosen: Choices) -> None:
    """The themes of both sides, or of one, in one unit."""
    themes, scores_N = found.all(), run.manifest.score_sets.row(ref)
    of_images = [scores_N[theme.images] for theme in themes]
    effects = cards.Effects(scores_N, formats.Scale.of(np.concatenate([[], *of_images]), ref.function), view)
    scale = formats.Scale.of([theme.effect for theme in themes], ref.function)
    shown = Shown(run, ref, scale, effects, other_seeds(run, ref))
    st.caption(
        f"{plain(theme_finding.grouped_by(found))} Below each image: {plain(effects.scale.unit)}.",
        help="Of what an image did to the targets its direction counts, and not its size; so with its features. "
        "docs/themes.md says how.",
    )
    sides = list(SIDES) if chosen.side == "both" else [chosen.side]
    for column, side in zip(st.columns(len(sides), gap="medium"), sides, strict=True):
        with column:
            _draw_side(shown, found.sides[side], side)


def offer_features(run: RunView, known: Features | None) -> None:
    """Where the images were grouped by their pixels, the button that computes what the model sees in them."""
    if known is None:
        features_button.draw(run, "Themes are then grouped by what the model sees, and not by pixels.")


def _draw_side(shown: Shown, of_side: Side, side: str) -> None:
    verb = shown.verb(side)
    st.header(HEADINGS[verb])
    if not of_side.themes:
        st.info(f"No training image {verb} this target.", icon=":material/filter_alt_off:")
        return
    single = of_side.silhouette is None
    st.caption(
        f"{formats.count(len(of_side.themes), 'themes')} of the {formats.count(of_side.grouped, 'images')} with the "
        f"largest effect, of {of_side.of:,} on this side: {formats.percent(of_side.share)} of all that {verb}."
        + ("" if single else f" Mean silhouette {formats.figure(of_side.silhouette)}."),
        help=None if single else SILHOUETTE,
    )
    names = ticks.read(shown.run).themes
    for place, theme in enumerate(of_side.themes, 1):
        with st.container(border=True, key=f"theme-{side}-{place}"), shell.guarded():
            _draw_theme(shown, theme, place, names.get(theme.key, ""))


def _draw_theme(shown: Shown, theme: Theme, place: int, own_name: str) -> None:
    dataset = shown.run.dataset
    facts = plain(theme_finding.name_of(theme, dataset.classes))
    st.subheader(f"{place}. {plain(own_name) or facts}", anchor=False)
    if own_name:
        st.caption(facts)
    st.markdown(
        f"Together it **{plain(shown.scale.with_unit(theme.effect))}**, {formats.percent(theme.share)} of all that "
        f"{shown.verb(theme.side)}. {plain(theme_finding.doubts_in_words(theme, dataset))}"
    )
    _draw_images(shown, theme)
    _draw_actions(shown, theme, own_name)
    _draw_outcome(shown, theme)


def _draw_images(shown: Shown, theme: Theme) -> None:
    """The most central ones; all of them behind a row, which draws nothing while it is closed."""
    key, count = f"{theme.side}-{theme.key}", len(theme.images)
    _draw_tiles(shown, theme, theme.images[:FIRST], key)
    if count <= FIRST:
        return
    with st.expander(f"All {count:,} images", key=f"all-{key}", on_change="rerun") as row:
        if row.open:
            page = paging.choose(count, f"page-{key}", name=None)
            _draw_tiles(shown, theme, paging.of_page(theme.images, page), f"all-images-{key}")


def _draw_tiles(shown: Shown, theme: Theme, images: np.ndarray, key: str) -> None:
    run, doubted = shown.run, theme.doubted or {}
    classes = run.dataset.classes
    lines = [(f"looks like {line(classes[doubted[i]])}",) if i in doubted else () for i in images.tolist()]
    tiles = cards.training(run, images, lines, leave_out=shown.ref.key, effects=shown.effects)
    beside = None if shown.effects.view is None else cards.beside(run, shown.effects.view)
    ticks.tiles(run, tiles, key, SIZE, "What it did to the run's other targets", beside=beside)


# -- what can be done with it


def _draw_actions(shown: Shown, theme: Theme, own_name: str) -> None:
    run, images = shown.run, sorted(theme.images.tolist())
    seconds = trust.retraining_seconds(run.manifest)
    takes = "" if seconds is None else f", {formats.duration(seconds)}"
    cost = f"One retraining without {formats.count(len(images), 'images')}{takes}. The run itself stays as it is."
    with st.container(horizontal=True, key=f"acts-{theme.side}-{theme.key}"):
        st.button(
            f"Tick these {len(images):,}" if images[1:] else "Tick it",
            key=f"tick-{theme.key}",
            icon=":material/select_all:",
            on_click=ticks.add,
            args=(run, images),
            **shell.acting(),
        )
        offered = not run.manifest.method and not isinstance(shown.ref.target, UploadedImage)
        if offered and st.button(
            "Leave this theme out",
            key=f"leave-{theme.key}",
            icon=":material/science:",
            **shell.acting(False, cost, run.manifest),
        ):
            shell.submit(run.id, WhatIf.of(images))
        if not files.read_only():
            with st.popover("Name", icon=":material/edit:", key=f"name-{theme.key}"):
                _draw_name(run, theme, own_name)


def _draw_name(run: RunView, theme: Theme, own_name: str) -> None:
    key = f"theme-name-{run.id}-{theme.key}"
    link.follow(key, own_name)
    st.text_input(
        "Name of this theme",
        key=key,
        max_chars=notes.LONGEST_NAME,
        placeholder=line(theme_finding.name_of(theme, run.dataset.classes)),
        on_change=functools.partial(_rename, run, theme, key),
        help="It is kept with the run, for these very images. Without one, a theme is called by what is in it.",
    )


def _rename(run: RunView, theme: Theme, key: str) -> None:
    with shell.guarded():
        notes.write_theme(run.folder, theme.key, st.session_state[key])


# -- what came of it


def _draw_outcome(shown: Shown, theme: Theme) -> None:
    """What the last retraining without this very theme gave, beside what its scores said."""
    run, ref = shown.run, shown.ref
    if isinstance(ref.target, UploadedImage):
        st.caption("A retraining is asked about images of the data set, and this target is your own.")
        return
    report = left_out(run, ref, theme)
    if report is None:
        return
    (outcome,) = [each for each in certainty.with_errors(report, run.manifest) if each["key"] == ref.key]
    before, after, test = report["test_accuracy_before"], report["test_accuracy"], report.get("test") or {}
    st.markdown(f":material/science: **Left out.** {plain(formats.what_if_change(outcome, run.dataset.classes))}")
    st.table(formats.what_if_table(outcome, run.dataset.classes))
    changed = f"; {test['corrected']:,} images right only now, {test['spoiled']:,} only before" if test else ""
    st.caption(
        f"Test accuracy {formats.percent(before)} → {formats.percent(after)}{changed}. "
        f"{plain(formats.error_in_words(outcome))}"
    )
    _draw_seeds(shown, theme)


def left_out(run: RunView, ref: TargetRef, theme: Theme) -> dict | None:
    """The last report of a retraining without these very images that has the target."""
    images = sorted(theme.images.tolist())
    reports = [
        report
        for report in trust.what_ifs(run.manifest)
        if report["left_out"] == images
        and not report["relabelled"]
        and ref.key in [target["key"] for target in report["targets"]]
    ]
    return reports[-1] if reports else None


# -- over seeds


def other_seeds(run: RunView, ref: TargetRef) -> tuple[Manifest, ...]:
    """Those of the run's seed group whose scores answer the same question: nothing is read of a run that is alone."""
    found = seed_group.members(run.folder)
    if found is None:
        return ()
    there = [each for each in found[1].values() if each is not None and each.scored and each.id != run.id]
    alike = seeds.alike(run.manifest, [Run(shell.root(), each.id) for each in there])[1:]
    return tuple(record for record in alike if ref.key in {other.key for other in record.score_sets.targets()})


def _draw_seeds(shown: Shown, theme: Theme) -> None:
    """What leaving the theme out did in trainings of other seeds, beside what the scores of each said of it."""
    images = sorted(theme.images.tolist())
    own = f"One retraining, with this run's own seed ({shown.run.manifest.config.recipe.seed})."
    if not shown.others:
        st.caption(
            f"{own} How much that differs from training to training, several seeds say: *Repeat with other seeds* on "
            "Compare runs, Mean over seeds; the theme can then be left out in each of them."
        )
        return
    found = seeds.left_out([shown.run.manifest, *shown.others], images, shown.ref.key)
    if found.seeds[1:]:
        st.table([_row_of_seeds(shown, found, what) for what in ("predicted", "actual")])
        numbers = ", ".join(map(str, found.seeds))
        st.caption(f"Over {len(found.seeds)} seeds ({numbers}): each training left out these very images.")
    else:
        st.caption(own)
    lacking = [record for record in shown.others if record.config.recipe.seed not in found.seeds]
    if lacking and st.button(
        f"Leave it out in {formats.count(len(lacking), 'other seeds')}, too",
        key=f"leave-seeds-{theme.key}",
        icon=":material/casino:",
        **shell.acting(False, "One retraining each, in their own runs.", shown.run.manifest),
    ):
        for record in lacking:
            shell.queue().submit(record.run_id, WhatIf.of(images), "Themes", shown.ref.key)
        st.switch_page("pages/Live.py", query_params={"run": lacking[0].run_id})


def _row_of_seeds(shown: Shown, found: seeds.LeftOut, what: str) -> dict[str, str]:
    mean, spread = found.mean_and_spread(what)
    scale = formats.Scale.of([*found.predicted_S, *found.actual_S], shown.ref.function)
    return {
        f"Change, {plain(scale.unit)}": {"predicted": "By the scores of each", "actual": "Retrained"}[what],
        "Mean ± standard deviation": f"{scale.number(mean)} ± {scale.size(spread)}",
        "From": scale.number(float(min(getattr(found, f"{what}_S")))),
        "To": scale.number(float(max(getattr(found, f"{what}_S")))),
    }
