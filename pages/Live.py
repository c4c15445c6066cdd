"""Live: a run as its own events tell it, updated every second while it is in progress."""

import streamlit as st

from engine.jobs.queue import discard
from engine.jobs.registry import unfinished
from engine.runs.manifest import IN_PROGRESS
from ui import formats, pictures, shell
from ui.text import line, plain

GOES_ON = "What it wrote is kept, and it can be resumed where it stopped: at most one segment of steps is done again."
TRAINS_AGAIN = (
    "Memory mode loses its states with the process: the training is run again, to the same states, "
    "and scores that a replay had begun go on where they stopped."
)


def figures(told) -> None:
    shell.metrics(
        {
            "Phase": plain(formats.phase(told.phase)),
            "Step": f"{told.step:,} of {told.steps:,}" if told.steps else "—",
            "Rate": f"{told.rate:.3g} steps/s" if told.rate else "—",
            "Time left in this phase": formats.duration(told.seconds_left),
        }
    )


def curves(told) -> None:
    loss, rate = st.columns(2)
    with loss:
        st.markdown("**Training loss**")
        now = f"now {told.losses[-1]:.3f} nats" if told.losses else "which appears with the first"
        pictures.chart(
            pictures.curve(told.losses, "Batch loss", "nats"),
            "loss",
            f"Training loss over {len(told.losses)} steps, {now}",
        )
    with rate:
        st.markdown("**Learning rate**")
        now = f"now {told.rates[-1]:.2e} a step" if told.rates else "which appears with the first steps"
        pictures.chart(pictures.curve(told.rates, "Learning rate", "a step"), "rate", f"Learning rate, {now}")


def meter(told, title: str, lines: dict[str, str], limit: str, powers: bool = False) -> None:
    now = {name: formats.size(told.meters.get(meter)) for name, meter in lines.items()}
    st.markdown(f"**{title}**")
    pictures.legend(now, limit)
    pictures.chart(
        pictures.meters({name: told.points(meter) for name, meter in lines.items()}, limit, powers),
        title,
        f"{title} over time, now: {', '.join(f'{name} {value}' for name, value in now.items())}",
    )


def meters(told) -> None:
    """Memory and disk over time, each with its limit."""
    on_gpu = told.meters.get("gpu_total")
    columns = iter(st.columns(3 if on_gpu else 2))
    with next(columns):
        meter(told, "RAM", {"This process": "rss", "Available": "ram_available", "In all": "ram_total"}, "In all")
    if on_gpu:
        with next(columns):
            meter(told, "GPU memory", {"In use": "gpu", "In all": "gpu_total"}, "In all")
    with next(columns):
        meter(
            told,
            "Disk (logarithmic axis)",
            {"This run": "disk_used", "Written": "written", "Read": "read", "Free": "disk_free"},
            "Free",
            powers=True,
        )


def space(told) -> None:
    """Says that the run waits for space, or that it soon will."""
    if told.paused:
        st.warning(
            f"**Paused: the disk is full.** {formats.size(told.paused['needed'])} must be free, and "
            f"{formats.size(told.paused['disk_free'])} were when it stopped. The run keeps what it has and goes on by "
            "itself once there is space.",
            icon=":material/hard_drive:",
        )
    elif formats.disk_low(told.meters.get("disk_free")):
        st.warning(
            f"**The disk is nearly full:** {formats.size(told.meters['disk_free'])} are free. The run waits "
            "where it runs out, and goes on once there is space.",
            icon=":material/hard_drive:",
        )
    else:
        return
    st.page_link("pages/Runs_and_storage.py", label="Free space in Runs and storage", icon=":material/database:")


def resume(run) -> None:
    record = run.manifest()
    if not record.resumable:
        return
    if st.button("Resume the run", type="primary", icon=":material/resume:", key="resume", **shell.acting()):
        shell.manager().resume(run.id)
        st.rerun()
    if not record.trained:
        return
    for number, job in enumerate(unfinished(run)):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"Unfinished: {formats.job(job)}")
            if st.button("Discard", icon=":material/delete:", key=f"discard-{number}", **shell.acting()):
                discard(run, number)
                st.rerun()


