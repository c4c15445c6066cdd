"""A recipe for data of one's own, chosen by its size: what the form and the command line begin with.

    from engine import proposal
    from engine.datasets import load

    proposed = proposal.for_dataset(load("folder:photos"))
    proposed.config         # a `RunConfig` that fits the data: valid, and of a cost that two CPU cores bear
    proposed.reasons        # why, sentence by sentence, as plain text

It aims at scores that foretell what retraining does, before it aims at accuracy (docs/trust.md): some 160 small steps,
low logits, no kinks. A rule made of sizes alone can be wrong about data that it has never seen, so `engine.jobs.probe`
measures whether the recipe trains smoothly, before anything is run at its full length.

When not: to get the most accurate model of the data. Nothing here looks at the images.
"""

import math
from dataclasses import dataclass

from engine.config import Recipe, RunConfig
from engine.datasets.base import Dataset
from engine.errors import ConfigError

# Of N images a batch has 3 √N and an epoch √N / 3 steps, so that 480 / √N epochs make 160 steps, whatever N is: as many
# as the recipes have that were measured, batch 250 and 6 epochs of 6,000 images, 100 and 12 of 1,528. More epochs fit
# few images so closely that leaving one out does more than the derivative says: 38 of 160 took the LDS to 0.86.
BATCH, EPOCHS = 3.0, 480.0

FEWEST_EPOCHS, MOST_EPOCHS = 3, 12

# Of fewer images a class than this, leaving one out takes much of the class away, however they are trained: 12 epochs
# of 100 classes of one image had an LDS of 0.85 at an accuracy of 0.31, 40 one of 0.84 at 0.73.
FEW, EPOCHS_OF_FEW = 5, 40

LEAST, MOST = 10, 1000  # images of a batch

# For one image of a batch: what decides is the rate over the batch size. Above `LINEAR` images it grows as their root.
PEAK, LINEAR = 2e-4, 250

SCALE, POSITIONS = 0.5, 49  # of the logits, and positions that the last layer sees, in the `sample` preset

TARGETS = 8

DISK = 2 << 30  # bytes of trajectory up to which every state is kept


@dataclass(frozen=True)
class Proposal:
    """`config` passes `engine.config.check` for the data that it was made for; `reasons` are plain sentences."""

    config: RunConfig
    reasons: tuple[str, ...]


def for_dataset(dataset: Dataset) -> Proposal:
    """`propose` for a data set that is loaded."""
    height, width, channels = dataset.image_shape
    sizes = dataset.sizes
    return propose(
        dataset.name,
        training=sizes.n_train,
        test=sizes.n_test,
        channels=channels,
        size=(height, width),
        classes=sizes.n_classes,
    )


def propose(data: str, *, training: int, test: int, channels: int, size: tuple[int, int], classes: int) -> Proposal:
    """A configuration for `training` and `test` images of `size` (height, width) pixels, `channels` and `classes`.

    `data` is the data set's name, which the configuration gets as it is; it is not looked at.

    Raises `ConfigError` for sizes that no training has: fewer than 2 training images or classes, or no test image.
    """
    if training < 2 or test < 1 or classes < 2 or min(size) < 4:
        raise ConfigError(
            f"There is no recipe for {training:,} training and {test:,} test images of {classes:,} classes and "
            f"{size[1]} × {size[0]} pixels.",
            "Take at least 2 training images, 1 test image, 2 classes and 4 pixels a side.",
        )
    batch, epochs = _batch(training), _epochs(training, classes)
    steps = epochs * (training // batch)
    peak = _rounded(PEAK * batch if batch <= LINEAR else PEAK * math.sqrt(LINEAR * batch))
    positions = (size[0] // 4) * (size[1] // 4)
    scale = _rounded(SCALE * math.sqrt(POSITIONS / positions))
    kept = 4 * steps * _parameters(channels, positions, classes)
    config = RunConfig(
        preset="proposed",
        dataset=data,
        model="small-cnn",
        model_options="" if scale == SCALE else f"scale={scale:g}",
        recipe=Recipe(epochs=epochs, batch_size=batch, peak_lr=peak),
        targets=targets(test),
        replay_mode="disk" if kept <= DISK else "recompute",
    )
    reasons = _reasons(config, training, test, size, positions, scale, kept)
    return Proposal(config, reasons + _of_few(training, classes))


def _reasons(
    config: RunConfig, training: int, test: int, size: tuple[int, int], positions: int, scale: float, kept: int
) -> tuple[str, ...]:
    """A sentence for each choice. `kept` bytes would keep every state."""
    recipe = config.recipe
    steps = recipe.epochs * (training // recipe.batch_size)
    return (
        f"{training:,} training images: {recipe.epochs} epochs in batches of {recipe.batch_size:,} make {steps:,} "
        "steps. Few and small steps keep a training smooth, and only a smooth one has scores that foretell what "
        "retraining does.",
        f"Peak learning rate {recipe.peak_lr:g}, by the batch size: higher ones learn faster, and make the scores "
        "worthless.",
        f"The network small-cnn: smooth, and quick on a processor. Of {size[1]} × {size[0]} pixels it makes "
        f"{positions:,} positions, so its logits are multiplied by {scale:g}: the more positions, the steeper.",
        f"{len(config.targets)} of {test:,} test images to explain, spread over all of them.",
        f"{config.replay_mode.capitalize()} mode: every state together would take {kept / 1e6:,.0f} MB.",
        "Made of sizes alone: the probe measures whether it is smooth for these images, before it is run.",
    )


def _of_few(training: int, classes: int) -> tuple[str, ...]:
    """What to know where classes have few images."""
    if training >= FEW * classes:
        return ()
    return (
        f"{training / classes:.2g} training images a class: leaving one out takes much of a class away, which scores "
        "foretell less well. Validate before you rely on them.",
    )


def _batch(training: int) -> int:
    """A round number near `BATCH` √N."""
    batch = BATCH * math.sqrt(training)
    unit = 50 if batch >= 100 else 10
    return max(2, min(max(unit * round(batch / unit), LEAST), MOST, training))


def _epochs(training: int, classes: int) -> int:
    most = EPOCHS_OF_FEW if training < FEW * classes else MOST_EPOCHS
    return min(max(round(EPOCHS / math.sqrt(training)), FEWEST_EPOCHS), most)


def _rounded(number: float) -> float:
    """To two digits: a number that a person reads."""
    return float(f"{number:.2g}")


def _parameters(channels: int, positions: int, classes: int) -> int:
    """Of small-cnn, norms and biases aside: two convolutions, and a weight for each position, channel and class."""
    return 24 * channels * 36 + 32 * 24 * 9 + 32 * positions * classes


def targets(test: int) -> tuple[str, ...]:
    """Of `test` test images some at equal distances, for in a folder they lie class by class."""
    count = min(test, TARGETS)
    return tuple(f"test:{i * test // count}" for i in range(count))
