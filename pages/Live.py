"""Live: a run as its own events tell it, updated every second while it is in progress."""

import streamlit as st

from engine import files
from engine.jobs.queue import discard
from engine.runs.progress import Progress
from engine.runs.run import Run
from ui import formats, pictures, progress, run_choice, shell
from ui.run_choice import RunView
from ui.text import line, plain

GOES_ON = "What it wrote is kept, and it can be resumed where it stopped: at most one segment of steps is done again."
TRAINS_AGAIN = (
    "Memory mode loses its states with the process: the training is run again, to the same states, "
    "and scores that a replay had begun go on where they stopped."
)
EVENTS = 200  # lines of the log that are shown, the newest
TRACEBACK = 6000  # bytes of it, the last


# -- every second


def draw_now(folder: Run, was_in_progress: bool) -> None:
    run, now = RunView.of(folder), progress.of(folder)
    if was_in_progress and not run.manifest.in_progress:
        st.rerun()  # the whole page: the clock stops, the outcome appears
    if run.manifest.in_progress:
        draw_work(run, now)
    else:
        draw_outcome(run, now)
        draw_unfinished(run)
    for what in now.damage:
        st.warning(f"{plain(what)} The rest of the log is shown.", icon=":material/warning:")
    draw_figures(now)
    draw_ranks(now)


def draw_work(run: RunView, now: Progress) -> None:
    """What the job in hand is doing, and the button that stops it."""
    st.markdown("  →  ".join(formats.stages(kind_in_hand(run), now.phase)))
    phase = plain(formats.phase(now.phase))
    st.progress(now.fraction, text=f"{phase}: step {now.step:,} of {now.steps:,}" if now.steps else phase)
    warn_of_full_disk(now)
    if st.button("Cancel the run", icon=":material/stop_circle:", key="cancel", **shell.acting()):
        cancel(run)


def kind_in_hand(run: RunView) -> str:
    """The kind of the job that was begun last, or will be next."""
    begun = [event["job"] for event in progress.log(run.folder) if isinstance(event.get("job"), str)]
    return begun[-1] if begun else run.manifest.jobs[0].kind


def cancel(run: RunView) -> None:
    if not shell.queue().cancel(run.id):
        st.info("Another process works on this run; cancel it there.", icon=":material/info:")
    elif RunView.of(run.folder).manifest.in_progress:
        st.info("Stopping at the next step.", icon=":material/info:")
    else:  # it had only waited
        st.rerun()


def warn_of_full_disk(now: Progress) -> None:
    """Says that the run waits for space, or that it soon will."""
    if now.paused:
        st.warning(
            f"**Paused: the disk is full.** {formats.size(now.paused['needed'])} must be free, and "
            f"{formats.size(now.paused['disk_free'])} were when it stopped. The run keeps what it has and goes on by "
            "itself once there is space.",
            icon=":material/hard_drive:",
        )
    elif formats.disk_low(now.meters.get("disk_free")):
        st.warning(
            f"**The disk is nearly full:** {formats.size(now.meters['disk_free'])} are free. The run waits "
            "where it runs out, and goes on once there is space.",
            icon=":material/hard_drive:",
        )
    else:
        return
    st.page_link("pages/Runs_and_storage.py", label="Free space in Runs and storage", icon=":material/database:")


# -- once it has ended


def draw_outcome(run: RunView, now: Progress) -> None:
    manifest, status = run.manifest, run.manifest.status
    goes_on = TRAINS_AGAIN if waits_in_memory(run) else GOES_ON
    if status == "finished":
        draw_finished(run)
    elif status == "interrupted":
        st.warning(
            f"Interrupted: the process that worked on this run ended before the run did. {goes_on}",
            icon=":material/warning:",
        )
    # The manifest has the error too, for where the log was deleted.
    what, remedy = error_of(run, now)
    if status == "cancelled":
        st.warning(f"Cancelled. {plain(what)} {goes_on}", icon=":material/warning:")
    elif status == "finished" and manifest.resumable and manifest.error and manifest.error.kind == "cancelled":
        st.warning(f"The further work was cancelled. {goes_on}", icon=":material/warning:")
    elif what and (status == "failed" or (status == "finished" and manifest.resumable)):
        shell.show_error(what, remedy)
        if status == "failed":
            st.caption(f"Once that is put right: {goes_on}")
        draw_traceback(run)


def waits_in_memory(run: RunView) -> bool:
    return run.manifest.resumable and any(job.fields.get("mode") == "memory" for job in run.manifest.jobs)


def error_of(run: RunView, now: Progress) -> tuple[str, str]:
    """What and remedy of how the last job ended; empty where it ended well."""
    if now.error:
        return now.error["what"], now.error["remedy"]
    if run.manifest.resumable and run.manifest.error:
        return run.manifest.error.what, run.manifest.error.remedy
    return "", ""


def draw_finished(run: RunView) -> None:
    if not run.manifest.scored:
        st.info("Finished. The scores of this run were deleted.", icon=":material/info:")
        return
    st.success("Finished: the scores are ready.", icon=":material/check:")
    with st.container(horizontal=True):
        for page, label, icon in (
            ("Influence", "Look at the influence", "image_search"),
            ("Trust", "Look at the trust report", "verified"),
        ):
            st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params={"run": run.id})


def draw_traceback(run: RunView) -> None:
    path = run.folder.path / "log.txt"
    if path.is_file():
        with st.expander("Traceback, from the run's log.txt"), shell.guarded():
            text = files.read_tail(path, "Delete the logs in Runs and storage.", TRACEBACK).decode(errors="replace")
            st.code("\n".join(map(line, text.splitlines())))


