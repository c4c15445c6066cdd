"""Data sets by name."""

from engine.datasets.base import Dataset
from engine.datasets.fashion_mnist import _fashion_mnist, _noisy_sample, _sample
from engine.errors import ConfigError


def load(name: str) -> Dataset:
    """The data set by its name in `engine.config.DATASETS`, loaded once a process."""
    loaders = {
        "fashion-mnist-sample": _sample,
        "fashion-mnist-sample-noisy": _noisy_sample,
        "fashion-mnist": _fashion_mnist,
    }
    if name not in loaders:
        raise ConfigError(
            f"There is no data set «{name}».",
            f"Choose one of {', '.join(loaders)}.",
            {"dataset": f"is not one of {', '.join(loaders)}"},
        )
    return loaders[name]()
