"""Which recipes deserve trust: accuracy, smoothness and agreement with retraining, over a grid or by search.

    python -m tools.grid [--out FILE]                                  make trust-grid: the grid of docs/trust.md
    python -m tools.grid --preset resnet9 --only JSON --stage lds      recipes of one's own
    python -m tools.grid --search --knobs peak_lr,epochs --seconds 400 variations of the best so far, until time is up

A recipe is a flat dictionary, `SAMPLE` or `RESNET9` with what `--base` and a row of `--only` change; `config_of` makes
the run of it. Each line of FILE is one recipe with its figures, written as soon as it is measured. On a GPU ResNet-9's
steps are compiled, once a shape of network and batch, and run one training at a time; the small network's run as they
are, side by side.

Stage `smooth`, five trainings:

    accuracy, fit     of the test images, and of the first 10,000 training images
    agreement         Spearman's correlation, over all test images, of the change of the loss where 1 % of the training
                      images have a third of their weight taken away with that where they have none left
    metasmoothness    `engine.core.retraining`, one direction

Stage `lds`: the scores of random test images by replay, and retrainings without random subsets (`engine.analysis.lds`).
With a window, the weights count from there on in all of these. Where time is short a recipe below `--accuracy` is
trained once and no more.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import config, device
from engine.analysis import lds
from engine.analysis import logits as logit_maths
from engine.core import retraining
from engine.core import targets as phi
from engine.core.compiled import Compiled
from engine.core.replay import replay
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import advance, initial_state, optimizer_for, train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.errors import DivergedError
from engine.models import registry as model_registry
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.stores import MemoryStore

Settings = dict[str, Any]

DROP = 0.01
LEAST_AGREEMENT = 0.9  # below it no further training says more
SAMPLE: Settings = {
    "dataset": "fashion-mnist-sample",
    "model": "small-cnn",
    "width": 1.0,
    "precision": "float32",
    "replay_precision": "same",
    "window": 0.0,
    # of the recipe
    "epochs": 6,
    "batch_size": 250,
    "peak_lr": 0.05,
    "warmup": 0.3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "anneal": "cosine",
    "div_factor": 25.0,
    "augment": "",
    "label_smoothing": 0.0,
    "seed": 0,
    # factors on the learning rate of biases and of the last layer's weights
    "bias": 1.0,
    "head": 1.0,
    # options of the model
    "norm": "batch",
    "activation": "gelu",
    "scale": 0.5,
    "whiten": False,
}
RESNET9: Settings = {
    **SAMPLE,
    "dataset": "fashion-mnist",
    "model": "resnet9",
    "width": 0.5,
    "precision": "tf32",
    "replay_precision": "same",
    "epochs": 16,
    "batch_size": 500,
    "peak_lr": 0.015,
    "scale": 0.125,
    "gain": 1.0,
    "pool": "after",
    "identity": False,
}
BASES = {"sample": SAMPLE, "resnet9": RESNET9}
OPTIONS = ("norm", "activation", "scale", "whiten", "gain", "pool", "identity")
OF_RUN = ("dataset", "model", "width", "precision", "replay_precision", "window")
OF_GROUPS = ("bias", "head")
INKS = {"metasmoothness": "#1f5fa8", "agreement": "#2d7d4f", "LDS, 1 % left out": "#c4302b"}  # of a frontier
HEAD = {"small-cnn": 7, "resnet9": 18}  # number of the last layer
# Batch size and rate together, then one thing at a time at two rates, then what looked best.
GRID: list[Settings] = [
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
GRID = [{"scale": 1.0, **varied} for varied in GRID]
# What a search multiplies a setting by, or divides it by; of the momentum, its distance from 1.
FACTORS = {
    "peak_lr": 1.4,
    "gain": 1.25,
    "bias": 3.0,
    "head": 2.0,
    "scale": 1.5,
    "momentum": 2.0,
    "weight_decay": 3.0,
    "warmup": 1.5,
    "epochs": 1.3,
    "batch_size": 2.0,
    "width": 1.4,
    "div_factor": 4.0,
}


def config_of(settings: Settings) -> config.RunConfig:
    """The run of a recipe, checked. Raises `ConfigError`."""
    groups = []
    if settings["head"] != 1:
        groups.append((f"{HEAD[settings['model']] + 2 * settings['whiten']}.weight", settings["head"], None))
    if settings["bias"] != 1:
        groups.append(("*.bias", settings["bias"], None))
    own = next(base for base in BASES.values() if base["model"] == settings["model"])  # the builder's own values
    words = {name: settings[name] for name in OPTIONS if name in settings and settings[name] != own[name]}
    others = {*OPTIONS, *OF_RUN, *OF_GROUPS}
    return config.check(
        config.RunConfig(
            recipe=config.Recipe(
                **{name: value for name, value in settings.items() if name not in others}, groups=tuple(groups)
            ),
            model_options=",".join(f"{name}={str(value).lower()}" for name, value in words.items()),
            **{name: settings[name] for name in OF_RUN},
        )
    )


@cache
def dataset_of(name: str) -> datasets_base.Dataset:
    return dataset_registry.load(name)


@cache
def split_of(name: str, split: str) -> Any:
    return examples(dataset_of(name), split, device.choose("auto"), torch.float32)


PASSES: dict[tuple, Compiled] = {}  # by all that is in the compiled code


class Trainings:
    """A recipe, and its trainings with other example weights, each of which begins with the state before the window."""

    def __init__(self, settings: Settings, compiled: bool):
        self.settings, self.config = settings, config_of(settings)
        self.where, self.dataset = device.choose("auto"), dataset_of(settings["dataset"])
        self.train_set, self.test_set = (split_of(settings["dataset"], s) for s in datasets_base.SPLITS)
        self.model = model_registry.build(self.config, self.dataset, self.where)
        self.stream = Stream(self.train_set, self.config.recipe)
        self.optimizer = optimizer_for(self.model, self.config.recipe)
        self.n, self.steps = self.train_set.n, self.stream.steps
        self.start = config.window_start(self.config, self.steps)
        self.initial = initial_state(self.model, self.optimizer)
        self.passes = self._compiled(self.config.precision, False) if compiled else None

    @cached_property
    def first(self) -> State:
        """The state before the window."""
        return advance(self.model, self.stream, self.initial, 0, self.start, passes=self.passes)

    def _compiled(self, precision: str, backwards: bool) -> Compiled:
        code = ("dataset", "model", "width", "batch_size", "label_smoothing")
        of_model = (name for name in OPTIONS if name not in ("gain", "identity"))
        key = (backwards, precision, *(self.settings.get(name) for name in (*code, *of_model)))
        if key not in PASSES:
            PASSES[key] = Compiled(self.model, precision, (self.initial, self.stream.at(0)))
            if backwards:
                PASSES[key].compile_backwards(1)
            else:
                PASSES[key].compile_forwards()
        return PASSES[key]

    def passes_back(self) -> Compiled | None:
        return self._compiled(self.config.replays_in(self.where.type), True) if self.passes else None

    def run(self, trajectory: EveryState | None = None) -> State:
        """The final state of the training itself."""
        return train(self.model, self.stream, trajectory, resume=(self.start, self.first), passes=self.passes)

    def without(self, rows: list[Tensor]) -> Iterator[State]:
        """Final states with weights [N] each; compiled one after the other, else side by side."""
        width = 1 if self.passes else retraining.side_by_side(self.model, self.stream)
        for i in range(0, len(rows), width):
            weights = torch.stack(rows[i : i + width]).to(self.where, self.train_set.dtype)
            yield from retraining.retrain(
                self.model, self.stream, weights, passes=self.passes, begin=(self.start, self.first)
            )

    def scores(self, sets: list[np.ndarray]) -> tuple[State, np.ndarray, np.ndarray]:
        """The final state; scores [K, N] of the loss of sets of test images; and growth [K], of the adjoint's norm from
        the end of training to the first step that counts."""
        digests = Digests(self.optimizer, self.steps, self.steps, start=self.start)
        trajectory = EveryState(MemoryStore(self.optimizer), self.first, self._none, digests, begins=self.start)
        final = self.run(trajectory)
        adjoint, norms = phi.adjoints(self.model, final, self.test_set, sets, "loss"), []
        at_end = adjoint.theta.norm(dim=1)

        def keep(done: int, adjoint, scores) -> None:
            if done == self.steps - self.start:
                norms.append(adjoint.theta.norm(dim=1))

        passes = self.passes_back()
        scores = replay(self.model, self.stream, trajectory, adjoint, on_progress=keep, passes=passes, start=self.start)
        return final, scores.cpu().numpy(), (norms[0] / at_end).cpu().numpy()

    @staticmethod
    def _none(*_: object) -> State:
        raise AssertionError("every state is in memory")

    def losses(self, state: State, names: np.ndarray | None = None) -> np.ndarray:
        """Of all test images, [N_test], or of some."""
        rows = np.arange(self.test_set.n) if names is None else names
        found = logit_maths.log_probabilities(self._logits(state, self.test_set.rows(rows)))
        return -found[np.arange(len(rows)), self.dataset.test_labels[rows]]

    def accuracies(self, state: State) -> tuple[float, float]:
        """Of the test images, and of the first 10,000 training images."""
        some = self.train_set.rows(np.arange(min(self.n, 10_000)))
        right = (
            self._logits(state, data).argmax(1) == labels
            for data, labels in (
                (self.test_set, self.dataset.test_labels),
                (some, self.dataset.train_labels[: some.n]),
            )
        )
        test, fit = (float(each.mean()) for each in right)
        return test, fit

    def _logits(self, state: State, data) -> np.ndarray:
        return phi.logits(self.model, state, data).double().cpu().numpy()


# -- what is measured


def smooth(trainings: Trainings, least_accuracy: float) -> dict:
    """Accuracy, and where it is enough agreement and metasmoothness."""
    began = time.perf_counter()
    final = trainings.run()
    test, fit = trainings.accuracies(final)
    figures = {"steps": trainings.steps, "accuracy": test, "fit": round(fit, 4), "train_seconds": _since(began)}
    if test < least_accuracy:
        return figures
    ones, n = torch.ones(trainings.n), trainings.n
    part, whole = ones.clone(), ones.clone()
    left_out = torch.from_numpy(lds.subset(n, DROP, 0, 0))
    part[left_out], whole[left_out] = 2 / 3, 0
    v = retraining.NUDGE * retraining.direction(n, 0).float()
    rows = [ones, part, whole, 1 + v, 1 + 2 * v]
    if trainings.passes:  # one at a time is bit for bit the training itself
        before = trainings.losses(final)
        changes = [trainings.losses(state) - before for state in trainings.without(rows[1:3])]
        figures["agreement"] = float(lds.spearman(*changes))
        if figures["agreement"] >= LEAST_AGREEMENT:
            figures["metasmoothness"] = retraining.metasmoothness(final, *trainings.without(rows[3:]))
    else:
        unchanged, *others, second, third = trainings.without(rows)
        before = trainings.losses(unchanged)
        figures["agreement"] = float(lds.spearman(*(trainings.losses(state) - before for state in others)))
        figures["metasmoothness"] = retraining.metasmoothness(unchanged, second, third)
    return {**figures, "seconds": _since(began)}


def agree(trainings: Trainings, targets: int, subsets: dict[float, int], is_late: Callable[[], bool]) -> dict:
    """LDS for each share left out, by as many subsets as there was time for."""
    names = np.sort(np.random.default_rng(0).choice(trainings.test_set.n, targets, replace=False))
    began = time.perf_counter()
    final, scores, growth = trainings.scores([np.array([i]) for i in names])
    figures: dict[str, Any] = {
        "accuracy": trainings.accuracies(final)[0],
        "targets": targets,
        "replay_seconds": _since(began),
        "growth": float(growth.max()),
        "growth_median": float(np.median(growth)),
    }
    began = time.perf_counter()
    for drop, count in subsets.items():
        left_out = [lds.subset(trainings.n, drop, 0, m) for m in range(count)]
        actual = list(changes(trainings, final, names, left_out, is_late))
        if len(actual) > 1:
            predicted = lds.predicted(scores, left_out[: len(actual)])
            figures[f"lds_{drop:g}"] = summary(predicted, np.stack(actual, axis=1))
    return {**figures, "retrain_seconds": _since(began)}


def changes(
    trainings: Trainings, final: State, names: np.ndarray, left_out: list[np.ndarray], is_late: Callable[[], bool]
) -> Iterator[np.ndarray]:
    """Of the loss of the test images `names`, [K], by each retraining, until time is up."""
    rows = [torch.ones(trainings.n) for _ in range(len(left_out) + 1)]
    for w_N, indices in zip(rows[1:], left_out, strict=True):
        w_N[torch.from_numpy(indices)] = 0
    # Side by side the sums are of other shapes than the training's, and the change is from one of the same.
    states = trainings.without(rows[1:] if trainings.passes else rows)
    before = trainings.losses(final if trainings.passes else next(states), names)
    for state in states:
        yield trainings.losses(state, names) - before
        if is_late():
            return


def summary(predicted_KM: np.ndarray, actual_KM: np.ndarray) -> dict:
    """The agreement's figures, and what they were made of, so that further subsets can be put beside them."""
    each, mean = lds.agreement(predicted_KM, actual_KM)
    return {
        "subsets": actual_KM.shape[1],
        "lds": mean.lds,
        "low": mean.low,
        "high": mean.high,
        "lowest": min(a.lds for a in each),
        "slope": mean.slope,
        "r2": mean.r2,
        "each": [round(a.lds, 4) for a in each],
        "predicted": [[float(f"{x:.6g}") for x in row] for row in predicted_KM],
        "actual": [[float(f"{x:.6g}") for x in row] for row in actual_KM],
    }


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


