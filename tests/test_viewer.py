"""Scores of other programs: read from whatever holds them, refused with the place of what is wrong, shown as a run on
the pages that work without a training, and held against a replay of the same data."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import engine
from engine.analysis import compare, duplicates
from engine.datasets import registry as datasets
from engine.errors import ConfigError, DataError, ModelError, ReadOnlyError, StorageError
from engine.export import write as exports
from engine.export.material import Material
from engine.jobs import execute as work
from engine.jobs.duplicates import FindDuplicates
from engine.jobs.replay import Replay
from engine.jobs.what_if import WhatIf
from engine.library import matrices, serving, splits
from engine.models import registry as models
from engine.runs import notes
from engine.runs.run import Run
from engine.targets import target_function
from engine.targets.functions import imported
from tests.app import server
from tests.helpers import PAGES, ROOT, at_rest, drawn, here, idle, said, settled, show, shown, sound, tiles, turn
from tests.test_browser import violations

N, M, C = 24, 5, 3
HOSTILE = '<img src=x onerror="document.title=1">'


def labels(n: int, seed: int = 0) -> np.ndarray:
    return np.arange(n) % C if seed == 0 else np.random.default_rng(seed).integers(0, C, n)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), np.uint8)


TRAIN, TEST = (pictures(N), labels(N)), (pictures(M, 1), labels(M))


def scores(rows: int = M, columns: int = N) -> np.ndarray:
    """float32 [rows, columns] in which images of a target's own class help it, as a positive score says."""
    noise = np.random.default_rng(2).normal(size=(rows, columns))
    return (noise + 2 * (labels(rows)[:, None] == labels(columns))).astype(np.float32)


def logits(n: int) -> np.ndarray:
    return (3 * np.eye(C)[labels(n)] + np.random.default_rng(3).normal(size=(n, C))).astype(np.float32)


def kept(what, **options) -> Run:
    """A run of these scores, in the outputs folder of the test."""
    options = {"method": "TRAK", "sign": "help", "open": False, **options}
    path = engine.show(what, options.pop("train", TRAIN), options.pop("test", TEST), **options)
    return Run.open(path.parent, path.name)


def read(matrix: matrices.Matrix, order: str) -> np.ndarray:
    found = np.full((M, N), np.nan, np.float32)
    matrices.fill(found, matrix, order)
    return found


# -- whatever holds them


def held(folder: Path, kind: str, values: np.ndarray):
    """`values` as one of the kinds that are read."""
    path = folder / f"scores.{kind.partition('/')[0]}"
    match kind:
        case "npy":
            np.save(path, values)
        case "npy/fortran":
            np.save(path, np.asfortranarray(values.astype(np.float64)))
        case "npy/big-endian":
            np.save(path, values.astype(">f4"))
        case "npz":
            np.savez_compressed(path, scores=values)
        case "safetensors":
            save_file({"all_modules": values}, path)
        case "pt":
            torch.save({"scores": torch.from_numpy(values)}, path)
        case "pth/old":
            torch.save(torch.from_numpy(values), path, _use_new_zipfile_serialization=False)
        case "csv":
            pd.DataFrame(values).to_csv(path, index=False, header=False)
        case "csv/pandas":  # with a header, and a column without a name for the rows
            pd.DataFrame(values, columns=[f"train {i}" for i in range(values.shape[1])]).to_csv(path)
        case "parquet":
            pd.DataFrame(values, columns=[str(i) for i in range(values.shape[1])]).to_parquet(path)
        case "array":
            return values
        case "tensor":
            return torch.from_numpy(values).requires_grad_()
        case "list":
            return values.tolist()
        case "frame":
            return pd.DataFrame(values)
        case "frame/of one name":
            return pd.DataFrame(values, columns=["score"] * values.shape[1])
        case "frame/nullable":
            return pd.DataFrame(values).astype("Float32")
        case "table":
            return pa.Table.from_pandas(pd.DataFrame(values))
        case "masked nowhere":
            return np.ma.array(values)
    return path


