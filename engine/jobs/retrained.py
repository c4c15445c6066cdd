"""Retrainings and what is kept of them: the logits of each, so that none is trained twice.

    validation/retrained/<key>.safetensors      logits float32 [N_test, C] on the test split
                                                train_rows int64 [R], train_logits float32 [R, C]: on the training
                                                images that the run's targets ask about, where there are any

All begin where the run's window does (`engine.jobs.window`): images are left out, and labels others, from there on.

What decides a retraining stands in the file's header and is compared when it is read: the training (recipe, model,
data), the batch plan, the window, what is left out, which labels are others, and the device. A file that is damaged,
stands in another's place, or is of a version that did not record all of it is trained again; so is one without the
logits of a training image that was made a target since.

Side by side, the last bits of a retraining depend on how many there are. So groups are cut from the whole list by
number, never from what is missing, and a group is trained whole: whoever trains it, in whatever order, after whatever
kill, gets the same bits. Each is its own group where they are trained one at a time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine import files
from engine.core import retraining, targets
from engine.core.state import State
from engine.core.stream import Stream
from engine.errors import DivergedError, IntegrityError
from engine.jobs import machine, parts, window
from engine.jobs.reopen import plan_digest
from engine.jobs.session import Session
from engine.jobs.sharing import Sharing
from engine.runs.scores import TargetRef
from engine.targets import TRAIN, Members, TrainImage
from engine.trajectory.state_files import bytes_of, read_state, write_state

UNNAMED = {"window": "0"}  # what a header without such an entry says: weights count from the start of training

WIDEST_ON_GPU = 8  # retrainings side by side: more are no faster each, and fewer groups are to be shared out


@dataclass(frozen=True)
class Change:
    """Training images left out, int64 [S], and other labels for some, by image."""

    left_out: np.ndarray
    relabelled: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Logits:
    """What one model says, in evaluation mode."""

    test_NC: np.ndarray  # float32, of the test split
    train: dict[int, np.ndarray]  # float32 [C] of training images, by their index

    def at(self, members: Members) -> np.ndarray:
        """[S, C] of a target's images, which are in a split."""
        if members.split == TRAIN:
            return np.stack([self.train[i] for i in members.indices.tolist()])
        return self.test_NC[members.indices]


def train_rows(targets: Iterable[TargetRef]) -> list[int]:
    """The training images that some of a run's targets ask about."""
    return sorted({ref.target.index for ref in targets if isinstance(ref.target, TrainImage)})


def side_by_side(session: Session) -> int:
    """Retrainings a pass; one of a run whose steps are compiled, for compiled passes carry one training at a time."""
    if session.run.manifest().compiled:
        return 1
    width = retraining.side_by_side(session.model, session.stream)
    return min(width, WIDEST_ON_GPU) if session.device.type == "cuda" else width


def groups_of(keys: Sequence[str], width: int) -> list[list[str]]:
    """Retrainings that are trained side by side, at most `width` to a group: as even as can be, and as many groups as
    a power of two, which 2, 4 and 8 GPUs share evenly; or each one alone."""
    count = 1
    while count * width < len(keys):
        count *= 2
    return parts.shares(keys, min(count, len(keys)) if width > 1 else len(keys))


def retrained(
    session: Session,
    changes: dict[str, Change],
    width: int,
    rows: list[int],
    sharing: Sharing | None = None,
    kind: str | None = None,
) -> dict[str, Logits]:
    """By key, on the test split and on the training images `rows`; what is kept from before is read, the rest trained,
    `width` at a time at most.

    `sharing` says with whom, the session's where it is None; `kind` where they are computed, here where it is None.
    Changes that are trained side by side must agree in their labels. Raises `DivergedError` that names the key.
    """
    journal, sharing = session.journal, sharing or session.sharing
    files.make_folder(session.run.path / "validation" / "retrained")
    logits = kept(session, changes, rows, kind)
    if logits:
        journal.note(f"{len(logits)} of {len(changes)} retrainings were done before.")
    groups = groups_of(list(changes), width)
    lacking = [g for g, group in enumerate(groups) if not logits.keys() >= set(group)]
    mine = sharing.share("retrain", range(len(groups)), lacking, keys=list(changes), width=width, rows=rows)
    train_groups(session, changes, [groups[g] for g in mine], rows, logits.keys(), kind)

    def all_there() -> bool:
        missing = {key: change for key, change in changes.items() if key not in logits}
        logits.update(kept(session, missing, rows, kind, lambda text: None))
        return len(logits) == len(changes)

    sharing.wait(all_there)
    return {key: logits[key] for key in changes}


def kept(
    session: Session,
    changes: dict[str, Change],
    rows: list[int],
    kind: str | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Logits]:
    """Those of the retrainings that are on disk, computed on `kind`, here where it is None. `note` is told, the
    session's journal where it is None, of those that are there and cannot be taken."""
    note = note or session.journal.note
    folder = session.run.path / "validation" / "retrained"
    logits, lacking = {}, 0
    for key, change in changes.items():
        before = _read(folder, key, _header(session, change, kind), note)
        if before is not None and all(row in before.train for row in rows):
            logits[key] = before
        elif before is not None:
            lacking += 1
    if lacking:
        note(f"{lacking} retrainings did not keep what training images are asked now: they are done again.")
    return logits


