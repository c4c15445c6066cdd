"""The short form of `make faults`: kills, damage, odd files, links, refusals, a stopped server; the same scores."""

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools import faults

pytestmark = pytest.mark.slow


def test_three_kills_leave_bitwise_the_same_scores(tmp_path):
    rows = faults.kills(3, 3, tmp_path)
    assert len(rows) == 3 and {"train", "replay"} <= {row["phase"] for row in rows}


def test_twelve_corruptions_are_detected_or_harmless(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path))  # `draw_pages` sets it for each run
    rows = faults.corruptions(12, 4, tmp_path, faults.draw_pages)
    assert len(rows) == 12 and {row["how"] for row in rows} >= {"flip", "cut", "delete"}
    assert sum(not row["outcome"].startswith("harmless") for row in rows) >= 6


def test_files_of_other_kinds_hang_nothing_and_change_no_score(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path))
    cases = [
        ("pipe", "events.jsonl"),
        ("folder", "manifest.json"),
        ("endless link", "config.json"),
        ("socket", "scores/loss-000.npy"),
        ("holes", "model/state.safetensors"),
        ("deep", "scores/loss-000.json"),
        ("not UTF-8", "notes.json"),
        ("pipe", "trajectory/step-0000005.safetensors"),
    ]
    rows = faults.odd_files(cases, tmp_path, faults.draw_pages)
    assert len(rows) == len(cases) and all(row["deleted"] for row in rows)
    said = [row["outcome"] for row in rows]
    assert sum(not outcome.startswith("harmless") for outcome in said) >= 6, said


def test_a_linked_trajectory_leads_to_no_other_run(tmp_path):
    said = faults.links(("trajectory",), tmp_path)
    assert sum("error:" in outcome and "link" in outcome for outcome in said) >= 2, said


def test_other_processes_are_refused_while_one_works_on_a_run(tmp_path):
    assert "refused" in faults.two_processes(tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_file_system_that_refuses_a_call_is_worked_around_or_named(tmp_path):
    cases = [case for case in faults.REFUSALS if case[:2] in (("fsync", "EINVAL"), ("flock", "ENOLCK"))]
    cases.append(("fsync", "EIO", 9, False))
    assert len(faults.refused_calls(cases, tmp_path)) == 3


def test_a_run_on_a_full_disk_ends_with_the_same_scores(tmp_path):
    assert "same scores" in faults.full_disk(tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize(
    "which, phase, mode", [(signal.SIGTERM, "train", "disk"), (signal.SIGINT, "replay", "memory")], ids=str
)
def test_a_run_of_the_real_server_is_interrupted_and_ends_with_the_same_scores(which, phase, mode, tmp_path):
    with ThreadPoolExecutor(1) as thread:  # with a browser of its own: in this one that of other tests may be alive
        assert "same scores" in thread.submit(faults.stopped_server, tmp_path, which, phase, mode).result()
