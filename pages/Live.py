"""Live: a run as its own events tell it, updated every second while it is in progress."""

import functools

import streamlit as st

from engine import files
from engine.jobs.queue import discard
from engine.runs.job import JobRecord
from engine.runs.progress import Progress
from engine.runs.run import Run
from ui import formats, imported, pictures, progress, results, run_choice, run_names, seed_group, shell
from ui.run_choice import RunView
from ui.text import line, plain

GOES_ON = "What it wrote is kept, and it can be resumed where it stopped: at most one segment of steps is done again."
TRAINS_AGAIN = (
    "Memory mode loses its states with the process: the training is run again, to the same states, "
    "and scores that a replay had begun go on where they stopped."
)
EVENTS = 200  # lines of the log that are shown, the newest
TRACEBACK = 6000  # bytes of it, the last
# What goes on in a phase, for those who see it for the first time.
PHASES = {
    "prepare": "The images and the model are loaded, and it is checked that the model can be replayed.",
    "compile": "The steps are compiled once, so that all of them are faster.",
    "train": "The classifier learns from the training images, batch by batch.",
    "evaluate": "The trained model is asked about all images.",
    "replay": "A replay goes through the training backwards, from its last step to its first, and adds up how much "
    "each training image moved the targets.",
    "rebuild": "The training is run once more, to the same states: what a replay reads of them was not kept.",
    "retrain": "The model is trained again with other weights of its training images, to see what truly happens.",
    "gradients": "Of each test image the gradient of its own loss is taken: how strongly it answers to the parameters.",
    "features": "All images go through the trained model once: what its last layer sees of each is kept.",
    "map": "Each image gets a place on a plane, beside those that are like it.",
}


# -- every second


def draw_now(folder: Run, was_in_progress: bool) -> None:
    run, now = RunView.of(folder), progress.of(folder)
    if was_in_progress != run.manifest.in_progress:
        st.rerun()  # the whole page: the clock stops, the outcome appears
    if run.manifest.in_progress:
        draw_work(run, now)
    else:
        draw_outcome(run, now)
        draw_unfinished(run)
    for what in now.damage:
        st.warning(f"{plain(what)} The rest of the log is shown.", icon=":material/warning:")
    draw_figures(run, now)
    draw_ranks(now)


def draw_work(run: RunView, now: Progress) -> None:
    """What the job in hand does and for which targets, how far it is, what to do meanwhile, and how to stop it."""
    record = job_in_hand(run, now)
    st.subheader(plain(results.doing(record)))
    with shell.guarded():
        st.markdown("  →  ".join(formats.stages(record.kind, now.phase)))
    phase = plain(formats.phase(now.phase))
    step = f": step {now.step:,} of {now.steps:,}" if now.steps else ""
    left = f" · about {formats.duration(now.seconds_in_all)} left in all" if now.seconds_in_all else ""
    st.progress(now.fraction, text=f"{phase}{step}{left}")
    if now.phase == "queued":
        draw_queue(run)
    else:
        st.caption(PHASES.get(now.phase, ""))
    warn_of_full_disk(now)
    draw_meanwhile(run)
    draw_cancel(run)


def job_in_hand(run: RunView, now: Progress) -> JobRecord:
    """The job that was begun last, or will be next. Logs of older versions have its kind alone; its record stands in
    the manifest until it is done."""
    if now.fields:
        return JobRecord(now.job, now.fields)
    jobs = run.manifest.jobs
    return next((job for job in jobs if job.kind == now.job), jobs[0] if jobs else JobRecord(now.job))


