"""A recipe for data of one's own, chosen by its size: what the form and the command line begin with.

    from engine import proposal
    from engine.datasets import load

    proposed = proposal.for_dataset(load("folder:photos"))
    proposed.config         # a `RunConfig` that fits the data: valid, and of a cost that two CPU cores bear
    proposed.reasons        # why, sentence by sentence, as plain text

It aims at scores that foretell what retraining does, before it aims at accuracy (docs/trust.md): few hundred small
steps, low logits, no kinks. A rule made of sizes alone can be wrong about data that it has never seen, so
`engine.jobs.probe` measures whether the recipe trains smoothly, before anything is run at its full length.

When not: to get the most accurate model of the data. Nothing here looks at the images.
"""

from dataclasses import dataclass

from engine.config import Recipe, RunConfig
from engine.datasets.base import Dataset
from engine.errors import ConfigError

STEPS = 150  # of a training: as many as the presets that agree with retraining have

STEPS_AN_EPOCH = 20  # in batches of a twentieth of the images; of few images as many as make batches of `LEAST`

LEAST, MOST = 16, 1000  # images of a batch

EPOCHS = 3, 20  # at least and at most

PEAK, PEAK_BATCH = 0.05, 250  # the `sample` preset's; the rate falls with the batch, for the ratio decides

TARGETS = 16

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
    batch = _batch(training)
    steps_an_epoch = training // batch
    epochs = min(max(round(STEPS / steps_an_epoch), EPOCHS[0]), EPOCHS[1])
    peak = _rounded(PEAK * batch / PEAK_BATCH) if batch < PEAK_BATCH else PEAK
    parameters = _parameters(channels, size, classes)
    steps = epochs * steps_an_epoch
    mode = "disk" if 4 * parameters * steps <= DISK else "recompute"
    config = RunConfig(
        preset="proposed",
        dataset=data,
        recipe=Recipe(epochs=epochs, batch_size=batch, peak_lr=peak),
        targets=_targets(test),
        replay_mode=mode,
    )
    reasons = (
        f"{training:,} training images: batches of {batch:,} and {epochs} epochs make {steps:,} steps; about "
        f"{STEPS} small ones train smoothly, which scores need to agree with retraining.",
        f"A peak rate of {peak:g}, for what decides is the rate over the batch size.",
        f"small-cnn, with {parameters:,} parameters for {channels} × {size[0]} × {size[1]} pixels and {classes:,} "
        "classes: smooth, with low logits, and quick on a processor.",
        f"{len(config.targets)} test images as targets, spread over all {test:,}.",
        f"{mode.capitalize()} mode: all states would take {4 * parameters * steps / 1e6:,.0f} MB.",
    )
    return Proposal(config, reasons)


def _batch(training: int) -> int:
    """A round number near a part of the images in `STEPS_AN_EPOCH`."""
    batch = min(max(training // STEPS_AN_EPOCH, LEAST), MOST)
    if batch >= 100:
        batch = 50 * round(batch / 50)
    elif batch > LEAST:
        batch = 10 * round(batch / 10)
    return max(2, min(batch, training))


def _rounded(number: float) -> float:
    """One significant digit and a half: 0.012, 0.015, 0.02."""
    return float(f"{number:.1g}") if number >= 0.1 else float(f"{number:.2g}")


def _parameters(channels: int, size: tuple[int, int], classes: int) -> int:
    """Of small-cnn, biases aside: two convolutions, and one weight a position, channel and class."""
    positions = (size[0] // 4) * (size[1] // 4)
    return 24 * channels * 36 + 32 * 24 * 9 + 32 * positions * classes


def _targets(test: int) -> tuple[str, ...]:
    """Test images at equal distances, for in a folder they lie class by class."""
    count = min(test, TARGETS)
    return tuple(f"test:{i * test // count}" for i in range(count))