def train_groups(
    session: Session,
    changes: dict[str, Change],
    groups: list[list[str]],
    rows: list[int],
    known: Iterable[str] = (),
    kind: str | None = None,
) -> None:
    """Trains each group side by side and keeps of each retraining what `retrained` reads, but for the `known` ones."""
    journal, folder, known = session.journal, session.run.path / "validation" / "retrained", set(known)
    begin = window.begin(session) if groups else None
    meter = journal.phase("retrain", len(groups) * session.counted)
    began = time.monotonic()
    for g, group in enumerate(groups):

        def before_step(t: int, done: int = g * session.counted) -> None:
            meter.report(done + t - session.start)
            session.check_cancelled(t)

        for key, tensors in _train(session, {key: changes[key] for key in group}, begin, before_step, rows).items():
            if key in known:
                continue
            header = _header(session, changes[key], kind)
            if session.sharing.shard is not None:
                header["shard"] = str(session.sharing.shard)
            journal.save(
                bytes_of(tensors) + 512,
                lambda path=folder / f"{key}.safetensors", tensors=tensors, header=header: write_state(
                    path, tensors, header
                ),
            )
    meter.report(len(groups) * session.counted)
    if groups:  # what the next ones will take
        journal.timing("retrain_seconds", time.monotonic() - began, retrainings=sum(map(len, groups)))


def _train(
    session: Session,
    changes: dict[str, Change],
    begin: tuple[int, State] | None,
    before_step: Callable[[int], None],
    rows: list[int],
) -> dict[str, dict[str, torch.Tensor]]:
    """What is kept of each, by key and by the names in its file."""
    weights = torch.ones(len(changes), session.stream.data.n, dtype=session.dtype)
    for row, change in zip(weights, changes.values(), strict=True):
        row[torch.from_numpy(change.left_out)] = 0
    stream = _relabelled(session, next(iter(changes.values())).relabelled)
    try:
        states = retraining.retrain(
            session.model, stream, weights.to(session.device), before_step, session.forwards, begin
        )
    except DivergedError as error:
        keys = list(changes)
        raise DivergedError(
            f"Retraining {keys[0]}" + (f" to {keys[-1]}" if len(keys) > 1 else "") + f" failed. {error.what}",
            "The run's training is close to diverging, and its scores are not to be relied on: lower "
            "the peak learning rate, or leave out fewer images.",
            error.step,
        ) from error
    evaluated = {key: _evaluated(session, state, rows) for key, state in zip(changes, states, strict=True)}
    session.check_data()
    return evaluated


def _evaluated(session: Session, state: State, rows: list[int]) -> dict[str, torch.Tensor]:
    tensors = {"logits": targets.logits(session.model, state, session.test).float().cpu()}
    if rows:
        on_rows = targets.logits_of_each(session.model, state, session.stream.data, rows)
        tensors |= {"train_rows": torch.tensor(rows), "train_logits": on_rows.float().cpu()}
    return tensors


def _logits(tensors: dict[str, torch.Tensor]) -> Logits:
    rows = tensors["train_rows"].tolist() if "train_rows" in tensors else []
    by_row = dict(zip(rows, tensors["train_logits"].numpy(), strict=True)) if rows else {}
    return Logits(tensors["logits"].numpy(), by_row)


def _relabelled(session: Session, relabelled: tuple[tuple[int, int], ...]) -> Stream:
    if not relabelled:
        return session.stream
    labels = session.dataset.train_labels.copy()
    for index, label in relabelled:
        labels[index] = label
    data = replace(session.stream.data, labels=torch.from_numpy(labels).to(session.device))
    return replace(session.stream, data=data)


def _header(session: Session, change: Change, kind: str | None = None) -> dict[str, str]:
    plan, kind = plan_digest(session.stream.plan), kind or machine.kind(session.device)
    return header_of(session.training, plan, change, kind, session.start)


def header_of(training: str, plan: str, change: Change, kind: str, start: int = 0) -> dict[str, str]:
    """What decides a retraining: digests of the training and of its batch plan, the change, the step that it begins
    with, and the kind of device."""
    return {
        "training": training,
        "plan": plan,
        "left_out": files.json_digest(change.left_out.tolist()),
        "relabelled": files.json_digest([list(pair) for pair in sorted(change.relabelled)]),
        "device": kind,
        **({"window": str(start)} if start else {}),
    }


def _read(folder: Path, key: str, header: dict[str, str], note: Callable[[str], None]) -> Logits | None:
    path = folder / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        return _logits(read_state(path, header, "", UNNAMED))
    except IntegrityError as error:
        note(f"{error.what} It is trained again.")
        return None
