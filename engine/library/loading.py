"""A training that `Trained.save` kept, with the caller's model: nothing is unpickled, no code is run but the caller's.

The module gives its code; its tensors are those of the file. That it computes the same is shown, and not assumed: its
parts, names, shapes and modes are compared with what was saved, then its answers to some training images, then the
states of the first √T steps, bit for bit.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import files
from engine.core import targets as target_values
from engine.core import training
from engine.core.state import State
from engine.core.stream import Examples, Stream
from engine.core.trunk import Trunk, split
from engine.errors import ConfigError, IntegrityError, ModelError
from engine.library import storing
from engine.library.checks import computing
from engine.library.saving import SCHEMA, modes_of, place_of, tensors_of
from engine.library.trained import Trained, versions
from engine.models import copies
from engine.models.functional import FunctionalModel
from engine.runs import fields
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from engine.trajectory.state_files import read_state, state_of

REMEDY = "Restore the run from a copy, or train and save again."

CLOSE = 1e-3  # of the largest logit: what other hardware may change by rounding

RECORD = {  # what is relied on of model/python.json
    "module": fields.text,
    "shapes": fields.by_name(list),
    "trained": [fields.text],
    "modes": fields.by_name(fields.flag),
    "shape": [fields.whole],
    "classes": fields.whole,
    "order": [fields.whole],
    "trunk": fields.flag,
    "losses": [fields.number],
}


def load(
    place: str | os.PathLike,
    model: nn.Module,
    device: torch.device,
    replay_mode: str | None,
    trajectory_folder: str | Path | None,
    check: bool,
) -> Trained:
    """See `engine.load`."""
    mode, folder = storing.mode_and_folder(replay_mode, trajectory_folder, filled=True)
    run = Run.open(*place_of(place))
    manifest = run.manifest()
    if not manifest.from_python:
        raise ConfigError(
            f"Run {run.id} was not saved from Python.",
            "What the app or the command line trained is explained further there: `python -m engine attribute`.",
        )
    record = _record(run, manifest)
    dtype = getattr(torch, manifest.config.state_precision)
    whole = _filled(run, manifest, record, model, device, dtype)
    functional, trunk = _split(whole, record, manifest)
    stream = _stream(run, manifest, record, device, dtype)
    every, known = _digests(run, manifest)
    trajectory = storing.trajectory(functional, stream, mode, folder, every, known)
    storing.check_own(trajectory, folder)
    tensors = _tensors(run, manifest, "state")
    state = state_of({name: t.to(device) for name, t in tensors.items()}, trajectory.digests.optimizer)
    trained = Trained(
        functional,
        stream,
        trajectory,
        state,
        record["classes"],
        versions(functional, stream, state),
        tuple(record["shape"]),
        trunk,
        tuple(record["losses"]),
        loaded=True,
    )
    if check:
        _check_answers(trained, manifest)
        _check_steps(trained, manifest)
    return trained


# -- what is read


def _record(run: Run, manifest: Manifest) -> dict[str, Any]:
    path = run.path / "model" / "python.json"
    record = files.read_json(path, REMEDY, manifest.files.get("model/python.json"))
    try:
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}")
        fields.check(record, RECORD)
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} does not describe a training ({error}).", REMEDY) from None
    return record


def _tensors(run: Run, manifest: Manifest, name: str) -> dict[str, Tensor]:
    header = {"training": str(manifest.training_digest)}
    return read_state(run.path / "model" / f"{name}.safetensors", header, REMEDY)


def _digests(run: Run, manifest: Manifest) -> tuple[int, dict[int, str]]:
    path = run.path / "model" / "digests.json"
    recorded = files.read_json(path, REMEDY, manifest.files.get("model/digests.json"))
    try:
        fields.check(recorded, {"every": fields.whole, "sha256": fields.by_index(fields.sha256)})
        return recorded["every"], {int(t): sha for t, sha in recorded["sha256"].items()}
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} does not hold digests of states ({error}).", REMEDY) from None


def _array(run: Run, manifest: Manifest, name: str) -> np.ndarray:
    relative = f"data/{name}.npy"
    return files.read_npy(run.path / relative, manifest.files.get(relative), REMEDY)


def _stream(run: Run, manifest: Manifest, record: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Stream:
    kept = _array(run, manifest, "inputs")
    inputs = torch.empty(kept.shape, dtype=dtype)
    inputs.numpy()[...] = kept
    back = np.argsort(record["order"]).tolist()  # as they lay in memory, for kernels round by that
    labels = torch.from_numpy(np.array(_array(run, manifest, "train_labels")))
    weights = torch.from_numpy(np.array(_array(run, manifest, "weights"))).to(device, dtype)
    data = Examples(inputs.permute(back).to(device), labels.to(device), dtype)
    return Stream(data, manifest.config.recipe, weights)


# -- the model


def _filled(
    run: Run, manifest: Manifest, record: dict[str, Any], model: nn.Module, device: torch.device, dtype: torch.dtype
) -> FunctionalModel:
    """A copy of the caller's module with the tensors that training began with."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"`model` is a {type(model).__name__}, not an nn.Module.", f"Give a {record['module']}, as was trained."
        )
    kept = _tensors(run, manifest, "initial")
    copy = copies.copied(model)
    for name, own in [*copy.named_parameters(), *copy.named_buffers()]:
        if name in kept and list(own.shape) == record["shapes"][name]:
            own.data.copy_(kept[name].view(own.shape))
    functional = FunctionalModel(copy, device, dtype)
    functional.notes[:0] = [note for note in FunctionalModel(model).notes if note not in functional.notes]
    _check_parts(functional, record)
    for name, tensor in tensors_of(functional).items():
        if not torch.equal(tensor.reshape(-1).cpu(), kept[name]):
            raise ModelError(
                f"«{name}» holds other numbers in the model's precision than it was trained from.",
                "Give the model in that precision, such as model.double().",
            )
    return functional


