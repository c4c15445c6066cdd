"""Find bad labels: training images by the harm they do or by the model's doubt, to look at, exclude, and check."""

import streamlit as st

from engine.analysis import suspects
from engine.jobs.replay import Replay
from engine.jobs.what_if import WhatIf
from engine.targets import AllTests
from ui import formats, gallery, pictures, shell, ticks
from ui.text import line

A_PAGE = 24
EVERY = "All classes"
ORDERS = {"harm": "Harm to the target", "loss": "Loss on the label given"}
WHY = {
    "harm": "Training on the first images harmed the target most. A wrong label is a usual reason; a hard or unusual image "
    "is another, so look before you exclude.",
    "loss": "The trained model gives the first images' labels the lowest probability. This finds wrong labels well, and does "
    "not say whether they matter to the target.",
}


@st.cache_data(max_entries=8, show_spinner=False)
def ranked(sha256: str, key: str, by: str, _record):
    return suspects.ranked(_record, key, by)


def better_target(run) -> None:
    """The mean loss over all test images tells wrong labels best; it may not be scored yet."""
    st.info(
        "For harm, the mean loss over all test images is the target to take, and this run has no scores for it.",
        icon=":material/info:",
    )
    kept = run.manifest().kept_mode
    mode = kept or "memory"
    takes = f"One replay in {mode} mode{'' if kept else ', after training once more'}"
    if st.button("Score all test images", icon=":material/add:", **shell.acting(help=takes)):
        shell.manager().submit(run.id, Replay(("test:all",), "loss", mode))
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def from_the_first() -> None:
    """A list that was filtered anew is another list."""
    st.query_params["from"] = "0"


def tiles_of(rows) -> list[gallery.Tile]:
    """What a person needs to judge a label by: the label given, and what the model would say."""
    tiles = []
    for row in rows.itertuples():
        lines = [
            f"model: {row.model_label}",
            f"given label: {formats.percent(row.probability)}",
            formats.arrow_score(row.score),
        ]
        if "true_label" in rows:
            lines.append(f"true: {row.true_label}" if row.true_label != row.given_label else "label is right")
        tiles.append(gallery.Tile("train", row.index, f"{row.rank}. {row.given_label}", tuple(lines)))
    return tiles


def exclude(run) -> None:
    ticked = ticks.of(run)
    st.subheader("Exclude and check")
    if not ticked:
        st.caption("Tick the images whose label is wrong; a retraining without them tells what they did.")
        return
    st.caption(
        f"{formats.count(len(ticked), 'images')} ticked. The retraining leaves them out of every step; prediction and truth "
        "then stand on Trust and on Influence."
    )
    with st.container(horizontal=True):
        check = st.button("Check by retraining", type="primary", icon=":material/science:", **shell.acting())
        st.button("Clear the ticks", icon=":material/clear:", on_click=ticks.clear, args=(run,), **shell.acting())
    if check:
        shell.manager().submit(run.id, WhatIf.of(ticked))
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def draw(run) -> None:
    record = run.manifest()
    dataset = pictures.dataset(record.config.dataset)
    targets = {t.key: t for t in record.score_sets.targets()}
    if not targets:
        shell.no_scores(run)
        return
    if not any(isinstance(t.target, AllTests) for t in targets.values()):
        with shell.guarded():
            better_target(run)
    keys, best = list(targets), suspects.target_key(record)
    names = {k: line(t.title(dataset)) for k, t in targets.items()}
    by = st.segmented_control(
        "Order", list(ORDERS), default="harm", required=True, format_func=ORDERS.get, on_change=from_the_first
    )
    key = st.selectbox(
        "Target", keys, index=keys.index(best), format_func=names.get, key=f"by-{run.id}", on_change=from_the_first
    )
    given, agree = st.columns(2, vertical_alignment="bottom")  # a row of three cuts its labels off at 900 px
    target = targets[key]
    found = ranked(record.score_sets.sha256(target.score_set), key, by, record)
    label = given.selectbox("Given label", [EVERY, *dataset.classes], on_change=from_the_first)
    disagree = agree.checkbox("The model disagrees", on_change=from_the_first)
    shown = found[(found["given_label"] == label) | (label == EVERY)]
    shown = shown[(shown["given_label"] != shown["model_label"]) | (not disagree)]
    st.markdown(WHY[by])
    if told := formats.precision(found):
        st.caption(told)
    if shown.empty:
        st.info(
            "No training image is left with these filters: choose another label, or all of them.",
            icon=":material/filter_alt_off:",
        )
    else:
        pages = list(range(0, len(shown), A_PAGE))
        asked = st.query_params.get("from", "0")
        start = pages[0]
        if pages[1:]:
            start = st.select_slider(
                "Suspects",
                pages,
                key=f"from-{run.id}-{by}-{key}-{label}-{disagree}",
                format_func=formats.from_position,
                value=int(asked) if asked in map(str, pages) else pages[0],
            )
        st.query_params["from"] = str(start)
        ticks.tiles(run, tiles_of(shown[start:][:A_PAGE]), "suspects")
    # Written when it is asked for: of 60,000 images it takes a while.
    st.download_button(
        "All suspects as CSV", lambda: found.to_csv(index=False), f"{run.id}-suspects.csv", icon=":material/download:"
    )
    with shell.guarded():
        exclude(run)


with shell.page("Find bad labels"):
    draw(shell.chosen_run(shell.runs(), "There is no run to search for bad labels yet."))
