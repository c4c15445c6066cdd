"""Finished runs whose scores and logits are made up, and written as the engine writes its own: in milliseconds."""

from pathlib import Path

import numpy as np

from engine import config as configs
from engine import files
from engine.datasets import registry as dataset_registry
from engine.runs import run as runs
from engine.targets import Target, TrainImage, target_function

SMALL = configs.preset("sample").replace(
    **{"recipe.epochs": 1, "recipe.batch_size": 1000, "targets": ("test:0", "class:2")}, width=0.125
)  # trained in a third of a second
SAMPLE = configs.preset("sample").replace(**{"recipe.epochs": 2, "recipe.batch_size": 500})


def run_of(
    root: Path,
    run_id: str,
    sets: dict[tuple[str, ...], tuple[str, np.ndarray]],
    config: configs.RunConfig = SAMPLE,
    train_logits: bool = True,
) -> runs.Run:
    """A run with one score set [K, N] for each tuple of K targets, given with its function."""
    dataset, rng = dataset_registry.load(config.dataset), np.random.default_rng(0)
    targets = tuple(dict.fromkeys(name for names in sets for name in names))
    run = runs.Run.create(root, config.replace(targets=targets or config.targets), run_id)
    kept = dict(run.manifest().files)
    splits = {"test": dataset.test_labels} | ({"train": dataset.train_labels} if train_logits else {})
    by_split = {}
    for split, labels in splits.items():
        logits = rng.normal(size=(len(labels), len(dataset.classes))) + 3 * np.eye(len(dataset.classes))[labels]
        name = f"model/{split}_logits.npy"
        by_split[split] = logits.astype(np.float32)
        kept[name] = files.write_npy(run.path / name, by_split[split])
    for number, (names, (function, scores)) in enumerate(sets.items()):
        name = f"{target_function(function).slug}-{number:03d}"
        kept[f"scores/{name}.npy"] = files.write_npy(run.path / "scores" / f"{name}.npy", scores.astype(np.float32))
        sidecar = {
            "target_function": function,
            "unit": target_function(function).unit,
            "training_digest": "made up",
            "norm_steps": [2, 1],
            "targets": [
                {
                    "name": str(t),
                    "title": t.title(dataset),
                    "adjoint_growth": 1.0,
                    "norms": [1.0, 1.0],
                    **({"logits": by_split["train"][t.index].tolist()} if isinstance(t, TrainImage) else {}),
                }
                for t in map(Target.parse, names)
            ],
        }
        kept[f"scores/{name}.json"] = files.write_json(run.path / "scores" / f"{name}.json", sidecar)
    steps = config.recipe.epochs * (len(dataset.train_labels) // config.recipe.batch_size)
    run.update_manifest(
        status_said="finished",
        jobs=(),
        files=kept,
        trained=True,
        steps=steps,
        test_accuracy=0.8,
        timings={"train_seconds": 1.0},
        data_fingerprint=dataset.fingerprint,
        training_digest="made up",
        **({"scored": True} if sets else {}),
    )
    return run
