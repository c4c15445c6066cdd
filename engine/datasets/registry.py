"""Data sets by name."""

import functools
from collections.abc import Callable

from engine.datasets.base import Dataset
from engine.errors import DataError
from engine.registry import Registry

DATASETS: Registry[Callable[[], Dataset]] = Registry(
    "data set",
    "dataset",
    {
        "fashion-mnist-sample": "engine.datasets.fashion_mnist:sample",
        "fashion-mnist-sample-noisy": "engine.datasets.fashion_mnist:noisy_sample",
        "fashion-mnist": "engine.datasets.fashion_mnist:whole",
    },
)


def register(name: str, loader: Callable[[], Dataset]) -> None:
    """Makes a data set known. `loader()` returns a `Dataset` of that name; it is called once a process."""
    DATASETS.register(name, loader)


@functools.cache
def load(name: str) -> Dataset:
    """The data set of a name, loaded once a process.

    Raises `ConfigError` for a name that is not known, `DataError` for one whose files are missing or damaged.
    """
    dataset = DATASETS.get(name)()
    if dataset.name != name:
        raise DataError(
            f"The loader of «{name}» gave the data set «{dataset.name}».", "Correct the function that loads it."
        )
    return dataset.check()
