"""A folder of images: layouts, options, what is noticed, what is refused, what is found again."""

import contextlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.datasets import source as sources
from engine.datasets import store
from engine.datasets.base import Dataset
from engine.datasets.decode import ImageForm, decode
from engine.datasets.image_folder import ImageFolder
from engine.datasets.names import DatasetName, printable
from engine.errors import CancelledError, ConfigError, DataError, ReadOnlyError, ReplayError, StorageError
from tests.images import emoji, folder, picture
from tools.emoji import spoil

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "prepared"


def load(place: Path, options: str = "", on_progress=store.nothing) -> Dataset:
    return store.load(ImageFolder(DatasetName.parse(f"folder:{place}{options}")), on_progress)


def kinds(dataset: Dataset) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in store.problems(dataset):
        found.setdefault(problem["kind"], []).append(problem["file"])
    return found


def left_behind(data: Path) -> list[str]:
    return [path.name for path in data.iterdir() if not path.name.startswith(".lock-")] if data.exists() else []


# -- what becomes of the files


def test_images_labels_names_and_statistics_are_those_of_the_files(tmp_path):
    root = folder(tmp_path / "pets", {"dog": 5, "cat": 10})
    dataset = load(root)
    assert dataset.classes == ("cat", "dog") and dataset.title == "pets"
    assert dataset.form == ImageForm(10, 12, 3) and dataset.train_images.shape == (12, 10, 12, 3)
    assert np.bincount(dataset.test_labels).tolist() == [2, 1]
    for split in ("train", "test"):
        for index, image in enumerate(dataset.images(split)):
            name = dataset.file_name(split, index)
            assert np.array_equal(image, np.asarray(Image.open(root / name)))
            assert name.split("/")[0] == dataset.classes[dataset.labels(split)[index]]
    names = [*dataset.train_names, *dataset.test_names]
    assert sorted(names) == sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    scaled = dataset.train_images / 255
    assert np.allclose(dataset.mean, scaled.mean((0, 1, 2))) and np.allclose(dataset.std, scaled.std((0, 1, 2)))
    arrays = [dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels]
    assert all(isinstance(array.base, np.memmap) and not array.flags.writeable for array in arrays)
    alike = Dataset("", "", "", dataset.classes, *map(np.array, arrays))
    assert dataset.fingerprint == alike.fingerprint


def test_splits_by_folders(tmp_path):
    root = tmp_path / "pets"
    folder(root / "train", {"cat": 4, "dog": 3})
    folder(root / "val", {"cat": 2, "dog": 1})
    dataset = load(root)
    assert len(dataset.train_labels) == 7 and len(dataset.test_labels) == 3
    assert dataset.test_names[0] == "val/cat/000.png" and store.notes(dataset) == ["Size 12 × 10: that of the files."]
    folder(root / "test", {"cat": 1, "dog": 1})  # with a test split, val is not read, and that is said
    dataset = load(root)
    assert len(dataset.test_labels) == 2 and kinds(dataset)["ignored"] == ["val"]


def test_a_class_that_is_called_train_is_a_class(tmp_path):
    dataset = load(folder(tmp_path / "vehicles", {"train": 5, "bus": 5, "test": 5}))
    assert dataset.classes == ("bus", "test", "train") and len(dataset.train_labels) == 12


def test_train_alone_gives_a_fraction_for_testing(tmp_path):
    root = tmp_path / "pets"
    folder(root / "train", {"cat": 10, "dog": 10})
    dataset = load(root, "?test=0.3")
    assert np.bincount(dataset.test_labels).tolist() == [3, 3] and dataset.train_names[0].startswith("train/cat/")


def test_the_fraction_is_of_each_class_and_a_function_of_the_seed(tmp_path):
    root = folder(tmp_path / "pets", {"a": 40, "b": 20, "c": 2, "d": 1})
    first, again, other = load(root), load(root, "?test=0.2"), load(root, "?seed=1")
    assert np.bincount(first.test_labels, minlength=4).tolist() == [8, 4, 1, 0]
    assert first.name == again.name == f"folder:{root}" and list(first.test_names) != list(other.test_names)
    assert np.array_equal(first.test_images, again.test_images)
    assert kinds(first)["no test images"] == ["d"]


