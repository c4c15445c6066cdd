"""What is learned from: data sets by name, open for registration."""

from engine.datasets.base import Dataset
from engine.datasets.registry import DATASETS, load, register

__all__ = ["DATASETS", "Dataset", "load", "register"]