def draw_unfinished(run: RunView) -> None:
    """What was not finished of the run, to be resumed or, of a trained one, discarded."""
    if not run.manifest.resumable:
        return
    if st.button("Resume the run", type="primary", icon=":material/resume:", key="resume", **shell.acting()):
        with shell.guarded():  # where it cannot be resumed, what stands in the way can be discarded below
            shell.queue().resume(run.id)
            st.rerun()
    if not run.manifest.trained:
        return
    for number, job in enumerate(run.manifest.jobs):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"Unfinished: {line(formats.job(job))}")
            if st.button("Discard", icon=":material/delete:", key=f"discard-{number}", **shell.acting()):
                with shell.guarded():
                    discard(run.folder, number, job)
                    st.rerun()


# -- figures and charts


def draw_figures(now: Progress) -> None:
    shell.metrics(
        {
            "Phase": plain(formats.phase(now.phase)),
            "Step": f"{now.step:,} of {now.steps:,}" if now.steps else "—",
            "Rate": f"{now.rate:.3g} steps/s" if now.rate else "—",
            "Time left in this phase": formats.duration(now.seconds_left),
        }
    )


def draw_ranks(now: Progress) -> None:
    """Each GPU, or process, that shares the work: how far it is, and its memory."""
    if not now.ranks:
        return
    st.markdown(f"**{formats.count(len(now.ranks), 'ranks')} share the work**")
    for rank in now.ranks:
        done, steps = rank.get("step", 0), rank.get("steps", 0)
        memory = f" · memory {formats.size(rank['rss'])}" if rank.get("rss") else ""
        if rank.get("gpu_total"):
            memory += f" · GPU memory {formats.size(rank.get('gpu'))} of {formats.size(rank['gpu_total'])}"
        phase = plain(formats.phase(rank.get("phase", "waiting")))
        st.progress(
            min(1.0, done / steps) if steps else 0.0,
            text=f"Rank {rank['rank']} on {plain(rank.get('host', '?'))}, {plain(rank.get('device', ''))}: {phase}"
            + (f", step {done:,} of {steps:,}" if steps else "")
            + memory,
        )


def draw_charts(folder: Run, was_in_progress: bool) -> None:
    now = progress.of(folder)
    draw_curves(now)
    draw_meters(now)
    with st.expander("Event log", expanded=not was_in_progress):
        events = reversed(progress.log(folder)[-EVENTS:])
        lines = [f"{formats.clock(event['time'])}  {line(formats.sentence(event))}" for event in events]
        st.code("\n".join(lines) or "Nothing yet", language=None, wrap_lines=True)


def draw_curves(now: Progress) -> None:
    left, right = st.columns(2)
    with left:
        st.markdown("**Training loss**")
        last = f"now {now.losses[-1]:.3f} nats" if now.losses else "which appears with the first"
        pictures.chart(
            pictures.curve(now.losses, "Batch loss", "nats"),
            "loss",
            f"Training loss over {len(now.losses)} steps, {last}",
        )
    with right:
        st.markdown("**Learning rate**")
        last = f"now {now.rates[-1]:.2e} a step" if now.rates else "which appears with the first steps"
        pictures.chart(pictures.curve(now.rates, "Learning rate", "a step"), "rate", f"Learning rate, {last}")


def draw_meters(now: Progress) -> None:
    """Memory and disk over time, each with its limit."""
    on_gpu = now.meters.get("gpu_total")
    columns = iter(st.columns(3 if on_gpu else 2))
    with next(columns):
        draw_meter(now, "RAM", {"This process": "rss", "Available": "ram_available", "In all": "ram_total"}, "In all")
    if on_gpu:
        with next(columns):
            draw_meter(now, "GPU memory", {"In use": "gpu", "In all": "gpu_total"}, "In all")
    with next(columns):
        draw_meter(
            now,
            "Disk (logarithmic axis)",
            {"This run": "disk_used", "Written": "written", "Read": "read", "Free": "disk_free"},
            "Free",
            powers=True,
        )


def draw_meter(now: Progress, title: str, lines: dict[str, str], limit: str, powers: bool = False) -> None:
    """One chart: `lines` are the meters by the name that is shown; that of `limit` bounds the others."""
    sizes = {name: formats.size(now.meters.get(meter)) for name, meter in lines.items()}
    st.markdown(f"**{title}**")
    pictures.legend(sizes, limit)
    pictures.chart(
        pictures.meters({name: now.points(meter) for name, meter in lines.items()}, limit, powers),
        title,
        f"{title} over time, now: {', '.join(f'{name} {size}' for name, size in sizes.items())}",
    )


def guarded(draw, folder: Run, in_progress: bool) -> None:
    with shell.guarded():
        draw(folder, in_progress)


with shell.page("Live"):
    # Without a link: the run being worked on, which is not the newest where others wait.
    run = run_choice.chosen("There is no run to watch yet.", first=shell.queue().active()[:1])
    config = run.manifest.config
    st.caption(
        f"{plain(config.dataset)} · {plain(config.model)} · {config.recipe.epochs} epochs of batches of "
        f"{config.recipe.batch_size:,} images · {formats.count(len(config.targets), 'targets')} · "
        f"{plain(config.replay_mode)} mode"
    )
    in_progress = run.manifest.in_progress
    # A browser on the same machine takes its share of the cores to draw charts, so they come less often.
    for draw, every in ((draw_now, "1s"), (draw_charts, "5s")):
        st.fragment(guarded, run_every=every if in_progress else None)(draw, run.folder, in_progress)
