"""Every block of docs/guide.md is run, in its order and from an empty folder, by what its own text says.

Blocks of Python and TOML are files, named by their first line; those of bash are one shell's, which keeps its variable.
`replay-explorer` is the command of this checkout; the app is the one that its line starts.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.datasets import registry as dataset_registry
from engine.runs.run import Run, list_runs
from tests.helpers import ROOT, settled, shown, turn, wait_until

pytestmark = pytest.mark.slow

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "guide.md").read_text(), re.MULTILINE | re.DOTALL)
APP = "replay-explorer app\n"


@dataclass
class Followed:
    """What a reader of the guide has in the end: the folder, and what each block of bash printed, by its first line."""

    folder: Path
    environment: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        (run,) = list_runs(self.folder / "outputs")
        return run


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Followed:
    tools, folder = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("guide")
    for name, module in (("python", ""), ("replay-explorer", "-m engine")):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        (tools / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "PYTHON"))}
    environment = {**kept, "PATH": f"{tools}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "REPLAY_DATA_DIR": str(tools)}
    followed, variables = Followed(folder, environment), ""
    for language, text in BLOCKS:
        if language in ("python", "toml"):
            path = folder / text.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif text != APP:
            assert language == "bash"
            done = subprocess.run(
                ["bash", "-euc", f"{variables}\n{text}\ndeclare -p RUN >variables 2>/dev/null || true"],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            variables = (folder / "variables").read_text()
            followed.printed[text.splitlines()[0]] = done.stdout
    return followed


def test_each_block_is_of_a_kind_that_is_run():
    assert [language for language, _ in BLOCKS].count("bash") == 6 and ("bash", APP) in BLOCKS
    assert {language for language, _ in BLOCKS} == {"python", "toml", "bash"}
    names = [text.splitlines()[0] for language, text in BLOCKS if language != "bash"]
    assert names == ["# draw.py", "# models/net.py", "# shapes.toml", "# attribute.py"]


def test_the_answer_is_what_the_guide_says(followed):
    prepared, suspects = (followed.printed[line] for line in ("python draw.py", SUSPECTS))
    assert re.search(r"^all +180 +60$", prepared, re.MULTILINE) and "problem" not in prepared
    assert all(f"train/square/circle-0{number}.png" in suspects for number in range(3))
    run = followed.run
    assert run.manifest().test_accuracy >= 0.9
    assert [len(run.scores().matrix(name)) for name in ("loss-000", "margin-001")] == [3, 1]
    assert followed.printed["replay-explorer run --config shapes.toml"].endswith(f"{run.id}\n")


SUSPECTS = 'replay-explorer suspects "$RUN" --by loss --count 5'


def test_python_foretells_what_a_retraining_does(followed):
    printed = followed.printed["python attribute.py"]
    assert printed.count("train/square/circle-0") >= 2
    change, foretold = map(float, re.findall(r"[+-]0\.\d+", printed))
    assert change < 0 and abs(change - foretold) <= 0.35 * abs(change)


def test_the_check_by_retraining_earns_trust(followed):
    printed = followed.printed['replay-explorer what-if "$RUN" --leave-out 57,58,59']
    assert "verdict: do not rely" not in printed
    (lds,) = re.findall(r"^loss, 12 subsets, .* LDS ([\d.]+)", printed, re.MULTILINE)
    assert float(lds) >= 0.9


def test_the_app_shows_the_run(followed, page, monkeypatch):
    monkeypatch.setenv("REPLAY_DATA_DIR", followed.environment["REPLAY_DATA_DIR"])
    app = subprocess.Popen(
        ["bash", "-c", f"exec {APP}"],
        cwd=followed.folder,
        env=followed.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert app.stdout is not None
    try:
        url = next(match[0] for line in app.stdout if (match := re.search(r"http://localhost:\d+", line)))
        page.goto(f"{url}/Influence?run={followed.run.id}")
        settled(page, "Influence")
        assert shown(page, "helpful")
        turn(page, f"{url}/Find_bad_labels?run={followed.run.id}")
        settled(page, "Find bad labels")
        page.get_by_role("radio", name="Loss on the label given").click()
        data = dataset_registry.load(followed.run.manifest().config.dataset)
        mistakes = {i for i in range(180) if data.file_name("train", i).startswith("train/square/circle-")}
        assert len(mistakes) == 3
        wait_until(lambda: mistakes <= set(shown(page, "suspects")[:8]), page)
        page.goto("about:blank")
    finally:
        app.send_signal(signal.SIGINT)
        app.wait()
