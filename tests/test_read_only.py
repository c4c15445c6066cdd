"""REPLAY_READ_ONLY: a folder of results is shown to others, and stays as it is to the last byte."""

import hashlib
import shutil
from pathlib import Path

import pytest
import streamlit as st

from engine import files
from engine.__main__ import main
from engine.errors import ReadOnlyError, StorageError
from engine.jobs import estimate
from engine.jobs import execute as work
from engine.jobs.queue import JobQueue
from engine.jobs.rebuild import Rebuild
from engine.jobs.replay import Replay
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import events, notes
from engine.runs import run as runs
from engine.runs.job import JobRecord
from tests.helpers import PAGES, button, show, sound
from tests.made_up import SMALL
from ui import shell

pytestmark = pytest.mark.slow  # whole pages are drawn, again and again


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    """A folder that may not be written: a finished run, one that was interrupted, and what a killed deletion left."""
    st.cache_resource.clear()
    st.cache_data.clear()
    root = runs.outputs_root()
    for name in (made.name, "interrupted", ".deleted-gone"):
        shutil.copytree(made, root / name)
    runs.Run.open(root, "interrupted").update_manifest(
        status_said="training", jobs=(JobRecord("run", {"mode": "disk", "targets": ["test:0"], "function": "loss"}),)
    )
    (root / made.name / f"{files.TEMPORARY}left").touch()
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o555)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    yield root
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture
def run(made, root) -> runs.Run:
    return runs.Run.open(root, made.name)


def tree(root: Path) -> dict:
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            path.lstat().st_size,
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in [root, *root.rglob("*")]
    }


LOOKING = {"pages/Map.py": {"Choose the nearest", "Choose within"}}  # buttons that choose what is looked at


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_the_runs_and_leaves_them_as_they_are(page, run, root, monkeypatch):
    before = tree(root.parent)
    app = show(page, run=run.id)
    assert shell.READ_ONLY in [c.value for c in app.caption] and not app.error
    assert {b.help for b in app.button if b.disabled} <= {shell.READ_ONLY}
    assert {b.label for b in app.button if not b.disabled} == LOOKING.get(page, set())
    for other in ("interrupted", "nope"):
        show(page, run=other)
    # Were a button on all the same, the engine would refuse.
    monkeypatch.setattr(shell, "acting", lambda *_, **__: {})
    for label in [b.label for b in show(page, run=run.id).button]:
        sound(button(show(page, run=run.id), label).click().run())
    assert tree(root.parent) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda run: files.write_bytes(run.path / "x", b"x"),
        lambda run: files.write_json(run.path / "config.json", {}),
        lambda run: files.sweep(run.path),
        lambda run: run.lock().acquire(),
        lambda run: run.update_manifest(status_said="failed"),
        lambda run: run.storage().clean(("trajectory",)),
        lambda run: run.storage().clean_held(("logs",)),
        lambda run: run.storage().delete(),
        lambda run: runs.sweep(run.root),
        lambda run: runs.Run.create(run.root, SMALL),
        lambda run: events.EventLog(run.path / "events.jsonl").append("note", text="x"),
        lambda run: notes.tick(run, {1: True}, 6000),
        lambda run: notes.write_note(run, notes.RUN, "x"),
        lambda run: work.execute(run, Rebuild("disk")),
        lambda run: estimate.estimate(SMALL, run.root, measure=True),
        lambda run: JobQueue(run.root).start(SMALL),
        lambda run: JobQueue(run.root).submit(run.id, Replay(("test:5",))),
        lambda run: JobQueue(run.root).submit(run.id, Rebuild("disk")),
        lambda run: JobQueue(run.root).submit(run.id, Validate(5)),
        lambda run: JobQueue(run.root).submit(run.id, WhatIf.of([1])),
        lambda run: JobQueue(run.root).submit(run.id, Smoothness()),
        lambda run: JobQueue(run.root).resume("interrupted"),
    ],
)
def test_every_way_to_change_something_is_refused(change, run, root):
    before = tree(root.parent)
    with pytest.raises(ReadOnlyError, match="REPLAY_READ_ONLY is set.*without REPLAY_READ_ONLY"):
        change(run)
    assert tree(root.parent) == before


def test_the_command_line_shows_and_refuses_too(run, root, capsys):
    before = tree(root.parent)
    for shown in (
        ["list"],
        ["info", run.id],
        ["storage"],
        ["suspects", run.id],
        ["clean", run.id, "--all", "--dry-run"],
    ):
        assert main(shown) == 0, shown
    for refused in (
        ["run"],
        ["attribute", run.id, "--targets", "test:5"],
        ["resume", "interrupted"],
        ["rebuild", run.id],
        ["clean", run.id, "--all"],
        ["validate", run.id],
        ["estimate"],
        ["what-if", run.id, "--leave-out", "3"],
        ["suspects", run.id, "--csv", str(root.parent / "s.csv")],
    ):
        capsys.readouterr()
        assert main(refused) == 1 and "without REPLAY_READ_ONLY" in capsys.readouterr().err, refused
    assert tree(root.parent) == before


def test_a_folder_that_is_not_there_is_not_made(root, tmp_path):
    with pytest.raises(StorageError, match="no folder of runs .*nowhere to show"):
        runs.outputs_root(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "value, meant", [("1", True), ("true", True), ("yes", True), ("", False), ("0", False), ("No", False)]
)
def test_what_the_setting_may_say(value, meant, monkeypatch):
    monkeypatch.setenv("REPLAY_READ_ONLY", value)
    assert files.read_only() == meant
