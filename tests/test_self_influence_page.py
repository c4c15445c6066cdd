"""The page *Self-influence*, and what other pages say of it: drawn, in a browser with a real job, and by axe."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import files
from engine.analysis import self_influence as kept
from engine.analysis import suspects
from engine.datasets import registry as dataset_registry
from engine.runs import notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import button, go, idle, said, settled, show, shown, sound, tiles, wait_until
from tests.made_up import SAMPLE, run_of
from tests.test_browser import violations

PAGE = "pages/Self_influence.py"
NOISY = "fashion-mnist-sample-noisy"
DATASET = dataset_registry.load(NOISY)
SCORES = np.random.default_rng(4).normal(size=(1, 6000)).astype(np.float32)


def with_self_influence(run: runs.Run, scores: np.ndarray) -> runs.Run:
    """Of scores float32 [3, N]."""
    name = "scores/self-influence-000.npy"
    run.update_manifest(files=run.manifest().files | {name: files.write_npy(run.path / name, scores)})
    return run


@pytest.fixture
def made_up(root) -> runs.Run:
    """Exact for the first 100 images, estimated for the next 100; the largest for image 150, then for 40."""
    scores = np.full((3, 6000), np.nan, np.float32)
    scores[0, :200] = np.random.default_rng(1).normal(-0.2, 0.1, 200)
    scores[0, [150, 40]] = -3.0, -2.0
    scores[1, :200], scores[2, :200] = np.repeat([0, 0.05], 100), np.repeat([1, 16], 100)
    run = run_of(root, "one", {("test:all",): ("loss", SCORES)}, SAMPLE.replace(dataset=NOISY))
    return with_self_influence(run, scores)


def order_of(run: runs.Run) -> list[int]:
    known = kept.known(run.manifest())
    assert known is not None
    return known.images.tolist()


@pytest.mark.slow
def test_the_most_memorised_come_first_with_their_error(made_up):
    app = show(PAGE, run=made_up.id)
    assert {m.label: m.value for m in app.metric} == {"Images": "200 of 6,000", "Exact": "100", "Estimated": "100"}
    drawn = tiles(app, "self")
    assert [tile["index"] for tile in drawn] == order_of(made_up)[:24] and order_of(made_up)[:2] == [150, 40]
    assert drawn[0]["title"] == f"1. {DATASET.classes[DATASET.train_labels[150]]}"
    assert (drawn[0]["lines"][0], drawn[1]["lines"][0]) == ("+3.00 ± 0.05", "+2.00")
    assert ["Self-influence", "+3.00 ± 0.05 nats, estimated, 16 a target"] in drawn[0]["details"]
    assert ["Self-influence", "+2.00 nats"] in drawn[1]["details"]
    (table,) = app.dataframe
    assert table.value["Images"].sum() == 200 and set(table.value["Unit"]) == {"nats"}

    label = DATASET.classes[DATASET.train_labels[150]]
    app = show(PAGE, run=made_up.id, label=label)
    places = [i for i in order_of(made_up) if DATASET.train_labels[i] == DATASET.train_labels[150]]
    assert [tile["index"] for tile in tiles(app, "self")] == places[:24]
    second = order_of(made_up).index(places[1]) + 1
    assert tiles(app, "self")[1]["title"] == f"{second}. {label}", "its place among all"


@pytest.mark.slow
def test_the_form_says_what_each_choice_costs(root):
    run = run_of(root, "one", {("test:0",): ("loss", SCORES)})
    run.update_manifest(timings={"train_seconds": 1.0, "replay_seconds": 20.0, "replay_targets": 10.0})
    notes.tick(run, {3: True, 9: True}, 6000)
    app = show(PAGE, run=run.id)
    (how,) = app.radio
    assert how.label == "How, for 500 images"
    assert list(how.proto.captions)[:2] == [
        "500 targets to replay, about 16 min 40 s, as replays of this run went so far",
        "32 targets to replay, about 1 min 04 s, as replays of this run went so far; each with its standard error",
    ]
    assert any("trained once more first" in each.value for each in app.caption)
    sound(app.selectbox(key=f"self-images-{run.id}").set_value("all").run())
    assert app.radio[0].label == "How, for 6,000 images" and "3 h 20 min" in app.radio[0].proto.captions[0]
    sound(app.selectbox(key=f"self-images-{run.id}").set_value("influence").run())
    assert app.radio[0].label == "How, for 2 images" and len(app.radio[0].proto.options) == 1


@pytest.mark.slow
def test_other_pages_have_it_as_a_column_an_order_and_a_detail(made_up):
    app = show("pages/Training_images.py", run=made_up.id, view="browse", order="self-influence")
    drawn = tiles(app, "browse")
    assert [tile["index"] for tile in drawn] == order_of(made_up)[:24]
    assert drawn[0]["lines"] == ["self-influence +3.00 ± 0.05"]
    last = show("pages/Training_images.py", run=made_up.id, view="browse", order="self-influence", page="250")
    assert tiles(last, "browse")[-1]["lines"] == ["self-influence —"]
    app = show("pages/Training_images.py", run=made_up.id, view="browse")
    assert [tile["index"] for tile in tiles(app, "browse")] == list(range(24))

    app = show("pages/Find_bad_labels.py", run=made_up.id, order=suspects.SELF)
    assert not app.warning and [tile["index"] for tile in tiles(app, "suspects")] == order_of(made_up)[:24]
    assert tiles(app, "suspects")[0]["lines"][1] == "+3.00 ± 0.05 nats"
    wrong = DATASET.train_labels[order_of(made_up)] != DATASET.true_train_labels[order_of(made_up)]
    precision = suspects.average_precision(-np.arange(200.0), wrong)
    assert any(f"{precision:.2f} by self-influence" in each.value for each in app.caption)


@pytest.mark.slow
def test_where_it_was_not_computed_nothing_offers_it(root):
    run = run_of(root, "one", {("test:all",): ("loss", SCORES)})
    app = show("pages/Find_bad_labels.py", run=run.id, order=suspects.SELF)
    assert "asks for order «self-influence»" in said(app) and len(tiles(app, "suspects")) == 24
    app = show("pages/Training_images.py", run=run.id, view="browse", order="self-influence")
    assert "asks for order «self-influence»" in said(app) and tiles(app, "browse")[0]["lines"] == []
    old = run_of(root, "old", {("test:all",): ("loss", SCORES)}, train_logits=False)
    app = show(PAGE, run=old.id)
    assert app.selectbox(key="self-images-old").options == ["One class", "All training images"]


@pytest.mark.slow
def test_a_damaged_file_is_said_and_the_rest_is_shown(made_up):
    path = made_up.path / "scores" / "self-influence-000.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"xxxx")
    for page in (PAGE, "pages/Training_images.py", "pages/Find_bad_labels.py"):
        assert "self-influence-000.npy has changed since it was written" in said(show(page, run=made_up.id)), page
    assert len(tiles(show("pages/Find_bad_labels.py", run=made_up.id), "suspects")) == 24


def test_asked_for_computed_and_looked_at(page, quick):
    """The whole way: the form, the job on Live, its result, the ranking, and ticks that Find bad labels has too."""
    with server(quick.root, page) as (url, _):
        page.goto(f"{url}/Self_influence?run={quick.id}")
        settled(page, "Self-influence")
        idle(page)
        page.get_by_role("spinbutton", name="How many").fill("20")
        page.keyboard.press("Enter")
        expect(page.get_by_text("20 targets to replay")).to_be_visible()
        idle(page)
        page.get_by_role("button", name="Compute self-influence").click()
        settled(page, "Live")
        go(page, page.get_by_role("link", name="See the most memorised"), "Self-influence")
        known = kept.known(quick.manifest())
        assert known is not None and len(known.images) == 20 and not known.error_N[known.images].any()
        assert shown(page, "self") == known.images.tolist()
        page.locator(".st-key-gallery-self .grid input").first.click()
        wait_until(lambda: notes.read(quick).ticked == (int(known.images[0]),), page)
        idle(page)
        go(page, page.get_by_role("link", name="Judge their labels, in this order"), "Find bad labels")
        expect(page).to_have_url(re.compile("order=self-influence"))
        assert shown(page, "suspects") == known.images.tolist()


def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(page, made_up, root):
    found = []
    with server(root, page) as (url, _):
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(f"{url}/Self_influence?run={made_up.id}")
            settled(page, "Self-influence")
            shown(page, "self")
            page.get_by_text("Compute it for further images").click()
            expect(page.get_by_role("button", name="Compute self-influence")).to_be_visible()
            idle(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            found += [f"{width}, {problem}" for theme in ("light", "dark") for problem in violations(page, theme)]
    assert not found, "\n\n".join(found)


@pytest.mark.slow
def test_a_read_only_app_shows_it_and_computes_nothing(made_up, monkeypatch):
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show(PAGE, run=made_up.id)
    assert len(tiles(app, "self")) == 24 and button(app, "Compute self-influence").disabled
