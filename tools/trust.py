"""A preset's agreement with retraining: `make trust` for the sample, `make trust-gpu` for ResNet-9.

    python -m tools.trust PRESET [--outputs DIR]

Trains and scores it for 16 random test images, retrains it without 64 random subsets of 1 % of the training
images, measures its smoothness, and prints what `python -m engine validate` prints. The run is kept.
"""

import argparse

import numpy as np

from engine import config
from engine.__main__ import main as command
from engine.datasets import registry as dataset_registry
from engine.runs import run as runs

TARGETS, SUBSETS, DIRECTIONS = 16, 64, 2


def random_targets(dataset: str) -> tuple[str, ...]:
    """The same for every preset of a data set."""
    images = len(dataset_registry.load(dataset).test_labels)
    return tuple(f"test:{i}" for i in np.sort(np.random.default_rng(0).choice(images, TARGETS, replace=False)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=config.PRESETS)
    parser.add_argument("--outputs")
    call = parser.parse_args()
    preset = config.preset(call.preset)
    run = runs.Run.create(runs.outputs_root(call.outputs), preset.replace(targets=random_targets(preset.dataset)))
    for name, *options in (
        ["resume"],  # from its very beginning
        ["smoothness", "--directions", str(DIRECTIONS)],
        ["validate", "--subsets", str(SUBSETS), "--drop", "0.01"],
    ):
        if code := command([name, run.id, *options, "--outputs", str(run.root)]):
            raise SystemExit(code)


if __name__ == "__main__":
    main()
