"""Scores against retraining, beside what people use today: `make bench-trust`. Prints Markdown.

Every method gets the same trained model (the preset `sample`), the same 16 random test images as targets (their
loss, in evaluation mode) and the same subsets of the training images, and says how each loss will change
without each subset. Retraining without it says how it did. Measured of each method:

    LDS          Spearman's correlation of the two over the subsets, mean of the targets, with the 95 % interval
                 of the bootstrap over subsets and targets (`engine.lds`); with 1, 5 and 10 % left out
    best for     how many of the targets have their highest LDS by this method, with 1 % left out
    slope        of actual on predicted change, with 1 % left out; only of methods whose scores have a unit
    seconds      from the trained model (REPLAY, TracIn, SOURCE and DVEmb: and its trajectory on disk) to the scores, of
                 the wall clock and of all cores together; models that are trained for the method alone are counted
    peak memory  resident set of a process that does nothing else, torch and the library included

A retraining has the initial weights and the order of batches of the run: what is asked is what this very training
would have become. `tools.bench_methods` has the methods, their equations and what each is held against first.

Targeted removal (`--removal`, half an hour by itself): for each target and method, the training images with the
lowest scores, which are those whose removal should raise the target's loss most (the first 0.1, 1 and 5 % of all
images), are left out together of one retraining. A method that knows what a target rests on raises its loss more, and
flips its predicted class more often. Beside it: as many images at random, 16 sets for each size, of which each counts
for all targets.

What was computed stays in a folder (`--folder`, build/bench-trust): the run, each method's scores with what they
took, and the logits after each retraining. What was killed goes on; `--again METHOD` measures one
anew.
"""

import argparse
import hashlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from engine import config as configs
from engine import device, files
from engine.analysis import lds
from engine.analysis import logits as logit_maths
from engine.core import targets as phi
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.models import registry as model_registry
from engine.runs import run as runs
from tools.bench_methods import ROWS, SEED

TARGETS = 16
SUBSETS = {0.01: 64, 0.05: 32, 0.1: 32}  # by the fraction that each leaves out
REMOVED = 0.001, 0.01, 0.05  # fractions of the training images
REMOVING = "replay", "cg", "ek-fac-damped", "source", "dvemb", "trak-many", "grad-dot"  # whose images are removed
RANDOM = 16  # random sets of each size, beside them
RESAMPLES = 10_000


class Bench(NamedTuple):
    """The run that all methods explain, and what is kept beside it."""

    run: runs.Run
    dataset: datasets_base.Dataset
    names: np.ndarray  # the targets: indices of test images [K]
    subsets: dict[float, int]  # by the fraction that each leaves out
    folder: Path


class Measured(NamedTuple):
    """One method's scores [K, N], seconds of the wall clock and of all cores, bytes at its peak and before it."""

    scores: np.ndarray
    wall: float
    cpu: float
    held: float
    before: float


def prepared(folder: Path, quick: bool) -> Bench:
    """Trains and replays, or finds that done."""
    config = configs.preset("sample")
    dataset = dataset_registry.load(config.dataset)
    targets, subsets = (4, dict.fromkeys(SUBSETS, 8)) if quick else (TARGETS, SUBSETS)
    names = np.sort(np.random.default_rng(SEED).choice(len(dataset.test_labels), targets, replace=False))
    config = config.replace(
        targets=tuple(f"test:{i}" for i in names),
        target_function="loss",
        replay_mode="disk",
        device="cpu",
        **({"recipe.epochs": 1} if quick else {}),
    )
    outputs = runs.outputs_root(folder / "outputs")
    there = [runs.Run.open(outputs, path.name) for path in sorted(Path(outputs).iterdir()) if path.is_dir()]
    run = next((r for r in there if r.manifest().config == config), None) or runs.Run.create(outputs, config)
    with run.lock():
        if not run.manifest().scored:
            work.execute(run)
    return Bench(run, dataset, names, subsets, folder)


