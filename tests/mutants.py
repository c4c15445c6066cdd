"""Wrong copies of the project's files: a text of the file is replaced by another, and the copy imported beside it."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

from tests.helpers import ROOT

_numbers = itertools.count()


def mutant(file: str, right: str, wrong: str, folder: Path) -> ModuleType:
    """The module `file`, such as engine/core/loss.py, with `right`, which must stand there once, replaced."""
    text = (ROOT / file).read_text()
    assert text.count(right) == 1, f"{file} has {text.count(right)} of: {right}"
    path = folder / f"mutant_{next(_numbers)}.py"
    path.write_text(text.replace(right, wrong))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module
