"""Retrainings and what is kept of them: the logits of each, so that none is trained twice.

    validation/retrained/<key>.safetensors      logits float32 [N_test, C] on the test split
                                                train_rows int64 [R], train_logits float32 [R, C]: on the training
                                                images that the run's targets ask about, where there are any

What decides a retraining stands in the file's header and is compared when it is read: the training (recipe, model,
data), the batch plan, what is left out, which labels are others, and the device. A file that is damaged, stands in
another's place, or is of a version that did not record all of it is trained again; so is one without the logits of a
training image that was made a target since.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine import files
from engine.core import retraining, targets
from engine.core.state import State
from engine.core.stream import Stream
from engine.device import describe
from engine.errors import DivergedError, IntegrityError
from engine.jobs.reopen import plan_digest
from engine.jobs.session import Session
from engine.runs.scores import TargetRef
from engine.targets import TRAIN, Members, TrainImage
from engine.trajectory.state_files import bytes_of, read_state, write_state


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
    """Retrainings a pass."""
    return retraining.side_by_side(session.model, session.stream)


def retrained(session: Session, changes: dict[str, Change], width: int, rows: list[int]) -> dict[str, Logits]:
    """By key, on the test split and on the training images `rows`; what is kept from before is read, the rest trained,
    `width` at a time.

    Changes that are trained side by side must agree in their labels. Raises `DivergedError` that names the key.
    """
    journal, folder = session.journal, session.run.path / "validation" / "retrained"
    files.make_folder(folder)
    headers = {key: _header(session, change) for key, change in changes.items()}
    logits, lacking = {}, 0
    for key in changes:
        before = _read(session, folder, key, headers[key])
        if before is not None and all(row in before.train for row in rows):
            logits[key] = before
        elif before is not None:
            lacking += 1
    if lacking:
        journal.note(f"{lacking} retrainings did not keep what training images are asked now: they are done again.")
    if logits:
        journal.note(f"{len(logits)} of {len(changes)} retrainings were done before.")
    missing = [key for key in changes if key not in logits]
    groups = [missing[i : i + width] for i in range(0, len(missing), width)]
    meter = journal.phase("retrain", len(groups) * session.steps)
    for g, group in enumerate(groups):

        def before_step(t: int, done: int = g * session.steps) -> None:
            session.check_cancelled(t)
            meter.report(done + t)

        for key, tensors in _train(session, {key: changes[key] for key in group}, before_step, rows).items():
            journal.save(
                bytes_of(tensors) + 512,
                lambda path=folder / f"{key}.safetensors", tensors=tensors, header=headers[key]: write_state(
                    path, tensors, header
                ),
            )
            logits[key] = _logits(tensors)
    meter.report(len(groups) * session.steps)
    return logits


def _train(
    session: Session, changes: dict[str, Change], before_step: Callable[[int], None], rows: list[int]
) -> dict[str, dict[str, torch.Tensor]]:
    """What is kept of each, by key and by the names in its file."""
    weights = torch.ones(len(changes), session.stream.data.n, dtype=session.dtype)
    for row, change in zip(weights, changes.values(), strict=True):
        row[torch.from_numpy(change.left_out)] = 0
    stream = _relabelled(session, next(iter(changes.values())).relabelled)
    try:
        states = retraining.retrain(session.model, stream, weights.to(session.device), before_step)
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


def _header(session: Session, change: Change) -> dict[str, str]:
    return {
        "training": session.training,
        "plan": plan_digest(session.stream.plan),
        "left_out": files.json_digest(change.left_out.tolist()),
        "relabelled": files.json_digest([list(pair) for pair in sorted(change.relabelled)]),
        "device": describe(session.device),
    }


def _read(session: Session, folder: Path, key: str, header: dict[str, str]) -> Logits | None:
    path = folder / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        return _logits(read_state(path, header, ""))
    except IntegrityError as error:
        session.journal.note(f"{error.what} It is trained again.")
        return None
