"""Wrong labels found, and what excluding them does, beside what people use today: `make bench-labels`.

    python -m tools.bench_labels [--shares 0.05,0.1] [--rankings] [--own] [--together N] [--quick]

The preset `sample` on the data set with 5 % of its training labels flipped (`engine.datasets.fashion_mnist`), or other
`--shares`, which ones is known. Each method ranks all training images, the likeliest wrong labels first:

    REPLAY                harm to the mean loss over the test images (`engine.suspects`), which have clean labels:
                          the one method that is given clean images, as many as the test split has
    self-influence        by how much each image's own loss would rise without it: an estimate, `TOGETHER` images a
                          target, with its own noise (`engine.core.self_influence`)
    training loss         of each image at the end of the very training that it was part of
    cross-validated loss  of each image by a model trained on the other folds; the same order as cleanlab's default
                          label quality, self-confidence
    cleanlab              confident learning (arXiv 1911.00068) on the same cross-validated probabilities: its filter's
                          finds first, in its order, and then the rest by label quality; and its other label quality,
                          the margin adjusted by each class's mean self-confidence

`--own` leaves the last two out, which need no trajectory and other trainings: then nothing beside the app's own
libraries is asked for.

Precision: share of wrong labels among the first as many as are wrong. AP: area under the precision-recall curve.
AUROC: how often a wrong label stands before a right one. Intervals: 95 %, bootstrap over the training images. Seconds:
wall clock and CPU, beyond the one training that all have in common.

Excluding (not with `--rankings`): the recipe is trained again with weight 0 for as many of each method's first as are
wrong. Accuracy and loss on the test images, means over seeds of initial weights and batches. REPLAY's ranking looked at
test images, and must not be judged on those: each half is judged by a training that excluded by the ranking of the
other half.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from engine import api, device
from engine import config as configs
from engine.analysis import logits as logit_maths
from engine.analysis import self_influence, suspects
from engine.core import targets as phi
from engine.core.state import State
from engine.core.stream import Examples, Stream, examples
from engine.core.training import train
from engine.datasets import base as datasets_base
from engine.datasets import fashion_mnist
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.self_influence import SelfInfluence
from engine.models import functional as functional_models
from engine.models import registry as model_registry
from engine.runs import run as runs

SHARE = 0.05
FOLDS, SEEDS, RESAMPLES = 5, 5, 1000
FIRST = 50, 100  # images, beside the first 5 %
TOGETHER = 128  # images a target, of the self-influence
LIBRARIES = "cleanlab", "scikit-learn"
TARGET = "test:all"


class Cost(NamedTuple):
    """Seconds, of the wall clock and of all cores together."""

    wall: float
    cpu: float


class Ranking(NamedTuple):
    """`suspicion` [N], the higher the likelier wrong."""

    title: str
    suspicion: np.ndarray
    cost: Cost


class Bench:
    """One configuration on the data set with wrong labels, and what is trained of it."""

    def __init__(self, config: configs.RunConfig):
        self.config, self.dataset = config, dataset_registry.load(config.dataset)
        self.train_set, self.test_set = (
            examples(self.dataset, split, torch.device("cpu"), torch.float32) for split in datasets_base.SPLITS
        )

    def trained(
        self, train_set: Examples, weights: torch.Tensor | None = None, seed: int | None = None
    ) -> tuple[functional_models.FunctionalModel, State]:
        seed = self.config.recipe.seed if seed is None else seed
        config = self.config.replace(**{"recipe.seed": seed})
        model = model_registry.build(config, self.dataset)
        return model, train(model, Stream(train_set, config.recipe, weights))

    def cross_validated(self) -> np.ndarray:
        """Probabilities [N, C] of each training image by a model that did not see it."""
        from sklearn.model_selection import StratifiedKFold

        inputs, labels = self.train_set.inputs, self.train_set.labels
        found = np.full((len(labels), len(self.dataset.classes)), np.nan)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=self.config.recipe.seed)
        for kept, held_out in folds.split(labels, labels):
            kept, rest = (
                dataclasses.replace(self.train_set, inputs=inputs[i], labels=labels[i]) for i in (kept, held_out)
            )
            found[held_out] = np.exp(logit_maths.log_probabilities(phi.logits(*self.trained(kept), rest).numpy()))
        assert np.isfinite(found).all()
        return found

    def by_halves(self) -> list[np.ndarray]:
        """Harm [N] to the mean loss over the even test images, and over the odd ones."""
        inputs, labels = self.train_set.batch(np.arange(self.train_set.n))
        module = model_registry.module(self.config, self.dataset)
        trained = api.train(module, inputs, labels, self.config.recipe, device="cpu")
        return list(api.attribute(trained, *self.test_set.batch(np.arange(self.test_set.n)), targets=self.halves()))

    def halves(self) -> list[np.ndarray]:
        return [np.arange(start, self.test_set.n, 2) for start in (0, 1)]

    def evaluated(self, train_set: Examples, left_out: np.ndarray, seed: int) -> np.ndarray:
        """Right or not, and loss in nats, of each test image by a training without some: [2, N_test]."""
        weights = torch.ones(train_set.n)
        weights[torch.from_numpy(left_out)] = 0
        logits = phi.logits(*self.trained(train_set, weights, seed), self.test_set).numpy()
        labels = self.dataset.test_labels
        losses = -logit_maths.log_probabilities(logits)[np.arange(len(labels)), labels]
        return np.stack([logits.argmax(1) == labels, losses])


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], Cost]]:
    """What is yielded tells the cost of the block, once that has ended."""
    wall, cpu, took = time.perf_counter(), time.process_time(), []
    yield lambda: took[0]
    took.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))


def replayed(run: runs.Run) -> Ranking:
    """The run's targets are scored in a job of their own, so that its cost is not that of the training."""
    with timed() as cost:
        work.execute(run, Replay((TARGET,), "loss", "disk"))
        table = suspects.ranked(run.manifest(), f"{TARGET}.loss").sort_values("index")
    return Ranking("REPLAY, harm to the test loss", table["harm"].to_numpy(), cost())