# -- search


def worth(row: dict, least_agreement: float) -> float:
    """Accuracy, less what the agreement lacks; a recipe whose agreement is not known is worth nothing."""
    return row["accuracy"] - max(0.0, least_agreement - row["agreement"]) if "agreement" in row else -1.0


def by_worth(rows: list[dict], least_agreement: float) -> list[dict]:
    """The best first."""
    return sorted((row for row in rows if "accuracy" in row), key=lambda row: -worth(row, least_agreement))


def variation(settings: Settings, knobs: list[str], rng: np.random.Generator) -> Settings:
    """Two settings, or one, a step up or down."""
    varied = dict(settings)
    for name in rng.choice(knobs, size=rng.integers(1, 3), replace=False):
        factor = FACTORS.get(str(name), 1.0) ** rng.choice([-1, 1])
        value = varied[name]
        if name == "momentum":
            varied[name] = round(float(np.clip(1 - (1 - value) * factor, 0.5, 0.98)), 4)
        elif isinstance(value, bool):
            varied[name] = not value
        elif name == "augment":
            varied[name] = str(rng.choice(["", "flip", "flip,crop:1", "flip,crop:2"]))
        elif isinstance(value, int):
            varied[name] = max(2, round(value * factor))
        else:
            varied[name] = float(f"{value * factor:.3g}")
    varied["warmup"] = min(varied["warmup"], 0.8)
    return varied


