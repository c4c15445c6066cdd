"""How images are to be compared, and the button that looks for duplicates."""

import streamlit as st

from engine import files
from engine.analysis import duplicates, features
from engine.analysis.duplicates import EXACT, FEATURES, HASH, PIXELS
from engine.jobs.duplicates import SENSIBLE, FindDuplicates
from ui import features_button, formats, shell
from ui.run_choice import RunView
from ui.text import plain

TITLES = {
    EXACT: "The same pixels",
    HASH: "Look alike (perceptual hash)",
    PIXELS: "Alike in their pixels",
    FEATURES: "Alike to the model (features)",
}
WHAT = {
    EXACT: "Every pixel is the same, as training sees the images. Nothing is found that should not be.",
    HASH: "64 bits of each image that stay what they are where it is scaled, encoded anew or a little changed. Finds "
    "copies that were saved once more; of things on a plain ground also some that are not copies.",
    PIXELS: "The images themselves, scaled to 16 × 16, less their mean. No model has a say; two images of one thing "
    "that is moved by a few pixels are not alike.",
    FEATURES: "What the model's last layer sees of each image. Finds images that are one to the model, also of another "
    "angle; of a class that the model tells easily they may be many.",
}


def draw(run: RunView) -> None:
    """The choices, and the button; what a way needs first, where it needs something."""
    if files.read_only():
        st.caption("Nobody has compared the images of this run in another way, and nothing is computed here.")
        return
    without_model = bool(features.why_not(run.manifest))
    ways = [EXACT, HASH, PIXELS if without_model else FEATURES]
    by = st.radio(
        "Images count as duplicates that are",
        ways,
        index=1,
        key=f"duplicates-by-{run.id}",
        format_func=TITLES.__getitem__,
        captions=[WHAT[way] for way in ways],
    )
    if without_model:
        st.caption(f"{plain(features.why_not(run.manifest))} Its pixels stand in for them.")
    if by == FEATURES and features_button.of(run) is None:
        features_button.draw(run, "They say which images look alike to the trained model.")
        return
    job = FindDuplicates(by, _distance(run, by), _turned(run, by))
    if st.button(
        "Look for duplicates",
        type="primary",
        icon=":material/content_copy:",
        key="look-for-duplicates",
        **shell.acting(run.manifest.in_progress),
    ):
        shell.submit(run.id, job)
    st.caption(
        "Every pair of images is compared, within and between training and test: of 60,000 images about a minute on "
        "two cores. It can be cancelled at any time."
    )


def _distance(run: RunView, by: str) -> float:
    """As the job has it: bits that differ, or 1 − cosine."""
    if by == EXACT:
        return SENSIBLE[EXACT]
    key = f"duplicates-distance-{run.id}-{by}"
    if by == HASH:
        bits = st.slider(
            "Bits of 64 that may differ",
            0,
            duplicates.MOST_BITS,
            int(SENSIBLE[HASH]),
            key=key,
            width=360,
            help="Images that have nothing to do with each other differ in 32, on average. More finds more copies, and "
            "more that are none.",
        )
        return float(bits)
    cosine = st.number_input(
        "Cosine of at least",
        1 - duplicates.FARTHEST,
        1.0,
        1 - SENSIBLE[by],
        step=0.005,
        format="%.3f",
        key=key,
        width=180,
        help=f"1: the same direction. {formats.figure(1 - SENSIBLE[by], 3)} was measured to be sensible; a lower one "
        "finds more, and more that are no copies.",
    )
    return round(1 - cosine, 6)


def _turned(run: RunView, by: str) -> bool:
    return by in (EXACT, HASH) and st.checkbox(
        "Also turned by a quarter, or mirrored",
        key=f"duplicates-turned-{run.id}",
        help="Takes some fifteen times as long to compare. Of digits and letters a mirrored one is another one.",
    )
