"""What `pip install .` puts into site-packages works there, away from the checkout, and writes nothing there."""

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import engine
from tests.helpers import ROOT, settled

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = PROJECT["tool"]["setuptools"]


def source(package: str) -> Path:
    return ROOT / SETUP["package-dir"].get(package, package.replace(".", "/"))


@pytest.fixture
def site(tmp_path) -> Path:
    """The packages as setuptools lays them out: modules of each, and the data files that are named."""
    site = tmp_path / "site"
    for package in SETUP["packages"]:
        folder = site / package.replace(".", "/")
        patterns = ["*.py", *SETUP["package-data"].get(package, [])]
        for path in {path for pattern in patterns for path in source(package).glob(pattern) if path.is_file()}:
            target = folder / path.relative_to(source(package))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return site


@pytest.fixture
def environment(site, tmp_path, monkeypatch) -> dict[str, str]:
    """Of a process that sees the installed packages and not the checkout, in a folder of its own."""
    monkeypatch.delenv("REPLAY_OUTPUTS_DIR")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_every_folder_is_installed():
    folders = {p.parent for top in ("engine", "ui", "pages") for p in (ROOT / top).rglob("*.py")}
    assert {source(package) for package in SETUP["packages"]} == {*folders, ROOT, ROOT / "engine" / "assets"}
    for package, patterns in SETUP["package-data"].items():
        assert all(list(source(package).glob(pattern)) for pattern in patterns), package
    data = {p for top in ("engine", "ui", "pages") for p in (ROOT / top).rglob("*") if p.is_file()}
    data = {p for p in data if p.suffix != ".py" and "__pycache__" not in p.parts}
    named = {
        p for package, patterns in SETUP["package-data"].items() for q in patterns for p in source(package).glob(q)
    }
    assert data == {p for p in named if ".streamlit" not in p.parts}


def test_the_version_is_one_and_the_changelog_knows_it():
    assert SETUP["dynamic"]["version"] == {"attr": "engine.__version__"}
    assert f"## {engine.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_ranges_hold_the_pinned_versions():
    """What `make run` installs is what `pip install .` would accept."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pins = {pin.name: pin for pin in map(Requirement, filter(None, lines))}
    for text in PROJECT["project"]["dependencies"]:
        allowed = Requirement(text)
        for pin in pins[allowed.name].specifier:
            assert pin.operator in ("<", "!=") or pin.version in allowed.specifier, text


@pytest.mark.slow
def test_the_library_works_where_it_is_installed(site, environment):
    before = tree(site)
    code = (
        "import engine, torch; from engine import Recipe, attribute, train; assert 'site' in engine.__file__;"
        "x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 3;"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3));"
        "scores = attribute(train(model, x, y, Recipe(epochs=2, batch_size=20), device='cpu'), x[:2], y[:2]);"
        "assert scores.shape == (2, 40) and abs(scores).max() > 0"
    )
    for call in (
        ["-c", code],
        ["-m", "engine", "run", "--set", "recipe.epochs=1", "--set", "recipe.batch_size=1000", "--targets", "test:0"],
        ["-m", "engine", "list"],
    ):
        done = subprocess.run([sys.executable, *call], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout and os.listdir() == ["outputs"]
    assert tree(site) == before


def test_the_app_works_where_it_is_installed(site, environment, page):
    before = tree(site)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "engine", "app", "--port", str(port)], env=environment)
    try:
        while True:  # until pytest's own time limit
            assert server.poll() is None, "the server did not start"
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        page.goto(f"http://localhost:{port}/")
        settled(page, "Replay Explorer")
        page.goto(f"http://localhost:{port}/Set_up_a_run")
        settled(page, "Set up a run")
        page.goto("about:blank")
    finally:
        server.terminate()
        server.wait()
    assert tree(site) == before