def measured(bench: Bench, name: str, again: bool) -> Measured:
    """What is kept of a method, or what a process of its own finds now."""
    out = bench.folder / f"{name}.npz"
    if again or not out.exists():
        command = [sys.executable, "-m", "tools.bench_methods", name, str(bench.run.path), str(out)]
        # Libraries tell of their progress: not among the Markdown.
        subprocess.run(command, check=True, stdout=sys.stderr)
    with np.load(out) as file:
        return Measured(file["scores"], *(float(file[k]) for k in Measured._fields[1:]))


# -- retrainings


def retrained(bench: Bench, left_out: list[np.ndarray], why: str) -> np.ndarray:
    """Logits [M, N_test, C] after training without each set; those that are kept are read. `why` is for progress."""
    folder, config = bench.folder / "retrained", bench.run.manifest().config
    folder.mkdir(exist_ok=True)
    training = bench.run.manifest().training_digest
    train_set, test_set = (
        examples(bench.dataset, split, torch.device("cpu"), torch.float32) for split in datasets_base.SPLITS
    )
    logits = []
    for number, index in enumerate(left_out):
        index = np.sort(index).astype(np.int64)
        path = folder / f"{hashlib.sha256(training.encode() + index.tobytes()).hexdigest()[:24]}.npy"
        if not path.exists():
            weights = torch.ones(train_set.n)
            weights[torch.from_numpy(index)] = 0
            model = model_registry.build(config, bench.dataset)
            with device.exact_arithmetic():
                state = train(model, Stream(train_set, config.recipe, weights))
                found = phi.logits(model, state, test_set).numpy()
            files.write_npy(path, found)
            print(f"{why}: {number + 1} of {len(left_out)}", file=sys.stderr, flush=True)
        logits.append(np.load(path, allow_pickle=False))
    return np.stack(logits)


