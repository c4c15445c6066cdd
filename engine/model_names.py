"""Texts that name models beyond the registry, judged without importing anything that they name.

    torchvision:resnet18            in the registry, as are all that ship
    timm:NAME                       a model of timm, where it is installed
    FILE.py:FUNCTION                a function of a file; a bare file name is looked for in the folder of models first
    package.module:FUNCTION         a function of an installed module
    python:CLASS                    in a run that was saved from Python: what was given to `engine.train`, which nobody
                                    can build by its name
    scores:METHOD                   in a run of imported scores, that another program made of a model which is not here

The folder of models is `REPLAY_MODELS_DIR`, else `models` in the working directory: whoever runs the server fills it,
and the app offers what is in it. `listed` reads those files as text, so that drawing a form runs no code; a browser may
name nothing that is not listed (`engine.config.check_offered`).
"""

import ast
import os
import re
from collections.abc import Iterable
from pathlib import Path

TIMM = re.compile(r"timm:(?P<name>[a-z0-9_]+(\.[a-z0-9_]+)?)")

FILE = re.compile(r"(?P<path>[^\x00-\x1f:]{1,400}\.py):(?P<function>[A-Za-z_][A-Za-z0-9_]*)")

PLACE = re.compile(
    r"(?P<module>[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*):(?P<function>[A-Za-z_][A-Za-z0-9_]*)"
)

ARGUMENTS = 4  # channels, height, width, classes

OPTION = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>[A-Za-z0-9_.+-]+)")


FROM_PYTHON = re.compile(r"python:[^\x00-\x1f\x7f]{1,400}")


def is_from_python(text: object) -> bool:
    """Whether a text stands for a model that was given from Python."""
    return isinstance(text, str) and FROM_PYTHON.fullmatch(text) is not None


IMPORTED = re.compile(r"scores:(?P<method>[^\x00-\x1f\x7f]{1,100})")


def method_of(text: object) -> str:
    """Whose scores were imported, of the text that stands for their model; "" of any other."""
    match = IMPORTED.fullmatch(text) if isinstance(text, str) else None
    return match["method"] if match else ""


def is_elsewhere(text: object) -> bool:
    """Whether a text stands for a model that cannot be built here: given from Python, or that of imported scores."""
    return is_from_python(text) or bool(method_of(text))


def is_name(text: object) -> bool:
    """Whether a text has the form of a model's name; nothing is looked up."""
    return isinstance(text, str) and any(form.fullmatch(text) for form in (TIMM, FILE, PLACE))


def problem(text: str, built_in: Iterable[str]) -> str | None:
    """What is wrong with a name that is not listed, as the end of a sentence; None where it has the form of one."""
    if is_name(text) or is_elsewhere(text):
        return None
    forms = ", ".join([*built_in, "timm:NAME", "FILE.py:FUNCTION"])
    return f"must be one of {forms} or package.module:FUNCTION, not {text!r:.80}"


def folder() -> Path:
    """The folder of models, which need not be there."""
    return Path(os.environ.get("REPLAY_MODELS_DIR") or "models")


def listed() -> tuple[str, ...]:
    """Names FILE.py:FUNCTION of the folder's files, in order: functions at their top that take the four arguments.

    A file that cannot be read as Python has none; building it by name says what is wrong.
    """
    names: list[str] = []
    try:
        paths = sorted(path for path in folder().iterdir() if path.suffix == ".py" and path.is_file())
    except OSError:
        return ()
    for path in paths:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _takes_four(node.args):
                names.append(f"{path.name}:{node.name}")
    return tuple(name for name in names if FILE.fullmatch(name))


def _takes_four(arguments: ast.arguments) -> bool:
    positional = [*arguments.posonlyargs, *arguments.args]
    return len(positional) >= ARGUMENTS and len(positional) - len(arguments.defaults) <= ARGUMENTS


def file_of(path: str) -> Path:
    """Where a file that a name or a setting speaks of lies: a bare name in the folder of models, if it is there."""
    inside = folder() / path
    return inside if "/" not in path and os.sep not in path and inside.is_file() else Path(path)


def options_problem(text: object) -> str | None:
    """What is wrong with a text of options, as the end of a sentence; None where it can be read."""
    if not isinstance(text, str):
        return "must be a text such as smooth=true,dropout=0.1"
    pairs = [OPTION.fullmatch(part.strip()) for part in text.split(",")] if text.strip() else []
    names = [pair["name"] for pair in pairs if pair is not None]
    if len(names) < len(pairs):
        return f"must be NAME=VALUE pairs separated by commas, not {text!r:.80}"
    if len(set(names)) < len(names):
        return f"names an option twice: {text!r:.80}"
    return None


def options(text: str) -> dict[str, bool | int | float | str]:
    """The options of a text that `options_problem` has passed: true and false, numbers, and words."""
    return {pair["name"]: _value(pair["value"]) for part in text.split(",") if (pair := OPTION.fullmatch(part.strip()))}


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
