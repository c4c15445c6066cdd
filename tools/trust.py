"""A preset's agreement with retraining: `make trust` for the sample, `make trust-gpu` for ResNet-9.

    python -m tools.trust PRESET [--outputs DIR]

Trains and scores it for 16 random test images, retrains it without 64 random subsets of 1 % of the training
images, measures its smoothness, and prints what `python -m engine validate` prints. The run is kept.
"""

import argparse

import numpy as np

from engine import __main__ as cli
from engine import config
from engine.datasets import registry as dataset_registry
from engine.runs import run as runs

TARGETS, SUBSETS, DIRECTIONS = 16, 64, 2


def random_targets(dataset: str) -> tuple[str, ...]:
    """The same for every preset of a data set."""
    images = len(dataset_registry.load(dataset).test_labels)
    return tuple(f"test:{i}" for i in np.sort(np.random.default_rng(0).choice(images, TARGETS, replace=False)))


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("preset", choices=config.PRESETS)
    given.add_argument("--outputs")
    given = given.parse_args()
    root = str(runs.outputs_root(given.outputs))
    targets = random_targets(config.preset(given.preset).dataset)
    steps = [
        ["run", "--preset", given.preset, "--targets", ",".join(targets)],
        ["smoothness", "--directions", str(DIRECTIONS)],
        ["validate", "--subsets", str(SUBSETS), "--drop", "0.01"],
    ]
    for name, *rest in steps:
        if name != "run":
            rest = [runs.list_runs(runs.outputs_root(root))[0].id, *rest]  # the newest: the one just made
        if code := cli.main([name, *rest, "--outputs", root]):
            raise SystemExit(code)


if __name__ == "__main__":
    main()