KINDS = (
    *("npy", "npy/fortran", "npy/big-endian", "npz", "safetensors", "pt", "pth/old", "csv", "csv/pandas", "parquet"),
    *("array", "tensor", "list", "frame", "frame/of one name", "frame/nullable", "table", "masked nowhere"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_to_the_same_numbers(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "PIECE", 2 * N)  # several pieces
    for values, order in ((scores(), "targets"), (scores().T.copy(), "training")):
        matrix = matrices.opened(held(tmp_path, kind, values))
        assert matrices.order_of(matrix, M, N, None, False) == order
        assert np.array_equal(read(matrix, order), scores())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_half_precision_is_read_as_it_is(dtype, tmp_path):
    half = torch.from_numpy(scores()).to(dtype)
    torch.save(half, tmp_path / "scores.pt")
    save_tensors({"scores": half}, tmp_path / "scores.safetensors")
    for name in ("scores.pt", "scores.safetensors"):
        assert np.array_equal(read(matrices.opened(tmp_path / name), "targets"), half.float().numpy())


def test_a_mark_of_the_order_of_bytes_hides_no_row(tmp_path):
    pd.DataFrame(scores()).to_csv(tmp_path / "scores.csv", index=False, header=False, encoding="utf-8-sig")
    assert np.array_equal(read(matrices.opened(tmp_path / "scores.csv"), "targets"), scores())


# -- bad input: each a clear message


def with_one(value: float) -> np.ndarray:
    spoiled = scores().astype(np.float64)
    spoiled[3, 17] = value
    return spoiled


BAD = {
    "objects": (np.full((M, N), None), "holds object, and no real numbers"),
    "complex": (scores() + 1j, "holds complex64, and no real numbers"),
    "truth": (scores() > 0, "holds bool, and no real numbers"),
    "complex tensor": (torch.from_numpy(scores()) + 1j, "holds complex64"),
    "text": ([["a"] * N] * M, "and no real numbers"),
    "records": (np.zeros((M, N), [("a", "f4"), ("b", "f4")]), "and no real numbers"),
    "masked": (np.ma.masked_equal(with_one(7.0), 7.0), "is masked in 1 of 120 places"),
    "missing in a frame": (pd.DataFrame(with_one(np.nan)).astype("Float64"), "row 3, column 17 is NaN"),
    "a name that is too long": ("x" * 5000 + ".npy", "There is no file"),
    "ragged": ([[1.0, 2.0], [1.0]], "rows of different lengths"),
    "sparse": (torch.from_numpy(scores()).to_sparse(), "sparse"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "nested"),
    "three axes": (scores()[None], "is 1 × 5 × 24"),
    "empty": (scores()[:0], "is 0 × 24"),
    "a number": (3.0, "is a float"),
    "nan": (with_one(np.nan), "row 3, column 17 is NaN; there are 1 such"),
    "infinite": (with_one(-np.inf), "row 3, column 17 is infinite"),
    "beyond float32": (with_one(1e300), r"row 3, column 17 1e\+300 is beyond float32"),
    "other images": (scores(columns=N + 1), "is 5 × 25; there are 5 test images and 24 training images"),
    "other targets": (scores(rows=M - 1), "is 4 × 24; there are 5 test images"),
    "no file": ("nowhere.npy", "There is no file nowhere.npy"),
}


@pytest.mark.parametrize("what", [pytest.param(w, marks=pytest.mark.slow) if w == "nested" else w for w in BAD])
def test_what_is_no_matrix_of_scores_is_refused_and_leaves_nothing(what, root):
    values, message = BAD[what]
    with pytest.raises(ConfigError, match=message) as error:
        kept(here(values))
    assert error.value.remedy and list(root.iterdir()) == []


@pytest.mark.slow
def test_a_square_matrix_is_asked_about_and_never_guessed():
    square = {"train": TRAIN, "test": TRAIN, "what": scores(N, N)}
    with pytest.raises(ConfigError, match="rows may be either") as error:
        kept(**square)
    assert "targets or training" in error.value.remedy
    values = scores(N, N)
    for order, expected in (("targets", values), ("training", values.T)):
        assert np.array_equal(kept(**square, order=order).scores().matrix("imported-000"), expected)
    with pytest.raises(ConfigError, match="Its rows are training, not targets"):
        kept(scores().T, order="targets")


def test_what_runs_code_is_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save(Evil(), tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([[Evil()]]), allow_pickle=True)
    np.savez(tmp_path / "evil.npz", scores=np.array([[Evil()]]))
    for name in ("evil.pt", "evil.npy", "evil.npz"):
        with pytest.raises(ConfigError):
            matrices.opened(tmp_path / name)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.npy", b"\x93NUMPY", "damaged"),
        ("no.safetensors", b"{}", "no safetensors file"),
        ("no.npz", b"PK", "cannot be read"),
        ("no.pt", b"no", "without unpickling"),
        ("text.csv", b"1,2\n3,four\n", "text among its numbers"),
        ("blank.csv", b"1,2\n3,\n", "row 1, column 1 is NaN"),
        ("long.csv", b'"' + b"1" * 200_000 + b'"\n', "no table of numbers"),
        ("two.csv", b"target,target,a\n0,1,2\n", "has 2 columns «target»"),
        ("no.parquet", b"PAR1", "no Parquet file"),
        ("scores.txt", b"1 2", "no file of a known kind"),
    ],
)
def test_a_damaged_file_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        matrices.fill(np.empty((2, 2), np.float32), matrices.opened(tmp_path / name), "targets")


