"""Retrainings and what is kept of them: the test logits of each, so that none is trained twice.

    validation/retrained/<key>.safetensors      logits float32 [N_test, C]

What decides a retraining stands in the file's header and is compared when it is read: the training (recipe, model,
data), the batch plan, what is left out, which labels are others, and the device. A file that is damaged, stands in
another's place, or is of a version that did not record all of it is trained again.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine import files
from engine.core import retraining, targets
from engine.core.stream import Stream
from engine.device import describe
from engine.errors import DivergedError, IntegrityError
from engine.jobs.reopen import plan_digest
from engine.jobs.session import Session
from engine.trajectory.state_files import read_state, write_state


@dataclass(frozen=True)
class Change:
    """Training images left out, int64 [S], and other labels for some, by image."""

    left_out: np.ndarray
    relabelled: tuple[tuple[int, int], ...] = ()


def side_by_side(session: Session) -> int:
    """Retrainings a pass."""
    return retraining.side_by_side(session.model, session.stream)


def retrained(session: Session, changes: dict[str, Change], width: int) -> dict[str, np.ndarray]:
    """Test logits float32 [N_test, C] by key; what is kept from before is read, the rest trained, `width` at a time.

    Changes that are trained side by side must agree in their labels. Raises `DivergedError` that names the key.
    """
    journal, folder = session.journal, session.run.path / "validation" / "retrained"
    files.make_folder(folder)
    headers = {key: _header(session, change) for key, change in changes.items()}
    logits = {}
    for key in changes:
        if (kept := _read(session, folder, key, headers[key])) is not None:
            logits[key] = kept
    if logits:
        journal.note(f"{len(logits)} of {len(changes)} retrainings were done before.")
    missing = [key for key in changes if key not in logits]
    groups = [missing[i : i + width] for i in range(0, len(missing), width)]
    meter = journal.phase("retrain", len(groups) * session.steps)
    for g, group in enumerate(groups):

        def before(t: int, done: int = g * session.steps) -> None:
            session.check_cancelled(t)
            meter.report(done + t)

        for key, values in _train(session, {key: changes[key] for key in group}, before).items():
            journal.save(
                values.numel() * 4 + 1024,
                lambda path=folder / f"{key}.safetensors", values=values, header=headers[key]: write_state(
                    path, {"logits": values}, header
                ),
            )
            logits[key] = values.numpy()
    meter.report(len(groups) * session.steps)
    return logits


def _train(session: Session, changes: dict[str, Change], before) -> dict[str, torch.Tensor]:
    weights = torch.ones(len(changes), session.stream.data.n, dtype=session.dtype)
    for row, change in zip(weights, changes.values(), strict=True):
        row[torch.from_numpy(change.left_out)] = 0
    stream = _relabelled(session, next(iter(changes.values())).relabelled)
    try:
        states = retraining.retrain(session.model, stream, weights.to(session.device), before)
    except DivergedError as error:
        keys = list(changes)
        raise DivergedError(
            f"Retraining {keys[0]}" + (f" to {keys[-1]}" if len(keys) > 1 else "") + f" failed. {error.what}",
            "The run's training is close to diverging, and its scores are not to be relied on: lower "
            "the peak learning rate, or leave out fewer images.",
            error.step,
        ) from error
    return {
        key: targets.logits(session.model, state, session.test).float().cpu()
        for key, state in zip(changes, states, strict=True)
    }


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


def _read(session: Session, folder: Path, key: str, header: dict[str, str]) -> np.ndarray | None:
    path = folder / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        return read_state(path, header, "")["logits"].numpy()
    except IntegrityError as error:
        session.journal.note(f"{error.what} It is trained again.")
        return None