def test_classes_of_numbers_stand_in_their_order(tmp_path):
    assert load(folder(tmp_path / "n", {str(n): 2 for n in range(12)})).classes == tuple(map(str, range(12)))


def test_colour_is_decided_from_all_files(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 30, "dog": 30}, mode="L")
    for path in root.rglob("*.png"):  # grey pixels in files of a colour mode
        Image.open(path).convert("RGB").save(path)
    grey = load(root)
    assert grey.train_images.shape[-1] == 1 and any("Grey" in note for note in store.notes(grey))
    assert np.array_equal(grey.train_images[0, ..., 0], np.asarray(Image.open(root / grey.train_names[0]))[..., 0])
    assert load(root, "?color=rgb").train_images.shape[-1] == 3
    image = np.array(Image.open(root / "dog" / "029.png"))
    image[3, 4] = 255, 0, 0  # one pixel of one file
    Image.fromarray(image).save(root / "dog" / "029.png")
    assert load(root).train_images.shape[-1] == 3
    assert load(root, "?color=grey").train_images.shape[-1] == 1


def test_the_side_is_chosen_from_the_files_and_said(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 3, "dog": 3}, (50, 100))
    folder(root / ".." / "more", {"cat": 3}, (90, 300))
    shutil.copytree(tmp_path / "more" / "cat", root / "mouse")
    dataset = load(root)
    assert dataset.train_images.shape[1:] == (48, 48, 3)
    assert store.notes(dataset)[-1].startswith("Size 48 × 48, chosen from the files: the median")
    assert load(root, "?side=20x30").train_images.shape[1:] == (30, 20, 3)
    large = folder(tmp_path / "large", {"a": 2, "b": 2}, (300, 200))
    assert load(large).train_images.shape[1:] == (64, 64, 3)
    assert load(large, "?side=128").train_images.shape[1:] == (128, 128, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_files_go_through_the_one_decoder(tmp_path, fit):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4}, (30, 20), "RGBA")
    dataset = load(root, f"?side=16&fit={fit}&ground=%23102030")
    form = ImageForm(16, 16, 3, fit, (16, 32, 48))
    assert dataset.form == form
    for index, name in enumerate(dataset.train_names):
        assert np.array_equal(dataset.train_images[index], decode((root / name).read_bytes(), form).image)


# -- what is noticed


def test_unreadable_files_are_listed_and_not_fatal(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "000.png").read_bytes()[:100])
    (root / "dog" / "a.txt").write_text("notes")
    (root / "dog" / ".hidden.png").write_bytes(b"")
    (root / "dog" / "below").mkdir()
    (root / "README.md").write_text("pets")
    (root / "loose.png").write_bytes((root / "cat" / "000.png").read_bytes())
    dataset = load(root)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 20
    found = kinds(dataset)
    assert sorted(found["unreadable"]) == ["cat/cut.png", "cat/empty.png"] and found["no class"] == ["loose.png"]
    assert found["nested folder"] == ["dog/below"] and sorted(found["ignored"]) == [
        "README.md",
        "dog/.hidden.png",
        "dog/a.txt",
    ]


def test_classes_without_readable_images_are_left_out(tmp_path):
    root = folder(tmp_path / "pets", {"ant": 0, "bee": 2, "cat": 4, "dog": 4})
    for path in (root / "bee").iterdir():
        path.write_bytes(b"broken")
    dataset = load(root)
    assert dataset.classes == ("cat", "dog") and dataset.train_labels.max() == 1
    assert kinds(dataset)["empty class"] == ["ant", "bee"]


