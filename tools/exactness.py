"""Scores of small trainings against finite differences over every example weight, float64.

`CASES` train 2 N times with one weight moved by ±h, and compare the central differences of the targets with the
scores. `tests/test_exactness.py` holds the limit; `make bench` prints the largest error.

`python -m tools.exactness` prints the table of docs/measurements.md, over all that a recipe may name: `FACTORS` are its
columns, and every level of one column meets every level of each other in some training (`design`). `NETWORKS` are whole
models, trained until they have learned something.

The retrainings of a case are carried side by side; tests/test_trust.py compares that with one at a time.
"""

import collections
import dataclasses
import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

import engine
from engine import device
from engine.config import Recipe
from engine.core import retraining
from engine.models.convnext_tiny import convnext_tiny
from engine.models.timm_models import builder
from engine.models.torchvision_models import resnet18, resnet34, resnet50, torchvision
from engine.models.vit_tiny import vit_tiny

N, CLASSES, H = 20, 3, 1e-5
TOLERANCE = 1e-6
SMALL_H, TINY_H = 1e-6, 1e-7  # where a curve bends more; beside a kink
BASE = Recipe(
    epochs=3,
    batch_size=6,
    peak_lr=0.1,
    schedule="one-cycle",
    warmup=0.3,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    seed=3,
)  # 20 examples, batch 6: two are dropped


def recipe(**changes) -> Recipe:
    return dataclasses.replace(BASE, **changes)


ALL = dict(momentum=0.9, nesterov=True, weight_decay=5e-4)
ADAM = dict(peak_lr=0.02, weight_decay=5e-2)
SMOOTH = dict(**ADAM, eps_root=1e-8)
GROUPS = (("8.*", 3.0, 0.0), ("*.bias", 0.5, None))
CASES = {
    "plain SGD": (recipe(), False, "loss"),
    "plain SGD, margin": (recipe(), False, "margin"),
    "momentum 0.9": (recipe(momentum=0.9), False, "loss"),
    "Nesterov, decay 5e-4": (recipe(**ALL), False, "loss"),
    "decay 5e-2": (recipe(weight_decay=5e-2), False, "loss"),
    "decay 5e-2 on all parameters": (recipe(weight_decay=5e-2, decay_norm_bias=True), False, "margin"),
    "BatchNorm, eval-mode target": (recipe(), True, "loss"),
    "constant rate": (recipe(schedule="constant", warmup=0.0), True, "loss"),
    "cosine": (recipe(schedule="cosine"), True, "loss"),
    "all together": (recipe(**ALL), True, "loss"),
    "all together, margin": (recipe(**ALL), True, "margin"),
    "all together, 6 epochs, full batches": (recipe(**ALL, epochs=6, batch_size=5), True, "loss"),
    "Adam": (recipe(**SMOOTH, optimizer="adam"), True, "loss"),
    "Adam, ε beside the root": (recipe(**ADAM, optimizer="adam", eps=1e-3), True, "margin"),
    "AdamW": (recipe(**SMOOTH, optimizer="adamw"), True, "loss"),
    "AdamW, other memories": (recipe(**SMOOTH, optimizer="adamw", beta1=0.5, beta2=0.9), False, "loss"),
    "SGD, clipped": (recipe(**ALL, clip_norm=0.1), True, "loss"),
    "AdamW, clipped": (recipe(**SMOOTH, optimizer="adamw", clip_norm=0.1), True, "loss"),
    "label smoothing": (recipe(**ALL, label_smoothing=0.2), True, "loss"),
    "class weights": (recipe(**ALL, class_weights=(0.5, 2.0, 1.0)), True, "loss"),
    "balanced, smoothed": (recipe(**ALL, class_weights="balanced", label_smoothing=0.1), True, "margin"),
    "groups": (recipe(**ALL, groups=GROUPS), True, "loss"),
    "AdamW, all options": (
        recipe(
            **SMOOTH,
            optimizer="adamw",
            clip_norm=0.1,
            groups=GROUPS,
            label_smoothing=0.1,
            class_weights="balanced",
            schedule="polynomial",
            power=2.0,
            warmup_steps=2,
        ),
        True,
        "loss",
    ),
    "linear legs": (recipe(anneal="linear", div_factor=5.0, final_div_factor=10.0), False, "loss"),
    "steps": (recipe(schedule="step", milestones=(0.4, 0.8), gamma=0.3, warmup=0.0), False, "loss"),
}