def proposals(base: Settings, rows: list[dict], options: argparse.Namespace) -> Iterator[Settings]:
    """Endlessly: a variation of one of the three best so far, never one that was measured."""
    rng = np.random.default_rng(options.random)
    seen = {json.dumps({k: row[k] for k in base}, sort_keys=True) for row in rows}
    while True:
        best = by_worth(rows, options.agreement)[:3]
        parent = best[min(int(rng.choice(3, p=[0.6, 0.25, 0.15])), len(best) - 1)]
        varied = variation({name: parent[name] for name in base}, options.knobs, rng)
        if varied["epochs"] * varied["width"] > options.most or (key := json.dumps(varied, sort_keys=True)) in seen:
            continue
        seen.add(key)
        yield varied


# -- the command


def markdown(rows: list[dict]) -> str:
    """A table of what differs between the rows, and their figures."""
    columns = [name for name in RESNET9 if len({json.dumps(row.get(name)) for row in rows}) > 1]
    figures = ("accuracy", "fit", "agreement", "metasmoothness", "growth")
    drops = sorted({key for row in rows for key in row if key.startswith("lds_")})
    lines = ["| " + " | ".join([*columns, *figures, *drops]) + " |", "|" + "---|" * (len(columns) + 5 + len(drops))]
    for row in rows:
        shown = [f"{row[f]:.3f}" if f in row else row.get("diverged", "")[:20] for f in figures]
        for drop in drops:
            at = row.get(drop)
            shown.append(f"{at['lds']:.3f} ({at['low']:.3f} to {at['high']:.3f})" if at else "")
        lines.append("| " + " | ".join([*(str(row.get(c, "")) for c in columns), *shown]) + " |")
    return "\n".join(lines)