def memorised(bench: Bench, run: runs.Run, together: int) -> Ranking:
    """In a run of its own, whose steps are compiled: it has a hundred times the targets."""
    compiled = runs.Run.create(run.root, bench.config.replace(compile="on"))
    with compiled.lock():
        work.execute(compiled)
        with timed() as cost:
            work.execute(compiled, SelfInfluence("all", together))
    known = self_influence.known(compiled.manifest())
    assert known is not None and len(known.images) == len(bench.dataset.train_labels)
    return Ranking(f"REPLAY, self-influence, {together} a target", known.rise_N.astype(np.float64), cost())


def own_rankings(bench: Bench, run: runs.Run, together: int) -> list[Ranking]:
    """Those that are made of the training itself."""
    labels = bench.dataset.train_labels
    found = [replayed(run), *([memorised(bench, run, together)] if together else [])]
    with timed() as cost:
        loss = -logit_maths.log_probabilities(run.manifest().train_logits())[np.arange(len(labels)), labels]
    return [*found, Ranking("training loss at the end", loss, cost())]


def cross_validated_rankings(bench: Bench) -> tuple[list[Ranking], np.ndarray]:
    """Those of other trainings, and the indices that cleanlab's filter takes for wrong."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = bench.dataset.train_labels
    rows, found = np.arange(len(labels)), []
    with timed() as cost:
        probabilities = bench.cross_validated()
    shared = cost()
    loss = -np.log(probabilities[rows, labels])
    found.append(Ranking(f"cross-validated loss, {FOLDS} folds", loss, shared))

    def quality(**how) -> np.ndarray:
        return get_label_quality_scores(labels, probabilities, **how)

    assert (np.argsort(-loss, kind="stable") == np.argsort(quality(), kind="stable")).mean() > 0.99
    with timed() as cost:
        issues = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
        rest = np.setdiff1d(np.argsort(quality(), kind="stable"), issues)
        order = np.concatenate([issues, rest[np.argsort(quality()[rest], kind="stable")]])
        filtered = np.empty(len(labels))
        filtered[order] = -rows
    found.append(Ranking("cleanlab, its filter's finds first", filtered, Cost(*np.add(shared, cost()))))
    with timed() as cost:
        adjusted = -quality(method="normalized_margin", adjust_pred_probs=True)
    found.append(Ranking("cleanlab, adjusted margin", adjusted, Cost(*np.add(shared, cost()))))
    return found, issues


# -- figures


def interval(
    figure: Callable[[np.ndarray, np.ndarray], float], suspicion: np.ndarray, wrong: np.ndarray, resamples: int
) -> str:
    rng, n = np.random.default_rng(0), len(wrong)
    drawn = (rng.integers(n, size=n) for _ in range(resamples))
    low, high = np.percentile([figure(suspicion[d], wrong[d]) for d in drawn], (2.5, 97.5))
    return f"{figure(suspicion, wrong):.3f} ({low:.3f} to {high:.3f})"


def check_average_precision(suspicion: np.ndarray, wrong: np.ndarray) -> None:
    from sklearn.metrics import average_precision_score

    ours, theirs = suspects.average_precision(suspicion, wrong), average_precision_score(wrong, suspicion)
    # scikit-learn takes equal values together, we one after the other.
    assert abs(ours - theirs) < 1e-4, f"average precision {ours}, by scikit-learn {theirs}"


def auroc(suspicion: np.ndarray, wrong: np.ndarray) -> float:
    """Share of the pairs of a wrong and a right label of which the wrong one is the more suspicious, ties by half."""
    right = np.sort(suspicion[~wrong])
    below = np.searchsorted(right, suspicion[wrong]), np.searchsorted(right, suspicion[wrong], "right")
    return float(np.mean(below) / len(right))


def top(suspicion: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """As many as are wrong."""
    return np.argsort(-suspicion, kind="stable")[: wrong.sum()]


def excluding(bench: Bench, found: list[Ranking], wrong: np.ndarray, seeds: int) -> dict[str, np.ndarray]:
    """Accuracy and loss by what was trained on, [seeds, 2]."""
    nothing = np.empty(0, np.int64)
    corrected = dataclasses.replace(bench.train_set, labels=torch.from_numpy(bench.dataset.true_train_labels))
    random, share = np.random.default_rng(1).choice(len(wrong), wrong.sum(), replace=False), f"{wrong.mean():.0%}"
    first_half, second_half = bench.by_halves()
    # The mean over all test images is the mean of both halves: the engine's two ways to the same scores.
    np.testing.assert_allclose(
        (first_half + second_half) / 2, found[0].suspicion, rtol=1e-3, atol=1e-3 * np.abs(found[0].suspicion).max()
    )
    choices = {
        "all images": nothing,
        f"without {share} at random": random,
        "without the wrong labels": np.flatnonzero(wrong),
        **{f"without the first {share} of: {r.title}": top(r.suspicion, wrong) for r in found[1:]},
    }
    outcomes = {}
    for seed in range(bench.config.recipe.seed, bench.config.recipe.seed + seeds):
        values = {name: bench.evaluated(bench.train_set, left_out, seed) for name, left_out in choices.items()}
        values["all images, true labels"] = bench.evaluated(corrected, nothing, seed)
        crossed = np.empty((2, bench.test_set.n))
        for half, harm in zip(bench.halves(), (second_half, first_half), strict=True):
            crossed[:, half] = bench.evaluated(bench.train_set, top(harm, wrong), seed)[:, half]
        values[f"without the first {share} of: {found[0].title} (of the other half)"] = crossed
        for name, value in values.items():
            outcomes.setdefault(name, []).append(value.mean(1))
    return {name: np.array(value) for name, value in outcomes.items()}


def print_rankings(found: list[Ranking], wrong: np.ndarray, resamples: int) -> None:
    share, firsts = float(wrong.mean()), " | ".join(f"wrong in the first {n}" for n in FIRST)
    print(
        f"| ranking | {firsts} | precision at {share:.0%} (95 % interval) | AP (95 % interval) | AUROC (95 % interval) "
        f"| seconds | CPU seconds |\n|{'---|' * (6 + len(FIRST))}"
    )
    for title, suspicion, cost in found:
        order = np.argsort(-suspicion, kind="stable")
        counts = " | ".join(str(wrong[order[:n]].sum()) for n in FIRST)
        figures = " | ".join(
            interval(figure, suspicion, wrong, resamples)
            for figure in (
                lambda s, w: suspects.precision_at(s, w, share),
                suspects.average_precision,
                auroc,
            )
        )
        print(f"| {title} | {counts} | {figures} | {cost.wall:.1f} | {cost.cpu:.1f} |")


def noisy(share: float) -> str:
    """The name of the sample with this share of its labels wrong; known from now on."""
    if share == SHARE:
        return "fashion-mnist-sample-noisy"
    name = f"fashion-mnist-sample-noisy-{1000 * share:g}"
    dataset_registry.register(name, functools.partial(fashion_mnist.noisy_sample, share, name))
    return name


def measure(share: float, call: argparse.Namespace) -> None:
    """Trains, ranks and prints, of one share of wrong labels."""
    seeds, resamples = (1, 50) if call.quick else (SEEDS, RESAMPLES)
    config = configs.preset("sample").replace(
        dataset=noisy(share),
        targets=("test:0",),
        target_function="loss",
        replay_mode="disk",
        device="cpu",
        **({"recipe.epochs": 1} if call.quick else {}),
    )
    bench, issues = Bench(config), None
    wrong = bench.dataset.train_labels != bench.dataset.true_train_labels
    with tempfile.TemporaryDirectory() as folder, device.exact_arithmetic():
        run = runs.Run.create(runs.outputs_root(folder), config)
        with run.lock():
            work.execute(run)
            found = own_rankings(bench, run, call.together)
        if not call.own:
            others, issues = cross_validated_rankings(bench)
            found += others
            for ranking in found:
                check_average_precision(ranking.suspicion, wrong)
        r, of = config.recipe, run.manifest()
        print(
            f"{bench.dataset.title}; preset `sample` ({r.epochs} epochs of batch {r.batch_size}, peak learning rate "
            f"{r.peak_lr:g}, {of.steps} steps; test accuracy {of.test_accuracy:.3f}). {wrong.sum()} of {len(wrong):,} "
            f"labels are wrong; at random the precision is {wrong.mean():.3f}. The training in common took "
            f"{of.timings['train_seconds']:.1f} s.\n"
        )
        print_rankings(found, wrong, resamples)
        if issues is not None:
            print(
                f"\ncleanlab's `find_label_issues` takes {len(issues)} labels for wrong, {wrong[issues].sum()} of them "
                f"rightly: precision {wrong[issues].mean():.3f}, recall {wrong[issues].sum() / wrong.sum():.3f}."
            )
        print(flush=True)
        if not call.rankings:
            print_excluding(excluding(bench, found, wrong, seeds), seeds)


def print_excluding(outcomes: dict[str, np.ndarray], seeds: int) -> None:
    print(
        f"| trained on | test accuracy, mean of {seeds} seeds | lowest to highest | test loss, nats | lowest to "
        "highest |\n|---|---|---|---|---|"
    )
    for name, figures in sorted(outcomes.items(), key=lambda item: -item[1][:, 0].mean()):
        (accuracy, loss), low, high = figures.mean(0), figures.min(0), figures.max(0)
        print(
            f"| {name} | {accuracy:.4f} | {low[0]:.3f} to {high[0]:.3f} | {loss:.4f} | {low[1]:.3f} to {high[1]:.3f} |"
        )
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--shares",
        type=lambda text: [float(share) for share in text.split(",")],
        default=[SHARE],
        help=f"of the labels that are wrong ({SHARE:g})",
    )
    parser.add_argument("--rankings", action="store_true", help="do not train again without what was found")
    parser.add_argument("--own", action="store_true", help="neither cross-validation nor cleanlab")
    parser.add_argument(
        "--together", type=int, default=TOGETHER, help=f"images a target of self-influence ({TOGETHER}); 0: without"
    )
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed, few resamples: to try the tool")
    call = parser.parse_args()
    libraries = ("torch", *(() if call.own else LIBRARIES))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    print(f"{device.describe()}; {versions}\n", flush=True)
    for share in call.shares:
        measure(share, call)


if __name__ == "__main__":
    main()