def problem(batch_norm: bool):
    """A small convolutional network, N training and 4 target images, in float64."""
    torch.manual_seed(1)
    norm = (lambda c: nn.BatchNorm2d(c)) if batch_norm else (lambda c: nn.Identity())
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=not batch_norm),
        norm(4),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 2),
        norm(4),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )
    inputs = torch.randn(N + 4, 1, 6, 6, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (N + 4,))
    return model, (inputs[:N], labels[:N]), (inputs[N:], labels[N:])


SETS = [[0], [1], [0, 1, 2, 3]]


def scores_and_differences(rec: Recipe, batch_norm: bool, function: str):
    model, train, test = problem(batch_norm)
    trained = engine.train(model, *train, rec, device="cpu")
    scores = engine.attribute(trained, *test, function=function, targets=SETS)
    return scores, _differences(trained, test, function, H * torch.eye(N, dtype=torch.float64)) / (2 * H)


def _differences(trained: engine.Trained, test: tuple[Tensor, Tensor], function: str, moves_MN: Tensor) -> np.ndarray:
    """[K, M] of the targets: with the weights 1 + move, less with 1 - move."""
    with device.exact_arithmetic():
        states = retraining.retrain(trained.model, trained.stream, torch.cat([1 + moves_MN, 1 - moves_MN]))
    ends = np.array([engine.evaluate(trained, *test, function=function, targets=SETS, state=each) for each in states])
    return (ends[: len(moves_MN)] - ends[len(moves_MN) :]).T


def relative_error(scores, differences) -> float:
    return np.linalg.norm(scores - differences) / np.linalg.norm(differences)


# -- every option beside every other


class Residual(nn.Module):
    """x + drop(inner(x)), as where stochastic depth stands."""

    def __init__(self, drop: nn.Module):
        super().__init__()
        self.inner, self.drop = nn.Conv2d(4, 4, 3, padding=1), drop

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.inner(x))


