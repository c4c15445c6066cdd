"""What an optimizer is."""

from collections.abc import Callable
from typing import NamedTuple


class Optimizer(NamedTuple):
    """`update(theta [P], momentum [P], grad [P], lr)` gives (theta', momentum').
    `pullback(adj_theta [K, P], adj_momentum [K, P], lr)` gives (adj_theta, adj_momentum, adj_grad)."""

    update: Callable
    pullback: Callable
