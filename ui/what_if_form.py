"""What if the ticked images had not been there, or had had other labels: the prediction, and a retraining beside it."""

import dataclasses

import numpy as np
import streamlit as st

from engine.analysis import certainty, trust
from engine.analysis import what_if as what_ifs
from engine.analysis.ranking import rank
from engine.jobs.what_if import WhatIf
from engine.runs.scores import TargetRef
from engine.targets import Target, target_function
from ui import formats, imported, outcomes, pictures, shell, ticks
from ui.run_choice import RunView
from ui.text import plain

SMALL_TILES = 32  # of the ticked images


def draw(run: RunView, ref: TargetRef) -> None:
    """What the ticks of this run would do to the target, and did where it was trained again."""
    st.header("What if?")
    _draw_tick_buttons(run, ref)
    if run.manifest.method:
        imported.say(run.manifest, "what the target would be without the ticked images")
        return
    if not (ticked := ticks.of(run)):
        st.caption(
            "Tick training images above: what would this target's loss be without them? Ticks are kept with the run."
        )
        return
    pictures.plain_tiles(run.dataset, "train", ticked[:SMALL_TILES])
    if ticked[SMALL_TILES:]:
        st.caption(f"The first {SMALL_TILES} of {formats.count(len(ticked), 'ticked images')}.")
    job = ticks.what_if(run)
    report = retrained(run, ref, job)
    draw_targets(run, ref.key, certainty.with_errors(report, run.manifest) if report else _predicted(run, job))
    if job.relabelled:
        st.caption(
            "The scores tell what an image's presence does, not what another label would: there is no prediction, "
            "only the check."
        )
    if report is not None:
        outcomes.draw_what_if(run, report, "what-if")
    elif st.button(
        "Check by retraining", type="primary", icon=":material/science:", **shell.acting(model_of=run.manifest)
    ):
        shell.submit(run.id, job)


def draw_targets(run: RunView, key: str, targets: list[dict]) -> None:
    """Tables of what a what-if did: of the target `key` in full, of the run's others behind a row, which draws nothing
    while it is closed: a run has fifty targets, and a click would wait for fifty tables."""
    others = [outcome for outcome in targets if outcome["key"] != key]
    for outcome in targets:
        if outcome["key"] == key:
            st.markdown(plain(formats.what_if_change(outcome, run.dataset.classes)))
            st.table(formats.what_if_table(outcome, run.dataset.classes))
            if told := formats.error_in_words(outcome):
                st.caption(plain(told))
    if others:
        with st.expander("The run's other targets", key=f"what-if-others-{run.id}", on_change="rerun") as row:
            for outcome in others if row.open else ():
                title = plain(Target.parse(outcome["name"]).title(run.dataset))
                words = target_function(outcome["function"]).in_words(run.dataset.classes)
                st.markdown(f"**{title}** · {plain(words)}")
                st.markdown(plain(formats.what_if_change(outcome, run.dataset.classes)))
                st.table(formats.what_if_table(outcome, run.dataset.classes))


def retrained(run: RunView, ref: TargetRef, job: WhatIf) -> dict | None:
    """The last report of this very change that has the target: one that was scored since is in none, and checking
    again gives it without training again."""
    reports = [
        report
        for report in trust.what_ifs(run.manifest)
        if report["left_out"] == list(job.left_out)
        and report["relabelled"] == {str(index): label for index, label in job.relabelled}
        and ref.key in [target["key"] for target in report["targets"]]
    ]
    return reports[-1] if reports else None


def _predicted(run: RunView, job: WhatIf) -> list[dict]:
    """Of images left out; no score says what another label would do."""
    if job.relabelled:
        return []
    return [dataclasses.asdict(each) for each in what_ifs.predict(run.manifest, run.dataset, np.array(job.left_out))]


def _draw_tick_buttons(run: RunView, ref: TargetRef) -> None:
    scores_N = run.manifest.score_sets.row(ref)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        many = st.number_input(
            "Images", min_value=1, max_value=len(scores_N), value=min(50, len(scores_N)), step=10, width=140
        )
        for side, arrow in (("harmful", "upward"), ("helpful", "downward")):
            st.button(
                f"Tick the most {side}",
                icon=f":material/arrow_{arrow}:",
                on_click=lambda side=side: ticks.add(run, getattr(rank(scores_N, ref.function, many), side)),
                **shell.acting(),
            )