def frontier(rows: list[dict], path: Path) -> None:
    """Draws what was measured of smoothness and agreement against accuracy, a dot a recipe and figure, as SVG; a ring
    where the weights count from later than the start. The dot says which recipe it is (`<title>`)."""
    at = [(row, name, value) for row in rows if "accuracy" in row for name, value in drawn(row).items()]
    accuracies, lowest = [row["accuracy"] for row, _, _ in at], min(value for _, _, value in at)
    left, right = min(accuracies), max(accuracies)
    floor = max(0.0, np.floor(20 * lowest) / 20)  # what is below 0 is drawn at 0

    def x(accuracy: float) -> float:
        return round(70 + 510 * (accuracy - left) / (right - left or 1), 1)

    def y(value: float) -> float:
        return round(20 + 240 * (1 - (max(floor, value) - floor) / (1 - floor or 1)), 1)

    marks = []
    for value in np.linspace(floor, 1, 6):
        marks.append(
            f'<path d="M60 {y(value)}H590" stroke="#e4e4e4"/><text x="22" y="{y(value) + 4}">{value:.2f}</text>'
        )
    marks += [f'<text x="{x(a) - 14}" y="278">{a:.3f}</text>' for a in np.linspace(left, right, 5)]
    for row, name, value in at:
        ink, late = INKS[name], row.get("window")
        how = f'fill="none" stroke="{ink}" stroke-width="1.6"' if late else f'fill="{ink}" fill-opacity="0.75"'
        title = f"<title>{said(row, rows)}: {name} {value:.3f}, accuracy {row['accuracy']:.3f}</title>"
        marks.append(f'<circle cx="{x(row["accuracy"])}" cy="{y(value)}" r="3.5" {how}>{title}</circle>')
    names = [name for name in INKS if any(name == of for _, of, _ in at)]
    for i, name in enumerate(names):
        marks.append(f'<circle cx="{66 + 170 * i}" cy="318" r="3.5" fill="{INKS[name]}"/>')
        marks.append(f'<text x="{75 + 170 * i}" y="322">{name}</text>')
    words = "accuracy on test images" + (
        "; rings: with an attribution window" if any(r.get("window") for r in rows) else ""
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 332" font-family="sans-serif" font-size="12">'
        f'<rect width="600" height="332" fill="#fff"/><path d="M60 20V260H590" fill="none" stroke="#888"/>'
        f'{"".join(marks)}<text x="60" y="298">{words}</text></svg>\n'
    )


