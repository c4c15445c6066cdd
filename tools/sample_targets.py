"""Which targets the sample's presets ask about: `python -m tools.sample_targets`.

Trains each preset as it ships (three seconds; the same bits every time on one machine) and prints, in the order in
which a run explains them: its five surest mistakes (the wrong label's probability is the highest), a close call (a
right answer whose second label is the nearest), the first right answer, and all test images together.
`engine.config` keeps what this prints, and `tests/test_first_hour.py` compares the two. Run it, and copy, when the
sample's images, recipe or network change.

Elsewhere the last bits of a training may differ, and with them which of two images is the surer: the gaps to those
that come next, printed beside each, are what a difference would have to bridge.
"""

import numpy as np
import torch

from engine import config, device
from engine.analysis.logits import softmax
from engine.config import RunConfig
from engine.core import targets as target_values
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.models import registry as model_registry

NAMES = ("sample", "sample-noisy")
MISTAKES = 5


def trained_logits(preset: RunConfig) -> np.ndarray:
    """Logits float32 [N test images, classes] of the model that the preset trains, as a run computes them on a CPU."""
    dataset, cpu = dataset_registry.load(preset.dataset), torch.device("cpu")
    model = model_registry.build(preset, dataset)
    train_set, test_set = (examples(dataset, split, cpu, torch.float32) for split in datasets_base.SPLITS)
    with device.exact_arithmetic():
        state = train(model, Stream(train_set, preset.recipe))
        return target_values.logits(model, state, test_set).numpy()


def choice(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[str, ...], list[str]]:
    """The targets, and a line about each of them, by logits [N, classes] and labels [N] of the test images."""
    p = softmax(logits)
    two = np.sort(p, axis=1)[:, -2:]
    sureness, gap, right = two[:, 1], two[:, 1] - two[:, 0], p.argmax(1) == labels
    mistakes, answers = np.flatnonzero(~right), np.flatnonzero(right)
    surest = mistakes[np.argsort(-sureness[mistakes], kind="stable")]
    closest = answers[np.argsort(gap[answers], kind="stable")]
    lines = [
        f"a mistake, {sureness[i]:.1%} sure, {sureness[i] - sureness[after]:.4f} above the next"
        for i, after in zip(surest[:MISTAKES], surest[1:])
    ]
    lines.append(f"a close call, by {gap[closest[0]]:.4f}; the next by {gap[closest[1]]:.4f}")
    lines.append(f"a right answer, {sureness[answers[0]]:.1%} sure, the first")
    indices = [*surest[:MISTAKES], closest[0], answers[0]]
    return (*(f"test:{i}" for i in indices), "test:all"), [*lines, "all test images together"]


def main() -> None:
    for name in NAMES:
        preset = config.preset(name)
        dataset = dataset_registry.load(preset.dataset)
        targets, lines = choice(trained_logits(preset), dataset.test_labels)
        print(f"{name}: {'as it ships' if targets == preset.targets else 'DIFFERENT from what ships'}")
        print("\n".join(f"  {target:9} {line}" for target, line in zip(targets, lines, strict=True)))


if __name__ == "__main__":
    main()
