"""What scores of an attribution window foretell: retrainings from its state, and from the start of training.

    python -m tools.window [--set NAME=VALUE] [--targets K] [--subsets M] [--json FILE]        make window

Trains the preset `sample` once, with other settings where some are named, and goes back once for K random test images:
what has been summed up when the replay is at step s are the scores of the window from s on. Then M random 1 % of the
training images are left out, of the whole training and of each window, and what happens is compared with what each
window's scores said: LDS, with a bootstrap over subsets and targets, slope and R² of actual on predicted. One line a
window, as it comes, and Markdown at the end; docs/window.md has the tables.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine import config, device
from engine.analysis import lds
from engine.analysis import logits as logit_maths
from engine.core import targets as phi
from engine.core.replay import replay
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import initial_state, optimizer_for, train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.models import registry as model_registry
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.stores import MemoryStore

WINDOWS = (0.0, 0.25, 0.5, 0.75)
DROP = 0.01


class Training:
    """One training with the full state before each window's first step, and the losses of K test images after it."""

    def __init__(self, settings: config.RunConfig, targets: int):
        self.dataset, self.where = dataset_registry.load(settings.dataset), device.choose("auto")
        data, self.test = (examples(self.dataset, s, self.where, torch.float32) for s in datasets_base.SPLITS)
        self.model = model_registry.build(settings, self.dataset, self.where)
        self.stream = Stream(data, settings.recipe)
        optimizer, steps = optimizer_for(self.model, settings.recipe), self.stream.steps
        first = initial_state(self.model, optimizer)
        self.starts = [config.first_step(window, steps) for window in WINDOWS]
        self.states: dict[int, State] = {}
        self.rows = np.sort(np.random.default_rng(0).choice(self.test.n, targets, replace=False))
        self.trajectory = EveryState(MemoryStore(optimizer), first, None, Digests(optimizer, steps, steps))
        self.final = train(self.model, self.stream, self)
        self.before = self.losses(self.final)

    def put(self, t: int, state: State) -> None:
        if t in self.starts:
            self.states[t] = state
        self.trajectory.put(t, state)

    def finish(self, final: State) -> None:
        self.trajectory.finish(final)

    def logits(self, state: State) -> np.ndarray:
        return phi.logits(self.model, state, self.test).double().cpu().numpy()

    def losses(self, state: State) -> np.ndarray:
        """Nats, [K]."""
        return -logit_maths.log_probabilities(self.logits(state))[self.rows, self.dataset.test_labels[self.rows]]

    def scores(self) -> dict[int, np.ndarray]:
        """[K, N] of each window, by its first step."""
        adjoint = phi.adjoints(self.model, self.final, self.test, [np.array([i]) for i in self.rows], "loss")
        found = {}

        def keep(done: int, adjoint, scores: Tensor) -> None:
            if (start := self.stream.steps - done) in self.starts:
                found[start] = scores.double().cpu().numpy()

        replay(self.model, self.stream, self.trajectory, adjoint, on_progress=keep)
        return found

    def without(self, left_out: np.ndarray, start: int) -> np.ndarray:
        """Change of the K losses where images are left out from step `start` on."""
        weights = torch.ones(self.stream.data.n)
        weights[torch.from_numpy(left_out)] = 0
        weighted = self.stream.weighted(weights.to(self.where))
        return self.losses(train(self.model, weighted, resume=(start, self.states[start]))) - self.before


def measure(settings: config.RunConfig, targets: int, subsets: int) -> list[dict]:
    """A row a window."""
    began = time.perf_counter()
    training = Training(settings, targets)
    trained = time.perf_counter()
    scores, steps = training.scores(), training.stream.steps
    accuracy = float((training.logits(training.final).argmax(1) == training.dataset.test_labels).mean())
    print(
        f"{steps} steps, accuracy {accuracy:.3f}; training {trained - began:.0f} s, replay for {targets} targets "
        f"{time.perf_counter() - trained:.0f} s",
        flush=True,
    )
    left_out = [lds.subset(training.stream.data.n, DROP, 0, m) for m in range(subsets)]
    from_start, rows = None, []
    for window, start in zip(WINDOWS, training.starts, strict=True):
        began = time.perf_counter()
        actual = np.stack([training.without(each, start) for each in left_out], axis=1)
        from_start = actual if from_start is None else from_start
        predicted = lds.predicted(scores[start], left_out)
        row = {"window": window, "start": start, "zero": float((scores[start] == 0).all(0).mean())}
        row |= {"own": figures(predicted, actual), "whole": figures(predicted, from_start)}
        row |= {"rank": float(np.median(lds.spearman(scores[start], scores[training.starts[0]])))}
        row |= {"seconds": round(time.perf_counter() - began, 1)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def figures(predicted_KM: np.ndarray, actual_KM: np.ndarray) -> dict[str, float]:
    each, mean = lds.agreement(predicted_KM, actual_KM)
    lowest = min(a.lds for a in each)
    return {"lds": mean.lds, "low": mean.low, "high": mean.high, "lowest": lowest, "slope": mean.slope, "r2": mean.r2}


def markdown(rows: list[dict]) -> str:
    def told(of: dict) -> str:
        return (
            f"{of['lds']:.3f} ({of['low']:.3f} to {of['high']:.3f}) | {of['lowest']:.2f} | {of['slope']:.2f} "
            f"| {of['r2']:.2f}"
        )

    agreement = "LDS, left out from {} (95 % interval) | lowest | slope | R²"
    heads = (
        "window",
        "weights count from step",
        "images with scores of 0",
        agreement.format("that step on"),
        agreement.format("the start"),
        "rank correlation with the whole training's scores",
    )
    lines = [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * 12,
    ]
    lines += [
        f"| {row['window']:g} | {row['start'] + 1} | {100 * row['zero']:.0f} % | {told(row['own'])} "
        f"| {told(row['whole'])} | {row['rank']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="such as recipe.peak_lr=0.2")
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--json", type=Path, help="the rows as JSON")
    call = parser.parse_args()
    settings = config.preset("sample")
    settings = settings.replace(**{name: json.loads(value) for name, _, value in (s.partition("=") for s in call.set)})
    print(
        f"{device.describe()}, torch {torch.__version__}; sample {' '.join(call.set)}; {call.targets} targets, "
        f"{call.subsets} subsets, {DROP:.0%} left out",
        flush=True,
    )
    with device.exact_arithmetic():
        rows = measure(settings, call.targets, call.subsets)
    if call.json:
        call.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(f"\n{markdown(rows)}")


if __name__ == "__main__":
    main()
