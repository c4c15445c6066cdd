"""Tests run with the temporary outputs folders that they make, and may write, whatever the environment says."""

import pytest


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path / "outputs"))
    monkeypatch.delenv("REPLAY_READ_ONLY", raising=False)
