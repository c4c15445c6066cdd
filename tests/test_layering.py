"""What may import what: the engine knows no page, the pages compute nothing, and folders import one way.

The order of the folders is read from the picture in docs/architecture.md.
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.loading import collector_at_rest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"))]
UI = sorted((ROOT / "ui").glob("*.py"))
ENGINE = sorted((ROOT / "engine").rglob("*.py"))
LAYERS = (ROOT / "docs" / "architecture.md").read_text().split("```layers\n")[1].split("```")[0].splitlines()
FLOOR = {room: floor for floor, line in enumerate(LAYERS) for room in line.split("  ")[0].split()}


@functools.cache
def parsed(path: Path) -> list[ast.AST]:
    """Every node of a file; of all files a million, which are many to look through for garbage."""
    with collector_at_rest():
        return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def parsed_for_this_module() -> Iterator[None]:
    yield
    parsed.cache_clear()


def imported(path: Path) -> set[str]:
    """Dotted names, and for `from a import b` both `a` and `a.b`."""
    names = set()
    for node in parsed(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def heads(path: Path) -> list[str]:
    """The imports at the head of a file, as they stand there: what loading it loads."""
    module, *_ = parsed(path)
    assert isinstance(module, ast.Module)
    return [ast.unparse(node) for node in module.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def room_of(module: str) -> str:
    """The room of `core.schedule.learning_rate`: a module of its own where the picture names it, else its folder."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in FLOOR else parts[0]


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_imports_one_way_and_never_streamlit(path):
    names = imported(path)
    assert not any(n.split(".")[0] in ("streamlit", "ui", "pages") for n in names)
    own = room_of(".".join(path.relative_to(ROOT / "engine").with_suffix("").parts))
    others = {room_of(n.removeprefix("engine.")) for n in names if n.startswith("engine.")} - {own}
    upwards = {room for room in others if FLOOR[room] >= FLOOR[own] and own != "__init__"}
    assert not upwards, f"{path.relative_to(ROOT)} imports {upwards}, which do not stand below it"


def test_every_folder_of_the_engine_has_its_place_in_the_picture():
    rooms = {
        p.name if p.is_dir() else p.stem for p in (ROOT / "engine").iterdir() if p.name not in ("__pycache__", "assets")
    }
    assert rooms <= set(FLOOR)
    assert {room for room in FLOOR if room not in ("ui", "pages")} == rooms | {"core.schedule", "core.random"}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_leave_computing_to_others(path):
    assert not any(n.split(".")[0] in ("torch", "torchvision", "numpy", "pandas") for n in imported(path))


def test_the_tools_stand_without_the_tests():
    for path in (ROOT / "tools").glob("*.py"):
        assert not any(n.split(".")[0] == "tests" for n in imported(path)), path.name


@pytest.mark.slow
def test_pages_draw_without_loading_torch():
    """All that the pages import at their head, in one fresh process."""
    loaded = [head for path in [*PAGES, *UI] for head in heads(path)]
    code = "\n".join([*loaded, "import sys", "assert 'torch' not in sys.modules, 'torch was loaded'"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_engine_loads_pandas_only_for_who_asks_for_a_table():
    """0.3 s of each start: of every command, every rank and every process that works."""
    for path in ENGINE:
        assert not any("pandas" in head for head in heads(path)), path.relative_to(ROOT)


def test_nothing_pickles_evaluates_or_calls_a_shell():
    for path in [*ENGINE, *UI, *PAGES]:
        names = imported(path)
        assert not {"pickle", "shelve", "marshal", "joblib"} & names, path.name
        assert "subprocess" not in names or path.name in ("launch.py", "pdf.py", "serving.py", "speed.py"), (
            path.name
        )  # words, no shell
        for node in parsed(path):
            if isinstance(node, ast.Call):
                called, keywords = ast.unparse(node.func), {each.arg for each in node.keywords}
                assert "shell" not in keywords, path.name
                if called == "torch.load" and "weights_only=True" in map(ast.unparse, node.keywords):
                    continue  # reads tensors alone
                assert called not in ("eval", "exec", "os.system", "torch.load", "torch.save"), path.name
                assert "allow_pickle" not in keywords or "allow_pickle=True" not in ast.unparse(node), path.name


def test_files_are_taken_away_by_one_kind_of_button():
    """One of Streamlit's own would run the page again while its file is made, and drop it (`ui.download`)."""
    for path in [*UI, *PAGES]:
        assert "download_button(" not in path.read_text() or path.name == "download.py", path.name
