"""What a new user meets first: the sample explains mistakes, what is promised in time is measured, and jobs yield to
pages."""

import numpy as np
import pytest

from engine import config
from engine.datasets import registry as dataset_registry
from tools import sample_targets

# -- the sample's targets


@pytest.mark.slow
@pytest.mark.parametrize("name", sample_targets.NAMES)
def test_the_sample_asks_what_the_rule_finds_in_its_own_training(name):
    preset = config.preset(name)
    dataset = dataset_registry.load(preset.dataset)
    targets, lines = sample_targets.choice(sample_targets.trained_logits(preset), dataset.test_labels)
    assert targets == preset.targets, (
        f"On this machine the preset «{name}» trains a model whose surest mistakes, close call and first right answer "
        f"are {targets}, and engine/config.py ships {preset.targets}. If its images, recipe or network were changed, "
        "copy what `python -m tools.sample_targets` prints; if not, a training has other bits than it had: "
        f"{list(zip(targets, lines, strict=True))}"
    )


def test_the_rule_takes_mistakes_by_sureness_then_the_closest_and_the_first_right_answer():
    """Nine images of three classes, all of label 0: by hand."""
    p = np.full((9, 3), 0.05)
    p[:6, 1] = (0.6, 0.9, 0.7, 0.8, 0.95, 0.5)  # mistakes: 4, 1, 3, 2, 0 are the surest five; 5 is left
    p[6:, 0] = (0.9, 0.51, 0.7)
    p[7, 2] = 0.49
    logits = np.log(p / p.sum(1, keepdims=True)).astype(np.float32)
    targets, lines = sample_targets.choice(logits, np.zeros(9, np.int64))
    assert targets == (*(f"test:{i}" for i in (4, 1, 3, 2, 0, 7, 6)), "test:all") and len(lines) == len(targets)
    assert sample_targets.choice(logits[:, [1, 0, 2]], np.ones(9, np.int64))[0] == targets, "labels, not columns"