def test_classes_of_one_split_alone_are_said(tmp_path):
    root = tmp_path / "pets"
    folder(root / "train", {"cat": 4, "dog": 4, "ant": 1})
    folder(root / "test", {"cat": 2, "bee": 1})
    dataset = load(root)
    assert dataset.classes == ("ant", "bee", "cat", "dog")
    assert kinds(dataset)["no training images"] == ["bee"] and kinds(dataset)["no test images"] == ["ant", "dog"]


def test_duplicates_within_and_across_splits_by_bytes_and_by_pixels(tmp_path):
    root = tmp_path / "pets"
    folder(root / "train", {"cat": 4, "dog": 4})
    folder(root / "test", {"cat": 2, "dog": 2})
    shutil.copy(root / "train" / "cat" / "000.png", root / "train" / "cat" / "same.png")
    Image.open(root / "train" / "cat" / "001.png").save(root / "test" / "dog" / "saved.bmp")
    found = [problem for problem in store.problems(load(root)) if problem["kind"] == "duplicate"]
    first, second = sorted(found, key=lambda group: group["file"])
    assert [image["name"] for image in first["images"]] == ["train/cat/000.png", "train/cat/same.png"]
    assert (first["same_bytes"], first["across_splits"], first["labels_differ"]) == (True, False, False)
    assert [image["name"] for image in second["images"]] == ["train/cat/001.png", "test/dog/saved.bmp"]
    assert (second["same_bytes"], second["across_splits"], second["labels_differ"]) == (False, True, True)
    assert [image["label"] for image in second["images"]] == ["cat", "dog"]


def test_links_pipes_and_devices_are_listed_and_never_opened(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    outside = folder(tmp_path / "elsewhere", {"x": 3})
    (root / "cat" / "link.png").symlink_to(outside / "x" / "000.png")
    (root / "cat" / "inside.png").symlink_to(root / "dog" / "000.png")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "linked").symlink_to(outside / "x")
    os.mkfifo(root / "dog" / "pipe.png")
    dataset = load(root)
    assert dataset.classes == ("cat", "dog") and len(dataset.train_labels) + len(dataset.test_labels) == 8
    assert sorted(kinds(dataset)["link"]) == ["cat/inside.png", "cat/link.png", "cat/loop.png", "linked"]
    assert kinds(dataset)["no file"] == ["dog/pipe.png"]


HOSTILE = [
    "<script>alert(1)</script>".replace("/", "⁄"),
    "![x](http:⁄⁄evil.example⁄p.png)",
    "\"quoted\" and 'single'",
    "two\nlines\r",
    "=cmd|'calc'!A1",
    "ünïcodé 猫",
    "a" * 255,
    "\u202egnp.tac",
    "-rf",
    "{0} %s $HOME",
]


def test_names_of_any_kind_are_classes_and_print_on_one_line(tmp_path):
    root = folder(tmp_path / "odd", {name: 2 for name in HOSTILE})
    not_utf8 = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(not_utf8)
    for number in (1, 2):
        picture(900 + number).save(root / "x.png")
        os.rename(root / "x.png", not_utf8 + b"/\xff%d.png" % number)
    dataset = load(root)
    assert len(dataset.classes) == len(HOSTILE) + 1 and "caf\\xe9" in dataset.classes
    assert set(map(printable, HOSTILE)) < set(dataset.classes)
    for text in (*dataset.classes, *dataset.train_names, *dataset.test_names):
        text.encode()  # no halves of characters
        assert "\n" not in text and "\u202e" not in text
    assert any(name == "caf\\xe9/\\xff1.png" for name in (*dataset.train_names, *dataset.test_names))
    assert load(root).fingerprint == dataset.fingerprint and store.changes(dataset.name, dataset.fingerprint) == []


def test_two_classes_that_print_alike_are_told_apart(tmp_path):
    dataset = load(folder(tmp_path / "odd", {"a\nb": 2, "a\\x0ab": 2}))
    assert sorted(dataset.classes) == ["a\\x0ab", "a\\x0ab (2)"]


