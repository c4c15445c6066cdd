"""Each page by itself, without a browser: empty folders, bad links, damaged runs."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import streamlit as st

from engine import config as configs
from engine import files, space
from engine.errors import RunNotFoundError
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.runs import run as runs
from engine.runs import storage
from engine.runs.job import JobRecord
from engine.runs.manifest import ErrorRecord
from tests.helpers import PAGES, ROOT, button, said, show, sound, tiles
from tests.made_up import SMALL
from ui import formats, pictures, run_names
from ui.text import plain

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]


FIRST = """
import gc, os, sys
gc.disable()  # loading takes a quarter less
import pandas, plotly.graph_objects, streamlit  # what the pages share, once
from tests.helpers import show

for page in sys.argv[1:]:
    if not (child := os.fork()):
        show(page)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(page)
"""


def test_every_page_may_be_the_first_that_a_process_draws():
    """Each in a process that has loaded nothing of this project yet: it loads by itself all that it needs."""
    done = subprocess.run([sys.executable, "-c", FIRST, *PAGES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_offers_the_next_action(page):
    app = show(page)
    assert [t.value for t in app.title] == [PAGES[page]]
    assert not app.error


@pytest.mark.parametrize("page", ["pages/Live.py", "pages/Influence.py"])
@pytest.mark.parametrize("asked, message", [("../../etc", "no run id"), ("nope", "no run nope")])
def test_a_link_to_no_run_says_so(page, asked, message, run):
    app = show(page, run=asked)
    assert message in said(app)


def test_beside_a_link_to_no_run_the_others_can_be_chosen(run):
    app = show("pages/Trust.py", run="nope")
    assert "no run nope" in said(app) and app.selectbox[0].value is None
    sound(app.selectbox[0].set_value(run.id).run())
    assert app.query_params["run"] == run.id and "Validate by retraining" in [h.value for h in app.header]


def test_a_run_deleted_while_it_is_looked_at_is_called_gone_and_not_damaged(run):
    app = show("pages/Live.py", run=run.id)
    run.storage().delete()
    assert f"There is no run {run.id}" in said(sound(app.run()))
    with pytest.raises(RunNotFoundError, match="may have been deleted"):
        run.manifest()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_the_status_of_the_job_of_any_process_and_of_the_disk(page, run, monkeypatch):
    monkeypatch.setattr(space, "disk_free", lambda path: 72_000_000_000)
    captions = [c.value for c in show(page).sidebar.caption]
    assert "No run in progress" in captions and "Disk free: 72 GB" in captions
    run.update_manifest(status_said="replaying")
    with run.lock():
        run.events_log.append("phase", phase="replay", steps=200)
        run.events_log.append(
            "progress",
            phase="replay",
            step=50,
            steps=200,
            rate=2.0,
            rss=545_000_000,
            ram_available=20_000_000_000,
            ram_total=25_000_000_000,
        )
        strip = show(page).sidebar
    shown = "\n".join(c.value for c in strip.caption)
    name = plain(run_names.of(runs.summary(run)))
    assert f"In progress: {name}" in [link.proto.label for link in strip.get("page_link")]
    assert "Memory of its process: 545 MB" in shown and "Memory available: 20 GB of 25 GB" in shown
    assert "Disk free: 72 GB" in shown and "No run in progress" not in shown
    (progress,) = strip.get("progress")
    assert progress.proto.text == "Replay, step 50 of 200, 1 min 15 s left in all" and progress.proto.value == 25


def test_a_first_visitor_is_told_the_three_steps(root, made):
    def tour(app):
        return next(e for e in app.expander if e.label == "New here? Three steps")

    assert tour(show("app.py")).proto.expanded
    shutil.copytree(made, root / made.name)
    app = show("app.py")
    assert not tour(app).proto.expanded
    assert [line[:2] for line in tour(app).markdown[0].value.strip().splitlines() if line[0].isdigit()] == [
        "1.",
        "2.",
        "3.",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_finished_run_draws(page, run):
    assert not show(page, run=run.id).error


@pytest.mark.parametrize("page", PAGES)
def test_a_choice_that_the_browser_tells_as_empty_is_none(page, run):
    """It does so where another widget makes the page run again before the choice is drawn with its value."""
    app = show(page, run=run.id)
    for number, choice in enumerate(app.button_group):
        app.button_group[number].set_value(None).run()
        assert "This page stopped" not in said(app), choice.label
        assert not app.exception, choice.label


def test_influence_shows_the_links_target_and_what_a_score_means(run):
    app = show("pages/Influence.py", run=run.id, target="class:2.loss", k="6")
    assert app.query_params["target"] == "class:2.loss" and app.query_params["k"] == "6"
    (says,) = (caption for caption in app.caption if "Trained without an image that *helps*" in caption.value)
    assert "a higher loss on the target" in says.value and "derivative of the target's loss (nats)" in says.help
    app = show("pages/Influence.py", run=run.id, target="test:999.loss", k="7")
    assert "target «test:999.loss»" in said(app)
    assert app.query_params["target"] == "test:0.loss"


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / "config.json").write_text("{"),
        lambda p: (p / "manifest.json").write_text("[]"),
        lambda p: (p / "manifest.json").unlink(),
        lambda p: (p / "scores" / "loss-000.npy").write_bytes(b"x"),
        lambda p: (p / "scores" / "loss-000.json").unlink(),
        lambda p: shutil.rmtree(p / "model"),
        lambda p: (p / "manifest.json").write_text('{"schema": 1}'),
        lambda p: (p / "events.jsonl").write_text("nonsense\n"),
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace("finished", "training")),
        lambda p: (p / "events.jsonl").write_text('{"kind": "progress"}\n'),
        lambda p: (p / "events.jsonl").unlink(),
        lambda p: ((p / "events.jsonl").unlink(), (p / "events.jsonl").mkdir()),
        lambda p: shutil.rmtree(p / "trajectory"),
    ],
)
@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_run_breaks_no_page(page, harm, run):
    harm(run.path)
    show(page, run=run.id)


def test_damage_is_named_with_its_remedy(run):
    (run.path / "scores" / "loss-000.npy").write_bytes(b"x")
    message = said(show("pages/Influence.py", run=run.id))
    assert "loss-000.npy" in message and "attribute the targets again" in message
    (run.path / "config.json").write_text("{")
    assert "config.json" in said(show("pages/Live.py", run=run.id))


@pytest.mark.slow
def test_a_failed_run_shows_its_message_remedy_and_traceback(root):
    config = SMALL.replace(
        **{
            "recipe.peak_lr": 100.0,
            "recipe.weight_decay": 10.0,
            "recipe.epochs": 8,
            "recipe.schedule": "constant",
            "recipe.warmup": 0.0,
        }
    )
    run = runs.Run.create(root, config)
    with run.lock(), pytest.raises(Exception, match="diverged"):
        work.execute(run)
    app = show("pages/Live.py", run=run.id)
    assert "diverged at step" in said(app) and "Lower the peak learning rate" in said(app)
    assert any("DivergedError" in c.value for c in app.code)


def test_a_manifest_changed_by_hand_or_of_another_schema_is_named(run):
    manifest = run.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"status": "finished"', '"status": "training"'))
    message = said(show("pages/Live.py", run=run.id))
    assert "has changed since it was written" in message and "start it again" in message
    files.write_json(manifest, {"schema": 1, "status": "finished"})
    for page in ("pages/Live.py", "pages/Influence.py"):
        message = said(show(page, run=run.id))
        assert "not of schema 2" in message and "Open the run with the version that wrote it" in message
    table = show("pages/Runs_and_storage.py").dataframe[0].value
    assert "not of schema 2" in table["Remark"][0] and table["Replays in"][0] == "—"


@pytest.mark.parametrize(
    "status, mode, words",
    [
        ("replaying", "disk", "resumed where it stopped: at most one segment"),
        ("training", "memory", "Memory mode loses its states"),
    ],
)
def test_an_interrupted_run_offers_to_resume_it(run, status, mode, words, monkeypatch):
    resumed = []
    monkeypatch.setattr("engine.jobs.queue.JobQueue.resume", lambda self, run_id: resumed.append(run_id))
    run.update_manifest(
        status_said=status, jobs=(JobRecord("run", {"mode": mode, "targets": ["test:0"], "function": "loss"}),)
    )
    assert run.status == "interrupted"
    app = show("pages/Live.py", run=run.id)
    assert "Interrupted" in said(app) and words in said(app)
    sound(button(app, "Resume the run").click().run())
    assert resumed == [run.id]


def test_a_failed_further_replay_is_told_and_can_be_resumed(run):
    assert not [b for b in show("pages/Live.py", run=run.id).button if b.label == "Resume the run"]
    run.update_manifest(jobs=(Replay(("test:5",), "loss", "disk").record(),))
    (run.path / "model" / "digests.json").write_text("{}")
    with run.lock(), pytest.raises(Exception, match="has changed"):
        work.execute(run)
    app = show("pages/Live.py", run=run.id)
    assert "digests.json has changed" in said(app).replace("\\", "") and "the scores are ready" in said(app)
    assert not button(app, "Resume the run").disabled
    run.storage().clean(("logs",))
    assert "has changed" in said(show("pages/Live.py", run=run.id)), "the manifest has it too"


def test_a_run_that_waits_for_space_says_how_much_it_needs(run):
    run.update_manifest(status_said="training")
    lock = run.lock().acquire()
    try:
        run.events_log.append("paused", needed=123_000_000, disk_free=4_000_000)
        app = show("pages/Live.py", run=run.id)
        assert "123 MB must be free, and 4 MB were when it stopped" in said(app)
        assert "goes on by itself" in said(app)
        run.events_log.append("continued")
        run.events_log.append("progress", phase="train", step=3, steps=6, disk_free=space.RESERVE)
        assert "The disk is nearly full:** 16.8 MB are free" in said(show("pages/Live.py", run=run.id))
        run.events_log.append("phase", phase="a phase of tomorrow", steps=0)
        show("pages/Live.py", run=run.id)
    finally:
        os.close(lock)


def test_a_log_that_was_deleted_while_the_page_was_open_is_read_anew(run):
    app = show("pages/Live.py", run=run.id)
    before = app.code[0].value
    run.storage().clean(("logs",))
    app.run()
    assert "Deleted logs" in sound(app).code[0].value and before not in app.code[0].value


def test_storage_lists_sizes_and_names_the_bytes_before_deleting(run):
    app = show("pages/Runs_and_storage.py")
    assert run.id in app.dataframe[0].value["Id"].tolist()
    app.multiselect(key="chosen").set_value([run.id]).run()
    button(app, "Delete checkpoints").click().run()
    assert not app.exception
    assert any(f"({run.storage().sizes()['trajectory']:,} bytes) of 1 run" in m.value for m in app.markdown)
    assert run.storage().sizes()["trajectory"] > 0


def test_storage_has_a_column_of_every_part_and_says_where_a_run_replays(run, monkeypatch):
    assert set(formats.PARTS) == set(storage.PARTS)
    shown = show("pages/Runs_and_storage.py").dataframe[0].value
    assert set(formats.PARTS.values()) <= set(shown)
    assert shown["Replays in"].tolist() == ["memory, disk"]
    run.storage().clean(("trajectory",))
    assert show("pages/Runs_and_storage.py").dataframe[0].value["Replays in"].tolist() == ["after a rebuild"]
    monkeypatch.setattr(space, "disk_free", lambda path: space.RESERVE)
    assert "The disk is nearly full: 16.8 MB are free" in said(show("pages/Runs_and_storage.py"))


def test_further_targets_name_the_modes_that_are_ready(run, monkeypatch):
    asked = []
    monkeypatch.setattr("engine.jobs.queue.JobQueue.submit", lambda self, *args: asked.append(args))

    def replay(app):
        next(m for m in app.multiselect if m.label == "Targets").set_value(["test:all"]).run()
        sound(button(app, "Replay for these targets").click().run())
        return app

    app = show("pages/Influence.py", run=run.id)
    mode = app.selectbox(key=f"mode-further-{run.id}")
    assert mode.value == "disk" and [o.partition(":")[0] for o in mode.options] == list(configs.REPLAY_MODES)
    assert any("Ready: memory and disk mode" in c.value for c in app.caption)
    replay(app)
    run.storage().clean(("trajectory",))
    app = show("pages/Influence.py", run=run.id)
    assert any("This run keeps no checkpoints. Every mode trains once more" in c.value for c in app.caption)
    replay(app)
    assert [args[:2] for args in asked] == [
        (run.id, Replay(("test:all",), "loss", mode)) for mode in ("disk", "memory")
    ]


def test_the_outputs_folder_may_be_an_argument_of_the_app(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--outputs", str(tmp_path / "elsewhere")])
    st.cache_resource.clear()
    app = show("pages/Runs_and_storage.py")
    assert "No runs" in said(app) and any("/elsewhere. " in c.value for c in app.caption)
    monkeypatch.setattr(sys, "argv", ["app.py", "--outputs"])
    st.cache_resource.clear()
    assert "names no folder" in said(show("pages/Runs_and_storage.py"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["app.py", "--outputs", str(tmp_path / "file")])
    st.cache_resource.clear()
    assert "cannot be written" in said(show("pages/Runs_and_storage.py"))


def test_a_folder_of_runs_that_is_gone_is_named(run, root):
    app = show("app.py")
    shutil.rmtree(root)
    assert "is gone" in said(sound(app.run()))


@pytest.mark.slow
def test_scores_made_anew_are_not_those_of_before(run):
    """Score sets are numbered from 000 again after a deletion: the name alone names no content."""

    def first(app):
        return dict(tiles(app, "helpful")[0]["details"])["Score, exactly"].split()[0].replace("−", "-")

    before = first(show("pages/Influence.py", run=run.id))
    run.storage().clean(("scores",))
    with run.lock():
        work.execute(run, Replay(("test:5",), "loss", "disk"))
    after = first(show("pages/Influence.py", run=run.id))
    assert float(after) == pytest.approx(run.scores().matrix("loss-000")[0].min(), rel=5e-3) and after != before


def test_deleted_scores_are_told_from_scores_to_come(run):
    run.storage().clean(("scores",))
    assert "scores of this run were deleted" in said(show("pages/Influence.py", run=run.id))


def test_live_without_a_link_shows_the_run_worked_on_rather_than_the_newest(made, run, root, monkeypatch):
    from engine.jobs.queue import JobQueue

    newer = root / "99990101-000000-sample-ffff"
    shutil.copytree(made, newer)
    monkeypatch.setattr(JobQueue, "active", lambda self: [run.id])
    assert show("pages/Live.py").query_params["run"] == run.id


def test_live_shows_and_discards_a_job_of_a_newer_versions_kind(run):
    run.update_manifest(jobs=(JobRecord("![distil](x)", {"temperature": 2.0}), JobRecord("rebuild", {"mode": "disk"})))
    app = show("pages/Live.py", run=run.id)
    assert any("distil" in text.value for text in app.text)
    button(app, "Resume the run").click().run()
    assert "is no kind of job" in said(app)
    sound(button(app, "Discard").click().run())
    assert [job.kind for job in run.manifest().jobs] == ["rebuild"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda p: p.touch() or os.truncate(p, 1 << 42)])
def test_live_shows_a_failed_run_whose_traceback_is_no_file(run, make):
    run.update_manifest(status_said="failed", error=ErrorRecord("What.", "Remedy."), jobs=(JobRecord("rebuild"),))
    make(run.path / "log.txt")
    assert "What." in said(show("pages/Live.py", run=run.id))


def test_a_chart_without_values_has_no_scale_and_one_point_is_seen():
    empty = pictures.meters({"a": ([], []), "b": ([], [])}, "b")
    assert (
        list(empty.layout.yaxis.tickvals)
        == []
        == list(pictures.meters({"a": ([], [])}, "b", True).layout.yaxis.tickvals)
    )
    one = pictures.meters({"a": ([0.0], [5e8]), "b": ([0.0], [1e9])}, "b")
    assert {line.mode for line in one.data} == {"markers"} and max(one.layout.yaxis.tickvals) == 1e9


def test_what_is_no_run_is_listed_with_its_reason(run, root):
    """F26: a run that was renamed, and one that is a link to another disk."""
    shutil.copytree(run.path, root / "My ![run](x)")
    (root / "linked").symlink_to(run.path)
    app = show("pages/Runs_and_storage.py")
    assert "2 entries of the folder not shown" in [expander.label for expander in app.expander]
    shown = app.dataframe[-1].value
    assert list(shown["Entry"]) == ["My ![run](x)", "linked"] and "is a link" in shown["Why"][1]


# -- what a page reads


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Ids of the runs whose manifests are read from the disk, one for each reading; nothing is known from before."""
    ids = []
    read = runs._manifest

    def counted(path):
        ids.append(path.parent.name)
        return read(path)

    monkeypatch.setattr(runs, "_manifest", counted)
    runs._known_manifest.cache_clear()
    return ids