def _check_parts(model: FunctionalModel, record: dict[str, Any]) -> None:
    """Raises `ModelError` that names the first part that is not as it was trained."""
    module = record["module"]
    shapes = {name: list(t.shape) for name, t in tensors_of(model).items()}
    for name in [*record["shapes"], *shapes]:
        then, now = record["shapes"].get(name), shapes.get(name)
        if then != now:
            what = "is not in it" if now is None else "is new" if then is None else f"is {now}, where it was {then}"
            raise ModelError(f"The model is not the one that was trained: «{name}» {what}.", f"Give the {module}.")
    trains = sorted(model.named(model.theta0, model.buffers0)[0])
    for name in sorted({*trains} ^ {*record["trained"]}):
        was = "trained" if name in record["trained"] else "frozen"
        raise ModelError(
            f"«{name}» was {was}, and is not now.", f"Set its requires_grad_({was == 'trained'}), as for the training."
        )
    modes = modes_of(model)
    for path in modes:
        if record["modes"].get(path) != modes[path]:
            was = "evaluation" if modes[path] else "training"
            raise ModelError(
                f"The part «{path}» was in {was} mode when the model was trained, and is not now.",
                f"Call its .{'eval' if modes[path] else 'train'}(), as for the training.",
            )


def _split(model: FunctionalModel, record: dict[str, Any], manifest: Manifest) -> tuple[FunctionalModel, Trunk | None]:
    """The part that was trained, and the trunk whose features were kept."""
    if not record["trunk"]:
        return model, None
    one = Examples(
        torch.zeros((1, *record["shape"]), dtype=model.dtype, device=model.theta0.device),
        torch.zeros(1, dtype=torch.int64, device=model.theta0.device),
        model.dtype,
    )
    trunk = split(model, one, manifest.config.recipe)
    if trunk is None:
        raise ModelError(
            "The model has no frozen trunk, and was trained with one.", "Freeze the stages that were, and call eval()."
        )
    return trunk.rest, trunk


# -- whether it computes the same


def _check_answers(trained: Trained, manifest: Manifest) -> None:
    """Compares the final model's logits of the first training images with those that were kept."""
    few = trained.stream.data.rows(np.arange(min(target_values.CHUNK, trained.stream.data.n)))
    with computing(trained.model):
        logits = target_values.logits(trained.model, trained.state, few).float().cpu().numpy()
    kept = manifest.train_logits()[: len(logits)]
    if logits.shape != kept.shape or not np.abs(logits - kept).max() <= CLOSE * np.abs(kept).max():
        raise ModelError(
            "The model does not answer as it did: its code computes something else in evaluation.",
            "Give the code that was trained.",
        )


def _check_steps(trained: Trained, manifest: Manifest) -> None:
    """Trains the first steps, up to the first digest, and compares the states bit for bit."""
    kept = trained.trajectory
    kept.digests.note(0, kept.initial)
    stop = kept.digests.after(0)
    with computing(trained.model):
        state: State = training.advance(trained.model, trained.stream, kept.initial, 0, stop)
    try:
        kept.digests.note(stop, state)
    except IntegrityError as error:
        raise IntegrityError(
            f"The first {stop} steps of the training do not give the states that they gave: the model's code trains "
            f"otherwise, or the surroundings differ{_differences(manifest, trained)}.",
            "Give the code that was trained, where it was trained (torch.set_num_threads for the threads); "
            "check=False only looks at it.",
        ) from error


def _differences(manifest: Manifest, trained: Trained) -> str:
    from engine.jobs import machine

    device = trained.state.theta.device
    pairs = [
        ("device", manifest.device_name, machine.kind(device)),
        ("threads", manifest.threads, torch.get_num_threads()),
        ("torch", manifest.versions.get("torch"), torch.__version__),
        *((name, manifest.versions.get(name, now), now) for name, now in machine.instructions(device).items()),
    ]
    unlike = [f"{what} {then}, here {now}" for what, then, now in pairs if then != now]
    return f" ({'; '.join(unlike)})" if unlike else ""
