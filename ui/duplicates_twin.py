"""The warning that a test image has a twin in training: testing on it says how well the model remembers."""

import streamlit as st

from engine.analysis import duplicates
from engine.analysis.duplicates import Twin
from engine.errors import IntegrityError
from engine.targets import Target, TestImage
from ui import pictures, shell
from ui.run_choice import RunView
from ui.text import line, markup

SHORT = "twin in training"  # in a list, below an image


def of(run: RunView, test: int) -> Twin | None:
    """Of a test image; None, said once on the page, where the file is damaged."""
    try:
        return duplicates.twin_of(run.manifest, test)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return None


def of_target(run: RunView, target: Target) -> Twin | None:
    """None of a target that is no test image."""
    return of(run, target.index) if isinstance(target, TestImage) else None


def short(run: RunView, target: Target) -> str:
    """Behind the title of a target in a list; "" of one without a twin."""
    return f" · {SHORT}" if of_target(run, target) else ""


def lines(run: RunView, test: int) -> tuple[str, ...]:
    """Below a test image."""
    return (f"⚠ {SHORT}",) if of(run, test) else ()


def warn(run: RunView, target: Target) -> None:
    """Beside a target: the twin's picture, how near it is, and the way to it. Nothing where there is none."""
    twin = of_target(run, target)
    if twin is None:
        return
    label = line(run.dataset.classes[run.dataset.train_labels[twin.train]])
    src, alt = (f(run.dataset, "train", twin.train) for f in (pictures.image_url, pictures.alt))
    with st.container(key="twin", horizontal=True, vertical_alignment="center", gap="small", border=True):
        st.html(
            f'<img src="{src}" alt="{markup(alt)}" width="56" height="56" '
            'style="image-rendering:pixelated;border-radius:4px;display:block;object-fit:contain">',
            width="content",
        )
        st.html(
            '<div role="note"><strong>⚠ This test image has a twin in training</strong><br>'
            f"{markup(f'Training image {twin.train}, label {label}: {twin.in_words}.')} What the model says of it "
            "tells how well it remembers, and not what it has learned.</div>",
            width="stretch",
        )
        st.page_link(
            "pages/Training_images.py",
            label="Look at the twin",
            icon=":material/photo_library:",
            query_params={"run": run.id, "image": str(twin.train)},
        )
        st.page_link(
            "pages/Duplicates.py",
            label="All duplicates",
            icon=":material/content_copy:",
            query_params={"run": run.id, "by": twin.by, "where": "across"},
        )
