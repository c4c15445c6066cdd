"""Self-influence against training again without the image, and its estimates against itself: `make memorised`.

    python -m tools.memorised [--quick]

On the preset `sample`, with compiled steps. Half of the images left out, one at a time, are those of the highest
losses, half are random. What leaving one out does to its own loss is what Feldman (arXiv 1906.05271) calls
memorisation, in nats, of this very training: no mean over trainings is taken. Estimates are of `OF` random images and
those, from the coarsest to the finest, for a run keeps the best that it has. docs/self-influence.md has the tables.
"""

import argparse
import tempfile

import numpy as np
import torch

from engine import config as configs
from engine import device
from engine.analysis import cost, lds
from engine.analysis import self_influence as self_influences
from engine.analysis.logits import judged, log_probabilities
from engine.core import targets as phi
from engine.jobs import execute as work
from engine.jobs.self_influence import SelfInfluence
from engine.runs import run as runs
from tools.bench_labels import Bench

LEFT_OUT = 30
EXACT, OF = 40, 512  # images
TOGETHER = (64, 16)


def known_after(run: runs.Run, job: SelfInfluence) -> np.ndarray:
    """float32 [3, N] (`engine.analysis.self_influence`)."""
    with run.lock():
        work.execute(run, job)
    known = self_influences.known(run.manifest())
    assert known is not None
    return known.scores.copy()


def retrained(bench: Bench, left_out: np.ndarray) -> np.ndarray:
    """By how much each image's own loss rises where the training leaves it out, in nats, float64 [M]."""
    whole = bench.trained(bench.train_set)
    rises = []
    for index in left_out.tolist():
        weights = torch.ones(bench.train_set.n)
        weights[index] = 0
        without, label = bench.trained(bench.train_set, weights), int(bench.train_set.labels[index])
        before, after = (
            -log_probabilities(phi.logits_of_each(*trained, bench.train_set, [index]).double().numpy())[0, label]
            for trained in (whole, without)
        )
        rises.append(after - before)
    return np.array(rises)


def agreement(title: str, foretold: np.ndarray, actual: np.ndarray) -> str:
    slope = float(foretold @ actual / (foretold @ foretold))
    return (
        f"| {title} | {len(actual)} | {np.corrcoef(foretold, actual)[0, 1]:.3f} | "
        f"{lds.spearman(foretold, actual):.3f} | {slope:.2f} | {np.median(foretold):.4f} | {np.median(actual):.4f} |"
    )


def print_estimates(exact: np.ndarray, estimates: dict[int, np.ndarray], images: np.ndarray) -> None:
    print(
        f"\n| images a target | rms miss of {len(images)} exact ones, nats | rms standard error said | "
        "rank correlation | of the 16 largest, among the first 16 |\n|---|---|---|---|---|"
    )
    truth = exact[0, images]
    largest = set(np.argsort(truth)[:16].tolist())
    for together, scores in sorted(estimates.items()):
        values, errors = scores[0, images], scores[1, images]
        miss, said = (np.sqrt(np.mean(np.square(each, dtype=np.float64))) for each in (values - truth, errors))
        both = len(largest & set(np.argsort(values)[:16].tolist()))
        print(f"| {together} | {miss:.4f} | {said:.4f} | {lds.spearman(values, truth):.3f} | {both} |")
    print(f"\nrms of the exact ones: {np.sqrt(np.mean(truth.astype(np.float64) ** 2)):.4f} nats")


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--quick", action="store_true", help="one epoch and few images: to try the tool")
    quick = given.parse_args().quick
    many, exact_of, of = (4, 16, 128) if quick else (LEFT_OUT, EXACT, OF)
    config = configs.preset("sample").replace(
        targets=("test:0",), device="cpu", compile="on", **({"recipe.epochs": 1} if quick else {})
    )
    bench, rng = Bench(config), np.random.default_rng(0)
    n = bench.train_set.n
    with tempfile.TemporaryDirectory() as folder, device.exact_arithmetic():
        run = runs.Run.create(runs.outputs_root(folder), config)
        with run.lock():
            work.execute(run)
        given_N, *_ = judged(run.manifest().train_logits(), bench.dataset.train_labels)
        hardest = np.argsort(given_N, kind="stable")[: many // 2]
        others = rng.permutation(np.setdiff1d(np.arange(n), hardest))
        left_out = np.concatenate([hardest, others[: many - len(hardest)]])
        exact_for = np.concatenate([hardest, others[: exact_of - len(hardest)]])
        among = self_influences.listed(np.concatenate([hardest, others[: of - len(hardest)]]))
        estimates = {g: known_after(run, SelfInfluence(among, g)) for g in TOGETHER if 2 * g <= of}
        exact = known_after(run, SelfInfluence(self_influences.listed(exact_for)))
        record = run.manifest()
        actual = retrained(bench, left_out)
    foretold = -exact[0, left_out].astype(np.float64)
    print(f"`make memorised`{' --quick' * quick}: {device.describe()}\n")
    print("| images | how many | correlation | rank correlation | slope | median foretold | median retrained |")
    print("|---|---|---|---|---|---|---|")
    half = len(hardest)
    for title, some in (("all", slice(None)), ("highest losses", slice(half)), ("random", slice(half, None))):
        print(agreement(title, foretold[some], actual[some]))
    print_estimates(exact, estimates, exact_for)
    print(f"{cost.replay_seconds(record, 1):.1f} s a target, {record.steps} steps")


if __name__ == "__main__":
    main()
