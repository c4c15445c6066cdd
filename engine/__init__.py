"""Exact data attribution by running the training backwards (REPLAY, MAGIC; arXiv 2503.13751, 2504.16430).

    from engine import Recipe, train, attribute

Torch is loaded at the first use of `train`, `attribute`, `retrain` or `evaluate`, not at import:
the pages of the app import this package and draw without it.
"""

import os

# Threads of a pass that wait for each other should sleep rather than spin: beside a browser on the same
# two cores, spinning made training four times slower. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from engine.config import Recipe
from engine.errors import ReplayError

__all__ = ["Recipe", "ReplayError", "Trained", "attribute", "evaluate", "retrain", "train"]


def __getattr__(name: str):
    if name in __all__:
        from engine import api

        return getattr(api, name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
