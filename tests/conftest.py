"""Tests run with the temporary outputs folders that they make, and may write, whatever the environment says."""

from pathlib import Path

import pytest

from engine.runs import run as runs
from tests.made_up import SMALL


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path / "outputs"))
    monkeypatch.delenv("REPLAY_READ_ONLY", raising=False)


@pytest.fixture(scope="session")
def finished_sample(tmp_path_factory) -> Path:
    """An outputs folder that holds the run of the sample's preset, once a test has made one: it takes a minute."""
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The folder of a small finished run, for tests to copy."""
    from engine.jobs import execute as work  # loads torch

    run = runs.Run.create(runs.outputs_root(tmp_path_factory.mktemp("made")), SMALL)
    with run.locked():
        work.execute(run)
    return run.path
