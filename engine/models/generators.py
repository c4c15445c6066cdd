"""Random numbers of one's own: torch's default generator belongs to the process.

Seeding it, even inside `torch.random.fork_rng`, gives two threads each other's numbers. A dispatch mode
is a thread's own, sees every random operation below it, and can hand it another generator.
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import ModelError


class OwnGenerator(TorchDispatchMode):
    """Operations inside draw from a generator of `seed`, the same numbers as after `torch.manual_seed(seed)`
    on the CPU. The default generator is neither read nor moved.

    Raises `ModelError` where an operation cannot be given a generator.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if draws(func) and kwargs.get("generator") is None:
            func = _with_generator(func)
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


class Draws(TorchDispatchMode):
    """Notes in `names` which random operations run inside, whatever generator they draw from, and where: a name for
    people of the module that runs, or nothing."""

    def __init__(self, where: Callable[[], str] = str):
        super().__init__()
        self.where = where
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if draws(func):
            where = self.where()
            self.names.append(func.overloadpacket.__name__.strip("_") + (f" in {where}" if where else ""))
        return func(*args, **(kwargs or {}))


def draws(func: torch._ops.OpOverload) -> bool:
    # Fused attention is tagged as well, for the dropout that it may apply; its results are compared anyway.
    return torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.overloadpacket.__name__


def _with_generator(func: torch._ops.OpOverload) -> torch._ops.OpOverload:
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = {"default": "generator"}.get(func._overloadname, f"{func._overloadname}_generator")
    if name not in func.overloadpacket.overloads():
        raise ModelError(
            f"The model's first weights come from {func}, which takes no generator.",
            "Draw them with torch.nn.init, torch.randn or Tensor.normal_, so that a seed decides them.",
        )
    return getattr(func.overloadpacket, name)
