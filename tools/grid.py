"""Which recipes deserve trust: accuracy, smoothness and agreement with retraining over a grid.

    python -m tools.grid [--out FILE] [--only TEXT]        make trust-grid

Each recipe of the sample's small convolutional network is trained, replayed for 16 random test images, and
retrained without 64 random subsets of 1 % of the training images. Prints one line a recipe, and Markdown at the
end; `docs/trust.md` holds the output and what follows from it. On a GPU a recipe takes some seconds, on two CPU
cores some minutes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine import config, device
from engine.analysis import lds
from engine.analysis import logits as logit_maths
from engine.core import retraining
from engine.core import targets as phi
from engine.core.replay import replay
from engine.core.stream import Stream, examples
from engine.core.training import initial_state, optimizer_for, train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.errors import DivergedError
from engine.models import functional as functional_models
from engine.models import small_cnn
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.stores import MemoryStore

TARGETS, SUBSETS, DROP = 16, 64, 0.01
BASE = {
    "epochs": 6,
    "batch_size": 250,
    "peak_lr": 0.05,
    "width": 1.0,
    "norm": "batch",
    "activation": "gelu",
    "scale": 1.0,
    "warmup": 0.3,
    "weight_decay": 5e-4,
    "seed": 0,
}
NORMS = {"batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(4, c), "none": lambda c: nn.Identity()}
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
# Batch size and rate together, then one thing at a time at two rates, then what looked best.
GRID = [
    {"batch_size": 64, "peak_lr": 0.02},
    {"batch_size": 64, "peak_lr": 0.05},
    *({"batch_size": batch, "peak_lr": lr} for batch in (125, 250, 500, 1000) for lr in (0.01, 0.02, 0.05, 0.2)),
    *({"epochs": epochs, "peak_lr": lr} for epochs in (3, 10, 16) for lr in (0.02, 0.05)),
    *({"width": width, "peak_lr": lr} for width in (0.5, 2.0) for lr in (0.02, 0.05)),
    *({"weight_decay": decay, "peak_lr": lr} for decay in (5e-3, 2e-2, 5e-2) for lr in (0.02, 0.05)),
    *({"activation": activation} for activation in ("relu", "silu", "tanh")),
    *({"norm": norm} for norm in ("group", "none")),
    *({"scale": scale} for scale in (0.25, 0.5, 2.0)),
    *(
        {"batch_size": 500, "epochs": epochs, "peak_lr": lr, "weight_decay": decay}
        for epochs in (8, 12)
        for lr in (0.03, 0.05)
        for decay in (5e-4, 1e-2)
    ),
]


def measure(varied: dict) -> dict:
    """One recipe's figures; {"diverged": …} where training left the finite numbers."""
    settings = {**BASE, **varied}
    recipe = config.Recipe(
        **{k: settings[k] for k in ("epochs", "batch_size", "peak_lr", "warmup", "weight_decay", "seed")}
    )
    dataset, where = dataset_registry.load("fashion-mnist-sample"), device.choose("auto")
    train_set, test_set = (examples(dataset, split, where, torch.float32) for split in datasets_base.SPLITS)
    torch.manual_seed(recipe.seed)
    model = functional_models.FunctionalModel(
        small_cnn.small_cnn(
            1,
            28,
            28,
            10,
            settings["width"],
            NORMS[settings["norm"]],
            ACTIVATIONS[settings["activation"]],
            settings["scale"],
        ),
        where,
    )
    stream, optimizer = Stream(train_set, recipe), optimizer_for(model, recipe)
    n, steps = train_set.n, stream.steps
    trajectory = EveryState(
        MemoryStore(optimizer), initial_state(model, optimizer), None, Digests(optimizer, steps, steps)
    )
    names = np.sort(np.random.default_rng(0).choice(test_set.n, TARGETS, replace=False))
    sets = [np.array([i]) for i in names]

    def logits(state) -> np.ndarray:
        return phi.logits(model, state, test_set).double().cpu().numpy()

    def losses(state) -> np.ndarray:
        found = -logit_maths.log_probabilities(logits(state))
        return found[names, dataset.test_labels[names]]

    try:
        began = time.perf_counter()
        final = train(model, stream, trajectory)
        adjoint, norms = phi.adjoints(model, final, test_set, sets, "loss"), []

        def keep(done, adjoint, scores):
            if done == steps:
                norms.append(adjoint.theta.norm(dim=1))

        first = adjoint.theta.norm(dim=1)
        scores = replay(model, stream, trajectory, adjoint, on_progress=keep).cpu().numpy()
        scored = time.perf_counter()
        growth = (norms[0] / first).cpu().numpy()
        v = retraining.NUDGE * retraining.direction(n, 0).float()
        rows, left_out = [torch.ones(n), 1 + v, 1 + 2 * v], [lds.subset(n, DROP, 0, m) for m in range(SUBSETS)]
        for indices in left_out:
            rows.append(torch.ones(n))
            rows[-1][torch.from_numpy(indices)] = 0
        width = retraining.side_by_side(model, stream)
        states = [
            state
            for i in range(0, len(rows), width)
            for state in retraining.retrain(model, stream, torch.stack(rows[i : i + width]).to(where))
        ]
    except DivergedError as error:
        return {**settings, "steps": steps, "diverged": error.what}
    unchanged, second, third, *others = states
    before = losses(unchanged)
    actual = np.stack([losses(state) - before for state in others], axis=1)
    each, mean = lds.agreement(lds.predicted(scores, left_out), actual)
    return {
        **settings,
        "steps": steps,
        "accuracy": float((logits(final).argmax(1) == dataset.test_labels).mean()),
        "growth": float(growth.max()),
        "growth_median": float(np.median(growth)),
        "metasmoothness": retraining.metasmoothness(unchanged, second, third),
        "lds": mean.lds,
        "lds_low": mean.low,
        "lds_high": mean.high,
        "slope": mean.slope,
        "r2": mean.r2,
        "lds_each": [round(a.lds, 4) for a in each],
        "seconds": round(scored - began, 2),
        "retrain_seconds": round(time.perf_counter() - scored, 2),
    }


