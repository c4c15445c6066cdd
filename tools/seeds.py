"""How far the scores of one recipe agree between trainings that differ in nothing but their seed: `make seeds`.

    python -m tools.seeds [--seeds N] [--outputs DIR]

Trains the preset `sample` once a seed, scores each for eight test images and for all test images together, and prints,
of every pair of seeds, Spearman's and Pearson's correlation of the scores and the share of the strongest images that is
the same (medians of the eight); then the same of means over seeds, and whether the models themselves agree. The runs
are kept, named `seed-0` and so on, and those that are there are not trained again. docs/trust.md has the table.
"""

import argparse
import itertools
import platform

import numpy as np

from engine import config
from engine.analysis import compare, lds
from engine.config import RunConfig
from engine.jobs import execute as work
from engine.runs import run as runs
from engine.runs.run import Run

TARGETS = (*(f"test:{i}" for i in range(8)), "test:all")


def scored(root, settings: RunConfig, name: str) -> Run:
    run = Run(root, name)
    if not run.path.is_dir():
        run = Run.create(root, settings, name)
    if run.status != "finished":
        with run.lock():
            work.execute(run)
    return run


def line(title: str, a_KN: np.ndarray, b_KN: np.ndarray) -> str:
    """Of the single images (all targets but the last), and of all test images together."""
    *images, whole = [compare.agreement(a_N, b_N) for a_N, b_N in zip(a_KN, b_KN, strict=True)]
    ranks, of = [each.spearman for each in images], compare.summed(images)
    return (
        f"| {title} | {of.spearman:.2f} ({min(ranks):.2f} to {max(ranks):.2f}) | {of.pearson:.2f} | {of.overlap:.0%} "
        f"| {whole.spearman:.2f} | {whole.pearson:.2f} | {whole.overlap:.0%} |"
    )


def print_table(scores_SKN: np.ndarray) -> None:
    seeds = range(len(scores_SKN))
    one, all_together = "one test image: rank correlation (range)", "all test images: rank correlation"
    print(f"| scores of | {one} | linear | top {compare.TOP} | {all_together} | linear | top {compare.TOP} |")
    print("|---|---|---|---|---|---|---|")
    for a, b in itertools.combinations(seeds, 2):
        print(line(f"seed {a} and seed {b}", scores_SKN[a], scores_SKN[b]))
    for size in range(2, len(seeds) // 2 + 1):
        for first in itertools.combinations(seeds, size):
            for second in itertools.combinations([s for s in seeds if s not in first], size):
                if first < second:
                    means = (scores_SKN[list(group)].mean(0) for group in (first, second))
                    print(line(" and ".join(f"the mean of {', '.join(map(str, g))}" for g in (first, second)), *means))


def print_models(of: list[Run]) -> None:
    """How far the trained models agree: what two trainings share beside their scores."""
    logits = [run.manifest().test_logits() for run in of]
    for a, b in itertools.combinations(range(len(of)), 2):
        same = (logits[a].argmax(1) == logits[b].argmax(1)).mean()
        print(
            f"seed {a} and {b}: the same answer on {same:.1%} of the test images, rank correlation of the logits "
            f"{float(lds.spearman(logits[a].ravel(), logits[b].ravel())):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--outputs")
    call = parser.parse_args()
    root, sample = runs.outputs_root(call.outputs), config.preset("sample")
    of = [
        scored(root, sample.replace(**{"recipe.seed": seed, "targets": TARGETS}), f"seed-{seed}")
        for seed in range(call.seeds)
    ]
    record = of[0].manifest()
    print(f"{record.device_name}, {record.threads} threads, torch {record.versions['torch']}, {platform.machine()}")
    print("accuracy", ", ".join(f"{run.manifest().test_accuracy:.3f}" for run in of))
    scores = np.stack([np.stack(run.scores().rows(map(run.scores().target, KEYS))) for run in of])  # [S, K, N]
    print_table(scores)
    print_models(of)


KEYS = tuple(f"{name}.loss" for name in TARGETS)


if __name__ == "__main__":
    main()
