"""One part of a job in a process that knows nothing of the others: for arrays of jobs on a cluster.

    python -m engine attribute RUN --targets … --shard 2/8        and --shard 1/8 … 8/8, anywhere, at any time
    python -m engine merge RUN                                    once all are done

A shard holds the run together with the other shards, so that nothing else changes or deletes it meanwhile. It reads
the trajectory and leaves files beside it (`engine.jobs.parts`, `engine.jobs.retrained`); it writes neither manifest nor
log. The first shard to come writes down what all must agree on: the width of a pass, and the kind of device.
"""

import contextlib
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from engine import device as devices
from engine import files
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, IntegrityError
from engine.jobs import machine
from engine.jobs.job import Job
from engine.jobs.journal import OnEvent, Quiet
from engine.jobs.parts import Shard, shares
from engine.jobs.replay import Replay, Scoring
from engine.jobs.session import opened
from engine.jobs.sharing import Sharing
from engine.jobs.validation import Validate
from engine.runs.run import Run
from engine.runs.storage import FOLDERS

if TYPE_CHECKING:
    from engine.jobs.session import Session


class OneShard(Sharing):
    """Of n shares, cut from all that there is and never from what is left, the i-th."""

    alone = False

    def __init__(self, shard: Shard):
        self.shard, self.size = shard, shard.n

    def share(self, kind: str, items: Sequence[Any], lacking: Collection[Any], **about: Any) -> list[Any]:
        assert self.shard is not None
        return [item for item in shares(items, self.size)[self.shard.i - 1] if item in lacking]


def do(run: Run, job: Job, shard: Shard, on_event: OnEvent) -> str:
    """Does one share of a job, and returns a sentence of what is done. `on_event` is told how far it is.

    Raises `ConfigError` where the job cannot be shared so, or where others of it were done on another kind of device.
    """
    if not isinstance(job, Replay | Validate):
        raise ConfigError(f"A job «{job.kind}» has no shards.", "Only attribute and validate are done in shards.")
    files.check_writable(run.path)
    files.check_no_links(run.path)
    with run.lock().shared(), devices.exact_arithmetic():
        job = job.check(run, dataset_registry.load(run.manifest().config.dataset))
        for folder in FOLDERS:
            files.make_folder(run.path / folder)
        cancel = threading.Event()
        with opened(run, Quiet(run, cancel, on_event), cancel, OneShard(shard)) as session:
            said = _score(session, job) if isinstance(job, Replay) else _retrain(session, job)
    return f"shard {shard} of run {run.id}: {said}"


def _score(session: "Session", job: Replay) -> str:
    from engine.jobs.reopen import check_steps, reopen

    trained = reopen(session)
    scoring = Scoring.begun(session, job, trained)
    whole = scoring.whole
    mine = session.sharing.share("replay", whole.passes, whole.passes)
    todo = session.sharing.share("replay", whole.passes, scoring.lacking())
    if todo:
        with contextlib.closing(session.trajectory(job.mode, trained.digests)) as trajectory:
            check_steps(session, trajectory)
            scoring.replay_passes(trajectory, todo)
    rows = whole.cut(mine, len(whole.targets))
    if not rows:
        return f"nothing to do, for there are {len(whole.passes)} passes in all"
    return f"targets {rows[0].first + 1:,} to {rows[0].stop:,} of {len(whole.targets):,} are scored"


def _retrain(session: "Session", job: Validate) -> str:
    from engine.jobs.reopen import reopen
    from engine.jobs.retrained import groups_of, kept, train_groups, train_rows
    from engine.jobs.validation import decided, scored_targets

    reopen(session)
    plan, n = decided(session, job), session.stream.data.n
    changes = job.changes(n, plan["width"], plan["repeats"])
    rows = train_rows(ref for refs in scored_targets(session.run).values() for ref in refs)
    groups = groups_of(list(changes), plan["width"])
    check_kept_kinds(session.run, list(changes), machine.kind(session.device))
    mine = session.sharing.share("retrain", range(len(groups)), range(len(groups)))
    here = {key: changes[key] for g in mine for key in groups[g]}
    known = kept(session, here, rows)
    train_groups(session, changes, [groups[g] for g in mine if not known.keys() >= set(groups[g])], rows, known)
    return f"{len(here):,} of {len(changes):,} retrainings are done"


def check_kept_kinds(run: Run, keys: list[str], kind: str) -> None:
    """Raises `ConfigError`, with both names, where some of these retrainings were done on another kind of device."""
    from engine.trajectory.state_files import read_with_header

    for key in keys:
        path = run.path / "validation" / "retrained" / f"{key}.safetensors"
        with contextlib.suppress(IntegrityError):  # missing or damaged: it is trained
            theirs = read_with_header(path, {}, "")[1].get("device", kind)
            machine.check_one_kind(kind, theirs, f"Retraining {key}")