def test_one_of_several_arrays_is_asked_for_by_its_name(tmp_path):
    save_file({"layer": scores(), "other": scores()}, tmp_path / "two.safetensors")
    with pytest.raises(ConfigError, match="holds 2 arrays: layer, other") as error:
        matrices.opened(tmp_path / "two.safetensors")
    assert "FILE:layer" in error.value.remedy
    assert matrices.opened(f"{tmp_path}/two.safetensors:other").shape == (M, N)
    with pytest.raises(ConfigError, match="has no array 'third'"):
        matrices.opened(f"{tmp_path}/two.safetensors:third")


def test_what_has_no_place_says_what_it_would_take(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices.space, "disk_free", lambda folder: 10**9)
    with pytest.raises(StorageError, match=r"take 4.0 GB on the disk as float32, and 1.0 GB are free"):
        matrices.check_disk((10_000, 100_000), tmp_path)
    with pytest.raises(StorageError, match="a run holds 17 GB at most"):
        matrices.check_disk((100_000, 100_000), tmp_path)
    with pytest.raises(StorageError, match="Save it with numpy.save") as error:
        matrices.check_memory(10**15, "It is compressed, and read whole")
    assert "takes 1,000,000.0 GB of memory" in error.value.what


WRONG = {
    "no sign": ({"sign": ""}, "not said what a positive score means"),
    "another sign": ({"sign": "plus"}, "'plus'"),
    "a method with HTML": ({"method": HOSTILE}, "cannot be the name of a method"),
    "a method that is no text": ({"method": 3}, "`method` is a int, and no text"),
    "targets in a number": ({"targets": 5}, "`targets` is a int"),
    "classes in one text": ({"classes": "abc"}, "`classes` is a str"),
    "masked labels": ({"train": (TRAIN[0], np.ma.masked_less(TRAIN[1], 1))}, "is masked|are masked"),
    "no method": ({"method": ""}, "cannot be the name of a method"),
    "a unit with a colon": ({"unit": "a:b"}, "cannot be the name of a unit"),
    "logits of another shape": ({"test_logits": logits(M - 1)}, "is 4 × 3, where test images × classes are 5 × 3"),
    "transposed logits": ({"test_logits": logits(M).T}, "They seem to be transposed"),
    "logits with NaN": ({"train_logits": np.full((N, C), np.nan)}, "row 0, column 0 is NaN"),
    "labels that number no classes": ({"train": (TRAIN[0], TRAIN[1] + 10**12)}, "go up to 1,000,000,000,002"),
    "labels beyond classes": ({"classes": ["a", "b"]}, "`train labels` go from 0 to 2"),
    "a class twice": ({"classes": ["a", "b", "a"]}, "names one twice"),
    "fewer images than labels": ({"train": (TRAIN[0][1:], TRAIN[1])}, "has 23 images and 24 labels"),
    "no images": ({"train": None}, "`train` is a NoneType"),
    "labels that are none": ({"train": (TRAIN[0], [0.5] * N)}, "no whole number"),
    "standardised images": ({"train": (np.full((N, 3, 8, 8), -1.5, np.float32), TRAIN[1])}, "no pictures in bytes"),
    "two sizes": ({"test": (pictures(M)[:, :4], TEST[1])}, "with 3 channels"),
    "images that are missing": ({"train": ([f"no/{i}.png" for i in range(N)], TRAIN[1])}, "cannot be read"),
    "data that is not there": ({"train": "folder:nowhere", "test": None}, "There is no folder"),
    "a data set that nobody knows": ({"train": "nonsense:x", "test": None}, "nonsense"),
    "a target that is not there": ({"targets": [0, 1, 2, 3, 99]}, "no target for row 4"),
    "a target twice": ({"targets": [0, 1, 2, 3, 3]}, "test:3 is named twice"),
    "too few targets": ({"targets": "0-2"}, "there are 3 targets"),
    "a confusion": ({"targets": ["confusion:0>1"]}, "depends on what a model answers"),
    "an argument of another name": ({"logits": 1}, "no argument `logits`"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_and_leaves_nothing(what, root):
    options, message = WRONG[what]
    with pytest.raises((ConfigError, DataError), match=message):
        kept(scores(), **options)
    assert list(root.iterdir()) == []


@pytest.mark.slow
def test_another_order_and_another_sign_are_noticed():
    assert kept(scores()).scores().sidecars()[0]["noticed"] == []
    (said_so,) = kept(scores(), sign="harm").scores().sidecars()[0]["noticed"]
    assert "the contrary (sign=help)" in said_so
    many = np.random.default_rng(1).permutation(N)
    (said_so,) = kept(scores()[:, many]).scores().sidecars()[0]["noticed"]
    assert "another order" in said_so


# -- the run


def test_a_run_says_whose_scores_it_has_and_claims_no_unit(root):
    named = f"0-3,{300 * ' '}4"  # longer than a file's name may be
    run = kept(scores(), name="Mine", test_logits=logits(M), train_logits=logits(N), targets=named)
    record = run.manifest()
    assert (record.method, record.has_model, record.trained, record.scored) == ("TRAK", False, False, True)
    assert record.test_accuracy == float((logits(M).argmax(1) == labels(M)).mean())
    refs = record.score_sets.targets()
    assert [ref.key for ref in refs] == [f"test:{i}.imported-help:TRAK" for i in range(M)]
    assert np.array_equal(np.stack(record.score_sets.rows(refs)), scores())
    function = target_function(refs[0].function)
    assert (function.harmful_sign, function.unit, function.method) == (-1, "TRAK units", "TRAK")
    assert imported("EK-FAC 1.0.1", "harm", "nats").unit == "nats"
    text = (run.path / "scores" / "imported-000.json").read_text()
    assert "nats" not in text and "REPLAY" not in text
    assert notes.name_of(run) == "Mine" and run.status == "finished"
    assert {f"data/{name}" for name in ("data.json", "train_images.npy")} <= record.files.keys()


def test_what_needs_a_training_is_refused_by_name(root):
    run = kept(scores())
    dataset = datasets.load(run.manifest().config.dataset)
    for job in (Replay(("test:4",)), WhatIf.of([3])):
        with pytest.raises(ConfigError, match="scores of TRAK, which were made elsewhere"):
            job.check(run, dataset)
    with pytest.raises(ModelError, match="stands for the model behind imported scores"):
        models.build(run.manifest().config, dataset)
    with pytest.raises(ConfigError, match="made elsewhere: nothing here computes them"):
        engine.config.check(engine.config.RunConfig(target_function="imported-help:TRAK"))
    with pytest.raises(ConfigError, match="without the model's logits of the test images"):
        run.manifest().test_logits()


@pytest.mark.slow
def test_duplicates_among_imported_pictures_are_found(root):
    images = TRAIN[0].copy()
    images[[7, 20]] = images[3]
    run = kept(scores(), train=(images, TRAIN[1]))
    with run.lock():
        for by in (duplicates.EXACT, duplicates.HASH, duplicates.PIXELS):
            work.execute(run, FindDuplicates(by))
    found = duplicates.known(run.manifest(), duplicates.EXACT)
    assert found is not None and found.images.tolist() == [3, 7, 20] and run.status == "finished"
    live = said(show("pages/Live.py", run=run.id))  # of a job there is something to tell
    assert "have a twin in training" in live and "needs the training" not in live
    assert any("Keep one" in each.label for each in show("pages/Duplicates.py", run=run.id).button)
    with pytest.raises(ConfigError, match="there are no features of a model"):
        FindDuplicates(duplicates.FEATURES).check(run, datasets.load(run.manifest().config.dataset))


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True])
def test_imported_scores_are_handed_over_and_say_no_more_than_they_know(answers, root, tmp_path, monkeypatch):
    run = kept(scores(), **({"train_logits": logits(N), "test_logits": logits(M)} if answers else {}))
    material = Material.of(run)
    for name in exports.FORMATS:
        exports.write(material, name, tmp_path / name)
    frame = pd.read_parquet(tmp_path / "parquet").set_index(["split", "index"])
    column = "score:test:1.imported-help:TRAK"
    assert np.array_equal(frame.loc["train", column], scores()[1]) and frame.loc["test", column].isna().all()
    assert frame["prediction"].notna().all() == answers == frame["loss"].notna().any()
    assert "TRAK units" in json.dumps(material.about()) and "nats per" not in json.dumps(material.about())
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    for name in exports.FORMATS:
        with pytest.raises(ReadOnlyError):
            exports.write(material, name, tmp_path / f"{name}-again")
    assert not list(tmp_path.glob("*-again"))