def outcomes(bench: Bench, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of models with logits [M, N_test, C], at each target: change of the loss, and whether the class is another."""
    labels, before = bench.dataset.test_labels[bench.names], bench.run.manifest().test_logits()[bench.names]
    at = np.arange(len(labels))

    def losses(of: np.ndarray) -> np.ndarray:
        return -logit_maths.log_probabilities(of)[at, labels]

    after = logits[:, bench.names]
    change = np.array([losses(each) - losses(before) for each in after])
    return change, after.argmax(-1) != before.argmax(-1)  # [M, K] both


# -- random subsets


def agreement_table(bench: Bench, methods: dict[str, Measured]) -> Iterator[str]:
    n, each, mean, first = len(bench.dataset.train_labels), {}, {}, min(bench.subsets)
    for drop, number in bench.subsets.items():
        left_out = [lds.subset(n, drop, SEED, m) for m in range(number)]
        actual = outcomes(bench, retrained(bench, left_out, f"random, {drop:.0%}"))[0].T  # [K, M]
        for name, of in methods.items():
            each[drop, name], mean[drop, name] = lds.agreement(lds.predicted(of.scores, left_out), actual)
    best = np.argmax([[a.lds for a in each[first, name]] for name in methods], axis=0)
    heads = [f"LDS, {drop:.0%} left out (95 % interval)" for drop in bench.subsets]
    yield f"| method | library | {' | '.join(heads)} | best for | slope | seconds | CPU seconds | peak memory, MB |"
    yield "|---" * (7 + len(bench.subsets)) + "|"
    for i, (name, of) in enumerate(methods.items()):
        row, figures = ROWS[name], [mean[drop, name] for drop in bench.subsets]
        columns = [f"{f.lds:.3f} ({f.low:.3f} to {f.high:.3f})" for f in figures]
        slope = f"{figures[0].slope:.2f}" if row.unit else "no unit"
        yield (
            f"| {row.title} | {row.library} | {' | '.join(columns)} | {(best == i).sum()} of {len(best)} | {slope} | "
            f"{of.wall:.1f} | {of.cpu:.1f} | {of.held / 1e6:.0f} |"
        )


# -- targeted removal


def helpful(scores_KN: np.ndarray, share: float) -> list[np.ndarray]:
    """Of each target, the images whose removal should raise its loss most: int64 [share · N]."""
    size = lds.size_of_drop(scores_KN.shape[1], share)
    return [np.argsort(row, kind="stable")[:size] for row in scores_KN]


def removal_table(bench: Bench, methods: dict[str, Measured]) -> Iterator[str]:
    n, k = len(bench.dataset.train_labels), len(bench.names)
    sizes = [lds.size_of_drop(n, share) for share in REMOVED]
    heads = [
        f"{share:.1%} ({size} images): change of loss (95 % interval), flipped" for share, size in zip(REMOVED, sizes)
    ]
    yield f"| images left out | {' | '.join(heads)} |"
    yield "|---" * (1 + len(REMOVED)) + "|"
    columns = []
    for share in REMOVED:
        sets = [lds.subset(n, share, SEED, m) for m in range(RANDOM)]
        change, flipped = outcomes(bench, retrained(bench, sets, f"random, {share:.1%}"))
        columns.append(f"{with_interval(change.mean(0))}, {flipped.mean():.0%}")
    yield f"| at random, {RANDOM} sets | {' | '.join(columns)} |"
    for name, of in methods.items():
        columns = []
        for share in REMOVED:
            sets = helpful(of.scores, share)
            change, flipped = outcomes(bench, retrained(bench, sets, f"{name}, {share:.1%}"))
            own, turned = change.diagonal(), flipped.diagonal()  # each target after the removal of its own images
            columns.append(f"{with_interval(own)}, {turned.sum()} of {k}")
            if ROWS[name].unit:
                foretold = np.mean([-row[index].sum() for row, index in zip(of.scores, sets)])
                columns[-1] += f" (foretold {foretold:+.3f})"
        yield f"| {ROWS[name].title} | {' | '.join(columns)} |"


def with_interval(values_K: np.ndarray) -> str:
    """Mean over the targets, and its 95 % interval by the bootstrap over them."""
    drawn = np.random.default_rng(0).integers(len(values_K), size=(RESAMPLES, len(values_K)))
    low, high = np.percentile(values_K[drawn].mean(1), (2.5, 97.5))
    return f"{values_K.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def heading(bench: Bench, command: str, before: float) -> Iterator[str]:
    libraries = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "dattri", "kronfluence", "traker"))
    manifest, n = bench.run.manifest(), len(bench.dataset.train_labels)
    recipe, timings = manifest.config.recipe, manifest.timings
    left_out = ", ".join(f"{drop:.0%} left out {number} times" for drop, number in bench.subsets.items())
    yield f"`{command}`: {device.describe()}; {libraries}\n"
    yield (
        f"Preset `sample` ({recipe.epochs} epochs of batch {recipe.batch_size}, peak learning rate "
        f"{recipe.peak_lr:g}, {manifest.steps} steps, {manifest.parameters:,} parameters, test accuracy "
        f"{manifest.test_accuracy:.1%}); {len(bench.names)} random test images; of {n:,} images {left_out}. Training "
        f"took {timings['train_seconds']:.1f} s. A process holds {before / 1e6:.0f} MB before it begins.\n"
    )


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--quick", action="store_true", help="one epoch, few targets and subsets: to try the tool")
    given.add_argument("--removal", action="store_true", help="targeted removal, in place of random subsets")
    given.add_argument("--folder", type=Path, help="where the run and what was computed stay; a run goes on there")
    given.add_argument("--methods", default=",".join(ROWS), help="some of them, separated by commas")
    given.add_argument("--again", default="", help="those to measure anew, separated by commas")
    given = given.parse_args()
    folder = given.folder or Path("build") / ("bench-trust-quick" if given.quick else "bench-trust")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in ROWS if name in given.methods.split(",") and (not given.removal or name in REMOVING)]
    bench = prepared(folder, given.quick)
    methods = {name: measured(bench, name, name in given.again.split(",")) for name in chosen}
    command = f"make bench-trust{'-removal' * given.removal}{' --quick' * given.quick}"
    unchanged = retrained(bench, [np.empty(0, np.int64)], "all images")[0]
    assert np.array_equal(unchanged, bench.run.manifest().test_logits()), "training again gave another model"
    for line in heading(bench, command, max(of.before for of in methods.values())):
        print(line)
    for line in (removal_table if given.removal else agreement_table)(bench, methods):
        print(line, flush=True)


if __name__ == "__main__":
    main()