@pytest.mark.slow
def test_ten_thousand_classes(tmp_path):
    root, buffer = tmp_path / "many", io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "bmp")
    header = buffer.getvalue()[:-64]  # of all; 64 grey pixels follow, and no two images are alike
    for number in range(10_000):
        (root / f"c{number}").mkdir(parents=True)
        for half in range(2):
            pixels = bytearray(64 * [number % 251])
            pixels[8 * (number // 251 % 8) + half] = number // 251
            (root / f"c{number}" / f"{half}.bmp").write_bytes(header + pixels)
    dataset = load(root)
    assert len(dataset.classes) == 10_000 and len(dataset.train_labels) == len(dataset.test_labels) == 10_000
    assert np.bincount(dataset.train_labels).tolist() == [1] * 10_000


# -- what is refused


def test_what_is_no_folder_of_classes_is_said(tmp_path, data):
    cases = {
        "nowhere": lambda root: None,
        "file": lambda root: root.write_text("x"),
        "empty": lambda root: root.mkdir(),
        "loose": lambda root: (
            shutil.move(folder(root, {"cat": 2}) / "cat" / "000.png", root) and shutil.rmtree(root / "cat")
        ),
        "one": lambda root: folder(root, {"cat": 5}),
        "none": lambda root: folder(root, {"cat": 0, "dog": 0}),
        "singles": lambda root: folder(root, {"cat": 1, "dog": 1}),
        "deep": lambda root: folder(root / "inner" / "more", {"cat": 3, "dog": 3}),
        "broken": lambda root: [p.write_bytes(b"?") for p in folder(root, {"cat": 3, "dog": 3}).rglob("*.png")],
    }
    said = {
        "nowhere": "There is no folder",
        "file": "is a file, not a folder",
        "empty": "has no class folders",
        "loose": "only 1 image in none",
        "one": "only one class, «cat»",
        "none": "hold no images",
        "singles": "no class has two images",
        "deep": "perhaps .*/deep/inner",
        "broken": "no image that can be read.*cat/000.png",
    }
    for case, make in cases.items():
        make(tmp_path / case)
        with pytest.raises(DataError, match=said[case]) as caught:
            load(tmp_path / case)
        assert str(tmp_path / case) in str(caught.value) and caught.value.remedy
        assert left_behind(data) == [], case


@pytest.mark.parametrize(
    "options, said",
    [
        ("?size=3", "no option size"),
        ("?side=0", "side must be"),
        ("?side=4x99999", "side must be"),
        ("?side=64px", "side must be"),
        ("?fit=zoom", "fit must be one of crop, pad, stretch"),
        ("?ground=red", "ground must be"),
        ("?color=blue", "color must be"),
        ("?test=1", "test must be"),
        ("?test=nan", "test must be"),
        ("?seed=-1", "seed must be"),
        ("?side=8&side=9", "an option twice"),
    ],
)
def test_options_out_of_range_name_themselves(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load(folder(tmp_path / "pets", {"cat": 2, "dog": 2}), options)
    assert "dataset" in caught.value.problems


@pytest.mark.parametrize(
    "text",
    [
        "folder:/a b/c",
        "folder:/a?b/c",
        "folder:/a?side=64?",
        "folder:/ä/=x&y",
        "folder:/a?side=64&fit=pad",
        "folder:a??",
    ],
)
def test_names_come_back_as_they_were(text):
    name = DatasetName.parse(text)
    assert DatasetName.parse(str(name)) == name
    assert DatasetName.parse("folder:/a?side=64?").place == "/a?side=64"
    assert DatasetName.parse("folder:/a?side=64&ground=%23fff000").options == (("side", "64"), ("ground", "#fff000"))


@pytest.mark.parametrize("text", ["folder:", "folder:?side=3", "folder:a\0b", "folder:\udcff"])
def test_names_that_no_place_can_have_are_refused(text):
    with pytest.raises(ConfigError):
        DatasetName.parse(text)


@pytest.mark.parametrize("how", ["grows", "is replaced", "goes away", "becomes a pipe", "becomes a link"])
def test_files_that_change_while_they_are_read_end_it_and_leave_nothing(tmp_path, data, how):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    victim = root / "dog" / "003.png"

    def change(done: int, of: int, left: float | None) -> None:
        if not done:  # after the listing, before the first file
            content = victim.read_bytes()
            victim.rename(tmp_path / "moved.png")
            if how == "grows":
                victim.write_bytes(content + b"more")
            elif how == "is replaced":
                victim.write_bytes(content[::-1])
            elif how == "becomes a pipe":
                os.mkfifo(victim)
            elif how == "becomes a link":
                victim.symlink_to(tmp_path / "moved.png")  # the same size and time

    with pytest.raises(DataError, match="dog/003.png") as caught:
        load(root, "?side=8", change)
    assert isinstance(caught.value, sources.ChangedError) and left_behind(data) == []


@pytest.mark.parametrize("gone", ["a file", "a class"])
def test_what_goes_away_while_the_folder_is_listed_is_named(tmp_path, data, monkeypatch, gone):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    real = os.scandir

    def scandir(path):
        entries = real(path)
        if path == str(root / "dog") and gone == "a file":
            (root / "dog" / "002.png").unlink()  # the system may have said its name by now
            return contextlib.nullcontext([Vanished(str(root / "dog" / "002.png")), *entries])
        if path == str(root / "dog"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(sources.ChangedError, match="dog(/002.png)? went away while the folder was being listed"):
        load(root)
    assert left_behind(data) == []


class Vanished:
    """An entry of a folder whose file is gone when it is looked at."""

    def __init__(self, path: str):
        self.path, self.name = path, os.path.basename(path)

    def stat(self, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(self.path)


ENDED = """
import sys, time
from pathlib import Path
from engine.__main__ import console
from engine.datasets import decoding
decode, name, begun, go_on = decoding.decode, *sys.argv[1:]
def slow(content, form):
    Path(begun).touch()
    while not Path(go_on).exists():
        time.sleep(0.01)
    return decode(content, form)
decoding.decode = slow
sys.argv = ["engine", "data", name]
console()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_preparation_that_is_told_to_end_leaves_nothing(tmp_path, data, how, code):
    root = folder(tmp_path / "pets", {"cat": 200, "dog": 200}, (8, 8))
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    command = [sys.executable, "-c", ENDED, f"folder:{root}", str(begun), str(go_on)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not begun.exists():
        assert process.poll() is None, process.communicate()
    assert len(left_behind(data)) == 1
    process.send_signal(how)
    go_on.touch()
    out, error = process.communicate()
    assert process.returncode == code and out == "" and "Traceback" not in error
    assert left_behind(data) == []


FULL = """
import resource, sys
from engine.__main__ import console
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # no file may be larger: as a full disk, or a quota
sys.argv = ["engine", "data", sys.argv[1]]
console()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", pytest.param("arrays", marks=pytest.mark.slow)])
def test_a_disk_that_fills_while_it_is_written_is_said_and_nothing_stays(tmp_path, data, kind):
    root = folder(tmp_path / "pets", {"cat": 50, "dog": 50})
    np.savez(tmp_path / "x.npz", images=np.zeros((200, 16, 16), np.uint8), labels=np.arange(200) % 2)
    name = f"folder:{root}" if kind == "folder" else f"arrays:{tmp_path / 'x.npz'}"
    done = subprocess.run([sys.executable, "-c", FULL, name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "No space left to write" in done.stderr and "REPLAY_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr and left_behind(data) == []


def test_a_file_that_cannot_be_read_is_named_and_not_the_disk(tmp_path, data, monkeypatch):
    """An error of the source is none of the folder that is written."""
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})

    def write(self, builder, on_progress) -> None:
        raise OSError(5, "Input/output error", str(root / "cat"))

    monkeypatch.setattr(ImageFolder, "write", write)
    with pytest.raises(DataError, match="pets/cat cannot be read .Input/output error."):
        load(root)
    assert left_behind(data) == []


def test_a_cancelled_preparation_leaves_nothing(tmp_path, data):
    root = folder(tmp_path / "pets", {"cat": 40, "dog": 40})
    seen = []

    def cancel(done: int, of: int, left: float | None) -> None:
        seen.append((done, of, left))
        if done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        load(root, "", cancel)
    assert left_behind(data) == [] and seen[0] == (0, 80, None)
    watched = []
    load(root, "", lambda *progress: watched.append(progress))
    assert watched[0] == (0, 80, None) and watched[-1][:2] == (80, 80) and watched[-1][2] == 0
    assert [done for done, _, _ in watched] == sorted({done for done, _, _ in watched})


def test_a_full_disk_is_said_before_anything_is_decoded(tmp_path, data, monkeypatch):
    from engine.datasets import decoding

    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    monkeypatch.setattr(decoding, "disk_free", lambda path: 1000)
    with pytest.raises(StorageError, match="MB are free"):
        load(root)
    assert left_behind(data) == []


def test_read_only_mode_uses_what_is_prepared_and_prepares_nothing(tmp_path, data, monkeypatch):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    with pytest.raises(ReadOnlyError):
        load(root)
    assert not data.exists()
    monkeypatch.delenv("REPLAY_READ_ONLY")
    prepared = load(root)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    assert load(root).fingerprint == prepared.fingerprint


# -- found again


class Watched:
    """Counts how many files are decoded."""

    def __init__(self):
        self.of = 0

    def __call__(self, done: int, of: int, left: float | None) -> None:
        self.of = of


def test_a_second_look_decodes_nothing_and_a_touch_neither(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    first, second, third = Watched(), Watched(), Watched()
    fingerprint = load(root, "", first).fingerprint
    assert load(root, "", second).fingerprint == fingerprint
    for path in root.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert load(root, "", third).fingerprint == fingerprint
    assert (first.of, second.of, third.of) == (8, 0, 0)


@pytest.mark.parametrize("how", ["content of the same size", "new", "gone", "renamed class", "an ignored link"])
def test_a_changed_folder_is_prepared_anew_and_the_changes_named(tmp_path, how):
    root = folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    before = load(root, "?side=8")
    old = np.array(before.train_images)
    path = root / before.train_names[0]
    if how == "content of the same size":
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path, compress_level=0)
        size = path.stat().st_size
        load(root, "?side=8")
        image = np.array(Image.open(path))
        image[0, 0] ^= 255
        Image.fromarray(image).save(path, compress_level=0)
        assert path.stat().st_size == size
        expected = [f"{before.train_names[0]} has another content"]
    elif how == "new":
        picture(77).save(root / "cat" / "new.png")
        expected = ["cat/new.png is new"]
    elif how == "gone":
        path.unlink()
        expected = [f"{before.train_names[0]} is gone"]
    elif how == "renamed class":
        (root / "cat").rename(root / "tiger")
        expected = None
    else:
        (root / "cat" / "l.png").symlink_to("000.png")
        expected = []
    watched = Watched()
    after = load(root, "?side=8", watched)
    assert watched.of > 0
    if expected == []:
        assert after.fingerprint == before.fingerprint and kinds(after)["link"] == ["cat/l.png"]
    else:
        assert after.fingerprint != before.fingerprint
        lines = store.changes(after.name, before.fingerprint)
        assert lines == expected if expected else lines[-1] == "and 7 more files" and len(lines) == 6
    assert np.array_equal(before.train_images, old)  # who holds the data set from before keeps it
    assert store.changes(after.name, "0" * 64) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: (f / "train_images.npy").write_bytes((f / "train_images.npy").read_bytes()[:-1] + b"\xff"),
        lambda f: (f / "names.json").write_text("{"),
        lambda f: (f / "test_labels.npy").unlink(),
        lambda f: (f / "prepared.json").write_text("[]"),
        lambda f: (f / "prepared.json").unlink(),
    ],
)
def test_what_was_damaged_is_made_anew(tmp_path, data, harm):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    dataset = load(root)
    harm(dataset.folder)
    watched = Watched()
    assert load(root, "", watched).fingerprint == dataset.fingerprint and watched.of == 8
    assert left_behind(data) == [dataset.folder.name]


def test_deleting_frees_the_prepared_files_and_no_other(tmp_path, data):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    one, other = load(root), load(root, "?side=8")
    sizes = sum(path.stat().st_size for path in one.folder.rglob("*") if path.is_file())
    assert store.delete(one.name) == sizes and left_behind(data) == [other.folder.name]
    assert len(list(root.rglob("*.png"))) == 8 and store.delete(one.name) == 0


def test_what_a_process_that_died_long_ago_left_of_another_data_set_goes(tmp_path, data):
    old, young = data / ".tmp-other-1", data / ".tmp-other-2"
    for path in (old, young):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(folder(tmp_path / "pets", {"cat": 4, "dog": 4}))
    assert not old.exists() and young.exists(), "a young one may belong to a living process"


def test_a_linked_folder_of_prepared_files_is_not_followed(tmp_path, data):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    dataset = load(root)
    elsewhere = tmp_path / "elsewhere"
    dataset.folder.rename(elsewhere)
    dataset.folder.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="link"):
        store.delete(dataset.name)
    assert (elsewhere / "prepared.json").exists() and dataset.folder.is_symlink(), "nothing was moved"


PREPARE = """
import sys
from engine.datasets import store
from engine.datasets.image_folder import ImageFolder
from engine.datasets.names import DatasetName
decoded = []
dataset = store.load(ImageFolder(DatasetName.parse(sys.argv[1])), lambda done, of, left: decoded.append(done))
print(dataset.fingerprint, max(decoded, default=0), "torch" in sys.modules)
"""


def test_two_processes_prepare_it_once(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 200, "dog": 200})
    command = [sys.executable, "-c", PREPARE, f"folder:{root}"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate()[0].split() for process in both]
    assert results[0][0] == results[1][0] and sorted(int(result[1]) for result in results) == [0, 400]
    assert all(result[2] == "False" for result in results), "torch was loaded"


def test_a_killed_preparation_is_swept_by_the_next(tmp_path, data):
    root = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    code = PREPARE.replace("decoded.append(done)", "__import__('os').kill(__import__('os').getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", code, f"folder:{root}"], cwd=ROOT)
    assert killed.returncode == -9 and len(left_behind(data)) == 1 and left_behind(data)[0].startswith(".tmp-")
    dataset = load(root)
    assert left_behind(data) == [dataset.folder.name]


