"""Find bad labels: training images by the model's doubt or the harm they do, to look at, tick, relabel, and check."""

import functools

import streamlit as st

from engine.analysis import suspects
from engine.jobs.replay import Replay
from engine.runs.notes import LABELS
from engine.targets import AllTests
from ui import download, formats, link, outcomes, paging, run_choice, shell, suspect_list, suspect_tiles, ticks
from ui.run_choice import RunView
from ui.suspect_list import Suspects
from ui.text import plain

SIZE = 112  # pixels of a tile
RULES = {  # by what all images above, or below, a threshold are ticked: words, first threshold, step
    "probability": ("Probability of the given label below (%)", 1.0, 1.0),
    "loss": ("Loss on the given label of at least (nats)", 5.0, 0.5),
}


def offer_better_target(run: RunView) -> None:
    """The mean loss over all test images tells harm best; it may not be scored yet."""
    if run.manifest.method or any(isinstance(ref.target, AllTests) for ref in run.targets.values()):
        return
    st.info(
        "For harm, the mean loss over all test images is the target to take, and this run has no scores for it.",
        icon=":material/info:",
    )
    kept = run.manifest.kept_mode
    takes = f"One replay in {kept or 'memory'} mode{'' if kept else ', after training once more'}"
    if st.button("Score all test images", icon=":material/add:", **shell.acting(help=takes, model_of=run.manifest)):
        shell.submit(run.id, Replay(("test:all",), "loss", kept or "memory"))


# -- ticking many at once


def draw_ticking(run: RunView, found: Suspects, on_page) -> None:
    with st.container(horizontal=True):
        st.button(
            f"Tick these {len(on_page)}",
            key="tick-page",
            icon=":material/select_all:",
            on_click=ticks.add,
            args=(run, on_page["index"].tolist(), LABELS),
            **shell.acting(help="All on this page. Hold Shift to tick all between two boxes."),
        )
        with st.popover("Tick by a rule", icon=":material/rule:", **shell.acting()):
            tick_range(run, found)
            st.divider()
            tick_threshold(run, found)


def tick_range(run: RunView, found: Suspects) -> None:
    last = len(found.left)
    first_side, last_side = st.columns(2)
    start = first_side.number_input("From number", 1, last, 1, key=f"rule-from-{found.key}")
    end = last_side.number_input("To number", 1, last, min(100, last), key=f"rule-to-{found.key}")
    offer(run, found.left["index"][start - 1 : end].tolist(), "range", "of this list")


def tick_threshold(run: RunView, found: Suspects) -> None:
    rule = st.selectbox("All with", list(RULES), key=f"rule-{run.id}", format_func=lambda rule: RULES[rule][0])
    words, default, step = RULES[rule]
    value = st.number_input(words, 0.0, value=default, step=step, key=f"threshold-{rule}", label_visibility="collapsed")
    chosen = found.left[rule] < value / 100 if rule == "probability" else found.left[rule] >= value
    offer(run, found.left["index"][chosen].tolist(), "threshold", "above it" if rule == "loss" else "below it")


def offer(run: RunView, indices: list[int], key: str, which: str) -> None:
    st.button(
        f"Tick {formats.count(len(indices), 'images')} {which}",
        key=f"tick-{key}",
        icon=":material/check_box:",
        on_click=ticks.add,
        args=(run, indices, LABELS),
        **shell.acting(not indices),
    )


# -- the images


def draw_suspects(run: RunView, found: Suspects) -> int:
    """One page of them, with what ticks many; returns its number."""
    if found.left.empty:
        st.info(
            "No training image is left with these filters: choose another label, or all of them.",
            icon=":material/filter_alt_off:",
        )
        return 1
    place, below = st.container(), st.container()
    with below:
        page = paging.choose(
            len(found.left), f"page-{found.key}", default=suspect_list.page_of_old_link(len(found.left))
        )
    on_page = paging.of_page(found.left, page)
    with place:
        draw_ticking(run, found, on_page)
        ticks.tiles(
            run,
            suspect_tiles.of(run, found, on_page),
            "suspects",
            SIZE,
            shares_title="The model's probabilities",
            set_name=LABELS,
            suggested=suspect_tiles.model_labels(run, on_page),
        )
    return page


# -- what is taken away, and what a retraining did


def draw_exports(run: RunView, found: Suspects) -> None:
    def table() -> str:  # written when it is asked for: of 60,000 images it takes a while
        job = ticks.what_if(run, LABELS)
        return formats.csv(suspects.decided(found.images, run.dataset, job.left_out, dict(job.relabelled)))

    with st.container(horizontal=True):
        st.page_link(
            "pages/Triage.py",
            label="Go through them one by one, with the keyboard",
            icon=":material/rule:",
            query_params={"run": run.id, "queue": found.by} | ({"target": found.ref.key} if found.by == "harm" else {}),
        )
        download.button("All suspects as CSV", table, f"{run.id}-suspects.csv")
        link.copy()


def draw_outcome(run: RunView) -> None:
    """What a retraining without, or with the new labels of, the images that are ticked did, where there was one."""
    job = ticks.what_if(run, LABELS)
    report = outcomes.report_of(run, job)
    if report is None:
        return
    with st.container(border=True):
        st.markdown(f"**Trained again: {plain(formats.changed(report))}**")
        outcomes.draw_what_if(run, report, "ticked")


with shell.page("Find bad labels"):
    run = run_choice.chosen("There is no run to search for bad labels yet.")
    run_choice.stop_without_scores(run)
    run_choice.stop_without_images(run)
    with shell.guarded():
        draw_outcome(run)
    with shell.guarded():
        offer_better_target(run)
    found = suspect_list.choose(run)
    run_choice.hold(run=run.id, target=found.ref.key)
    page = draw_suspects(run, found)
    suspect_list.keep_link(run, found, page)
    draw_exports(run, found)
    with shell.guarded():
        outcomes.draw_all(run)
    ticks.bar(run, LABELS, functools.partial(suspect_list.see, run))