@pytest.mark.slow
def test_pictures_come_from_folders_datasets_and_names(root, tmp_path):
    for split, (images, of) in (("train", TRAIN), ("test", TEST)):
        for i, (image, label) in enumerate(zip(images, of)):
            folder = tmp_path / split / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:03d}.png")
    order = np.argsort(labels(N), kind="stable")
    run = kept(scores(), train=tmp_path / "train", test=tmp_path / "test")
    dataset = datasets.load(run.manifest().config.dataset)
    assert np.array_equal(dataset.train_images, TRAIN[0][order]) and dataset.classes[2] == "class 2"
    assert dataset.file_name("train", 0) == "class 0/000.png"
    # A Dataset of torch, and one like torchvision's ImageFolder, whose files are shown.
    pairs = [(torch.from_numpy(image).movedim(-1, 0) / 255, int(label)) for image, label in zip(*TRAIN)]

    class Pairs(torch.utils.data.Dataset):
        classes = ["a", "b", "c"]

        def __len__(self):
            return len(pairs)

        def __getitem__(self, i):
            return pairs[i]

    part = splits.read(torch.utils.data.Subset(Pairs(), range(6)), "train")
    assert np.array_equal(part.labels, labels(6)) and part.classes == ("a", "b", "c")
    run = kept(scores(), train=Pairs())
    dataset = datasets.load(run.manifest().config.dataset)
    assert np.array_equal(dataset.train_images, TRAIN[0]) and dataset.classes == ("a", "b", "c")
    listed = sorted(map(str, (tmp_path / "train").rglob("*.png")))
    like = Pairs()
    like.samples = [(path, 0) for path in listed]  # type: ignore[attr-defined]
    assert splits.read(torch.utils.data.Subset(like, [3, 1]), "train").images == [listed[3], listed[1]]


