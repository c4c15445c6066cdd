"""Themes: what the images that helped or harmed a target most have in common, group by group, to look at and act on."""

import streamlit as st

from engine.analysis import target_view
from engine.analysis import themes as theme_finding
from engine.analysis.features import Features
from engine.analysis.themes import Themes
from engine.runs.scores import TargetRef
from ui import (
    cards,
    docs,
    download,
    features_button,
    formats,
    link,
    run_choice,
    shell,
    target_card,
    target_choice,
    themes,
    ticks,
)
from ui.run_choice import RunView
from ui.themes import AS_FIT

WHAT = (
    "The training images that moved a target most, grouped by what the model sees in them and by what they did. A "
    "theme is what they have in common to the model; what it means is for you to say"
)
CHECKED = ", and a retraining without it shows what it did"  # where there is a training


@st.cache_data(max_entries=64, show_spinner="Grouping the images …")
def found(
    content: tuple[str, ...], key: str, top: int, count: int, has_features: bool, _run: RunView, _known: Features | None
) -> Themes:
    """By content: names of score sets are used again after a deletion, and features are computed anew."""
    ref = _run.targets[key]
    return theme_finding.find(_run.manifest, _run.dataset, ref, _known, top, None if count == AS_FIT else count)


def content_of(run: RunView) -> tuple[str, ...]:
    """What themes depend on: scores of all targets, features, predictions, and the data set with its classes."""
    parts = ("scores/", "features/", "model/")
    hashes = (sha256 for name, sha256 in sorted(run.manifest.files.items()) if name.startswith(parts))
    return (*hashes, run.dataset.fingerprint, *run.dataset.classes)


def draw_exports(run: RunView, ref: TargetRef, of_target: Themes) -> None:
    with st.container(horizontal=True):
        download.button(
            "Themes as CSV",
            lambda: formats.csv(theme_finding.table(of_target, run.dataset, run.manifest)),
            f"{run.id}-{formats.file_name(ref.key)}-themes.csv",
        )
        link.copy()


with shell.page("Themes") as panel:
    run = run_choice.chosen("There is no run to look at yet.")
    run_choice.stop_without_scores(run)
    st.caption(f"{WHAT}{'' if run.manifest.method else CHECKED}.")
    ref = target_choice.by_looking(run, lambda: None)
    run_choice.hold(run=run.id, target=ref.key)
    view = target_view.view(run.manifest, run.dataset, ref.target, ref.function)
    cards.target(run, view, panel)
    target_card.draw(run, view, ref.function)
    chosen = themes.choose(run)
    themes.keep_link(run, ref, chosen)
    known = features_button.of(run)
    of_target = found(content_of(run), ref.key, chosen.top, chosen.count, known is not None, run, known)
    themes.offer_features(run, known)
    themes.draw(run, ref, view, of_target, chosen)
    with shell.guarded():
        draw_exports(run, ref, of_target)
    docs.show("themes.md", "When not to rely on them", "How far to rely on a theme")
    ticks.bar(run)
