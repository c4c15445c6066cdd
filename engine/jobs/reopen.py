"""A run that was trained before is reopened only by code that computes the same.

Replay reads the states that training left and runs *today's* step on them: a model, a batch plan or a learning
rate that has changed since gives scores that are wrong without a sign. So these are compared first:

    the model's files      SHA-256 of a person's own code and first weights, with the manifest
    the initial state      its SHA-256, with model/digests.json
    the batches            SHA-256 over the plan of all steps, with the manifest
    the learning rates     likewise
    the augmented images   weighted means of some images' pixels, with the manifest: bit for bit on the hardware and
                           torch that wrote them, else as far as rounding goes
    the logits             of the first `LOGITS` test images, recomputed, with model/test_logits.npy: bit for bit
                           on the hardware and torch that wrote them, else as far as rounding goes

Before a replay that reads every state from the disk, where nothing is computed again, the first `STEPS` steps are
run too, and compared with the states that training left: loss and optimizer are code as well.

`IntegrityError` names the first that differs, and in what else the run and this process differ.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from engine.config import Recipe
from engine.core import targets
from engine.core.schedule import BatchPlan, learning_rate, rates_were_others
from engine.core.state import State, Trajectory
from engine.core.step import step
from engine.errors import IntegrityError
from engine.jobs import machine, window
from engine.jobs.session import Session
from engine.models import registry as model_registry
from engine.trajectory.digests import Digests, pixel_means
from engine.trajectory.modes import EveryState
from engine.trajectory.state_files import digest_of, named, read_state, state_of

LOGITS = 8  # test images whose logits are compared

STEPS = 2  # the second is the first whose momentum is not zero

SAME_PIXELS = 1e-6  # of a mean of standardised pixels: other kernels move it by 1e-9, one image that is flipped by 1e-4

CLOSE = 1e-3  # of the largest logit: what other kernels may change by rounding


@dataclass(frozen=True)
class Trained:
    """A run's training: the state after all steps, and the digests of the states before it."""

    final: State
    digests: Digests


def plan_digest(plan: BatchPlan) -> str:
    """SHA-256 over the examples of every step."""
    digest = hashlib.sha256()
    for t in range(len(plan)):
        digest.update(plan[t].astype("<i8").tobytes())
    return digest.hexdigest()


def rates_digest(recipe: Recipe, steps: int) -> str:
    """SHA-256 over the learning rate of every step."""
    rates = np.array([learning_rate(recipe, t, steps) for t in range(steps)], "<f8")
    return hashlib.sha256(rates.tobytes()).hexdigest()


def origin(session: Session) -> dict:
    """What the manifest keeps of the code and the hardware that a training ran on."""
    return {
        "versions": {
            **machine.versions(),
            **model_registry.libraries(session.config),
            **machine.instructions(session.device),
        },
        "device": str(session.device),
        "device_name": machine.kind(session.device),
        "driver": machine.driver(session.device),
        "threads": torch.get_num_threads(),
    }


def differences(session: Session) -> list[str]:
    """In what this process differs from the one that trained the run: a phrase each, for people."""
    then, now = session.manifest, origin(session)
    pairs = [
        ("the device", then.device_name, now["device_name"]),
        ("threads", then.threads, now["threads"]),
    ]
    pairs += [(name, then.versions.get(name), version) for name, version in now["versions"].items()]
    return [f"{what} {old}, here {new}" for what, old, new in pairs if old is not None and old != new]


def reopen(session: Session) -> Trained:
    """The final state and the digests of a run trained before. Raises `IntegrityError`, see the module."""
    run, manifest = session.run, session.manifest
    if manifest.training_digest != session.training:
        raise IntegrityError(
            f"The configuration of run {run.id} is not the one it was trained with.",
            "Restore its config.json, or start a run with these settings.",
        )
    digests = session.recorded_digests()
    check_start(session, digests.known.get(0))
    tensors = read_state(
        run.path / "model" / "state.safetensors", {"training": session.training}, "Start the run again."
    )
    final = state_of({name: t.to(session.device) for name, t in tensors.items()}, session.optimizer)
    _check_logits(session, final)
    if unlike := differences(session):
        session.journal.note(f"The run was trained elsewhere: {'; '.join(unlike)}.")
    return Trained(final, digests)