@pytest.mark.slow
def test_a_data_set_with_a_name_is_not_copied_and_compares_with_its_replay(quick):
    """`quick` is a run of the engine: its own scores, imported with both signs, agree with themselves."""
    record = quick.manifest()
    refs = record.score_sets.targets()
    values = np.stack(record.score_sets.rows(refs))
    names = [ref.name for ref in refs]
    flipped = kept(-values, train=record.config.dataset, test=None, targets=names)
    assert not (flipped.path / "data").exists()
    assert flipped.manifest().data_fingerprint == record.data_fingerprint
    for a, b in ((flipped.manifest(), record), (record, flipped.manifest())):
        commons = compare.common(a, b)
        assert [both.target.name for both in commons] == names
        found = compare.summed([compare.agreement(both.a_N, both.b_N) for both in commons])
        assert found.spearman == pytest.approx(1) and found.pearson == pytest.approx(1)
    differ = compare.differences(record, flipped.manifest())
    assert [name for name, *_ in differ] == [compare.METHOD]
    told = compare.meaning(differ, compare.Summed(2, 0.4, 0.5, 0.6, False), 100)
    assert "TRAK" in told and "seed" not in told


# -- the pages


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory) -> Path:
    """An outputs folder with the same scores twice: `bare`, and `told`, which came with the model's logits."""
    folder = tmp_path_factory.mktemp("viewer")
    names = ["plain", HOSTILE, "**bold** [a](https://example.org)"]
    for name, more in (("bare", {}), ("told", {"test_logits": logits(M), "train_logits": logits(N)})):
        kept(scores(), place=folder / name, classes=names, title=HOSTILE, note=HOSTILE, **more)
    return folder