def markdown(rows: list[dict]) -> str:
    columns = (
        "batch_size",
        "peak_lr",
        "epochs",
        "width",
        "norm",
        "activation",
        "scale",
        "weight_decay",
        "warmup",
        "seed",
    )
    lines = [
        "| batch | peak rate | epochs | width | norm | activation | logits × | weight decay | warm-up | seed "
        "| accuracy | growth | metasmoothness | LDS (95 % interval) | slope | R² |",
        "|" + "---|" * 16,
    ]
    for row in rows:
        if "diverged" in row:
            tail = ["diverged", *[""] * 5]
        else:
            tail = [
                f"{row['accuracy']:.3f}",
                f"{row['growth']:.3g}",
                f"{row['metasmoothness']:.2f}",
                f"{row['lds']:.3f} ({row['lds_low']:.3f} to {row['lds_high']:.3f})",
                f"{row['slope']:.2f}",
                f"{row['r2']:.2f}",
            ]
        lines.append("| " + " | ".join([*(f"{row[c]}" for c in columns), *tail]) + " |")
    return "\n".join(lines)


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--out", help="JSON lines, written as they come")
    given.add_argument("--only", type=json.loads, help='recipes of your own: [{"epochs": 8, "peak_lr": 0.03}, …]')
    given.add_argument(
        "--part", default="1/1", help="2/6: the second of every six, to share the grid out over processes"
    )
    given = given.parse_args()
    first, every = map(int, given.part.split("/"))
    print(
        f"{device.describe()}, torch {torch.__version__}; {TARGETS} targets, {SUBSETS} subsets, {DROP:.0%} left out",
        flush=True,
    )
    rows = []
    with device.exact_arithmetic():
        for varied in (given.only or GRID)[first - 1 :: every]:
            rows.append(measure(varied))
            print(varied, {k: v for k, v in rows[-1].items() if k not in BASE and k != "lds_each"}, flush=True)
            if given.out:
                with Path(given.out).open("a") as out:
                    out.write(json.dumps(rows[-1]) + "\n")
    print("\n" + markdown(rows))


if __name__ == "__main__":
    main()
