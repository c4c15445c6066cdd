"""Models from a person's own files and modules.

Such a function is `(channels, height, width, classes, **options) → nn.Module`. A file is run anew whenever its bytes
have changed, under a name of its own, and stands alone: what it shares with others belongs in a package, named as
package.module:FUNCTION. What a file does wrong, from a mistake in its syntax to `sys.exit()`, is a `ModelError` that
names the file and the line. What it prints goes to the error stream, where it spoils no output that others read.
"""

import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from torch import nn

from engine import model_names
from engine.errors import ModelError

# The standard output is the process's: one file at a time may have it turned aside.
_one_at_a_time = threading.RLock()

_MODULES: dict[tuple[str, str], types.ModuleType] = {}  # by path and SHA-256


def source_of(name: str) -> dict[str, str]:
    """The file that a name speaks of, and its SHA-256: {path: hex}; nothing for models that ship.

    Of `package.module:FUNCTION`, the module's own file. Raises `ModelError` where it is not there.
    """
    if model_names.TIMM.fullmatch(name):
        return {}
    if match := model_names.FILE.fullmatch(name):
        path = model_names.file_of(match["path"])
        return {match["path"]: hashlib.sha256(_read(path)).hexdigest()}
    if match := model_names.PLACE.fullmatch(name):
        path = getattr(_module(match["module"], name), "__file__", None)
        return {f"{match['module']}.py": hashlib.sha256(_read(Path(path))).hexdigest()} if path else {}
    return {}


def function_of(name: str) -> tuple[Callable[..., nn.Module], str]:
    """The function that FILE.py:FUNCTION or package.module:FUNCTION names, and the file that it is in.

    Raises `ModelError` with file and line.
    """
    if match := model_names.FILE.fullmatch(name):
        path = model_names.file_of(match["path"])
        module, where = _file_module(path), str(path)
    elif match := model_names.PLACE.fullmatch(name):
        module = _module(match["module"], name)
        where = getattr(module, "__file__", None) or match["module"]
    else:
        raise ModelError(f"«{name}» names no model.", "Write FILE.py:FUNCTION or package.module:FUNCTION.")
    function = getattr(module, match["function"], None)
    if not callable(function):
        own = [
            n for n, v in vars(module).items() if isinstance(v, types.FunctionType) and v.__module__ == module.__name__
        ]
        raise ModelError(
            f"{where} has no function «{match['function']}».",
            f"It has {', '.join(own[:8])}." if own else "Define it at the top of the file.",
        )
    return cast(Callable[..., nn.Module], function), where


@contextlib.contextmanager
def failures(where: str) -> Iterator[None]:
    """What code of the file `where` raises, or its end of the process, as a `ModelError` with the line. Prints go to
    the error stream."""
    remedy = "Mend the file. Its function takes (channels, height, width, classes, **options) and returns an nn.Module."
    with _one_at_a_time, contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except ModelError:
            raise
        except (Exception, SystemExit) as error:
            line = _line(error, where)
            what = "ends the process" if isinstance(error, SystemExit) else "fails"
            text = str(error).strip().splitlines()
            raise ModelError(
                f"The model's file {where}{f', line {line},' if line else ''} {what}: "
                f"{type(error).__name__}: {(text or [''])[0]:.300}",
                remedy,
            ) from error


def _line(error: BaseException, where: str) -> int | None:
    """The innermost line of the file, or that of its syntax."""
    if isinstance(error, SyntaxError) and error.filename == where:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
    return lines[-1] if lines else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(
            f"The model's file {path} cannot be read ({reason}).",
            f"Name a file of {model_names.folder()}/, or one by its path from the working directory.",
        ) from error


class _Bytes(importlib.abc.SourceLoader):
    """Runs the very bytes whose SHA-256 is recorded: the file may change between two looks at it, and Python's cache
    of compiled files goes by the second."""

    def __init__(self, path: Path, source: bytes):
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source


def _file_module(path: Path) -> types.ModuleType:
    source = _read(path)
    sha256 = hashlib.sha256(source).hexdigest()
    with _one_at_a_time:
        if (known := _MODULES.get((str(path), sha256))) is not None:
            return known
        # A name by which pickles and dataclasses find it, and which no other module has.
        name = f"replay_model_{sha256[:16]}"
        spec = importlib.util.spec_from_file_location(name, path, loader=_Bytes(path, source))
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            with failures(str(path)):
                assert spec.loader is not None
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _MODULES[str(path), sha256] = module
        return module


def _module(name: str, model: str) -> types.ModuleType:
    with failures(f"{name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            raise ModelError(
                f"There is no module {error.name}, which the model «{model}» names.",
                "Install its package, or write FILE.py:FUNCTION for a file.",
            ) from error
