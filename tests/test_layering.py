"""What may import what: the engine knows no page, the pages compute nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"))]
UI = sorted((ROOT / "ui").glob("*.py"))
ENGINE = sorted((ROOT / "engine").glob("*.py"))
# One way, from the base up: a module imports only modules that stand before it.
ORDER = ["errors", "config", "schedule", "files", "events", "progress", "data", "runs", "influence",
         "lds", "trust", "suspects", "notes", "explore", "compare", "uploads",
         "device", "models", "state", "optim", "step", "store", "trajectory", "training",
         "targets", "predict", "replay", "retraining", "check", "estimate", "validate", "work", "jobs", "api", "__init__",
         "__main__"]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.name)
def test_the_engine_imports_one_way_and_never_streamlit(path):
    names = imported(path)
    assert not any(n.split(".")[0] in ("streamlit", "ui", "pages") for n in names)
    used = {n.split(".")[1] for n in names if n.startswith("engine.")} & set(ORDER)
    later = {n for n in used if ORDER.index(n) >= ORDER.index(path.stem)}
    assert not later, f"engine/{path.name} imports {later}, which stand above it"


def test_every_engine_module_has_its_place():
    assert sorted(ORDER) == sorted(p.stem for p in ENGINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_do_no_arithmetic_and_import_no_torch(path):
    tree = ast.parse(path.read_text())
    assert not any(n.split(".")[0] in ("torch", "torchvision") for n in imported(path))
    sums = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow)

    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign)):
            assert not isinstance(node.op, sums), f"{path.name}:{node.lineno} computes"


def test_pages_draw_without_loading_torch():
    """All that the pages import at their head, in one fresh process."""
    heads = []
    for path in [*PAGES, *UI]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                heads.append(ast.unparse(node))
    code = "\n".join([*heads, "import sys", "assert 'torch' not in sys.modules, 'torch was loaded'"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_pickles_evaluates_or_calls_a_shell():
    for path in [*ENGINE, *UI, *PAGES]:
        tree, names = ast.parse(path.read_text()), imported(path)
        assert not {"pickle", "shelve", "marshal", "joblib", "subprocess"} & names, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "torch.load", "torch.save"), path.name
                assert "allow_pickle=True" not in ast.unparse(node), path.name
