"""*Triage*: a whole queue with the keyboard alone, what comes of it, and what the page says where there is nothing."""

import csv
import dataclasses
import itertools
import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from engine import files
from engine.analysis import duplicates, labels_file, suspects
from engine.datasets import corrected, store
from engine.datasets import registry as datasets
from engine.jobs import execute as work
from engine.jobs.duplicates import FindDuplicates
from engine.runs import corrections, notes
from engine.runs import run as runs
from engine.runs.corrections import EXCLUDED, Decision
from tests import quick as quick_data
from tests.app import server
from tests.helpers import download, drawn, idle, said, settled, show, tab_is_sound, wait_until
from tests.made_up import run_of
from tests.test_browser import violations
from ui import shell

CLASSES = ("-rf", "=cmd", *"abcdefgh", "two words")  # eleven: more than there are keys, in the order of their bytes
EACH = 8
MADE = "one", "few"  # the runs of the fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained run on a folder of 88 images with odd names, one that cannot be read and one that is there twice."""
    root = tmp_path_factory.mktemp("triage")
    rng = np.random.default_rng(3)
    for number, name in enumerate(CLASSES):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(EACH):
            pixels = np.clip(20 * number + rng.integers(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            file = {0: "--force.png", 1: "new\nline.png", 2: "=1+1.png"}.get(i, f"{i}.png")
            Image.fromarray(pixels).save(root / "photos" / name / file)
    (root / "photos" / "a" / "broken.png").write_bytes(b"no picture")
    (root / "photos" / "b" / "again.png").write_bytes((root / "photos" / "a" / "7.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLAY_DATA_DIR", str(root / "data"))
        datasets.clear()
        name = datasets.load(datasets.canonical(f"folder:{root / 'photos'}?test=0.25")).name
        run = runs.Run.create(runs.outputs_root(root / "outputs"), quick_data.CONFIG.replace(dataset=name), "one")
        with run.lock():
            work.execute(run)
        few = datasets.canonical(quick_data.arrays(root / "few.npz"))
        run_of(run.root, "few", {}, quick_data.CONFIG.replace(dataset=few))
    return root


@pytest.fixture
def run(made, monkeypatch) -> runs.Run:
    """The run as it was trained, with nothing decided."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(made / "data"))
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(made / "outputs"))
    run = runs.Run.open(made / "outputs", "one")
    for name in (corrections.NAME, "notes.json"):
        (run.path / name).unlink(missing_ok=True)
    return run


class Pressed:
    """What the keys should have done, by another way than the page's: a list of all that was so, to go back in."""

    def __init__(self, run: runs.Run, source: str, most: int):
        record = run.manifest()
        self.dataset = datasets.load(record.config.dataset)
        self.queue = [s.index for s in suspects.queue(record, self.dataset, source, None, most)]
        self.model = record.train_logits().argmax(1)
        self.at, self.states = 0, [({}, frozenset())]
        self.places: list[int] = []
        self.looked: set[int] = set()

    def key(self, key: str) -> None:
        image, (decided, ticked) = self.queue[self.at], self.states[-1]
        given, last = int(self.dataset.train_labels[image]), len(self.queue) - 1
        chosen: Decision = {"x": EXCLUDED, "a": int(self.model[image]), "k": given}.get(key)
        if key.isdigit() and key != "0":
            chosen = int(key) - 1
        if key == "n":
            self.looked.add(self.at)
            self.at = min(self.at + 1, last)
        elif key == "p":
            self.at = max(self.at - 1, 0)
        elif key == " ":
            self._keep((decided, ticked ^ {image}))
        elif key == "u":
            self._undo()
        elif key == "x" and decided.get(image) == EXCLUDED:
            self._decide(image, None)
        else:
            self._decide(image, None if chosen == given else chosen)
            self.at = min(self.at + 1, last)

    def choose(self, label: int) -> None:
        """One of all classes, by its name."""
        image = self.queue[self.at]
        self._decide(image, None if label == self.dataset.train_labels[image] else label)
        self.at = min(self.at + 1, len(self.queue) - 1)

    def _decide(self, image: int, chosen: Decision) -> None:
        decided, ticked = self.states[-1]
        after = {i: d for i, d in {**decided, image: chosen}.items() if d is not None}
        newly = self.at not in self.looked
        if after != decided or newly:
            self._keep((after, ticked), newly)
        self.looked.add(self.at)

    def _keep(self, state, newly: bool = False) -> None:
        self.states.append(state)
        self.places.append((self.at, newly))

    def _undo(self) -> None:
        if not self.places:
            return
        place, newly = self.places.pop()
        self.states.pop()
        if newly:
            self.looked.discard(place)
        self.at = place

    def is_kept(self, run: runs.Run) -> bool:
        decided, ticked = self.states[-1]
        both = corrections.read(run)
        return ({**both.labels, **dict.fromkeys(both.excluded, EXCLUDED)}, set(notes.read(run).ticked)) == (
            decided,
            set(ticked),
        )


def opened(tab: Page, url: str, query: str = "", run: str = "one") -> None:
    tab.goto(f"{url}/Triage?run={run}{query}")
    settled(tab, "Triage")
    idle(tab)
    expect(tab.locator(".triage .facts")).to_be_visible()


class Late:
    """A browser that hears of another page late. From `begin` on, what the server says waits until it has drawn
    another page, and the browser, which does not know it, has asked twice for a part of the one that it shows."""

    def __init__(self, tab: Page):
        self.waiting: list[bytes] = []
        self.pages: list[str] = []  # of each page, or part of one, that the server began to draw meanwhile
        self.on, self.asked = False, 0
        tab.route_web_socket(lambda url: url.startswith("ws"), self._between)

    def begin(self) -> None:
        self.on = True

    def _between(self, browser: WebSocketRoute) -> None:
        server = browser.connect_to_server()
        drawn = False  # the other page, whole

        def ask(message: str | bytes) -> None:
            by_itself = isinstance(message, bytes) and BackMsg.FromString(message).rerun_script.is_auto_rerun
            if not self.on or not by_itself:
                server.send(message)
            elif drawn:
                self.asked += 1
                server.send(message)
                if self.asked == 2:
                    self.on = False
                    for each in self.waiting:
                        browser.send(each)

        def say(message: str | bytes) -> None:
            nonlocal drawn
            if not self.on or not isinstance(message, bytes):
                browser.send(message)
                return
            self.waiting.append(message)
            said = ForwardMsg.FromString(message)
            if said.WhichOneof("type") == "new_session":
                self.pages.append(said.new_session.page_script_hash)
            drawn = drawn or said.WhichOneof("type") == "script_finished" and len({*self.pages}) > 1

        browser.on_message(ask)
        server.on_message(say)


def serious(tab: Page) -> list[str]:
    return [each for theme in ("light", "dark") for each in violations(tab, theme)]


def press(tab: Page, pressed: Pressed, keys: str) -> None:
    for key in keys:
        tab.keyboard.press("Space" if key == " " else key)
        pressed.key(key)


def test_a_whole_queue_with_the_keyboard_alone(page, run, made):
    pressed = Pressed(run, "loss", 50)
    classes = pressed.dataset.classes
    assert classes == CLASSES
    with server(made / "outputs", page) as (url, _):
        opened(page, url, "&queue=loss&most=50")
        card = page.locator(".triage")
        expect(card.locator("h2")).to_have_text(f"train:{pressed.queue[0]}")
        expect(card.locator(".count")).to_have_text("1 of 50 · 0 of 50 looked at")
        expect(card.locator(".alike img").first).to_be_visible()

        # All of it, at the speed of a machine, with every key there is.
        keys = random.Random(5)
        press(page, pressed, "3x n kax x u")
        page.keyboard.press("0")
        expect(card.get_by_role("combobox")).to_be_focused()
        page.keyboard.type("TWO w")
        page.keyboard.press("Enter")
        pressed.choose(classes.index("two words"))
        while pressed.at < 49 or len(pressed.looked) < 50:
            press(page, pressed, keys.choice("123456789xkan nnnp u"))
            if pressed.at == 49:
                press(page, pressed, "n")
                break
        wait_until(lambda: pressed.is_kept(run), page)
        wait_until(lambda: len(corrections.read_record(run).looked_at) == len(pressed.looked), page)
        expect(card.locator(".count")).to_have_text(f"{pressed.at + 1} of 50 · {len(pressed.looked)} of 50 looked at")
        expect(card.locator("h2")).to_have_text(f"train:{pressed.queue[pressed.at]}")
        assert len(corrections.read(run)) > 5 and notes.read(run).ticked

        # Kept over a reload, and undone from there to the first.
        page.reload()
        idle(page)
        expect(card.locator(".count")).to_contain_text(f"{len(pressed.looked)} of 50 looked at")
        whole = corrections.read(run)
        steps = len(corrections.read_record(run).history)
        assert steps == len(pressed.places)
        for _ in range(steps):
            page.keyboard.press("u")
        wait_until(lambda: not corrections.read_record(run).history, page)
        assert corrections.read(run) == corrections.Corrections() and not notes.read(run).ticked
        page.keyboard.press("u")
        expect(card.get_by_role("status")).to_have_text("There is nothing to undo.")

        # Two tabs: what the other decided is not overwritten, and is said.
        corrections.write(run, whole)
        opened(page, url, "&queue=loss&most=50&image=" + str(pressed.queue[0]))
        other = page.context.new_page()
        opened(other, url, "&queue=loss&most=50&image=" + str(pressed.queue[0]))
        other.keyboard.press("x")
        wait_until(lambda: pressed.queue[0] in corrections.read(run).excluded, other)
        page.bring_to_front()
        page.keyboard.press("1" if classes[0] != classes[pressed.dataset.train_labels[pressed.queue[0]]] else "2")
        expect(card.get_by_role("status")).to_contain_text("in another tab meanwhile")
        assert pressed.queue[0] in corrections.read(run).excluded
        other.close()

        # The table, and back from it.
        idle(page)
        decided = corrections.read(run)
        file = download(page, page.get_by_role("button", name="labels.csv", exact=True))
        content = file.path().read_bytes()
        rows = list(csv.DictReader(content.decode().splitlines(keepends=True)))
        assert len(rows) == len(decided) and not any(v[:1] in "=-+@" for row in rows for v in row.values() if v)
        assert labels_file.read(content, pressed.dataset) == {
            **decided.labels,
            **dict.fromkeys(decided.excluded, EXCLUDED),
        }
        assert serious(page) == []

        # The file is chosen, one that does not fit is refused, and one key takes all of it back.
        corrections.write(run, corrections.Corrections({}, frozenset({pressed.queue[0]})))
        page.get_by_role("button", name="Read a labels.csv").click()
        for name, table in (("other.csv", b"index,file,new_label\n0,other.png,a\n"), ("labels.csv", content)):
            uploads = page.get_by_test_id("stPopoverBody").locator('input[type="file"]')
            uploads.set_input_files({"name": name, "mimeType": "text/csv", "buffer": table})
            if name == "other.csv":
                expect(page.get_by_text("the file is of other data")).to_be_visible()
                expect(page.get_by_role("button", name="Take it")).to_have_count(0)
        expect(page.get_by_text(f"It decides on {len(decided)} images.")).to_be_visible()
        page.get_by_role("button", name="Take it").click()
        expect(card.get_by_role("status")).to_have_text(f"Taken: {len(decided)} images.")
        assert corrections.read(run).labels == decided.labels and corrections.read(run).excluded >= decided.excluded
        page.keyboard.press("Escape")
        page.keyboard.press("u")
        wait_until(lambda: corrections.read(run).excluded == {pressed.queue[0]}, page)

        # Of three classes, the keys beyond them say so and decide on nothing.
        few = runs.Run.open(run.root, "few")
        opened(page, url, "&queue=loss&most=50", run="few")
        first, labels = card.locator("h2").inner_text(), datasets.load(few.manifest().config.dataset).train_labels
        for key in "490":
            page.keyboard.press(key)
            expect(card.get_by_role("status")).to_have_text(f"There is no class {key}: there are 3.")
            expect(card.locator("h2")).to_have_text(first)
        page.keyboard.press("3")
        image = int(first.removeprefix("train:"))
        wait_until(lambda: corrections.read_record(few).looked_at == {str(image)}, page)
        assert corrections.read(few).labels == {image: 2 for image in [image] if labels[image] != 2}


def test_the_corrections_are_trained_on_and_compared(page, run, made):
    dataset = datasets.load(run.manifest().config.dataset)
    n = len(dataset.train_labels)
    decided = {int(i): 6 for i in np.flatnonzero(dataset.train_labels == 7)}  # so that answers change
    corrections.decide(run, {**decided, 1: EXCLUDED, n - 1: EXCLUDED}, n, len(CLASSES))
    notes.write_name(run, "n" * notes.LONGEST_NAME)
    late = Late(page)
    with server(made / "outputs", page) as (url, _):
        opened(page, url)
        late.begin()
        page.get_by_role("button", name="Train again with these corrections").click()
        wait_until(lambda: late.asked == 2 and not late.on, page)
        assert len([*itertools.groupby(late.pages)]) == 2, "all of *Triage*, then all of *Live* (ui/delivery.py)"
        settled(page, "Live")
        wait_until(lambda: any(_is_new(other) for other in runs.list_runs(run.root)), page)
        (other,) = [each for each in runs.list_runs(run.root) if each.id not in MADE]
        assert notes.name_of(other) == "n" * (notes.LONGEST_NAME - len(", corrected")) + ", corrected"
        opened(page, url)
        result = page.get_by_test_id("stMain")
        expect(result.get_by_role("heading", name="Trained again with corrections")).to_be_visible()
        record = other.manifest()
        expect(page.locator('[data-testid="stMetric"]', has_text="With the corrections")).to_contain_text(
            f"{100 * record.test_accuracy:.1f} %"
        )
        before, after = (each.manifest().test_logits().argmax(1) for each in (run, other))
        right = (after == dataset.test_labels) & (before != dataset.test_labels)
        expect(page.locator('[data-testid="stMetric"]', has_text="Wrong → right")).to_contain_text(f"{right.sum()} of")
        assert (before != after).any(), "there are pictures of what changed"
        idle(page)
        tab_is_sound(page)
        page.set_viewport_size({"width": 390, "height": 844})
        idle(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious(page) == []

        # The folder's command is shown, and nothing was done to the folder.
        page.get_by_role("button", name="Correct the files").click()
        expect(page.locator("code", has_text="--copy-to=")).to_contain_text("--dry-run")

    # It was trained on these very labels.
    labels = datasets.load(record.config.dataset).train_labels
    expected = dataset.train_labels.copy()
    expected[list(decided)] = list(decided.values())
    expected[1] = expected[n - 2]
    assert labels.tolist() == expected[: n - 2].tolist()
    assert record.data_fingerprint == datasets.load(record.config.dataset).fingerprint
    assert corrected.read(record.config.dataset).of == dataset.fingerprint
    assert datasets.load(record.config.dataset).title.endswith(f"corrected: {len(decided)} other labels, 2 left out")


def _is_new(run: runs.Run) -> bool:
    return run.id not in MADE and run.status == "finished"


# -- without a browser


Place = tuple[str, int]  # an image by its split and number


def write_groups(run: runs.Run, dataset) -> None:
    """Groups of each kind, in place of those that were found: of one label, the last with a test image, and of two."""
    of = [np.flatnonzero(dataset.train_labels == c).tolist() for c in range(4)]
    test = len(dataset.train_labels) + int(np.flatnonzero(dataset.test_labels == 1)[0])
    groups = [of[0][:3], [of[1][0], test], [of[2][0], of[3][0]]]
    sizes = [len(group) for group in groups]
    found = duplicates.known(run.manifest(), "pixels")
    assert found is not None
    made = dataclasses.replace(
        found,
        starts=np.cumsum(sizes) - sizes,
        images=np.concatenate(groups),
        distances=np.zeros(sum(sizes)),
    )
    name = duplicates.path_of("pixels")
    run.update_manifest(files={**run.manifest().files, name: files.write_json(run.path / name, made.to_json())})


def groups_of(run: runs.Run) -> list[list[Place]]:
    """Of the images that are alike by pixels, as the file says it."""
    found = json.loads((run.path / duplicates.path_of("pixels")).read_text())
    images, n_train = iter(found["groups"]["images"]), found["images"][0]
    groups = [[next(images) for _ in range(size)] for size in found["groups"]["sizes"]]
    return [[("train", i) if i < n_train else ("test", i - n_train) for i in group] for group in groups]


def by_hand(dataset, groups: list[tuple[Sequence[Place], bool]]) -> list[tuple[int, set[Place], bool]]:
    """Training images of groups to look at, with their twins and whether they are near: of a group in training alone
    whose labels are one, the first needs no look. Groups of two labels come first, and an image comes once."""
    labels = {"train": dataset.train_labels, "test": dataset.test_labels}
    queue: dict[int, tuple[int, set[Place], bool]] = {}
    for two_labels in (True, False):
        for group, near in groups:
            if (len({labels[split][i] for split, i in group}) > 1) == two_labels:
                in_test = [place for place in group if place[0] == "test"]
                train = [i for split, i in group if split == "train"]
                for i in train if two_labels or in_test else train[1:]:
                    queue.setdefault(i, (i, {*group} - {("train", i)}, near))
    return [*queue.values()]


@pytest.mark.slow
def test_what_there_is_to_go_through_and_what_is_said_where_there_is_nothing(run, monkeypatch):
    record, dataset = run.manifest(), datasets.load(run.manifest().config.dataset)
    assert suspects.sources(record, dataset) == ("loss", "harm", "duplicates", "unreadable")
    (unread,) = suspects.queue(record, dataset, "unreadable", None, 10)
    assert unread.item == "file:a/broken.png" and unread.index is None and unread.detail
    show("pages/Triage.py", run="one", queue="duplicates")
    twins = suspects.queue(record, dataset, "duplicates", None, 10)
    assert {dataset.file_name("train", s.index) for s in twins} <= {"a/7.png", "b/again.png"} and twins
    with run.lock():
        work.execute(run, FindDuplicates("pixels", 0.2))
    write_groups(run, dataset)
    nearer = suspects.queue(run.manifest(), dataset, "duplicates", None, 10_000)
    before = [
        (tuple((image["split"], image["index"]) for image in p["images"]), False)
        for p in store.problems(dataset)
        if p["kind"] == "duplicate"
    ]
    assert [(s.index, set(s.twins), bool(s.detail)) for s in nearer] == by_hand(
        dataset, before + [(group, True) for group in groups_of(run)]
    )
    assert any(s.detail and split == "test" for s in nearer for split, _ in s.twins)
    (card,) = drawn(show("pages/Triage.py", run="one", queue="duplicates"), "triage")
    assert card["count"] == len(nearer) > len(twins), "the queue is that of the last search"
    harm = suspects.queue(record, dataset, "harm", None, 5)
    scores = record.score_sets.row(record.score_sets.target(suspects.target_key(record)))
    assert [s.index for s in harm] == np.argsort(-scores, kind="stable")[:5].tolist()
    for source in suspects.sources(record, dataset):
        assert not said(show("pages/Triage.py", run="one", queue=source))
    # What is ticked on other pages, while something is.
    assert "What is ticked" not in show("pages/Triage.py", run="one").button_group[0].options
    notes.tick(run, {9: True, 4: True}, len(dataset.train_labels))
    (card,) = [
        e.proto
        for e in show("pages/Triage.py", run="one", queue="ticked").get("bidi_component")
        if "triage-card" in e.proto.id
    ]
    assert [item["index"] for item in json.loads(card.json)["items"].values()] == [4, 9]
    notes.tick(run, {9: False, 4: False}, len(dataset.train_labels))

    with monkeypatch.context() as patch:  # guests look, and decide on nothing
        patch.setenv("REPLAY_READ_ONLY", "1")
        app = show("pages/Triage.py", run="one")
        (card,) = drawn(app, "triage")
        assert card["count"] and not card["acting"] and card["why_not"] == shell.READ_ONLY
        assert all(each.disabled for each in (*app.button, *app.get("file_uploader")))

    kept = {name: sha for name, sha in record.files.items() if name.startswith(("model/test", "config"))}
    run.update_manifest(files=kept)
    try:
        monkeypatch.setattr(suspects.store, "problems", lambda dataset: [])
        assert "There are no suspects to go through" in said(show("pages/Triage.py", run="one"))
    finally:
        run.write_manifest(dataclasses.replace(record))