def check_sources(session: Session) -> None:
    """Compares the files of the model's code and first weights with what the manifest recorded of them."""
    recorded = session.manifest.model_sources
    for name, sha256 in model_registry.sources(session.config).items():
        if recorded is not None and recorded.get(name) != sha256:
            raise IntegrityError(
                f"The file {name}, which decides the model of run {session.run.id}, has changed since it was trained.",
                "Restore the file, or start a new run.",
            )


def check_start(session: Session, initial: str | None) -> None:
    """Compares the initial state with its digest `initial`, and the plan and the rates with the manifest; what an
    older version did not record is not compared."""
    manifest = session.manifest
    check_sources(session)
    if initial is not None and digest_of(named(session.initial, session.optimizer)) != initial:
        raise _other(session, "initial state", "the model's code, or how its weights are drawn,")
    if manifest.plan_sha256 not in (None, plan_digest(session.stream.plan)):
        raise _other(session, "batch plan", "how the examples are ordered")
    unrecorded = initial is not None and manifest.rates_sha256 is None
    if unrecorded and rates_were_others(session.config.recipe, session.steps):
        raise _other(session, "learning rate of some step", "the learning-rate schedule")
    if manifest.rates_sha256 not in (None, rates_digest(session.config.recipe, session.steps)):
        raise _other(session, "learning rate of some step", "the learning-rate schedule")
    _check_pixels(session)


def _check_pixels(session: Session) -> None:
    """Compares what augmentation makes of some images with what the training recorded of them."""
    written = session.manifest.pixel_means
    if written is None or (means := pixel_means(session.stream)) == written:
        return
    alike = len(means) == len(written) and np.allclose(means, written, rtol=0, atol=SAME_PIXELS)
    if not alike or not differences(session):
        raise _other(session, "augmented images", "an augmentation's code")


def check_steps(session: Session, trajectory: Trajectory) -> None:
    """Runs the first steps that are replayed and compares them, bit for bit, with the states of a trajectory that
    keeps every one."""
    if not isinstance(trajectory, EveryState) or session.counted <= STEPS or differences(session):
        return  # what is trained again is compared with the digests; other hardware rounds otherwise
    try:
        kept = trajectory.store.get(session.start + STEPS)
    except IntegrityError:  # it is made again when it is asked for, and then compared with the digests
        return
    start, state = window.begin(session) or (0, session.initial)
    for t in range(start, start + STEPS):
        state, _ = step(session.forwards, session.optimizer, state, session.stream.at(t))
    if not (torch.equal(state.theta, kept.theta) and torch.equal(state.buffers, kept.buffers)):
        raise _other(session, f"state after {start + STEPS} steps", "how a step computes (loss, optimizer, data)")


def _check_logits(session: Session, final: State) -> None:
    # A whole chunk, of which the first rows are compared: sums of other shapes are rounded differently.
    inputs, _ = session.test.batch(range(min(targets.CHUNK, session.test.n)))
    with torch.no_grad():
        logits = session.model(final.theta, final.buffers, inputs, training=False)[0][:LOGITS].float().cpu().numpy()
    written = session.manifest.test_logits()[:LOGITS]
    if np.array_equal(logits, written):
        return
    alike = logits.shape == written.shape
    if not alike or not differences(session) or not np.abs(logits - written).max() <= CLOSE * np.abs(written).max():
        raise _other(session, "trained model's answer to test images", "the model's code")


def _other(session: Session, what: str, cause: str) -> IntegrityError:
    unlike = differences(session)
    if machine.instructions(session.device).keys() - session.manifest.versions.keys():
        unlike.append("the processor's vector instructions, which the run does not record")
    return IntegrityError(
        f"The {what} of run {session.run.id} is not what it was when the run was trained.",
        f"Something has changed since: {cause} most likely"
        + (f"; or the surroundings ({'; '.join(unlike)})" if unlike else "")
        + ". Open the run with the version that trained it, or start a new run.",
    )
