"""The one way to do a job, for the worker thread, the command line and any process of tomorrow.

A job is checked before anything is written, recorded as unfinished, done, and taken off the record: to resume a
run is to do all that is recorded, oldest first. `execute` holds no lock itself: its caller does (`Run.lock`), so
that a queued run is already taken. Whatever happens, the folder says it: in the manifest's status, in the events,
and, for what was not foreseen, in log.txt with the traceback.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Any, cast

import torch

from engine import device as devices
from engine import files
from engine.datasets import registry as dataset_registry
from engine.errors import CancelledError, ConfigError, ReplayError, StorageError
from engine.jobs import ahead
from engine.jobs.cancel import process_ends
from engine.jobs.job import Job, Result
from engine.jobs.journal import Journal, OnEvent
from engine.jobs.registry import records, unfinished
from engine.jobs.session import opened, opened_without_model
from engine.jobs.sharing import ALONE, Sharing
from engine.runs.manifest import ErrorRecord
from engine.runs.run import Run
from engine.runs.storage import FOLDERS

logger = logging.getLogger(__name__)

SPARE = ".spare"  # given up when the disk is full, so that the failure can be written down

SPARE_BYTES = 64 * 1024


def execute(
    run: Run,
    job: Job | None = None,
    cancel: threading.Event | None = None,
    on_event: OnEvent | None = None,
    sharing: Sharing = ALONE,
) -> Result:
    """Does `job`, and leaves the run's other unfinished jobs as they are; or, without one, all that is unfinished.

    Returns what the (last) job left. `cancel` stops it at the next step. `on_event(event)` is told every event
    beside the log. `sharing` says with which other processes the work is done. Raises the tree of `engine.errors`: a
    `ConfigError` where the job can never be done, before the folder is touched; of what comes later the folder has
    been told.
    """
    files.check_writable(run.path)
    files.check_no_links(run.path)  # a job replaces and deletes files: a link could lead into another run
    cancel = cancel or threading.Event()
    if job is not None:
        jobs = (job.check(run, dataset_registry.load(run.manifest().config.dataset)),)
    else:
        jobs = unfinished(run)
    if not jobs:
        raise ConfigError(f"Run {run.id} has nothing left to do.", "Name further targets, or look at its scores.")
    journal = Journal(run, cancel, on_event)
    sharing.at_work(journal, lambda error: record_failure(run, error, cancel, on_event))
    try:
        with devices.exact_arithmetic():
            files.check_no_links(run.path)
            if job is not None:
                _add(journal, jobs[0])
            result = _do_all(run, jobs, journal, cancel, sharing)
        (run.path / SPARE).unlink(missing_ok=True)
        journal.event("finished", scores=result.scores)
        journal.update(**run.totals())
        # Last of all: who reads it may submit the next job at once.
        left = records(run.manifest())
        if not left:
            journal.update(status_said="finished", error=None)
        else:
            journal.update(status_said="finished" if run.manifest().scored else "interrupted")
        return result
    except BaseException as error:
        cancel.set()  # what waits for space waits no longer
        reason = sharing.why(error)
        record_failure(run, reason, cancel, on_event)
        if reason is error:
            raise
        raise reason from error
    finally:
        with contextlib.suppress(OSError):
            (run.path / SPARE).unlink(missing_ok=True)


def _do_all(run: Run, jobs: tuple[Job, ...], journal: Journal, cancel: threading.Event, sharing: Sharing) -> Result:
    """Each in turn. A recorded one that can never be done is taken off the record, and said."""
    result: Result | None = None
    impossible: ConfigError | None = None
    files.sweep(run.path)
    for folder in FOLDERS:
        files.make_folder(run.path / folder)
    for job in jobs:
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        journal.event("started", job=job.kind, fields=job.record().fields, **where, **_foretold(run, job))
        journal.save(SPARE_BYTES, lambda: files.write_bytes(run.path / SPARE, bytes(SPARE_BYTES)))
        recorded = job
        try:
            job = job.check(run, dataset_registry.load(run.manifest().config.dataset))
        except ConfigError as error:
            if not run.manifest().trained:
                raise
            impossible = error
            _remove(journal, recorded)
            journal.note(f"The job «{job.kind}» was taken off the list, for it cannot be done: {error}")
            continue
        sharing.begin(job)
        if job.needs_model:
            with opened(run, journal, cancel, sharing) as session:
                sharing.opened(session)
                result = job.do(session)
        else:  # of data alone, which is not shared out
            with opened_without_model(run, journal, cancel) as session:
                result = job.do(cast(Any, session))  # such a kind asks for no more
        _remove(journal, recorded)
        done = {"job": job.kind, "fields": job.record().fields}
        journal.event("done", **done, scores=result.scores, reports=list(result.reports))
    if impossible is not None and result is None:
        raise impossible
    return result or Result()


def _foretold(run: Run, job: Job) -> dict:
    """What the job will go through, and what is known of how long that takes: for those who watch it. A job that cannot
    be done says why when it is checked."""
    try:
        dataset = dataset_registry.load(run.manifest().config.dataset)
        phases = [{"phase": each.name, "cost": round(each.cost)} for each in job.ahead(run, dataset)]
        return {"phases": phases, "step_seconds": ahead.measured(run).step}
    except ReplayError:
        return {}


def _add(journal: Journal, job: Job) -> None:
    """Records a job as unfinished, behind the others; one that is recorded already stays where it is."""
    recorded = records(journal.run.manifest())
    if job.record() not in recorded:
        journal.update(jobs=(*recorded, job.record()))


def _remove(journal: Journal, job: Job) -> None:
    """Takes a job off the unfinished ones."""
    journal.update(jobs=tuple(record for record in records(journal.run.manifest()) if record != job.record()))


def record_failure(run: Run, error: BaseException, cancel: threading.Event, on_event: OnEvent | None) -> None:
    """Writes down why a job ended, as far as the disk allows."""
    with contextlib.suppress(OSError):
        (run.path / SPARE).unlink(missing_ok=True)
    what, remedy = _sentences(error)
    kind = _outcome(error, cancel)
    try:
        # A run that has scores keeps them, whatever became of a later job.
        status = "finished" if run.manifest().scored else kind
        said = None if kind == "interrupted" else ErrorRecord(what, remedy, kind)
        if kind != "interrupted":
            with contextlib.suppress(StorageError):  # the log may have a gap, the manifest none
                run.events_log.append(kind, what=what, remedy=remedy)
            if on_event is not None:
                on_event({"kind": kind, "what": what, "remedy": remedy})
        if kind == "failed":
            log_traceback(run, error)
        run.update_manifest(status_said=status, error=said)
    except (OSError, ReplayError) as refusal:  # whoever waits for the job is told of the first error all the same
        logger.error("Run %s failed (%s), and its folder could not be told: %s", run.id, what, refusal)


def log_traceback(run: Run, error: BaseException) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
    text = f"{stamp}\n{''.join(traceback.format_exception(error))}\n"
    with contextlib.suppress(StorageError):
        files.append(run.path / "log.txt", text.encode("utf-8", "backslashreplace"))


def _outcome(error: BaseException, cancel: threading.Event) -> str:
    """«interrupted» where the process ends: nothing failed, and the run stands as after a kill."""
    stopping = getattr(cancel, "interrupted", False) or process_ends()
    if stopping and (isinstance(error, CancelledError) or not isinstance(error, ReplayError)):
        return "interrupted"  # also where torch or a thread pool refuses work to a dying interpreter
    return "cancelled" if isinstance(error, (CancelledError, KeyboardInterrupt)) else "failed"


def _sentences(error: BaseException) -> tuple[str, str]:
    """What happened, and the remedy."""
    if isinstance(error, ReplayError):
        return error.what, error.remedy
    if isinstance(error, KeyboardInterrupt):
        return "The run was interrupted from the keyboard.", "Resume it to go on."
    if isinstance(error, OSError) and error.filename is not None:
        refused = files.storage_error(Path(os.fsdecode(error.filename)), error)
        return refused.what, refused.remedy
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return (
            f"Memory ran out ({str(error).splitlines()[0] if str(error) else 'RAM'}).",
            "Carry fewer targets per pass, use a smaller batch, or replay in disk mode.",
        )
    return f"{type(error).__name__}: {error}", "This was not foreseen. The traceback is in the run's log.txt."
