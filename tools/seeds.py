"""Several seeds of one recipe: `make seeds`. Do their scores agree, and what foretells a training of another seed?

    python -m tools.seeds [--images I] [--seeds N] [--averaged A --others H --subsets M] [--beside B] [--outputs DIR]

Trains the preset `sample` once a seed and scores each for the first I test images and for all test images together.
Prints

- of every pair of the first N seeds, Spearman's and Pearson's correlation of the scores and the share of the strongest
  images that is the same (medians of the I images); the same of means over seeds, and whether the models agree;
- of the scores of one seed, and of the means of 2, 4, … up to A seeds, the LDS for retrainings of H other seeds (100
  and on), which are in no mean: each is trained again without M random subsets of 1 % of the images, the same for all,
  and what changes is taken of one such training, and averaged over H. Beside them the gradient dot product and TRAK,
  of the same models (or the first B of them) and averaged alike, and retraining itself: what one such training changes,
  for the others.

The runs are kept, named `seed-0` and so on, and those that are there are not trained again, nor is any retraining.
docs/trust.md has the tables.
"""

import argparse
import itertools
import platform
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from engine import config
from engine.analysis import compare, lds, seeds
from engine.config import RunConfig
from engine.core.stream import examples
from engine.core.training import optimizer_for
from engine.datasets import registry as datasets
from engine.jobs import execute as work
from engine.jobs.validation import Validate
from engine.models import registry as models
from engine.runs import run as runs
from engine.runs.run import Run
from engine.targets import Target, target_function
from engine.trajectory.state_files import read_state, state_of

OTHERS = 100  # the first seed that is in no mean
DROP = 0.01
CHUNK = 500  # images of which the gradients are held at once
PROJECTED = 1024  # dimensions of TRAK's random projection (tools/bench_trust.py says why)


def targets_of(images: int) -> tuple[str, ...]:
    return (*(f"test:{i}" for i in range(images)), "test:all")


def scored(root: Path, settings: RunConfig, name: str) -> Run:
    run = Run(root, name)
    if not run.path.is_dir():
        run = Run.create(root, settings, name)
    if run.status != "finished":
        with run.lock():
            work.execute(run)
    return run


# -- do the scores of two seeds agree?


def line(title: str, a_KN: np.ndarray, b_KN: np.ndarray) -> str:
    """Of the single images (all targets but the last), and of all test images together."""
    *images, whole = [compare.agreement(a_N, b_N) for a_N, b_N in zip(a_KN, b_KN, strict=True)]
    ranks, of = [each.spearman for each in images], compare.summed(images)
    return (
        f"| {title} | {of.spearman:.2f} ({min(ranks):.2f} to {max(ranks):.2f}) | {of.pearson:.2f} | {of.overlap:.0%} "
        f"| {whole.spearman:.2f} | {whole.pearson:.2f} | {whole.overlap:.0%} |"
    )


