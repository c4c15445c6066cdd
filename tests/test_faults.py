"""The short form of `make faults`: kills, damage, a full disk, a stopped server; the same scores."""

import pytest

from tools import faults

pytestmark = pytest.mark.slow


def test_five_kills_leave_bitwise_the_same_scores(tmp_path):
    rows = faults.kills(5, 3, tmp_path)
    assert len(rows) == 5 and {"train", "replay"} <= {row["phase"] for row in rows}


def test_twenty_corruptions_are_detected_or_harmless(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path))  # `draw_pages` sets it for each run
    rows = faults.corruptions(20, 4, tmp_path, faults.draw_pages)
    assert len(rows) == 20 and {row["how"] for row in rows} >= {"flip", "cut", "delete"}
    assert sum(not row["outcome"].startswith("harmless") for row in rows) >= 10


def test_a_run_on_a_full_disk_ends_with_the_same_scores(tmp_path):
    assert "same scores" in faults.full_disk(tmp_path)


def test_a_run_of_a_stopped_server_ends_with_the_same_scores(tmp_path):
    assert "same scores" in faults.stopped_server(tmp_path)
