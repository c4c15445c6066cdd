"""Exact data attribution by running the training backwards (REPLAY, MAGIC; arXiv 2503.13751, 2504.16430).

    from engine import Recipe, train, attribute

Everything is loaded at its first use: importing this package changes nothing in the process, and takes no time. The
pages of the app draw without torch, and the command line answers Ctrl-C from its first moment.
"""

TYPE_CHECKING = False  # for type checkers; `typing` takes longer to load than all of this
if TYPE_CHECKING:
    from engine.api import Trained, attribute, evaluate, load, retrain, self_influence, train
    from engine.config import Recipe
    from engine.errors import ReplayError
    from engine.library.repeating import repeat
    from engine.library.showing import show

__version__ = "0.2.0"
__all__ = [
    "Recipe",
    "ReplayError",
    "Trained",
    "attribute",
    "evaluate",
    "load",
    "repeat",
    "retrain",
    "self_influence",
    "show",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    if name == "Recipe":
        from engine import config as module
    elif name == "ReplayError":
        from engine import errors as module
    elif name == "repeat":
        from engine.library import repeating as module
    elif name == "show":
        from engine.library import showing as module
    else:
        from engine.loading import collector_at_rest

        with collector_at_rest():
            from engine import api as module
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