def print_table(scores_SKN: np.ndarray) -> None:
    every = range(len(scores_SKN))
    one, all_together = "one test image: rank correlation (range)", "all test images: rank correlation"
    print(f"| scores of | {one} | linear | top {compare.TOP} | {all_together} | linear | top {compare.TOP} |")
    print("|---|---|---|---|---|---|---|")
    for a, b in itertools.combinations(every, 2):
        print(line(f"seed {a} and seed {b}", scores_SKN[a], scores_SKN[b]))
    for size in range(2, len(every) // 2 + 1):
        for first in itertools.combinations(every, size):
            for second in itertools.combinations([s for s in every if s not in first], size):
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


# -- what foretells a training of another seed?


def changed(run: Run, names: tuple[str, ...], subsets: int) -> np.ndarray:
    """Change of each target's loss where the run is trained again without each subset: [K, M], in nats. The run itself
    is scored for one target alone, for a validation needs one; what it keeps of a retraining serves all."""
    with run.lock():
        work.execute(run, Validate(subsets, (DROP,), 0))
    record, dataset = run.manifest(), datasets.load(run.manifest().config.dataset)
    members = [Target.parse(name).resolve(dataset, record.test_logits).indices for name in names]
    phi = target_function("loss").from_logits

    def values(logits_NC: np.ndarray) -> np.ndarray:
        return np.array([phi(logits_NC[rows], dataset.test_labels[rows]).mean() for rows in members])

    folder = run.path / "validation" / "retrained"
    retrained = [
        read_state(folder / f"{lds.key(DROP, 0, m)}.safetensors", {}, "Delete it.")["logits"].numpy()
        for m in range(subsets)
    ]
    return np.stack([values(logits) for logits in retrained], axis=1) - values(record.test_logits())[:, None]


def without_trajectory(run: Run, images: int) -> dict[str, np.ndarray]:
    """Scores [K, N] of each target's loss from the final model in evaluation mode alone, by method. With ∇φ of the
    target, ℓ an image's loss, f its margin, p its probability, and P a random projection, Φ = [∇f P] of all images:

    gradient dot product   −∇φ·∇ℓ
    TRAK                   ∇φ P (ΦᵀΦ)⁻¹ (P ∇f) (1 − p)       after arXiv 2303.14186, eq. 13, of one model
    """
    settings = run.manifest().config
    dataset, cpu = datasets.load(settings.dataset), torch.device("cpu")
    model = models.build(settings, dataset)
    state = state_of(
        read_state(run.path / "model" / "state.safetensors", {}, "Train it again."),
        optimizer_for(model, settings.recipe),
    )

    def logits(theta: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return model(theta, state.buffers, image[None], training=False)[0]

    def loss(theta: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits(theta, image), label[None])

    def margin(theta: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        at = logits(theta, image)[0]
        here = torch.arange(len(at)) == label
        return (at * here).sum() - at.masked_fill(here, -torch.inf).logsumexp(0)

    def gradients(of: Callable, split: str, rows: np.ndarray) -> torch.Tensor:
        images, labels = examples(dataset, split, cpu, torch.float32).batch(rows)
        return vmap(grad(of), in_dims=(None, 0, 0))(state.theta, images, labels)

    def pieces(n: int) -> list[np.ndarray]:
        return np.array_split(np.arange(n), max(1, n // CHUNK))

    single = gradients(loss, "test", np.arange(images))
    whole = sum(gradients(loss, "test", rows).sum(0) for rows in pieces(dataset.sizes.n_test)) / dataset.sizes.n_test
    of_targets = torch.cat([single, whole[None]])  # [K, P]
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(len(state.theta), PROJECTED, generator=generator) / PROJECTED**0.5
    products, features = [], []
    for rows in pieces(dataset.sizes.n_train):
        products.append(of_targets @ gradients(loss, "train", rows).T)
        features.append(gradients(margin, "train", rows) @ projection)
    phi = torch.cat(features).double()
    solved = torch.linalg.solve(phi.T @ phi, (of_targets @ projection).double().T)  # [projected, K]
    labels = dataset.train_labels
    right_N = torch.from_numpy(run.manifest().train_logits()).double().softmax(1)[np.arange(len(labels)), labels]
    return {
        "gradient dot product": -torch.cat(products, dim=1).numpy(),
        "TRAK": ((phi @ solved).T * (1 - right_N)).numpy(),
    }


def groups(size: int, of: int) -> list[list[int]]:
    """`of` seeds in as many groups of `size` as there are, none twice."""
    return [list(range(start, start + size)) for start in range(0, of - size + 1, size)]


def figure(of: seeds.Foretold) -> str:
    return f"{of.lds:.2f} ({of.low:.2f} to {of.high:.2f})"


def cells(forecasts_GKM: Iterable[np.ndarray], actual_HKM: np.ndarray, averaged: int) -> str:
    """LDS for one other training (mean over the H), and for the mean of all H: of single images, then of all."""
    found = []
    for rows in (slice(None, -1), slice(-1, None)):
        forecasts = np.stack([each[rows] for each in forecasts_GKM])
        g, h = len(forecasts), len(actual_HKM)
        actual = actual_HKM[:, rows]
        single = seeds.foretold(np.repeat(forecasts, h, axis=0), np.tile(actual, (g, 1, 1)), averaged, 1)
        mean = seeds.foretold(forecasts, np.repeat(actual.mean(0)[None], g, axis=0), averaged, h)
        found += [figure(single), figure(mean)]
    return " | ".join(found)


def print_foretold(scores: dict[str, np.ndarray], actual_HKM: np.ndarray) -> None:
    """`scores` [S, K, N] by method."""
    first = next(iter(scores.values()))
    h, m = len(actual_HKM), actual_HKM.shape[-1]
    left_out = [lds.subset(first.shape[-1], DROP, 0, i) for i in range(m)]
    print(
        f"| forecast | one test image: one other training | the mean of {h} others | all test images: one other "
        f"training | the mean of {h} others |\n|---|---|---|---|---|"
    )
    for title, of_SKN in scores.items():
        size = 1
        while size <= len(of_SKN):
            forecasts = [lds.predicted(of_SKN[group].mean(0), left_out) for group in groups(size, len(of_SKN))]
            who = "one seed" if size == 1 else f"mean of {size} seeds"
            print(f"| {title}, {who} | {cells(forecasts, actual_HKM, size)} |", flush=True)
            size *= 2
    if h > 1:
        print_retraining(actual_HKM)
    print(f"\n{m} subsets of {DROP:.0%}; intervals: bootstrap over subsets and targets.")


def print_retraining(actual_HKM: np.ndarray) -> None:
    """What one of the others changed, as a forecast of one more, and of the mean of all the rest."""
    h, found = len(actual_HKM), []
    for rows in (slice(None, -1), slice(-1, None)):
        actual = actual_HKM[:, rows]
        rest = np.stack([np.delete(actual, i, axis=0).mean(0) for i in range(h)])
        found.append(figure(seeds.foretold(np.roll(actual, 1, axis=0), actual, 1, 1)))
        found.append(f"{figure(seeds.foretold(actual, rest, 1, h - 1))}, of {h - 1}")
    print(f"| retraining itself, one seed | {' | '.join(found)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=8, help="targets beside all test images together")
    parser.add_argument("--seeds", type=int, default=4, help="of the table of pairs")
    parser.add_argument("--averaged", type=int, default=8, help="seeds that are averaged")
    parser.add_argument("--others", type=int, default=4, help="other seeds, that are retrained; 0: no table of means")
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--beside", type=int, help="of them, those that TRAK and gradients are made of; all, or 0")
    parser.add_argument("--outputs")
    call = parser.parse_args()
    root, sample, names = runs.outputs_root(call.outputs), config.preset("sample"), targets_of(call.images)

    def of_seed(seed: int, targets: tuple[str, ...]) -> Run:
        return scored(root, sample.replace(**{"recipe.seed": seed, "targets": targets}), f"seed-{seed}")

    of = [of_seed(seed, names) for seed in range(max(call.seeds, call.averaged))]
    record = of[0].manifest()
    print(f"{record.device_name}, {record.threads} threads, torch {record.versions['torch']}, {platform.machine()}")
    print("accuracy", ", ".join(f"{run.manifest().test_accuracy:.3f}" for run in of))
    keys = [f"{name}.loss" for name in names]
    scores = np.stack([np.stack(run.scores().rows(map(run.scores().target, keys))) for run in of])  # [S, K, N]
    print_table(scores[: call.seeds])
    print_models(of[: call.seeds])
    if call.others:
        others = [of_seed(OTHERS + i, names[:1]) for i in range(call.others)]
        actual = np.stack([changed(run, names, call.subsets) for run in others])
        beside = [
            without_trajectory(run, call.images) for run in of[: call.averaged if call.beside is None else call.beside]
        ]
        methods = {name: np.stack([each[name] for each in beside]) for name in (beside[0] if beside else ())}
        print_foretold({"REPLAY": scores[: call.averaged], **methods}, actual)


if __name__ == "__main__":
    main()