def drawn(row: dict) -> dict[str, float]:
    """The figures of a recipe that a frontier shows, by their names."""
    found = {"metasmoothness": row.get("metasmoothness"), "agreement": row.get("agreement")}
    found["LDS, 1 % left out"] = row.get("lds_0.01", {}).get("lds")
    return {name: value for name, value in found.items() if value is not None}


def said(row: dict, rows: list[dict]) -> str:
    """What a recipe has of its own beside the others."""
    return ", ".join(
        f"{name} {row[name]}" for name in RESNET9 if name in row and len({str(r.get(name)) for r in rows}) > 1
    )


def measured(settings: Settings, stage: str, options: argparse.Namespace, is_late: Callable[[], bool]) -> dict:
    """One recipe's figures; "diverged" says why there are none."""
    compiled = settings["model"] == "resnet9" and device.choose("auto").type == "cuda"
    row = dict(settings)
    try:
        trainings = Trainings(settings, compiled)
        if stage != "lds":
            row |= smooth(trainings, options.accuracy)
        if stage != "smooth" and row.get("agreement", 1) >= LEAST_AGREEMENT:
            row |= agree(trainings, options.targets, options.subsets, is_late)
    except DivergedError as error:
        row["diverged"] = error.what
    return row


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", help="JSON lines, written as they come")
    parser.add_argument("--preset", choices=BASES, default="sample")
    parser.add_argument("--base", type=json.loads, default={}, help="what is other in all recipes: {…}")
    parser.add_argument("--only", type=json.loads, help='recipes of your own: [{"epochs": 8, "peak_lr": 0.03}, …]')
    parser.add_argument("--part", default="1/1", help="2/6: the second of every six, for several processes")
    parser.add_argument("--stage", choices=("smooth", "lds", "both"), default="both")
    parser.add_argument("--accuracy", type=float, default=0.0, help="below it nothing else is measured")
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument(
        "--subsets",
        type=lambda text: {float(d): int(m) for d, m in (part.split(":") for part in text.split(","))},
        default={DROP: 64},
        help="share left out and number of subsets: 0.01:100,0.05:50",
    )
    parser.add_argument("--search", action="store_true", help="go on from the recipes with variations of the best")
    parser.add_argument("--knobs", type=lambda text: text.split(","), default=["peak_lr"], help="what a search varies")
    parser.add_argument("--agreement", type=float, default=0.985, help="what a search does not want to go below")
    parser.add_argument("--most", type=float, default=24, help="the most that epochs times width may be in a search")
    parser.add_argument("--best", type=int, default=0, help="LDS of so many of the best, in the last 2/5 of the time")
    parser.add_argument("--random", type=int, default=0, help="seed of the search")
    parser.add_argument("--read", nargs="*", default=[], help="measure nothing: files that were written by --out")
    parser.add_argument("--plot", help="an .svg file of accuracy against metasmoothness and LDS")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    return parser.parse_args()


