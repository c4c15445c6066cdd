"""Find bad labels: training images by the harm they do or by the model's doubt, to look at, exclude, and check."""

import streamlit as st

from engine.analysis import suspects
from engine.jobs.replay import Replay
from engine.runs.notes import LABELS
from engine.targets import AllTests
from ui import cards, formats, gallery, link, paging, run_choice, shell, target_choice, ticks
from ui.paging import EVERY, class_name, from_the_first
from ui.run_choice import RunView
from ui.text import line

ORDERS = {"harm": "Harm to the target", "loss": "Loss on the label given"}
WHY = {
    "harm": "Training on the first images harmed the target most. A wrong label is a usual reason; a hard or unusual "
    "image is another, so look before you exclude.",
    "loss": "The trained model gives the first images' labels the lowest probability. This finds wrong labels well, "
    "and does not say whether they matter to the target.",
}


@st.cache_data(max_entries=8, show_spinner=False)
def ranked(sha256: str, key: str, by: str, _manifest):
    """By content: see `ranked` of Influence."""
    return suspects.ranked(_manifest, key, by)


def offer_better_target(run: RunView) -> None:
    """The mean loss over all test images tells wrong labels best; it may not be scored yet."""
    if any(isinstance(ref.target, AllTests) for ref in run.targets.values()):
        return
    st.info(
        "For harm, the mean loss over all test images is the target to take, and this run has no scores for it.",
        icon=":material/info:",
    )
    kept = run.manifest.kept_mode
    takes = f"One replay in {kept or 'memory'} mode{'' if kept else ', after training once more'}"
    if st.button("Score all test images", icon=":material/add:", **shell.acting(help=takes)):
        shell.submit(run.id, Replay(("test:all",), "loss", kept or "memory"))


def choose_suspects(run: RunView):
    """All training images in the order chosen, those of them that the filters leave, and a key of the filters."""
    by = st.segmented_control(
        "Order", list(ORDERS), default="harm", required=True, format_func=ORDERS.get, on_change=from_the_first
    )
    best = suspects.target_key(run.manifest)
    ref = target_choice.chosen(run, f"by-{run.id}", best, on_change=from_the_first)
    given, agree = st.columns(2, vertical_alignment="bottom")  # a row of three cuts its labels off at 900 px
    label = given.selectbox(
        "Given label", [EVERY, *run.dataset.classes], on_change=from_the_first, format_func=class_name
    )
    disagree = agree.checkbox("The model disagrees", on_change=from_the_first)
    st.markdown(WHY[by])
    images = ranked(run.manifest.score_sets.sha256(ref.score_set), ref.key, by, run.manifest)
    left = images[(images["given_label"] == label) | (label == EVERY)]
    left = left[(left["given_label"] != left["model_label"]) | (not disagree)]
    return images, left, f"{by}-{ref.key}-{label}-{disagree}"


def draw_suspects(run: RunView, left, key: str) -> None:
    if left.empty:
        st.info(
            "No training image is left with these filters: choose another label, or all of them.",
            icon=":material/filter_alt_off:",
        )
        return
    old = link.whole("from", 0, paging.last(len(left)), 0)  # of links from before the pages had numbers
    if "from" in st.query_params:
        st.query_params.pop("from")
        st.query_params["page"] = str(1 + old // paging.A_PAGE)
    page = paging.choose(len(left), f"page-{run.id}-{key}")
    st.query_params["page"] = str(page)
    ticks.tiles(run, tiles_of(run, paging.of_page(left, page)), "suspects", set_name=LABELS)


def tiles_of(run: RunView, rows) -> list[gallery.Tile]:
    """What a person needs to judge a label by: the label given, and what the model would say."""
    tiles = []
    for row in rows.itertuples():
        lines = [
            line(f"model: {row.model_label}"),
            f"given label: {formats.percent(row.probability)}",
            formats.arrow_score(row.score),
            *(line(formats.shortened(file)) for _, file in cards.file_of(run.dataset, "train", row.index)),
        ]
        if "true_label" in rows:
            lines.append(line(f"true: {row.true_label}") if row.true_label != row.given_label else "label is right")
        details = (
            ("Image", f"train:{row.index}"),
            ("Given label", line(row.given_label)),
            *cards.file_of(run.dataset, "train", row.index),
            ("Model's label", line(row.model_label)),
            ("Probability of the given label", formats.percent(row.probability)),
        )
        tiles.append(gallery.Tile("train", row.index, line(f"{row.rank}. {row.given_label}"), tuple(lines), details))
    return tiles


with shell.page("Find bad labels"):
    run = run_choice.chosen("There is no run to search for bad labels yet.")
    run_choice.stop_without_scores(run)
    with shell.guarded():
        offer_better_target(run)
    images, left, key = choose_suspects(run)
    if precision := suspects.known_precision(images):
        st.caption(formats.known_errors(*precision))
    draw_suspects(run, left, key)
    # Written when it is asked for: of 60,000 images it takes a while.
    st.download_button(
        "All suspects as CSV", lambda: formats.csv(images), f"{run.id}-suspects.csv", icon=":material/download:"
    )
    ticks.bar(run, LABELS)
