"""Data of one's own from the command line to the scores: rectangles, names in exports, files that change, and that no
split is copied."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine import config as configs
from engine.__main__ import main
from engine.datasets import registry, torchvision_sets
from engine.errors import DataError, IntegrityError
from engine.jobs import execute as work
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.jobs.session import Session
from engine.runs import run as runs
from tests.helpers import ROOT, drawn, said, show, tiles
from tests.images import folder
from tests.test_image_tables import mnist_files

pytestmark = pytest.mark.usefixtures("root")

OF_LABELS = ("Triage", "Duplicates", "Find_bad_labels")  # pages on which labels are decided on

SETTINGS = ["--set", "recipe.epochs=1", "--set", "recipe.batch_size=20", "--targets", "test:0,class:1"]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path) -> Path:
    return folder(tmp_path / "pets", {"=cat": 50, "dog": 50}, (24, 16))


def config_of(pets: Path) -> configs.RunConfig:
    small = {"recipe.epochs": 1, "recipe.batch_size": 20}
    return configs.preset("sample").replace(dataset=f"folder:{pets}", targets=("test:0",), replay_mode="disk", **small)


def made(data: Path | str, mode: str = "disk", *further: str) -> runs.Run:
    name = data if isinstance(data, str) else f"folder:{data}"
    assert main(["run", "--data", name, "--mode", mode, *SETTINGS, *further]) == 0
    return runs.list_runs(runs.outputs_root())[0]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "recompute"])
def test_the_scores_are_the_same_in_every_mode(pets, mode):
    scores = [run.scores().matrix("loss-000") for run in (made(pets), made(pets, mode))]
    assert np.array_equal(*scores)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["small-cnn", "resnet9"])
def test_rectangles_train_where_the_model_takes_them(pets, model):
    run = made(pets, "disk", "--set", f"model={model}", "--set", "width=0.125")
    assert run.manifest().trained


def change_folder(root: Path) -> tuple[str, Path]:
    folder(root, {"cat": 15, "dog": 15})
    return f"folder:{root}", root / "dog" / "007.png"


def change_table(root: Path) -> tuple[str, Path]:
    folder(root / "images", {"cat": 15, "dog": 15})
    rows = [f"{p.relative_to(root)},{p.parent.name}" for p in sorted(root.rglob("*.png"))]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return f"table:{root / 'labels.csv'}", root / "images" / "dog" / "007.png"


def change_arrays(root: Path) -> tuple[str, Path]:
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 9, 7), np.uint8)
    np.savez(root / "digits.npz", images=images, labels=np.arange(30) % 2)
    return f"arrays:{root / 'digits.npz'}", root / "digits.npz"


def change_hugging_face(root: Path) -> tuple[str, Path]:
    files = sorted(folder(root.with_name("images"), {"cat": 15, "dog": 15}).rglob("*.png"))
    root.mkdir()
    table = pa.table({"image": [p.read_bytes() for p in files], "label": [p.parent.name for p in files]})
    pq.write_table(table, root / "train.parquet", compression="none")
    return f"hf:{root}", root / "train.parquet"


def change_torchvision(root: Path) -> tuple[str, Path]:
    mnist_files(root / "MNIST" / "raw")
    return f"torchvision:MNIST?root={root}", root / "MNIST" / "raw" / "train-images-idx3-ubyte"


CHANGES = {
    "folder": change_folder,
    "table": change_table,
    "arrays": change_arrays,
    "hf": change_hugging_face,
    "torchvision": change_torchvision,
}


@pytest.mark.parametrize("kind", ["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*CHANGES][1:])])
def test_a_changed_file_is_noticed_before_a_replay_and_named(tmp_path, kind):
    name, path = CHANGES[kind](tmp_path / "source")
    run = made(name, "disk", "--set", "recipe.batch_size=10")
    before = path.stat()
    if path.suffix == ".png":
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    elif kind == "arrays":
        with np.load(path) as values:
            np.savez(path, images=255 - values["images"], labels=values["labels"])
    else:  # one byte, of a pixel; nothing else tells
        content = bytearray(path.read_bytes())
        at = 500 if kind == "torchvision" else content.index(b"IDAT") + 60
        content[at] ^= 255
        path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataError, match=f"has changed since run .* was made. .*{path.name} has another content."):
        work.execute(run, Replay(("test:1",), "loss", "disk"))
    assert len(run.scores().targets()) == 2
    for page in ("Influence", *(OF_LABELS if kind == "arrays" else ())):
        app = show(f"pages/{page}.py", run=run.id)
        assert said(app).count(f"{path.name} has another content") == said(app).count("Restore its files") == 1, page
        assert not any(drawn(app, what) for what in ("gallery", "triage")), page


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_a_source_that_is_gone_is_named_before_a_replay(tmp_path, kind, monkeypatch):
    name, path = CHANGES[kind](tmp_path / "source")
    run = made(name, "disk", "--set", "recipe.batch_size=10")
    (tmp_path / "source").rename(tmp_path / "moved")
    monkeypatch.setattr(torchvision_sets.TorchvisionSet, "_dataset", no_network)
    with pytest.raises(DataError, match=f"{tmp_path / 'source'}|{path.name}"):
        work.execute(run, Replay(("test:1",), "loss", "disk"))
    (tmp_path / "moved").rename(tmp_path / "source")
    work.execute(run, Replay(("test:1",), "loss", "disk"))
    assert len(run.scores().targets()) == 3


def no_network(*_: object, **__: object) -> None:
    raise OSError(101, "Network is unreachable")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "replay"])
def test_prepared_images_that_somebody_writes_to_meanwhile_give_no_scores(pets, monkeypatch, where):
    run = runs.Run.create(runs.outputs_root(), config_of(pets))
    if where == "replay":
        work.execute(run)
    images = registry.load(f"folder:{pets}").folder / "train_images.npy"

    def damage(self, t: int) -> None:
        with images.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"damaged")

    monkeypatch.setattr(Session, "check_cancelled", damage)
    with pytest.raises(IntegrityError, match="train_images.npy was written to while"):
        work.execute(run, Replay(("test:1",), "loss", "disk") if where == "replay" else None)
    assert len(run.scores().targets()) == (1 if where == "replay" else 0)
    assert bool(run.manifest().trained) == (where == "replay")


@pytest.mark.slow
def test_prepared_files_that_are_deleted_meanwhile_do_no_harm(pets, monkeypatch):
    run, other = (runs.Run.create(runs.outputs_root(), config_of(pets)) for _ in range(2))
    work.execute(run)
    monkeypatch.setattr(Session, "check_cancelled", lambda self, t: registry.delete(f"folder:{pets}") and None)
    work.execute(other)
    assert np.array_equal(run.scores().matrix("loss-000"), other.scores().matrix("loss-000"))


@pytest.mark.slow
def test_pages_of_a_run_whose_prepared_files_were_cut_or_deleted(pets):
    """A map of a file that was cut short would end the process with a signal."""
    run = made(pets)
    assert tiles(show("pages/Influence.py", run=run.id), "harmful")
    dataset = registry.load(f"folder:{pets}")
    os.truncate(dataset.folder / "train_images.npy", 200)
    assert tiles(show("pages/Influence.py", run=run.id), "harmful"), "made anew"
    assert main(["data", dataset.name, "--delete"]) == 0
    for page in ("Influence", *OF_LABELS):
        app = show(f"pages/{page}.py", run=run.id)
        assert said(app).count("is not prepared on this machine") == 1, page
        assert not any(drawn(app, what) for what in ("gallery", "triage")), page


def test_prepared_files_are_deleted_when_their_source_is_gone(pets, capsys):
    folder_of_it = registry.load(f"folder:{pets}").folder
    pets.rename(pets.with_name("moved"))
    registry.clear()
    assert main(["data", f"folder:{pets}", "--delete"]) == 0
    assert not folder_of_it.exists() and not capsys.readouterr().out.startswith("freed 0")


@pytest.mark.slow
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
    config = configs.preset("sample").replace(dataset="folder:pets", targets=("test:0",), **{"recipe.batch_size": 20})
    queue = JobQueue(runs.outputs_root())
    run = runs.Run.open(queue.root, queue.start(config))
    assert run.manifest().config.dataset == f"folder:{pets}"