def draw_queue(run: RunView) -> None:
    """What a run waits for that is queued."""
    active = shell.queue().active()
    before = active[: active.index(run.id)] if run.id in active else []
    if not before:
        st.caption("It begins as soon as the engine is free.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"It waits until {formats.count(len(before), 'runs')} {'is' if before[1:] == [] else 'are'} done.")
        name = run_names.labels(shell.all_runs()).get(before[0], before[0])
        label = f"See {plain(name)}"
        st.page_link("pages/Live.py", label=label, icon=":material/monitoring:", query_params={"run": before[0]})


def draw_meanwhile(run: RunView) -> None:
    """What can be looked at while the rest is done: a person need not wait here."""
    manifest = run.manifest
    if not manifest.trained:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.markdown("**Meanwhile:** the test images and their mistakes are ready.")
        results.to("Test images", "Look at the test images", "grid_view", run)
        if run.targets:
            results.to(
                "Influence", f"{formats.count(len(run.targets), 'targets')} explained so far", "image_search", run
            )


def draw_cancel(run: RunView) -> None:
    engine = shell.queue()
    if files.read_only():  # a guest stops nothing, here or elsewhere
        return
    if run.id not in engine.active():
        st.info(f"{works_elsewhere(run)} Cancel it there.", icon=":material/terminal:")
    elif engine.is_stopping(run.id):
        st.button("Stopping …", icon=":material/hourglass_top:", key="stopping", disabled=True)
        st.caption("The step in hand is done to its end. What was finished is kept.")
    elif st.button("Cancel the run", icon=":material/stop_circle:", key="cancel", **shell.acting()):
        engine.cancel(run.id)
        st.rerun()  # a run that only waited has left the queue; one at work says that it is stopping


def works_elsewhere(run: RunView) -> str:
    begun = [event for event in progress.log(run.folder) if event["kind"] == "started"]
    if not begun or "pid" not in begun[-1]:
        return "Another program works on this run, such as the command line."
    host, pid = plain(begun[-1].get("host", "this machine")), begun[-1]["pid"]
    return f"Another program works on this run, such as the command line: process {pid} on {host}."


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
    further = status == "finished" and manifest.resumable and manifest.error and manifest.error.kind == "cancelled"
    if status == "cancelled" or further:
        again = "*Resume* puts it into the queue again." if now.phase == "queued" else goes_on
        words = plain(what) if what.startswith("Cancelled") else f"Cancelled. {plain(what)}"
        st.warning(f"{words} {again}", icon=":material/warning:")
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
    """The results of the jobs that were done last."""
    done = results.last(progress.log(run.folder))
    for each in done:
        results.draw(run, each)
    if done or (run.manifest.resumable and not run.manifest.scored):  # what was not finished is told below
        return
    if not run.manifest.scored:
        why = "The scores of this run were deleted." if run.manifest.scored is False else "It has no scores."
        st.info(f"Finished. {why}", icon=":material/info:")
        results.to("Test images", "Choose targets by looking", "grid_view", run)
        return
    # Its log was deleted, or its last job was not finished, which is told below.
    first = "What was scored before is kept" if run.manifest.resumable else "Finished"
    st.success(f"{first}: the scores are ready.", icon=":material/check:")
    with st.container(horizontal=True):
        results.to("Influence", "Look at the influence", "image_search", run)
        results.to("Trust", "Look at the trust report", "verified", run)


def draw_traceback(run: RunView) -> None:
    path = run.folder.path / "log.txt"
    if path.is_file():
        with st.expander("Traceback, from the run's log.txt"), shell.guarded():
            text = files.read_tail(path, "Delete the logs in Runs and storage.", TRACEBACK).decode(errors="replace")
            st.code("\n".join(map(line, text.splitlines())))


def draw_unfinished(run: RunView) -> None:
    """What was not finished of the run, to be resumed or, of a trained one, discarded."""
    if not run.manifest.resumable or files.read_only():
        return
    if st.button("Resume the run", type="primary", icon=":material/resume:", key="resume", **shell.acting()):
        with shell.guarded():  # where it cannot be resumed, what stands in the way can be discarded below
            shell.queue().resume(run.id)
            st.rerun()
    if not run.manifest.trained and not run.manifest.method:
        return
    for number, job in enumerate(run.manifest.jobs):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"Unfinished: {line(formats.job(job))}")
            if st.button("Discard", icon=":material/delete:", key=f"discard-{number}", **shell.acting()):
                with shell.guarded():
                    discard(run.folder, number, job)
                    st.rerun()


# -- figures and charts