def main() -> None:
    options, rows, began = parsed(), [], time.monotonic()
    first, every = map(int, options.part.split("/"))
    base = {**BASES[options.preset], **options.base}
    rest = [{**base, **varied} for varied in (options.only or GRID)[first - 1 :: every]]
    if options.read:
        rows = [json.loads(line) for name in options.read for line in Path(name).read_text().splitlines()]
        rest, options.search, options.best = [], False, 0

    def is_late(part: float = 1.0) -> bool:
        return time.monotonic() - began > part * options.seconds

    def note(row: dict) -> None:
        rows.append(row)
        differs = {k: v for k, v in row.items() if k in base and v != base[k]}
        figures = {k: v for k, v in row.items() if k not in base and not k.startswith("lds_")}
        found = {k: round(v["lds"], 4) for k, v in row.items() if k.startswith("lds_")}
        print(round(time.monotonic() - began), differs, figures, found, flush=True)
        if options.out:
            with Path(options.out).open("a") as out:
                out.write(json.dumps(row) + "\n")

    print(f"{device.describe()}, torch {torch.__version__}", flush=True)
    with device.exact_arithmetic():
        for settings in chain(rest, proposals(base, rows, options) if options.search else ()):
            if is_late(0.6 if options.best else 1.0):
                break
            note(measured(settings, options.stage, options, is_late))
        for row in by_worth(rows, options.agreement)[: options.best]:
            note(measured({name: row[name] for name in base}, "lds", options, is_late))
    print("\n" + markdown(rows))
    if options.plot:
        frontier(rows, Path(options.plot))


if __name__ == "__main__":
    main()