def test_two_threads_get_one_data_set(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 50, "dog": 50})
    results: list[object] = []

    def work() -> None:
        try:
            results.append(load(root).fingerprint)
        except ReplayError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1 and isinstance(results[0], str)


def test_prepared_files_may_be_read_by_others(tmp_path):
    dataset = load(folder(tmp_path / "pets", {"cat": 4, "dog": 4}))
    assert stat.S_IMODE(dataset.folder.stat().st_mode) == 0o777 & ~_umask()


def _umask() -> int:
    os.umask(mask := os.umask(0o022))
    return mask


@pytest.mark.slow
def test_a_real_folder_with_what_real_folders_have(tmp_path):
    root = emoji(tmp_path / "emoji")
    paths = spoil(root)
    dataset = load(root)
    assert dataset.train_images.shape[1:] == (64, 64, 3) and len(dataset.classes) == 10
    found = kinds(dataset)
    assert sorted(found["unreadable"]) == sorted(paths["broken"])
    groups = [
        {image["name"] for image in problem["images"]}
        for problem in store.problems(dataset)
        if problem["kind"] == "duplicate"
    ]
    for path in (*paths["same"], *paths["turned"]):
        assert any(path in group for group in groups), path
    assert set(paths["moved"]) < {*dataset.train_names, *dataset.test_names}
