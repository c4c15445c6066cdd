"""A training from Python as a run: what the app shows, and what `engine.load` goes on from.

    RUN/config.json, manifest.json, events.jsonl, scores/     as of every run; the recipe, and the losses of its steps
    RUN/data/       the pictures and labels of both splits (`engine.datasets.saved`), and what the model was trained on:
                    inputs.npy [N, ...] (of a network with a frozen trunk, its features) and weights.npy [N]
    RUN/model/      initial.safetensors   all tensors of the module before training, flat, by name
                    state.safetensors     the state after training
                    weights.safetensors   parameters and buffers after training, by name, for `load_state_dict`
                    train_logits.npy, test_logits.npy, digests.json
                    python.json           the module's class, shapes, modes, and how the inputs lie in memory

The states between are not kept: T of them are the big part of a training, and another training makes the same ones, bit
for bit, which the digests of every √T-th prove. `engine.load` trains again when the first target is asked about.

The folder is filled under another name beside its place, and renamed once it is whole.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import files
from engine.config import RunConfig, check
from engine.core import targets as target_values
from engine.core.schedule import learning_rate
from engine.datasets import saved
from engine.datasets.base import Dataset
from engine.datasets.names import printable
from engine.errors import ConfigError, StorageError
from engine.jobs import machine
from engine.library import pictures
from engine.library.checks import window_of
from engine.library.shown import Shown, logits_of, scores_of, write_data
from engine.library.trained import Trained, check_trained
from engine.models.functional import FunctionalModel
from engine.runs import notes
from engine.runs.manifest import TrajectoryRecord
from engine.runs.run import RUN_ID, Run, new_run_id, outputs_root
from engine.targets import Target, TrainImage, read_function, target_function
from engine.trajectory.state_files import named, write_state

SCHEMA = 1  # of model/python.json

LOSSES = 10_000  # a line of the log


def place_of(place: str | os.PathLike | None, made_of: str = "python") -> tuple[Path, str]:
    """The folder of all runs and the id of one: of a bare name, a run of the app's own folder; of a path, its last
    part; of None a new one, with `made_of` in it. Raises `ConfigError` for what is no run id."""
    if place is None:
        return outputs_root(), new_run_id(made_of)
    if not isinstance(place, str | os.PathLike) or not str(place):
        raise ConfigError(f"{place!r:.100} is neither a folder nor a run id.", "Give a str or a pathlib.Path.")
    path = Path(files.expanded(os.fspath(place)))
    bare = isinstance(place, str) and os.sep not in place
    root = outputs_root() if bare else Path(os.path.realpath(path.absolute().parent))
    if not RUN_ID.fullmatch(path.name):
        raise ConfigError(
            f"«{printable(path.name)}» is no name of a run.",
            "A run's name has small letters, digits and dashes, 64 at most, and begins with a letter or digit.",
        )
    return root, path.name


@contextlib.contextmanager
def filled(place: str | os.PathLike | None, made_of: str) -> Iterator[tuple[Path, Path]]:
    """A folder in which a run is made, with a folder `data` in it, and the run's place, whose last part is its id. It
    stands there once the block has come to its end, whole, and nothing of it where it failed. `made_of`: see
    `place_of`. Raises `ConfigError` for a run that is there already, `StorageError` where the disk refuses."""
    root, run_id = place_of(place, made_of)
    path = root / run_id
    files.check_writable(path)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} is there already.", "Save under another name, or delete that run first.")
    if not root.is_dir():
        raise StorageError(f"There is no folder {root}.", "Make it, or name a run by its id alone.")
    with files.new_folder(root / f"{files.TEMPORARY}{run_id}-{secrets.token_hex(4)}") as unfinished:
        with files.disk_errors(unfinished):
            (unfinished / "data").mkdir()
        yield unfinished, path
        with files.disk_errors(path):
            if path.exists():
                raise FileExistsError(17, "File exists", str(path))
            (unfinished / run_id).rename(path)
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that refers to a data set, an empty `data`


def save(trained: Trained, place: str | os.PathLike | None, shown: Shown) -> Path:
    """See `Trained.save`."""
    check_trained(trained)
    window_of(shown.window, trained.stream.steps)
    with filled(place, "python") as (unfinished, path):
        dataset = write_data(trained, unfinished / "data", shown, shown.title or path.name)
        logits = logits_of(trained, dataset, shown)
        names, rows_KN, function = scores_of(trained, dataset, shown)
        config = check(
            RunConfig(
                preset="python",
                dataset=saved.OWN,
                model=f"python:{printable(type(trained.whole.module).__name__)[:100]}",
                recipe=trained.stream.recipe,
                targets=names or ("test:0",),
                target_function=function,
                precision=str(trained.whole.dtype).removeprefix("torch."),
                device=trained.state.theta.device.type,
                window=shown.window,
            ),
            *dataset.sizes[:3],  # what augmentation is held against are the model's inputs, not the pictures
        )
        run = Run.create(unfinished, config, path.name)
        with files.disk_errors(run.path):
            (unfinished / "data").rename(run.path / "data")
        _fill(run, trained, dataset, logits, names, rows_KN, shown)
    return path


def _class_of(model: FunctionalModel) -> str:
    kind = type(model.module)
    return printable(f"{kind.__module__}.{kind.__qualname__}")[:200]


# -- the folder


def _fill(
    run: Run,
    trained: Trained,
    dataset: Dataset,
    logits: dict[str, np.ndarray],
    names: tuple[str, ...],
    scores: np.ndarray | None,
    shown: Shown,
) -> None:
    digest = files.sha256_of(run.path / "config.json")
    training = files.json_digest([digest, dataset.fingerprint, trained.trajectory.digests.known])
    kept = {**run.manifest().files, **_write_model(run.path, trained, logits, training)}
    kept |= {f"data/{path.name}": files.sha256_of(path) for path in sorted((run.path / "data").iterdir())}
    if scores is not None:
        start = window_of(shown.window, trained.stream.steps)
        kept |= _write_scores(run.path, names, scores, logits, dataset, shown, start, training)
    device, digests = trained.state.theta.device, trained.trajectory.digests
    _tell(run, trained)
    run.update_manifest(
        status_said="finished",
        jobs=(),
        files=kept,
        dataset=dataset.title,
        training_digest=training,
        data_fingerprint=dataset.fingerprint,
        versions={**machine.versions(), **machine.instructions(device)},
        device=str(device),
        device_name=machine.kind(device),
        driver=machine.driver(device),
        threads=torch.get_num_threads(),
        precision=str(trained.whole.dtype).removeprefix("torch."),
        deterministic="cudnn" if device.type == "cuda" else "cpu",
        steps=digests.steps,
        parameters=trained.whole.parameters,
        buffers=trained.whole.buffers,
        trained=True,
        test_accuracy=float((logits["test"].argmax(1) == dataset.test_labels).mean()),
        trajectory=TrajectoryRecord(None, digests.every, digests.steps),
        **({"scored": True} if scores is not None else {}),
    )
    if shown.note:
        notes.write_note(run, notes.RUN, shown.note)
    run.update_manifest(**run.totals())


def _write_model(folder: Path, trained: Trained, logits: dict[str, np.ndarray], training: str) -> dict[str, str]:
    """Writes model/, and what the model was trained on; returns the checksums of the former, by path."""
    whole, stream, digests = trained.whole, trained.stream, trained.trajectory.digests
    header = {"training": training}
    tensors = tensors_of(whole)
    order = memory_order(stream.data.inputs)
    inputs = stream.data.inputs.permute(order) if isinstance(stream.data.inputs, Tensor) else stream.data.inputs
    dtype = np.dtype(str(whole.dtype).removeprefix("torch."))
    pictures.write_array(folder / "data" / "inputs.npy", tuple(inputs.shape), dtype, pictures.rows(inputs))
    weights = stream.weights.detach().cpu().numpy() if stream.weights is not None else np.ones(stream.data.n, dtype)
    files.write_npy(folder / "data" / "weights.npy", weights)
    record = {
        "schema": SCHEMA,
        "module": _class_of(whole),
        "shapes": {name: list(t.shape) for name, t in tensors.items()},
        "trained": sorted(whole.named(whole.theta0, whole.buffers0)[0]),
        "modes": modes_of(whole),
        "shape": list(trained.shape),
        "classes": trained.classes,
        "order": order,
        "trunk": trained.trunk is not None,
        "losses": list(trained.losses),
        "versions": {"torch": torch.__version__},
    }
    state = named(trained.state, digests.optimizer)
    model = folder / "model"
    return {
        "model/initial.safetensors": write_state(
            model / "initial.safetensors", {name: t.reshape(-1) for name, t in tensors.items()}, header
        ),
        "model/state.safetensors": write_state(model / "state.safetensors", state, header),
        "model/weights.safetensors": _write_weights(model / "weights.safetensors", trained.model_state),
        "model/digests.json": files.write_json(
            model / "digests.json", {"every": digests.every, "sha256": digests.known}
        ),
        "model/python.json": files.write_json(model / "python.json", record),
        **{
            f"model/{split}_logits.npy": files.write_npy(model / f"{split}_logits.npy", values)
            for split, values in logits.items()
        },
    }


def _write_weights(path: Path, tensors: dict[str, Tensor]) -> str:
    """As any program reads them: names, shapes and values."""
    import safetensors.torch

    return files.write_bytes(path, safetensors.torch.save({k: t.cpu().contiguous() for k, t in tensors.items()}))


def tensors_of(model: FunctionalModel) -> dict[str, Tensor]:
    """All tensors of a module as they were before training, by the name in its copy."""
    parameters, buffers = model.named(model.theta0, model.buffers0)
    return {**parameters, **buffers, **model.constants}


def modes_of(model: FunctionalModel) -> dict[str, bool]:
    """Of each part, by its path, whether training runs it in training mode."""
    trains = model.modes(training=True)
    return {path: trains[part] for path, part in model.module.named_modules() if part in trains}


def memory_order(tensor: "Tensor | np.ndarray") -> list[int]:
    """The dimensions of [N, ...] in the order in which they lie in memory: kernels take other paths, and round
    otherwise, through the same numbers in another order."""
    if not isinstance(tensor, Tensor) or tensor.is_contiguous():
        return list(range(tensor.ndim))
    return sorted(range(tensor.dim()), key=lambda i: (-tensor.stride(i), i))


def _write_scores(
    folder: Path,
    names: tuple[str, ...],
    scores: np.ndarray,
    logits: dict[str, np.ndarray],
    dataset: Dataset,
    shown: Shown,
    start: int,
    training: str,
) -> dict[str, str]:
    asked = target_function(read_function(shown.function, dataset).name)
    name = f"{asked.slug}-000"
    sha = files.write_npy(folder / "scores" / f"{name}.npy", scores)
    sidecar = {
        "schema": 1,
        "dtype": "float32",
        "target_function": asked.name,
        "unit": asked.unit,
        "sign": asked.meaning(dataset.classes),
        "training_digest": training,
        "data_fingerprint": dataset.fingerprint,
        "replay_mode": "memory",
        "window_start": start,
        "targets": [_target_record(Target.parse(text), asked.name, logits, dataset) for text in names],
        "shape": list(scores.shape),
        "sha256": sha,
    }
    return {
        f"scores/{name}.npy": sha,
        f"scores/{name}.json": files.write_json(folder / "scores" / f"{name}.json", sidecar),
    }


def _target_record(target: Target, function: str, logits: dict[str, np.ndarray], dataset: Dataset) -> dict[str, Any]:
    members = target.resolve(dataset)
    rows = torch.from_numpy(logits[members.split][members.indices])
    labels = torch.from_numpy(dataset.labels(members.split)[members.indices].copy())
    record = {
        "name": str(target),
        "title": target.title(dataset),
        "split": members.split,
        "images": len(members.indices),
        "value": float(target_values.function_of(function)(rows, labels).mean()),
    }
    return record | ({"logits": rows[0].tolist()} if isinstance(target, TrainImage) else {})


def _tell(run: Run, trained: Trained) -> None:
    """The log, as *Live* draws it."""
    log, steps, recipe = run.events_log, trained.stream.steps, trained.stream.recipe
    log.append("note", text=f"Trained in Python and saved: {_class_of(trained.whole)}.")
    for text in trained.whole.notes:
        log.append("note", text=text)
    log.append("phase", phase="train", steps=steps)
    losses = list(trained.losses)
    for start in range(0, len(losses), LOSSES):
        rows = range(start, min(start + LOSSES, len(losses)))
        log.append(
            "progress",
            phase="train",
            step=rows.stop,
            steps=steps,
            losses=[losses[t] for t in rows],
            rates=[float(learning_rate(recipe, t, steps)) for t in rows],
        )
    log.append("finished", scores=None)
