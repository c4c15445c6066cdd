"""The table of exactness: scores of small trainings against finite differences over every example weight, float64.

Each case trains 2 N times with one weight moved by ±h, through the public API, and compares the central differences of
the targets with the scores. `tests/test_exactness.py` holds the limit; `make bench` prints the largest error.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

import engine
from engine.config import Recipe

N, CLASSES, H = 20, 3, 1e-5
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
    differences = np.empty_like(scores, dtype=np.float64)
    for i in range(N):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[i] += sign * H
            state = engine.retrain(trained, weights)
            ends.append(engine.evaluate(trained, *test, function=function, targets=SETS, state=state))
        differences[:, i] = (ends[0] - ends[1]) / (2 * H)
    return scores, differences


def relative_error(scores, differences) -> float:
    return np.linalg.norm(scores - differences) / np.linalg.norm(differences)
