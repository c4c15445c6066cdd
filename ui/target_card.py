"""The explained image as one small card, which stays in view where the sidebar is closed: always so on a phone.

The sidebar has the same and more (`cards.target`). A style sheet tells which of the two is seen, for only the browser
knows how wide the window is, and whether the sidebar is open.
"""

from pathlib import Path

import streamlit as st

from engine.analysis.target_view import TargetView
from engine.runs import uploads
from engine.targets import TRAIN, UploadedImage, target_function
from ui import formats, pictures
from ui.run_choice import RunView
from ui.text import line, markup

STYLE = f"<style>{Path(__file__).with_suffix('.css').read_text(encoding='utf-8')}</style>"
FEW = 4  # images of a set


def draw(run: RunView, view: TargetView, function: str) -> None:
    """To be called at the top of what it shall stay above: it scrolls no further than its container."""
    st.html(STYLE)
    with st.container(key="target-card"):
        st.html(
            '<div role="region" aria-label="What is explained">'
            f'<div class="pictures">{"".join(_pictures(run, view))}</div>'
            f'<div class="words"><strong>{markup(view.title)}</strong><span>{_judged(run, view)}</span>'
            f"<span>{_value(run, view, function)}</span></div></div>"
        )


def _pictures(run: RunView, view: TargetView) -> list[str]:
    if isinstance(view.target, UploadedImage):
        sources = [(pictures.data_url(uploads.read(run.folder, view.target.image_id)), view.title)]
    else:
        few = view.members.indices[:FEW].tolist()
        split = view.members.split
        sources = [(pictures.image_url(run.dataset, split, i), pictures.alt(run.dataset, split, i)) for i in few]
    return [f'<img src="{source}" alt="{markup(alt)}">' for source, alt in sources]


def _judged(run: RunView, view: TargetView) -> str:
    """Of one image its label, what the model says, and whether that is right; of a set the share of right ones."""
    if view.several:
        right = f", {formats.percent(view.accuracy)} right" if view.judged else ""
        return markup(f"{formats.count(len(view.members), 'images')}{right}")
    classes = run.dataset.classes
    label = "" if view.true_label is None else classes[view.true_label]
    given = "given label" if view.members.split == TRAIN else "true"
    if not view.judged:
        return markup(f"{given}: {label}")
    assert view.predicted_label is not None  # of one image that is judged
    if view.predicted_label == view.true_label:
        return f'{markup(f"{given}: {label}, predicted so")} <em class="right">✓ right</em>'
    return f'{markup(f"{given}: {label}, predicted: {classes[view.predicted_label]}")} <em class="wrong">✗ wrong</em>'


def _value(run: RunView, view: TargetView, function: str) -> str:
    asked = target_function(function)
    words = line(asked.in_words(run.dataset.classes))
    if asked.method:
        return markup(f"scores of {asked.method}")
    mean = "mean " if view.several else ""
    return markup(f"{mean}{words} {formats.figure(view.values[function], 3)} {asked.short_unit}")
