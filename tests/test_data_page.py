"""The page Data: adding by path, archive and name, what is shown, what a link may not do, deleting."""

import io
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from engine.datasets import archive, preparing, registry, store
from engine.datasets.names import DatasetName
from engine.errors import CancelledError, ConfigError, DataError, ReadOnlyError, ReplayError
from tests.helpers import button, said, show, sound, tiles
from tests.images import folder
from ui import pictures

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(preparing, "preparations", preparing.Preparations())
    registry.clear()
    return tmp_path / "data" / "prepared"


@pytest.fixture
def pets(tmp_path) -> Path:
    root = folder(tmp_path / "pets", {"cat": 20, "<b>dog<b> ![x](http:⁄⁄evil.example)": 20})
    (root / "cat" / "broken.png").write_bytes(b"no")
    shutil.copy(root / "cat" / "000.png", root / "cat" / "same.png")
    return root


def finish() -> None:
    for preparation in preparing.preparations.all():
        assert preparation.finished.wait(60)


def shown(app) -> str:
    return "\n".join(element.value for kind in (app.markdown, app.caption, app.header) for element in kind)


def test_a_folder_is_added_by_its_path_and_shown(pets):
    app = show("pages/Data.py")
    app.text_input[0].set_value(str(pets)).run()
    sound(button(app, "Add").click().run())
    finish()
    app = sound(app.run())
    name = f"folder:{pets}"
    assert app.selectbox(key="data-choice").value == name and app.query_params["data"] == name
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["Training images"] == "33" and metrics["Pixels"] == "12 × 10" and metrics["Colour"] == "RGB"
    titles = [expander.label for expander in app.expander]
    assert "Files that cannot be read: 1" in titles and "Images that are the same: 1" in titles
    drawn = tiles(app, "data-samples")
    assert len(drawn) == 24 and dict(drawn[0]["details"])["File"].endswith(".png")
    assert {tile["lines"][0] for tile in tiles(app, "data-duplicates")} == {"group 1"}
    assert "![x]" not in shown(app) and "<b>" not in shown(app)


def test_options_of_the_form_are_options_of_the_name(pets):
    app = show("pages/Data.py")
    app.text_input[0].set_value(str(pets)).run()
    next(t for t in app.text_input if t.label == "Side in pixels").set_value("16x8").run()
    next(s for s in app.selectbox if s.label == "Fit").set_value("pad").run()
    sound(button(app, "Add").click().run())
    finish()
    app = sound(app.run())
    assert app.selectbox(key="data-choice").value == f"folder:{pets}?side=16x8&fit=pad"


def test_a_class_that_is_called_all_classes_is_not_all_of_them(tmp_path):
    name = f"folder:{folder(tmp_path / 'odd', {'All classes': 12, 'cat': 12})}"
    registry.load(name)
    app = show("pages/Data.py", data=name)
    (choice,) = [box for box in app.selectbox if box.label == "Class"]
    every, called_so, cat = choice.options
    assert called_so == "All classes" != every and every.strip("\u2060") == "All classes" and cat == "cat"
    assert {dict(tile["details"])["Label"] for tile in tiles(app, "data-samples")} == {"All classes", "cat"}
    app = sound(choice.select(called_so).run())
    assert {dict(tile["details"])["Label"] for tile in tiles(app, "data-samples")} == {"All classes"}


@pytest.mark.parametrize(
    "place, said_of_it", [("/nowhere/at/all", "There is no folder"), ("", None), ("x" * 300, "There is no folder")]
)
def test_what_cannot_be_added_is_said(place, said_of_it):
    app = show("pages/Data.py")
    app.text_input[0].set_value(place).run()
    if said_of_it is None:
        assert button(app, "Add").disabled
        return
    button(app, "Add").click().run()
    finish()
    assert said_of_it in said(sound(app.run()))


def test_a_link_makes_the_server_read_nothing(pets, data, tmp_path):
    for page, parameter in (("pages/Data.py", "data"), ("pages/Set_up_a_run.py", "dataset")):
        app = show(page, **{parameter: f"folder:{pets}"})
        assert "does not exist here" in said(app) and not data.exists()


