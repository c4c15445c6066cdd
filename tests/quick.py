"""A run on a data set so small that a replay takes a moment: for tests that start processes."""

import numpy as np

from engine.config import Recipe, RunConfig

CONFIG = RunConfig(
    preset="quick",
    recipe=Recipe(epochs=2, batch_size=24, peak_lr=0.05),
    targets=("test:0", "test:1"),
    replay_mode="disk",
    width=0.25,
)  # 10 steps


def arrays(path) -> str:
    """The name of a data set of 120 and 60 images of 8 × 8 in three classes, which is written to `path`."""
    rng = np.random.default_rng(0)
    labels = {split: rng.permutation(np.arange(n) % 3) for split, n in (("", 120), ("test_", 60))}
    patterns = rng.integers(0, 200, (3, 8, 8))
    noisy = {split: patterns[y] + rng.integers(0, 56, (len(y), 8, 8)) for split, y in labels.items()}
    np.savez(
        path,
        classes=np.array(["a", "b", "c"]),
        **{f"{split}images": each.astype(np.uint8) for split, each in noisy.items()},
        **{f"{split}labels": each for split, each in labels.items()},
    )
    return f"arrays:{path}"