def outcome(run, status: str, told) -> None:
    record = run.manifest()
    # The manifest has the error too, for where the log was deleted.
    recorded = {"what": record.error.what, "remedy": record.error.remedy} if record.error else {}
    error = told.error or (recorded if record.resumable else {})
    in_memory = record.resumable and any(getattr(job, "mode", "") == "memory" for job in unfinished(run))
    goes_on = TRAINS_AGAIN if in_memory else GOES_ON
    if status == "finished":
        if record.scored:
            st.success("Finished: the scores are ready.", icon=":material/check:")
            with st.container(horizontal=True):
                st.page_link(
                    "pages/Influence.py",
                    label="Look at the influence",
                    icon=":material/image_search:",
                    query_params={"run": run.id},
                )
                st.page_link(
                    "pages/Trust.py",
                    label="Look at the trust report",
                    icon=":material/verified:",
                    query_params={"run": run.id},
                )
        else:
            st.info("Finished. The scores of this run were deleted.", icon=":material/info:")
    elif status == "interrupted":
        st.warning(
            f"Interrupted: the process that worked on this run ended before the run did. {goes_on}",
            icon=":material/warning:",
        )
    elif status == "cancelled":
        st.warning(f"Cancelled. {plain(error.get('what', ''))} {goes_on}", icon=":material/warning:")
    cancelled = record.error is not None and record.error.kind == "cancelled"
    if status == "finished" and record.resumable and cancelled:
        st.warning(f"The further work was cancelled. {goes_on}", icon=":material/warning:")
    elif error and (status == "failed" or (status == "finished" and record.resumable)):
        shell.show_error(error["what"], error["remedy"])
        if status == "failed":
            st.caption(f"Once that is put right: {goes_on}")
        log = run.path.joinpath("log.txt")
        if log.is_file():
            with st.expander("Traceback, from the run's log.txt"):
                traceback = log.read_text(encoding="utf-8", errors="replace")[-6000:]
                st.code("\n".join(map(line, traceback.splitlines())))
    resume(run)


def job_in_hand(run) -> str:
    """The kind of the job that was begun last, or will be next."""
    begun = [e["job"] for e in shell.log(run) if "job" in e]
    return begun[-1] if begun else unfinished(run)[0].kind


def body(run, was_active: bool) -> None:
    status = run.status
    told = shell.progress(run)
    active = status in IN_PROGRESS
    if was_active and not active:
        st.rerun()  # the whole page: the clock stops, the outcome appears
    if active:
        st.markdown("  →  ".join(formats.stages(job_in_hand(run), told.phase)))
        st.progress(
            told.fraction,
            text=f"{plain(formats.phase(told.phase))}: step {told.step:,} of {told.steps:,}"
            if told.steps
            else plain(formats.phase(told.phase)),
        )
        space(told)
        if st.button("Cancel the run", icon=":material/stop_circle:", key="cancel", **shell.acting()):
            if shell.manager().cancel(run.id):
                st.info("Stopping at the next step.", icon=":material/info:")
            else:
                st.info("Another process works on this run; cancel it there.", icon=":material/info:")
    else:
        outcome(run, status, told)
    figures(told)


def series(run, active: bool) -> None:
    told = shell.progress(run)
    curves(told)
    meters(told)
    with st.expander("Event log", expanded=not active):
        lines = [f"{formats.clock(e['time'])}  {line(formats.sentence(e))}" for e in reversed(shell.log(run)[-200:])]
        st.code("\n".join(lines) or "Nothing yet", language=None, wrap_lines=True)


def guarded(draw, run, active: bool) -> None:
    with shell.guarded():
        draw(run, active)


with shell.page("Live"):
    # Without a link: the run being worked on, which is not the newest where others wait.
    worked_on = shell.manager().active()
    candidates = sorted(shell.runs(), key=lambda run: run.id not in worked_on[:1])
    run = shell.chosen_run(candidates, "There is no run to watch yet.")
    config = run.manifest().config
    st.caption(
        f"{plain(config.dataset)} · {plain(config.model)} · {config.recipe.epochs} epochs of batches of "
        f"{config.recipe.batch_size:,} images · {formats.count(len(config.targets), 'targets')} · "
        f"{plain(config.replay_mode)} mode"
    )
    active = run.status in IN_PROGRESS
    # A browser on the same machine takes its share of the cores to draw charts, so they come less often.
    for draw, every in ((body, "1s"), (series, "5s")):
        st.fragment(guarded, run_every=every if active else None)(draw, run, active)