def test_progress_and_cancelling(pets, data, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(name: str, on_progress) -> object:
        on_progress(1, 4, 3.0)
        begun.set()
        assert go_on.wait(60)
        on_progress(2, 4, 2.0)
        raise AssertionError("not cancelled")

    monkeypatch.setattr(registry, "reload", slow)
    preparation = preparing.add(f"folder:{pets}")
    assert preparing.add(f"folder:{pets}") is preparation and begun.wait(60)
    app = show("pages/Data.py")
    (bar,) = [element for element in app.main.get("progress")]
    assert bar.proto.value == 25 and bar.proto.text == "1 of 4, 3 s left"
    sound(button(app, "Cancel").click().run())
    go_on.set()
    assert preparation.finished.wait(60) and isinstance(preparation.error, CancelledError)
    app = sound(app.run())
    assert "was cancelled" in said(app)
    sound(button(app, "Dismiss").click().run())
    assert preparing.preparations.all() == []


def test_an_error_that_nobody_foresaw_is_shown_with_its_traceback(pets, monkeypatch):
    monkeypatch.setattr(registry, "reload", lambda name, on_progress: 1 / 0)
    preparation = preparing.add(f"folder:{pets}")
    assert preparation.finished.wait(60) and "ZeroDivisionError" in preparation.details
    assert "ZeroDivisionError" in said(show("pages/Data.py"))


def archive_of(root: Path) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(root.rglob("*.png")):
            packed.write(path, Path("pets") / path.relative_to(root))
    buffer.seek(0)
    return buffer


def test_an_archive_becomes_a_folder(pets):
    preparation = preparing.add_archive(archive_of(pets), "my pets.zip", (("side", "8"),))
    assert preparation.finished.wait(60) and preparation.error is None
    dataset = registry.load(preparation.name)
    assert dataset.image_shape == (8, 8, 3) and dataset.sizes.n_train == 33
    assert dataset.fingerprint == registry.load(f"folder:{pets}?side=8").fingerprint
    with pytest.raises(ConfigError, match="side must be"):
        preparing.add_archive(archive_of(pets), "my pets.zip", (("side", "no"),))


def test_two_archives_of_one_name_are_two_data_sets(pets, tmp_path, monkeypatch):
    other = folder(tmp_path / "others", {"bird": 10, "fish": 10})
    hold, unpack = threading.Event(), archive.unpack

    def held(file, name, on_progress):
        assert hold.wait(60)
        return unpack(file, name, on_progress)

    monkeypatch.setattr(archive, "unpack", held)
    both = [preparing.add_archive(archive_of(root), "data.zip", ()) for root in (pets, other)]
    hold.set()
    assert all(preparation.finished.wait(60) for preparation in both)
    assert registry.load(both[1].name).classes == ("bird", "fish") and both[0].name != both[1].name


@pytest.mark.parametrize("members", [{"cat/1.png": b"no image", "dog/1.png": b"none"}, {"a/inner.zip": b"PK"}])
def test_an_archive_that_makes_no_data_set_leaves_nothing(members, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    preparation = preparing.add_archive(buffer, "x.zip", ())
    assert preparation.finished.wait(60) and isinstance(preparation.error, DataError)
    left = [path for path in data.parent.rglob("*") if path.parent.parent == data.parent]
    assert all(path.name.startswith(".lock-") for path in left), left


def test_who_asked_for_it_is_taken_there_and_others_are_told(pets):
    mine, theirs = show("pages/Data.py"), show("pages/Data.py")
    mine.text_input[0].set_value(str(pets)).run()
    button(mine, "Add").click().run()
    finish()
    theirs = sound(theirs.run())
    assert theirs.selectbox(key="data-choice").value != f"folder:{pets}" and "It is ready" in shown(theirs)
    assert sound(mine.run()).selectbox(key="data-choice").value == f"folder:{pets}"
    assert "It is ready" not in shown(sound(theirs.run()))


def test_training_images_are_shown_augmented():
    def bodies(app) -> str:
        return "".join(html.body for html in sound(app).get("html"))

    app = show("pages/Data.py", data="fashion-mnist-sample")
    assert "as epoch 1 shows it" not in bodies(app)
    app.multiselect(key="data-augment").set_value(["crop", "rotate"]).run()
    shown_first = bodies(app)
    assert ", as epoch 6 shows it to the model" in shown_first
    app.number_input(key="data-augment-rotate").set_value(90.0).run()
    assert "as epoch 6" in bodies(app) and bodies(app) != shown_first
    app.number_input(key="data-augment-crop").set_value(30).run()
    assert "leaves nothing of some images" in said(app) and "as epoch 1" not in bodies(app)


def test_read_only_mode_adds_and_deletes_nothing(pets, monkeypatch):
    registry.load(f"folder:{pets}")
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show("pages/Data.py", data=f"folder:{pets}")
    assert button(app, "Add").disabled and button(app, "Look").disabled
    for act in (
        lambda: preparing.add(f"folder:{pets}"),
        lambda: preparing.add_archive(archive_of(pets), "x.zip", ()),
        lambda: registry.delete(f"folder:{pets}"),
    ):
        with pytest.raises(ReadOnlyError):
            act()


def test_prepared_files_are_deleted_and_the_sources_stay(pets, data):
    dataset = registry.load(f"folder:{pets}")
    app = show("pages/Data.py", data=dataset.name)
    sound(button(app, "Delete them").click().run())
    assert "freed" in said(app) and not dataset.folder.exists() and len(list(pets.rglob("*.png"))) == 42
    assert app.selectbox(key="data-choice").value == "fashion-mnist-sample"


def test_what_came_in_an_archive_is_deleted_with_the_last_that_is_made_of_it(pets, data):
    for options in ((), (("side", "8"),)):
        assert preparing.add_archive(archive_of(pets), "pets.zip", options).finished.wait(60)
    first, second = (one.name for one in store.prepared_sets())
    place = Path(DatasetName.parse(first).place)
    for name, is_left in ((first, True), (second, False)):
        app = show("pages/Data.py", data=name)
        sound(button(app, "Delete them").click().run())
        assert place.is_dir() == is_left and "freed" in said(app)
    assert preparing.add_archive(archive_of(pets), "pets.zip", ()).finished.wait(60)
    assert store.is_prepared(first), "the same archive is the same data set"


def test_a_changed_folder_is_looked_at_again(pets):
    before = registry.load(f"folder:{pets}")
    (pets / "cat" / "001.png").unlink()
    assert registry.load(f"folder:{pets}") is before
    app = show("pages/Data.py", data=before.name)
    sound(button(app, "Look at its files again").click().run())
    finish()
    sound(app.run())
    after = registry.load(f"folder:{pets}")
    assert after.sizes.n_train + after.sizes.n_test == before.sizes.n_train + before.sizes.n_test - 1
    assert registry.changes(before.name, before.fingerprint) == " cat/001.png is gone."
    last = before.sizes.n_train - 1  # a page that began with the folder as it was is drawn to its end
    assert pictures.image_url(before, "train", last) == pictures.data_url(before.train_images[last])
    assert before.file_name("train", last) in pictures.alt(before, "train", last)


def test_a_run_is_set_up_with_it(pets):
    dataset = registry.load(f"folder:{pets}")
    app = show("pages/Set_up_a_run.py", dataset=dataset.name)
    assert app.selectbox(key="set-dataset").value == dataset.name
    assert [prepared.name for prepared in store.prepared_sets()] == [dataset.name]


def test_a_run_whose_data_are_not_prepared_here_says_so(pets):
    from ui import pictures

    with pytest.raises(DataError, match="not prepared on this machine"):
        pictures.dataset(f"folder:{pets}")
    assert not isinstance(registry.problem(str(DatasetName("folder", str(pets)))), ReplayError)
