"""What a frozen trunk's stored features save: `python -m tools.bench_trunk`. Prints Markdown.

torchvision's ResNet-18 at a quarter of its channels (`python -m tools.bench_trunk 1`: all of them), frozen but for its
last layer, on random images of 3 × 32 × 32: training and replay of two targets, on the features that were computed
once, and on the images in every pass. Both are measured in turns in one process; the scores are compared.
"""

import statistics
import sys
import time
from unittest import mock

import numpy as np
import torch

import engine
from engine import api, device
from engine.models import finetune
from engine.models.torchvision_models import resnet18

IMAGES, SIDE, CLASSES, ROUNDS = 128, 32, 10, 3
RECIPE = engine.Recipe(epochs=4, batch_size=32, peak_lr=0.1)  # 16 steps
FROZEN = "conv1,bn1,layer1,layer2,layer3,layer4"


def measured(
    stored: bool, factor: float, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float, np.ndarray]:
    """Seconds of the training (with the features, where they are stored) and of the replay, and the scores."""
    torch.manual_seed(0)
    model = resnet18(3, SIDE, SIDE, CLASSES, factor=factor)
    finetune.freeze(model, FROZEN, evaluation=True)
    split = api.split if stored else lambda *given: None
    with mock.patch("engine.api.split", split):
        began = time.perf_counter()
        trained = engine.train(model, images, labels, RECIPE, check=False)
        assert (trained.trunk is not None) == stored
        middle = time.perf_counter()
        scores = engine.attribute(trained, images[:2] * 0.9, labels[:2])  # copied to the CPU: the device has finished
        return middle - began, time.perf_counter() - middle, scores


def main(factor: float = 0.25) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(IMAGES) % CLASSES
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    scores = {}
    for turn in range(ROUNDS + 1):
        for stored in times:
            training, replay, scores[stored] = measured(stored, factor, images, labels)
            if turn:  # the first round allocates
                times[stored].append((training, replay))
    stored, every = ([statistics.median(column) for column in zip(*times[kind])] for kind in (True, False))
    unlike = np.linalg.norm(scores[True] - scores[False]) / np.linalg.norm(scores[False])
    print(f"{device.describe()}, torch {torch.__version__}; medians of {ROUNDS}\n")
    print("| | features stored | images in every pass | ratio |\n|---|---|---|---|")
    for what, one, other in zip(("training, 16 steps", "replay of 2 targets"), stored, every):
        print(f"| {what} | {one:.2f} s | {other:.2f} s | {other / one:.1f} |")
    print(f"\nScores differ by {unlike:.0e} of their norm.")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
