"""Tests run with the temporary outputs folders that they make, whatever the environment says."""

import pytest


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path / "outputs"))
