"""Step 5 of the form: where the training's steps are kept, and what each way takes."""

import streamlit as st

from engine.jobs.estimate import Estimate
from ui import formats, setup_fields
from ui.setup_draft import Form, label
from ui.text import plain

MODES = {
    "memory": "Every step in RAM or GPU memory; further targets later need one more training.",
    "disk": "Every step on disk, streamed back; further targets later need no training.",
    "recompute": "A step here and there on disk, the others trained again while replaying: little disk, one more "
    "training of time.",
}
RECOMMENDED = {
    "memory": "the disk is too short for every step, and memory is not",
    "disk": "further targets then need no training",
    "recompute": "it takes the least disk and memory, for one more training",
}
PLAIN = ("replay_mode", "clean_when_done")


def choose(form: Form) -> None:
    key = setup_fields.key_of("replay_mode")
    setup_fields.show(key, form.config.replay_mode)
    st.radio(
        "Where the training steps are kept",
        list(MODES),
        captions=list(MODES.values()),
        format_func=str.capitalize,
        key=key,
        on_change=setup_fields.take,
        args=("replay_mode",),
        disabled=form.disabled,
    )
    setup_fields.remarks(form, "replay_mode")
    setup_fields.fields(form, ["clean_when_done"], across=1)


def draw_advanced(form: Form) -> None:
    names = [*setup_fields.names_of("replay"), *setup_fields.names_of("machine"), "preset"]
    setup_fields.advanced(form, [name for name in names if name not in PLAIN])


def compare(form: Form, expected: Estimate) -> None:
    """A row a mode."""
    timed = expected.train_seconds is not None
    rows = []
    for name, mode in expected.modes.items():
        # Without its checkpoints a run leaves what memory mode does.
        stays = expected.modes["memory"] if form.config.clean_when_done else mode
        rows.append(
            {
                label("replay_mode"): name,
                "Disk that stays": formats.size(stays.disk),
                "Disk at the peak": formats.size(mode.disk_peak),
                "RAM at the peak" if timed else "RAM at the peak, beside the engine's own": formats.size(mode.ram),
                **({"GPU memory at the peak": formats.size(mode.gpu)} if expected.gpu_free else {}),
                "Time": formats.duration_beside(mode.seconds, expected.train_seconds) if timed else "not measured",
                "Fits": plain(mode.problem or "yes"),
            }
        )
    st.table(rows)
    if expected.recommended:
        st.markdown(f"Recommended here: **{expected.recommended}** mode; {RECOMMENDED[expected.recommended]}.")
    problem = expected.modes[form.config.replay_mode].problem
    if problem:
        draw_misfit(form, problem, expected.recommended)
    moments = f", {expected.moments:,} moments of the optimizer" if expected.moments else ""
    st.caption(
        f"On {plain(expected.device_name)}. {expected.steps:,} steps of {formats.size(expected.bytes_per_step)} each: "
        f"{expected.parameters:,} parameters{moments} and {expected.buffers:,} buffers, and nothing else. "
        f"{f'A segment has {expected.segment:,} steps. ' if form.config.replay_mode == 'recompute' else ''}"
        f"{formats.size(expected.disk_free)} of disk and {formats.size(expected.ram_free)} of RAM are free"
        f"{f', and {formats.size(expected.gpu_free)} of GPU memory' if expected.gpu_free else ''}. "
        f"{'Time is that of training and replay.' if timed else ''}"
    )


def draw_misfit(form: Form, problem: str, recommended: str | None) -> None:
    remedy = (
        f"Choose {recommended} mode." if recommended else "Free some space, train fewer steps, or use a narrower model."
    )
    st.warning(
        f"{form.config.replay_mode.capitalize()} mode does not fit: {plain(problem)}. {remedy}",
        icon=":material/warning:",
    )
