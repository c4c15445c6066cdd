"""Data of one's own from the command line to the scores: rectangles, names in exports, files that change, and that no
split is copied."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import config as configs
from engine.__main__ import main
from engine.datasets import registry
from engine.errors import DataError
from engine.jobs import execute as work
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.runs import run as runs
from tests.helpers import ROOT, said, show, tiles
from tests.images import folder

pytestmark = pytest.mark.usefixtures("root")

SETTINGS = ["--set", "recipe.epochs=1", "--set", "recipe.batch_size=20", "--targets", "test:0,class:1"]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path) -> Path:
    return folder(tmp_path / "pets", {"=cat": 50, "dog": 50}, (24, 16))


def made(pets: Path, mode: str = "disk", *further: str) -> runs.Run:
    assert main(["run", "--data", f"folder:{pets}", "--mode", mode, *SETTINGS, *further]) == 0
    return runs.list_runs(runs.outputs_root())[0]


def test_a_folder_is_trained_replayed_and_browsed_with_its_file_names(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(pets.parent)
    run = made(Path("pets"))
    assert run.manifest().config.dataset == f"folder:{pets}", (
        "the path that it was started with means nothing elsewhere"
    )
    dataset = registry.load(run.manifest().config.dataset)
    assert dataset.image_shape == (16, 24, 3)
    scores = run.scores().matrix("loss-000")
    assert scores.shape == (2, 80) and np.abs(scores).min(1).max() > 0
    drawn = tiles(show("pages/Influence.py", run=run.id, target="test:0.loss"), "harmful")
    assert drawn and all(dict(tile["details"])["File"] == dataset.file_name("train", tile["index"]) for tile in drawn)
    assert main(["suspects", run.id, "--target", "test:0.loss", "--csv", str(tmp_path / "s.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert all(row["file"].lstrip("'") == dataset.file_name("train", int(row["index"])) for row in rows)
    assert all(row["given_label"] in ("'=cat", "dog") for row in rows), "a spreadsheet would take it for a formula"


@pytest.mark.parametrize("mode", ["memory", "recompute"])
def test_the_scores_are_the_same_in_every_mode(pets, mode):
    scores = [run.scores().matrix("loss-000") for run in (made(pets), made(pets, mode))]
    assert np.array_equal(*scores)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["small-cnn", "resnet9"])
def test_rectangles_train_where_the_model_takes_them(pets, model):
    run = made(pets, "disk", "--set", f"model={model}", "--set", "width=0.125")
    assert run.manifest().trained


def test_a_changed_file_is_noticed_before_a_replay_and_named(pets):
    run = made(pets)
    path = pets / "dog" / "007.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with pytest.raises(DataError, match="has changed since run .* was made. dog/007.png has another content."):
        work.execute(run, Replay(("test:1",), "loss", "disk"))
    assert len(run.scores().targets()) == 2
    app = show("pages/Influence.py", run=run.id)
    assert "dog/007.png has another content" in said(app) and not tiles(app, "harmful")


def test_a_touched_file_changes_nothing(pets):
    run = made(pets)
    for path in pets.rglob("*.png"):
        os.utime(path)
    work.execute(run, Replay(("test:1",), "loss", "disk"))
    assert len(run.scores().targets()) == 3


def test_the_command_data_says_what_is_in_it(pets, capsys):
    (pets / "dog" / "broken.png").write_bytes(b"no")
    assert main(["data", f"folder:{pets}"]) == 0
    printed = capsys.readouterr().out
    assert "24 × 16 pixels, colour" in printed and "unreadable: dog/broken.png: The file is no image" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("dog")] == [["dog", "40", "10"]]
    assert main(["data", f"folder:{pets}", "--delete"]) == 0 and "freed" in capsys.readouterr().out
    assert main(["data", "folder:/nowhere"]) in (1, 2) and "There is no folder /nowhere" in capsys.readouterr().err
    assert main(["data", "nothing"]) == 2


@pytest.mark.parametrize("name", ["folder:", "nothing", "tables:x", "folder:x?side=no"])
def test_names_that_are_none_are_settings_at_fault(name, capsys):
    assert main(["run", "--data", name]) == 2
    assert "data set" in capsys.readouterr().err


LARGE = """
import resource, sys
import numpy as np, torch
from engine.core.stream import examples
from engine.datasets import load
dataset = load(sys.argv[1])
before = int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])
of = examples(dataset, "train", torch.device("cpu"), torch.float32)
dataset.mean, dataset.std, dataset.fingerprint
for start in range(0, of.n, 100):
    of.batch(range(start, min(start + 100, of.n)))
print(int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) - before)
"""


@pytest.mark.slow
def test_no_split_is_copied_where_a_batch_is_enough(tmp_path):
    """123 MB of training images: nothing near that is in memory of the process's own."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 64, 64, 3), np.uint8)
    np.savez(
        tmp_path / "large.npz",
        images=images,
        labels=np.arange(10_000) % 10,
        test_images=images[:100],
        test_labels=np.arange(100) % 10,
    )
    command = [sys.executable, "-c", LARGE, f"arrays:{tmp_path / 'large.npz'}"]
    peaks = [
        int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout) for _ in range(2)
    ]
    assert max(peaks) < 80_000, peaks  # kB; threads keep some of what batches took


def test_a_run_of_the_app_keeps_the_absolute_path(pets, monkeypatch):
    """Queued alone: what is looked at is the configuration that the run's folder gets."""
    monkeypatch.chdir(pets.parent)
    monkeypatch.setattr(JobQueue, "_enqueue", lambda self, run, job: None)
    config = configs.preset("sample").replace(dataset="folder:pets", **{"recipe.batch_size": 20})
    queue = JobQueue(runs.outputs_root())
    run = runs.Run.open(queue.root, queue.start(config))
    assert run.manifest().config.dataset == f"folder:{pets}"