def draw_figures(run: RunView, now: Progress) -> None:
    figures = {
        "Phase": plain(formats.phase(now.phase)),
        "Step": f"{now.step:,} of {now.steps:,}" if now.steps else "—",
    }
    if run.manifest.in_progress:
        figures["Rate"] = f"{now.rate:.3g} steps/s" if now.rate else "—"
        if now.seconds_left is not None and now.seconds_left != now.seconds_in_all:  # in the last phase they are one
            figures["Left in this phase"] = formats.duration(now.seconds_left)
        if now.phases:
            figures["Left in all"] = formats.duration(now.seconds_in_all)
    if now.accuracies:
        figures["Test accuracy"] = formats.percent(now.accuracies[-1][1])
    shell.metrics(figures)


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


def draw_charts(folder: Run, was_in_progress: bool, of_a_training: bool) -> None:
    now = progress.of(folder)
    if of_a_training:
        draw_curves(now)
    draw_meters(now)
    with st.expander("Event log", expanded=not was_in_progress):
        events = reversed(progress.log(folder)[-EVENTS:])
        lines = [f"{formats.clock(event['time'])}  {line(formats.sentence(event))}" for event in events]
        st.code("\n".join(lines) or "Nothing yet", language=None, wrap_lines=True)


def draw_curves(now: Progress) -> None:
    """Of the run's training, also while something else is done; nothing where the log has none."""
    if not now.losses:
        st.caption("The curves of the training appear with its first steps." if now.phase != "done" else "")
        return
    curves = [("Training loss", "loss", pictures.curve(now.losses, "Batch loss", "nats"))]
    words = [f"Training loss over {formats.count(len(now.losses), 'steps')}, now {now.losses[-1]:.3f} nats"]
    if now.accuracies:
        curves.append(("Accuracy on test images", "accuracy", pictures.accuracies(now.accuracies)))
        last = formats.percent(now.accuracies[-1][1])
        words.append(f"Accuracy on test images at {formats.count(len(now.accuracies), 'epochs')}, now {last}")
    if now.rates:
        curves.append(("Learning rate", "rate", pictures.curve(now.rates, "Learning rate", "a step")))
        words.append(f"Learning rate, now {formats.rounded(now.rates[-1])} a step")
    for column, (title, key, figure), alt in zip(st.columns(len(curves)), curves, words, strict=True):
        with column:
            st.markdown(f"**{title}**")
            pictures.chart(figure, key, alt)


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
    points = {name: now.points(meter) for name, meter in lines.items()}
    if not any(values for _, values in points.values()):  # axes without a line would say something that is not so
        st.caption("Measured with the first steps.")
        return
    pictures.legend(sizes, limit)
    pictures.chart(
        pictures.meters(points, limit, powers),
        title,
        f"{title} over time, now: {', '.join(f'{name} {size}' for name, size in sizes.items())}",
    )


def worked_on(run: RunView) -> bool:
    """Whether there is a job to tell of. Imported scores have no training, and may be exported all the same."""
    progress.of(run.folder)  # reads its log
    return run.manifest.in_progress or run.manifest.resumable or bool(results.last(progress.log(run.folder)))


def describe(run: RunView) -> None:
    config = run.manifest.config
    if run.manifest.method:  # which its choice describes; the recipe is nobody's
        return
    st.caption(
        f"{plain(run.manifest.dataset or config.dataset)} · {plain(config.model)} · "
        f"{formats.count(config.recipe.epochs, 'epochs')} of batches of {config.recipe.batch_size:,} images · "
        f"{plain(config.replay_mode)} mode"
    )


def guarded(draw, folder: Run, in_progress: bool) -> None:
    with shell.guarded():
        draw(folder, in_progress)


with shell.page("Live"):
    # Without a link: the run being worked on, which is not the newest where others wait.
    run = run_choice.chosen("There is no run to watch yet.", first=shell.queue().active()[:1])
    if not worked_on(run):
        imported.stop_without(run.manifest)
    describe(run)
    in_progress = run.manifest.in_progress
    if in_progress:
        st.session_state["watched"] = run.id  # until its result is seen, the sidebar of every page leads to it
    elif st.session_state.get("watched") == run.id:
        del st.session_state["watched"]
    seed_group.draw_on_live(run)
    # A browser on the same machine takes its share of the cores to draw charts, so they come less often.
    charts = functools.partial(draw_charts, of_a_training=not run.manifest.method)
    for draw, every in ((draw_now, "1s"), (charts, "5s")):
        st.fragment(guarded, run_every=every if in_progress else None)(draw, run.folder, in_progress)
