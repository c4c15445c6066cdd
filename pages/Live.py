"""Live: a run as its own events tell it, updated every second while it is in progress."""

import streamlit as st

from engine.runs import IN_PROGRESS
from ui import formats, pictures, shell

PHASES = ("prepare", "train", "replay", "done")


def meters(told) -> None:
    known = told.meters.get
    shell.metrics({
        "Phase": formats.PHASES[told.phase],
        "Step": f"{told.step:,} of {told.steps:,}" if told.steps else "—",
        "Rate": f"{told.rate:.3g} steps/s" if told.rate else "—",
        "Time left in this phase": formats.duration(told.seconds_left)})
    gpu = {"GPU memory in use": f"{formats.size(known('gpu'))} of {formats.size(known('gpu_total'))}"}
    shell.metrics({
        "RAM of this process": formats.size(known("rss")),
        "RAM available": f"{formats.size(known('ram_available'))} of {formats.size(known('ram_total'))}",
        **(gpu if known("gpu_total") else {}),
        "Disk used by this run": formats.size(known("disk_used")),
        "Disk free": formats.size(known("disk_free"))})


def charts(told) -> None:
    loss, rate = st.columns(2)
    with loss:
        st.markdown("**Training loss**")
        if told.losses:
            pictures.chart(pictures.curve(told.losses, "Batch loss", "nats"), "loss",
                           f"Training loss over {len(told.losses)} steps, now {told.losses[-1]:.3f} nats")
        else:
            st.caption("Appears with the first steps.")
    with rate:
        st.markdown("**Learning rate**")
        if told.rates:
            pictures.chart(pictures.curve(told.rates, "Learning rate", "a step"), "rate",
                           f"Learning rate, now {told.rates[-1]:.2e} a step")
        else:
            st.caption("Appears with the first steps.")


def outcome(run, status: str, told) -> None:
    if status == "finished":
        st.success("Finished: the scores are ready.", icon=":material/check:")
        st.page_link("pages/Influence.py", label="Look at the influence", icon=":material/image_search:",
                     query_params={"run": run.id})
    elif status == "interrupted":
        st.warning("Interrupted: the process that worked on this run ended before the run did. What it "
                   "wrote is kept; start it again from Set up a run, or delete it.", icon=":material/warning:")
    elif status == "cancelled":
        st.warning(f"Cancelled. {(told.error or {}).get('what', '')} What was trained and scored before is kept.",
                   icon=":material/warning:")
    if told.error and (status == "failed" or (status == "finished" and told.phase != "done")):
        shell.show_error(told.error["what"], told.error["remedy"])
        log = run.path.joinpath("log.txt")
        if log.is_file():
            with st.expander("Traceback, from the run's log.txt"):
                st.code(log.read_text(encoding="utf-8", errors="replace")[-6000:])


def body(run, was_active: bool) -> None:
    status = run.status
    told = shell.progress(run)
    active = status in IN_PROGRESS
    if was_active and not active:
        st.rerun()                    # the whole page: the clock stops, the outcome appears
    done = PHASES.index(told.phase) if told.phase in PHASES else 1
    st.markdown("  →  ".join(f"**{formats.PHASES[p]}**" if i == done else f":gray[{formats.PHASES[p]}]"
                             for i, p in enumerate(PHASES)))
    st.progress(told.fraction, text=f"{formats.PHASES[told.phase]}: step {told.step:,} of {told.steps:,}"
                if told.steps else formats.PHASES[told.phase])
    if not active:
        outcome(run, status, told)
    elif st.button("Cancel the run", icon=":material/stop_circle:", key="cancel"):
        if shell.manager().cancel(run.id):
            st.info("Stopping at the next step.", icon=":material/info:")
        else:
            st.info("Another process works on this run; cancel it there.", icon=":material/info:")
    meters(told)
    charts(told)
    with st.expander("Event log", expanded=not active):
        lines = [f"{formats.clock(e['time'])}  {formats.sentence(e)}" for e in reversed(shell.log(run)[-200:])]
        st.code("\n".join(lines) or "Nothing yet", language=None)


def guarded_body(run, was_active: bool) -> None:
    with shell.guarded():
        body(run, was_active)


with shell.page("Live"):
    # Without a link: the run being worked on, which is not the newest where others wait.
    worked_on = shell.manager().active()
    candidates = sorted(shell.runs(), key=lambda run: run.id not in worked_on[:1])
    run = shell.chosen_run(candidates, "There is no run to watch yet.")
    config = run.config
    st.caption(f"{config.dataset} · {config.model} · {config.recipe.epochs} epochs of batches of "
               f"{config.recipe.batch_size:,} images · {formats.count(len(config.targets), 'targets')} · "
               f"{config.replay_mode} mode")
    active = run.status in IN_PROGRESS
    st.fragment(guarded_body, run_every="1s" if active else None)(run, active)
