"""A preset's agreement with retraining: `make trust` for the sample, `make trust-gpu` for ResNet-9.

    python -m tools.trust PRESET [--outputs DIR] [--targets 16] [--subsets 64] [--drops 0.01,0.05]

Trains and scores it for random test images, retrains it without random subsets of the training
images, measures its smoothness, and prints what `python -m engine validate` prints. The run is kept.
"""

import argparse

import numpy as np

from engine import config
from engine.__main__ import main as command
from engine.datasets import registry as dataset_registry
from engine.runs import run as runs

DIRECTIONS = 2


def random_targets(dataset: str, count: int) -> tuple[str, ...]:
    """The same for every preset of a data set."""
    images = len(dataset_registry.load(dataset).test_labels)
    return tuple(f"test:{i}" for i in np.sort(np.random.default_rng(0).choice(images, count, replace=False)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=config.PRESETS)
    parser.add_argument("--outputs")
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument("--subsets", type=int, default=64)
    parser.add_argument("--drops", default="0.01", help="shares left out: 0.01,0.05")
    call = parser.parse_args()
    preset = config.preset(call.preset)
    targets = random_targets(preset.dataset, call.targets)
    run = runs.Run.create(runs.outputs_root(call.outputs), preset.replace(targets=targets))
    for name, *options in (
        ["resume"],  # from its very beginning
        ["smoothness", "--directions", str(DIRECTIONS)],
        ["validate", "--subsets", str(call.subsets), "--drop", call.drops],
    ):
        if code := command([name, run.id, *options, "--outputs", str(run.root)]):
            raise SystemExit(code)


if __name__ == "__main__":
    main()
