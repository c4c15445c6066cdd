"""How far a call from Python is: a bar on a terminal or in a notebook, or a function of the caller's own."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import ConfigError

SOON = 0.5  # seconds before a bar that nobody asked for appears: a hundred short calls leave no hundred bars

# Called with what is done ("train", "train again", "attribute", "retrain" or "evaluate"), steps done, and steps in all.
OnSteps = Callable[[str, int, int], Any]

Progress = bool | OnSteps | None
"""None: a bar where somebody watches, as tqdm does by `disable=None`; True: a bar; False: none; or a function."""

Report = Callable[..., None]  # (steps done, a few words beside the bar)


class _Raised(BaseException):
    """Carries what the caller's function raised past those who take any `Exception` for one of the model's code."""

    def __init__(self, error: Exception):
        self.error = error


@contextlib.contextmanager
def reported(progress: Progress, what: str, steps: int) -> Iterator[Report]:
    """What is to be told the number of steps done. What the caller's function raises ends the work, and comes out as
    it is. Raises `ConfigError` where `progress` is none."""
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            raise ConfigError(
                f"`progress` is a {type(progress).__name__}.",
                "Give True, False, or a function of (what is done, steps done, steps in all).",
            )
        try:
            yield _teller(progress, what, steps)
        except _Raised as raised:
            raise raised.error from None
    elif progress or (progress is None and is_watched()):
        with contextlib.closing(_bar(what, steps, 0.0 if progress else SOON)) as bar:
            yield _drawer(bar)
    else:
        yield lambda done, words="": None


def _drawer(bar: Any) -> Report:
    def draw(done: int, words: str = "") -> None:
        bar.set_postfix_str(words, refresh=False)
        bar.update(done - bar.n)

    return draw


def _teller(function: OnSteps, what: str, steps: int) -> Report:
    def tell(done: int, words: str = "") -> None:
        try:
            function(what, done, steps)
        except Exception as error:
            raise _Raised(error) from error

    return tell


def is_watched() -> bool:
    """Whether the error stream is a terminal, or this is a notebook's kernel."""
    stream = sys.stderr  # None where a process has none
    closed = getattr(stream, "closed", True)
    return (not closed and stream.isatty()) or _in_notebook()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _bar(what: str, steps: int, delay: float) -> Any:
    if _in_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=steps, desc=what.capitalize(), unit="step", delay=delay)