@pytest.fixture
def shown_runs(made_runs, root) -> Path:
    for name in ("bare", "told"):
        shutil.copytree(made_runs / name, root / name)
    return root


NEEDS = {
    "pages/Live.py": ("The page Live needs the training and the model",) * 2,
    "pages/Trust.py": ("The page Trust needs the training and the model",) * 2,
    "pages/Self_influence.py": ("The page Self-influence needs the training and the model",) * 2,
    "pages/Test_images.py": ("needs the model's logits of the test images", ""),
    "pages/Find_bad_labels.py": ("needs the model's logits of the training images", ""),
}


QUEUES = {
    "bare": ["Harm to the target", "What is ticked"],
    "told": ["Loss on the label given", "Harm to the target", "What is ticked"],
}  # of Triage


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_page_works_or_says_what_it_needs(page, shown_runs):
    for name, needs in zip(("bare", "told"), NEEDS.get(page, ("", "")), strict=True):
        notes.tick(Run.open(shown_runs, name), {3: True}, N)
        app = show(page, run=name)
        assert not app.error, said(app)
        assert not [each.label for each in app.button if "needs the training" in each.help]  # off, and always would be
        text = "\n".join([said(app), *(each.value for each in (*app.caption, *app.markdown))])
        if page == "pages/Map.py":
            assert "features" not in [option for group in app.get("button_group") for option in group.options]
        if page == "pages/Triage.py":
            (card,) = drawn(app, "triage")
            assert "What if they had not been there" not in str(app.get("page_link"))
            assert [button.options for button in app.get("button_group")] == [QUEUES[name]]
            assert card["count"] == N and card["acting"]
            assert all((item["model"] is None) == (name == "bare") for item in card["items"].values())
        if page == "pages/Duplicates.py":
            assert "Its pixels stand in for them" in text and "Look for duplicates" in {b.label for b in app.button}
            run = Run.open(shown_runs, name)
            with run.lock():
                work.execute(run, FindDuplicates("pixels", 0.5))
            app = show(page, run=name)
            assert not app.error and "No two images are alike" in said(app) and run.status == "finished"
        if needs:
            assert needs in text and "What works with imported scores" in text
        elif page.removeprefix("pages/").removesuffix(".py") in ("Influence", "Training_images"):
            assert "TRAK" in text and "would have a" not in text and "would be worse" not in text
            if name == "bare":
                assert "nats" not in text
    if (
        page == "pages/Triage.py"
    ):  # another run is chosen on the page: that its address is of the run before is no link's
        app = show(page, run="told", queue="loss")
        app.selectbox(key="run").set_value("bare").run()
        assert sound(app).selectbox(key="run").value == "bare" and "asks for" not in said(app)
        assert "asks for queue «loss»" in said(show(page, run="bare", queue="loss"))
    if page == "pages/Compare_runs.py":
        assert "check" not in app.table[0].value.to_string()  # before they are relied on: nothing here can
        app.selectbox(key="run").set_value("bare").run()  # what was B becomes A: no link compares it with itself
        assert not sound(app).error and app.query_params["other"] in ("told", ["told"]), said(app)
        app = show(page, run="bare", other="bare")
        assert "with itself" in said(app)
    if page == "pages/Influence.py":
        order = np.argsort(-scores()[0], kind="stable")
        assert [tile["index"] for tile in tiles(app, "helpful")] == order[: len(tiles(app, "helpful"))].tolist()
        assert all("TRAK unit" in str(tile["details"]) for tile in tiles(app, "helpful"))
        assert all(not tile["sentence"] for tile in tiles(app, "helpful"))