class Tokens(nn.Module):
    """A layer over [B, T, D] between two over images."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.one(x)))


def frozen() -> nn.Module:
    """Its statistics count on, its parameters rest."""
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)


def stochastic_depth() -> nn.Module:
    torchvision()
    from torchvision.ops import StochasticDepth

    return Residual(StochasticDepth(0.4, "row"))


def of_timm(name: str, *arguments) -> nn.Module:
    from timm import layers  # pyright: ignore[reportMissingImports]  # an extra

    return getattr(layers, name)(*arguments)


# Of [B, 4, 4, 4] to [B, …]. GELU follows each.
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "ReLU, max-pooling": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "BatchNorm that rests": lambda: nn.BatchNorm2d(4).eval(),
    "LayerNorm, attention": lambda: Tokens(
        nn.TransformerEncoderLayer(4, 2, 8, 0.2, activation="gelu", batch_first=True)
    ),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "dropout": lambda: nn.Dropout(0.3),
    "dropout of channels": lambda: nn.Dropout2d(0.3),
    "alpha dropout": lambda: nn.AlphaDropout(0.2),
    "stochastic depth": stochastic_depth,
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    "weight norm by a hook": lambda: nn.utils.weight_norm(nn.Conv2d(4, 4, 1)),
    "tied weights": Tied,
    "a frozen part": frozen,
}
if importlib.util.find_spec("timm") is not None:
    LAYERS["timm's BatchNormAct2d"] = functools.partial(of_timm, "BatchNormAct2d", 4)
    LAYERS["timm's DropPath"] = lambda: Residual(of_timm("DropPath", 0.4))

KINKED = ("ReLU, max-pooling", "timm's BatchNormAct2d")

ADAMS = dict(eps_root=1e-8, peak_lr=0.02, weight_decay=5e-2)
FACTORS: dict[str, dict[str, object]] = {
    "layer": dict.fromkeys(LAYERS),
    "optimizer": {
        "sgd": dict(weight_decay=5e-2, decay_norm_bias=True),
        "sgd, momentum": dict(momentum=0.9),
        "sgd, Nesterov": dict(momentum=0.9, nesterov=True, weight_decay=5e-4),
        "adam": dict(optimizer="adam", **ADAMS),
        "adamw": dict(optimizer="adamw", **ADAMS),
    },
    "gradient": {
        "as it is": {},
        "clipped": dict(clip_norm=0.1),
        "parameter groups": dict(groups=(("*.bias", 0.5, 0.0),)),
        "groups, clipped": dict(groups=(("*.bias", 0.5, None),), clip_norm=0.1),
    },
    "schedule": {
        "one-cycle": {},
        "one-cycle, linear legs": dict(anneal="linear", div_factor=5.0, final_div_factor=10.0),
        "cosine": dict(schedule="cosine"),
        "step": dict(schedule="step", milestones=(0.4, 0.8), gamma=0.3, warmup=0.0),
        "polynomial": dict(schedule="polynomial", power=2.0, warmup_steps=2),
        "constant": dict(schedule="constant", warmup=0.0),
    },
    "augmentation": {
        text or "none": dict(augment=text)
        for text in (
            "",
            "flip",
            "crop:2",
            "cutout:3",
            "rotate:15",
            "brightness:0.3",
            "contrast:0.3",
            "saturation:0.3",
            "jitter:0.3",
            "flip,crop:2,cutout:3,rotate:15,jitter:0.3",
        )
    },
    "loss": {
        "cross-entropy": {},
        "label smoothing": dict(label_smoothing=0.2),
        "class weights": dict(class_weights=(0.5, 2.0, 1.0)),
        "balanced": dict(class_weights="balanced"),
        "balanced, smoothed": dict(class_weights="balanced", label_smoothing=0.1),
    },
    "target function": dict.fromkeys(("loss", "margin", "logit", "logit:1", "difference:2>0")),
}

Case = dict[str, str]  # by factor, one of its levels


def design(factors: dict[str, dict[str, object]] = FACTORS, together: int = 2) -> list[Case]:
    """Cases in which every level of a factor meets every level of each other one (`together` 1: each level alone).

    Each case begins with a pair that was not met yet, and takes of every other factor the level that makes most such
    pairs; of equals, the one that was taken least.
    """
    combinations = [
        tuple(zip(names, levels))
        for names in itertools.combinations(factors, together)
        for levels in itertools.product(*(factors[name] for name in names))
    ]
    unmet, cases, taken = {frozenset(each) for each in combinations}, [], collections.Counter()
    for each in combinations:
        if frozenset(each) not in unmet:
            continue
        case = dict(each)
        for name in factors:
            if name in case:
                continue
            news = {
                level: sum(
                    frozenset(((name, level), *others)) in unmet
                    for others in itertools.combinations(case.items(), together - 1)
                )
                for level in factors[name]
            }
            case[name] = max(news, key=lambda level, name=name, news=news: (news[level], -taken[name, level]))
        unmet -= set(map(frozenset, itertools.combinations(case.items(), together)))
        taken.update(case.items())
        cases.append({name: case[name] for name in factors})
    return cases


def network(layer: str) -> nn.Module:
    """Of [B, 3, 6, 6] to [B, `CLASSES`], in float64."""
    features = LAYERS[layer]().eval()(torch.zeros(2, 4, 4, 4)).flatten(1).shape[1]
    torch.manual_seed(1)
    head = nn.Flatten(), nn.GELU(), nn.Linear(features, CLASSES)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), LAYERS[layer](), *head).double()


def images(n: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise from 0 to 1, in which each class has another of three channels brighter in its upper half."""
    labels = torch.arange(n) % CLASSES
    pixels = 0.7 * torch.rand(n, CLASSES, side, side, generator=generator, dtype=torch.float64)
    pixels[torch.arange(n), labels, :, : side // 2] += 0.3
    return pixels, labels


def error_of(
    model: nn.Module,
    rec: Recipe,
    function: str = "loss",
    n: int = N,
    side: int = 6,
    h: float = SMALL_H,
    directions: int = 0,
) -> tuple[float, float]:
    """The relative error of the scores, and the part of the training loss that training took away.

    Differences are of every example weight; with `directions`, of so many random combinations of all of them.
    """
    generator = torch.Generator().manual_seed(2)
    train, test = images(n, side, generator), images(4, side, generator)
    moves = (
        torch.randn(directions, n, generator=generator, dtype=torch.float64) if directions else torch.eye(n).double()
    )
    # The check before a training has tests of its own: here a mutated engine is to be told by the scores.
    trained = engine.train(model, *train, rec, device="cpu", replay_mode="recompute", check=False)
    scores = engine.attribute(trained, *test, function=function, targets=SETS) @ moves.numpy().T
    differences = _differences(trained, test, function, h * moves) / (2 * h)
    functional, end = trained.model, trained.state
    before, after = (
        nn.functional.cross_entropy(functional(*state, train[0], training=True)[0], train[1])
        for state in ((functional.theta0, functional.buffers0), (end.theta, end.buffers))
    )
    return relative_error(scores, differences), float(1 - after / before)


def error_of_case(case: Case) -> float:
    options = [FACTORS[name][case[name]] for name in ("optimizer", "gradient", "schedule", "augmentation", "loss")]
    rec = recipe(**{name: value for part in options for name, value in part.items()})  # type: ignore[attr-defined]
    h = TINY_H if case["layer"] in KINKED else SMALL_H
    return error_of(network(case["layer"]), rec, case["target function"], h=h)[0]


# -- whole models, trained until they have learned something

DIRECTIONS = 2  # in which all weights are moved at once


class Standardised(nn.Sequential):
    """A model of images from 0 to 1."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input - 0.5) / 0.25)


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained, and how. A narrow network of many steps is told from a chaotic one by the loss it takes away."""

    build: Callable[[int], nn.Module]  # of the images' side
    rec: Recipe
    n: int = 16
    side: int = 16
    h: float = SMALL_H

    def error(self, directions: int = 0) -> tuple[float, float]:
        torch.manual_seed(0)
        model = Standardised(self.build(self.side)).double()
        return error_of(model, self.rec, n=self.n, side=self.side, h=self.h, directions=directions)


def _residual(build: Callable, **options) -> Callable[[int], nn.Module]:
    return lambda side: build(3, side, side, CLASSES, factor=1 / 16, **options)


def _of_timm(name: str, **options) -> Callable[[int], nn.Module]:
    return lambda side: builder(name)(3, side, side, CLASSES, **options)


CALM = Recipe(epochs=4, batch_size=8, peak_lr=0.02, seed=3)
WHOLE = Recipe(epochs=3, batch_size=16, peak_lr=0.005, seed=3)  # every image in every step
WITH_ADAMW = Recipe(epochs=6, batch_size=8, optimizer="adamw", eps_root=1e-6, peak_lr=0.005, seed=3)
NETWORKS = {
    "torchvision:resnet18": Network(_residual(resnet18), CALM),
    "torchvision:resnet34": Network(_residual(resnet34), CALM),
    "torchvision:resnet50": Network(_residual(resnet50), WHOLE),
    "torchvision:resnet18, ReLU and max-pooling": Network(
        _residual(resnet18, smooth=False, small=False), CALM, side=64, h=TINY_H
    ),
    "vit-tiny, dropout": Network(
        lambda side: vit_tiny(3, side, side, CLASSES, factor=0.15, patch=4, depth=2, dropout=0.1), WITH_ADAMW
    ),
    "convnext-tiny, stochastic depth": Network(
        lambda side: convnext_tiny(3, side, side, CLASSES, factor=0.1, patch=1, stochastic_depth=0.2, layer_scale=0.1),
        WITH_ADAMW,
        side=8,
    ),
}
OF_TIMM = {
    "timm:resnet18, ReLU and max-pooling": Network(
        _of_timm("resnet18", channels=(8, 16, 32, 64)), WHOLE, side=64, h=TINY_H
    ),
    "timm:vit_tiny_patch16_224, drop path": Network(
        _of_timm("vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=3, drop_path_rate=0.2), WITH_ADAMW, side=32
    ),
    "timm:mobilenetv3_small_050, drop path": Network(
        _of_timm("mobilenetv3_small_050", drop_path_rate=0.2), WHOLE, side=64, h=TINY_H
    ),
}


# -- the tables


def options_table(cases: list[Case]) -> Iterator[str]:
    """Lines of Markdown: for each level of each factor, the largest error of the cases that it is in."""
    errors = []
    for case in cases:
        errors.append(error_of_case(case))
        if errors[-1] > TOLERANCE:
            print(f"{errors[-1]:.1e} {case}", file=sys.stderr)
    yield from (f"{len(cases)} trainings; largest relative error of all: {max(errors):.0e}.", "")
    yield from ("| | | largest relative error | trainings |", "|---|---|---|---|")
    for name, levels in FACTORS.items():
        for level in levels:
            own = [error for error, case in zip(errors, cases) if case[name] == level]
            yield f"| {name} | {level} | {max(own):.0e} | {len(own)} |"


def networks_table(networks: dict[str, Network]) -> Iterator[str]:
    """Lines of Markdown: whole models, and how much of the training loss their training took away."""
    yield from ("| network | largest relative error | steps | training loss taken away |", "|---|---|---|---|")
    for name, network in networks.items():
        error, learned = network.error(directions=DIRECTIONS)
        steps = network.rec.epochs * (network.n // network.rec.batch_size)
        yield f"| {name} | {error:.0e} | {steps} | {learned:.0%} |"


def main() -> None:
    has_timm = importlib.util.find_spec("timm") is not None
    for line in itertools.chain(
        options_table(design()), ("",), networks_table({**NETWORKS, **(OF_TIMM if has_timm else {})})
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