def settled(path: Path) -> None:
    """As if nothing had changed for an hour, so that a file's time tells whether it did."""
    for each in (path, *path.rglob("*")):
        os.utime(each, (time.time() - 3600,) * 2)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_the_manifest_of_each_run_once(page, made, run, root, reads):
    for i in range(3):
        shutil.copytree(made, root / f"other-{i}")
    for path in root.iterdir():
        settled(path)
    show(page, run=run.id)
    assert sorted(reads) == sorted([run.id, *(f"other-{i}" for i in range(3))])
    reads.clear()
    show(page, run=run.id)
    assert reads == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_takes_one_view_of_its_run_even_while_that_changes(page, run, monkeypatch):
    """A manifest that is being written is read by the look at all runs, by the page, and by nothing else; on Live the
    part that moves takes a view of its own, each second, and the log asks once whose it is."""
    views = []
    read = runs.Run._read
    monkeypatch.setattr(runs.Run, "_read", lambda self: views.append(self.id) or read(self))
    show(page, run=run.id)
    assert len(views) <= (4 if page == "pages/Live.py" else 2)


# -- numbers in links

NUMBERS = (
    "9" * 5000,
    "0" * 16 + "19999",
    "999999",  # of the form, and beyond every last one
    "-" + "1" * 5000,
    "+1",
    "٣",
    "²",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e9999",
    "1_0",
    "",
)
IN_LINKS = (
    ("pages/Influence.py", ("page", "k", "low", "high"), {"target": "class:2.loss"}),
    ("pages/Training_images.py", ("image",), {}),
    ("pages/Training_images.py", ("page",), {"view": "browse"}),
    ("pages/Test_images.py", ("page", "from", "to", "wrong"), {}),
    ("pages/Find_bad_labels.py", ("from",), {}),
)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:8] or "empty")
@pytest.mark.parametrize("page, names, query", IN_LINKS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_in_a_link_that_is_none_is_said_and_stops_no_page(page, names, query, number, run):
    app = show(page, run=run.id, **query, **dict.fromkeys(names, number))
    for name in names:
        finite = name in ("low", "high") and number in ("1.5", "+1", "0" * 16 + "19999", "999999")
        assert finite or f"asks for {name} «" in said(app)


def test_a_parameter_that_is_repeated_counts_once(run):
    app = show("pages/Training_images.py", run=run.id, image=["5", "7", "9" * 5000])
    assert "asks for image «999" in said(app)
    assert show("pages/Training_images.py", run=[run.id, run.id], image=["5", "7"]).query_params["image"] in (
        "7",
        ["7"],
    )