def test_a_person_looks_through_the_pages(shown_runs, page):
    with server(shown_runs, page, own=True) as (url, _):
        assert serving.running(shown_runs) == url
        page.goto(f"{url}/Influence?run=bare&target=test:1.imported-help:TRAK")
        settled(page, "Influence")
        idle(page)
        expect(page.get_by_text("Scores of TRAK, made elsewhere", exact=False).first).to_be_visible()
        expect(page.get_by_text("What TRAK says that each image did", exact=False)).to_be_visible()
        order = np.argsort(-scores()[1], kind="stable")
        drawn = shown(page, "helpful")
        assert drawn == order[: len(drawn)].tolist() and len(drawn) > 3
        at_rest(page)
        assert not violations(page, "light") and not violations(page, "dark")
        for name in ("Training images", "Compare runs", *(PAGES[path] for path in NEEDS)):
            page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()
            settled(page, name)
            idle(page)
            at_rest(page)
            assert not violations(page, "light"), name
            assert "run=bare" in page.url
        page.get_by_test_id("stMain").get_by_role("link", name="Influence", exact=True).click()
        settled(page, "Influence")
        turn(page, f"{url}/Test_images?run=told")
        settled(page, "Test images")
        idle(page)
        expect(page.get_by_text("Explaining further test images", exact=False).first).to_be_attached()
        assert page.title() != "1"  # no name of a class, of data or in a note was executed
    assert serving.running(shown_runs) is None


@pytest.mark.slow
def test_a_notebook_opens_the_app_that_runs_or_starts_one(root, tmp_path):
    np.savez(tmp_path / "all.npz", scores=scores(), x=TRAIN[0], y=TRAIN[1], tx=TEST[0], ty=TEST[1])
    code = (
        "import sys, numpy as np, engine; f = np.load(sys.argv[1]); "
        "engine.show(f['scores'], (f['x'], f['y']), (f['tx'], f['ty']), method='TRAK', sign='help')"
    )
    call = [sys.executable, "-c", code, str(tmp_path / "all.npz")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(call, check=True, capture_output=True, text=True, env=env).stdout.splitlines()
    process = int(first[1].rpartition(" ")[2])
    try:
        url = serving.running(root)
        assert url is not None and first[0].startswith(f"{url}/Influence?run=")
        second = subprocess.run(call, check=True, capture_output=True, text=True, env=env).stdout.splitlines()
        assert len(second) == 1 and second[0].startswith(f"{url}/Influence?run=") and second[0] != first[0]
    finally:
        os.kill(process, signal.SIGTERM)
    while serving.running(root) is not None:
        pass
    assert len(list(root.glob("*-scores-*"))) == 2


@pytest.mark.slow
def test_the_command_line_shows_files(root, tmp_path):
    for split, (images, of) in (("train", TRAIN), ("test", TEST)):
        for i, (image, label) in enumerate(zip(images, of)):
            (folder := tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:03d}.png")
    np.save(tmp_path / "scores.npy", scores().T)
    call = [
        *(sys.executable, "-m", "engine", "show", "--scores", str(tmp_path / "scores.npy"), "--method", "TRAK"),
        *("--train", str(tmp_path / "train"), "--test", str(tmp_path / "test"), "--no-open", "--name", "From a shell"),
    ]
    done = subprocess.run([*call, "--sign", "help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "TRAK units" in done.stdout and "python -m engine app" in done.stdout
    (path,) = root.glob("*-scores-*")
    assert np.array_equal(Run.open(root, path.name).scores().matrix("imported-000"), scores())
    wrong = subprocess.run([*call, "--sign", "help", "--order", "targets"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2 and "Its rows are training, not targets" in wrong.stderr
    assert subprocess.run(call, capture_output=True, text=True, cwd=ROOT).returncode == 2
