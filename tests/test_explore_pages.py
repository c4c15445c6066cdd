"""Training images, Test images and Compare runs as pages: what they show, links good and bad, a cell clicked."""

import re
import shutil

import numpy as np
import pytest
from playwright.sync_api import expect

from engine.analysis import class_matrix as class_matrices
from engine.core.schedule import plan_for
from engine.datasets import registry as dataset_registry
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.runs import notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import button, idle, said, settled, show, sound, tiles
from tests.made_up import SAMPLE, run_of
from ui import formats

pytestmark = pytest.mark.slow  # whole pages are drawn, again and again

TRAINING, COMPARE, TEST = "pages/Training_images.py", "pages/Compare_runs.py", "pages/Test_images.py"
DATASET = dataset_registry.load("fashion-mnist-sample")
N = len(DATASET.train_labels)
NAMES = ("test:0", "test:1", "class:2", "test:all")
SCORES = np.random.default_rng(4).normal(size=(5, N)).astype(np.float32)
SCORES[:, 17] = 0


@pytest.fixture
def run(root) -> runs.Run:
    return run_of(root, "one", {NAMES: ("loss", SCORES[:4]), ("test:0",): ("margin", SCORES[4:])})


@pytest.fixture
def other(root) -> runs.Run:
    scores = SCORES[1:3] + np.random.default_rng(5).normal(size=(2, N))
    return run_of(root, "two", {("test:1", "class:2"): ("loss", scores)}, SAMPLE.replace(width=2.0))


def test_an_image_outwards_shows_its_facts_and_its_effects(run):
    app = show(TRAINING, run=run.id, image="5")
    assert app.query_params == {"run": run.id, "view": "image", "image": "5"}
    facts = dict(app.table[0].value.values.tolist())
    plan = plan_for(run.manifest().config.recipe, N)
    assert facts["Image"] == "train:5" and facts["Given label"] == DATASET.classes[DATASET.train_labels[5]]
    used = ", ".join(str(t + 1) for t in range(len(plan)) if 5 in plan[t])
    assert facts["Used in steps"] == f"{used} of {len(plan)}"
    odds = np.exp(run.manifest().train_logits()[5].astype(float))
    assert facts["Model's label"] == f"{DATASET.classes[odds.argmax()]}, {100 * odds.max() / odds.sum():.1f} %"
    shown = app.dataframe[0].value
    assert len(shown) == 5 and shown["Influence"][0].startswith("/Influence?run=one&target=")
    row = shown[(shown["Target"].str.startswith("Test image 1 ")) & (shown["Function"] == "loss")].iloc[0]
    side = SCORES[1] > SCORES[1, 5] if SCORES[1, 5] > 0 else SCORES[1] < SCORES[1, 5]
    word, all_of_it = ("harmful", SCORES[1] > 0) if SCORES[1, 5] > 0 else ("helpful", SCORES[1] < 0)
    assert row["Place on its side"] == f"place {side.sum() + 1:,} of the {all_of_it.sum():,} {word}"
    assert row["Effect"] == f"{'harms' if SCORES[1, 5] > 0 else 'helps'} {abs(SCORES[1, 5]):.2f}"
    assert row["Unit"] == "nats"


def test_two_tabs_that_write_one_note_lose_neither(run):
    one, two = (show(TRAINING, run=run.id, image="5") for _ in "12")
    one.text_area[0].set_value("wrong label").run()
    two.text_area[0].set_value("right label").run()
    assert "«wrong label»" in two.error[0].value and two.text_area[0].value == "right label"
    assert notes.read(run).of(5) == "wrong label"
    two.text_area[0].set_value("wrong label; right?").run()
    assert not two.error and notes.read(run).of(5) == "wrong label; right?"
    assert one.run().text_area[0].value == "wrong label; right?"


def test_an_image_without_effect_helped_and_harmed_nothing(run):
    app = show(TRAINING, run=run.id, image="17")
    assert [c.value for c in app.caption].count("None of the run's targets.") == 2
    shown = app.dataframe[0].value
    assert set(shown["Effect"]) == {"no effect"} and set(shown["Place on its side"]) == {"—"}


def test_a_run_without_the_models_own_answers_says_so(root):
    run = run_of(root, "old", {("test:0",): ("loss", SCORES[:1])}, train_logits=False)
    assert "not recorded in this run" in show(TRAINING, run=run.id).table[0].value["Value"].tolist()


def test_images_are_browsed_by_class_and_page(run):
    app = show(TRAINING, run=run.id, view="browse", label="Coat", page="3")
    assert app.query_params == {"run": run.id, "view": "browse", "label": "Coat", "page": "3"}
    assert any(c.value.startswith(f"{(DATASET.train_labels == 4).sum()} training images") for c in app.caption)
    app.selectbox(key=f"label-{run.id}").set_value("Bag").run()
    assert app.query_params["label"] == "Bag" and app.query_params["page"] == "1"


@pytest.mark.parametrize(
    "query, message, restored",
    [
        ({"image": "6000"}, "image «6000»", {"image": "0"}),
        ({"image": "-1"}, "image «-1»", {"image": "0"}),
        ({"image": "../x"}, "image «../x»", {"image": "0"}),
        ({"image": "9" * 40}, "image «999", {"image": "0"}),
        ({"view": "nonsense"}, "view «nonsense»", {"view": "image"}),
        ({"view": "matrix", "group": "Nobody", "label": "Coat"}, "group «Nobody»", {"label": "Coat"}),
        ({"view": "matrix", "function": "accuracy"}, "function «accuracy»", {"function": "loss"}),
        ({"view": "browse", "label": "Coat", "page": "26"}, "page «26»", {"page": "1"}),
        ({"run": "nope"}, "no run nope", {}),
        ({"run": "../../etc"}, "no run id", {}),
    ],
)
def test_a_bad_link_is_named_and_the_page_goes_on(query, message, restored, run):
    app = show(TRAINING, **{"run": run.id, **query})
    assert message in said(app).replace("\\", "")
    for name, value in restored.items():
        assert app.query_params[name] == value


@pytest.mark.parametrize("page_name", [TRAINING, COMPARE])
def test_a_run_without_scores_says_so(page_name, root):
    assert "no scores yet" in said(show(page_name, run=run_of(root, "none", {}).id))


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: shutil.rmtree(p / "scores"),
        lambda p: shutil.rmtree(p / "model"),
        lambda p: (p / "manifest.json").unlink(),
        lambda p: (p / "scores" / "loss-000.npy").write_bytes(b"x"),
        lambda p: (p / "config.json").write_text("{"),
        lambda p: (p / "notes.json").write_text("[]"),
    ],
    ids=["scores", "model", "manifest", "array", "config", "notes"],
)
@pytest.mark.parametrize(
    "page_name, query",
    [
        (TEST, {}),
        (TRAINING, {"view": "image"}),
        (TRAINING, {"view": "browse"}),
        (TRAINING, {"view": "matrix"}),
        (COMPARE, {}),
    ],
)
def test_a_half_deleted_run_breaks_no_page(page_name, query, harm, run, other):
    harm(run.path)
    show(page_name, run=run.id, **query)
    if page_name == COMPARE:
        show(page_name, run=other.id, other=run.id)


@pytest.mark.parametrize(
    "page_name, query, key",
    [
        ("pages/Influence.py", {}, "harmful"),
        (TRAINING, {"view": "browse"}, "browse"),
        (TRAINING, {"image": "3"}, "image-3"),
    ],
)
def test_damaged_notes_are_told_once_and_hide_no_score(page_name, query, key, run):
    (run.path / "notes.json").write_text("[]")
    app = show(page_name, run=run.id, **query)
    assert said(app).count("does not hold notes of a run") == 1 and tiles(app, key)
    assert not any(tile["ticked"] for tile in tiles(app, key)) and (run.path / "notes.json").read_text() == "[]"


def test_the_matrix_shows_the_cell_of_the_link(run):
    app = show(TRAINING, run=run.id, view="matrix", group="All test images", label="Dress")
    assert app.query_params["group"] == "All test images" and app.query_params["label"] == "Dress"
    table = app.dataframe[0].value
    assert table.iloc[:, 0].tolist() == list(class_matrices.groups(run.manifest(), DATASET, "loss"))
    shown = float(table["Dress"].iloc[-1].replace("−", "-"))
    assert shown == pytest.approx(SCORES[3][DATASET.train_labels == 3].sum(), rel=6e-3)
    app.button_group[1].set_value("margin").run()
    assert not said(app) and app.query_params["function"] == "margin" and app.query_params["label"] == "Dress"


def test_two_runs_side_by_side(run, other):
    app = show(COMPARE, run=run.id, other=other.id, target="class:2.loss")
    assert app.query_params == {"run": run.id, "other": other.id, "target": "class:2.loss"}
    differ = app.table[0].value
    assert differ.iloc[:, 0].tolist()[:2] == ["Width (× channels)", "Test accuracy"]
    shown = app.dataframe[0].value
    places = [np.argsort(np.argsort(scores)) for scores in (SCORES[1], other.scores().matrix("loss-000")[0])]
    assert shown["Rank correlation"][0] == f"{np.corrcoef(*places)[0, 1]:.3f}" and len(shown) == 2
    app.selectbox(key=f"of-{run.id}-{other.id}").set_value("test:1.loss").run()
    assert app.query_params["target"] == "test:1.loss"


@pytest.mark.parametrize(
    "asked, message",
    [
        ("nope", "no run nope"),
        ("../../etc", "no run id"),
        ("one", "with itself"),
        ("none", "has no scores"),
    ],
)
def test_a_run_that_cannot_be_compared_is_named_and_another_shown(asked, message, run, other, root):
    run_of(root, "none", {})
    app = show(COMPARE, run=run.id, other=asked)
    assert message in said(app).replace("\\", "") and app.query_params["other"] == other.id
    assert app.dataframe[0].value.shape[0] == 2
    app = show(COMPARE, run=run.id, other=other.id, target="test:999.loss")
    assert "target «test:999.loss»" in said(app) and app.query_params["target"] == "test:1.loss"


def test_a_run_that_is_alone_offers_a_second(run):
    assert "no other run with scores" in said(show(COMPARE, run=run.id))


def test_runs_without_a_common_target_say_so(run, root):
    run_of(root, "apart", {("test:9",): ("loss", SCORES[:1])})
    assert "no target in common" in said(show(COMPARE, run=run.id, other="apart"))


def test_test_images_are_filtered_ticked_and_explained(run, monkeypatch):
    logits, labels = run.manifest().test_logits().astype(float), DATASET.test_labels
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kept = [i for i in range(len(labels)) if shares[i].argmax() == 6 and labels[i] != 6 and shares[i].max() >= 0.3]
    query = {"wrong": "1", "predicted": "Shirt", "order": "least sure", "from": "30"}
    app = show(TEST, run=run.id, **query)
    shown = tiles(app, "tests")
    assert [t["index"] for t in shown] == sorted(kept, key=lambda i: shares[i].max())[:24] and shown
    assert app.query_params == {"run": run.id, **query, "page": "1", "to": "100"}
    said_of_them = f"{formats.count(len(kept), 'test images')} of 1,000 with these filters."
    assert any(c.value.startswith(said_of_them) for c in app.caption)
    assert shown[0]["lines"][0] == f"✗ {DATASET.classes[shares[shown[0]['index']].argmax()]}"

    # Ticks are the component's to send: what it would is put where it would be. The replay is asked for, not made.
    asked = []
    monkeypatch.setattr(JobQueue, "submit", lambda self, *given: asked.append(given))
    app.query_params["ticked"] = f"{shown[0]['index']},3"
    sound(app.run())
    sound(button(app, "Explain these").click().run())
    targets = tuple(f"test:{i}" for i in sorted({shown[0]["index"], 3}))
    assert [given[:2] for given in asked] == [(run.id, Replay(targets, "loss", "memory"))]


def test_an_explained_test_image_leads_to_its_influence(run):
    app = show(TEST, run=run.id, order="index")
    first = tiles(app, "tests")[0]
    assert "explained" in first["lines"] and first["link"] == "/Influence?run=one&target=test%3A0.margin"


@pytest.mark.parametrize(
    "query, message",
    [
        ({"true": "Hat"}, "true «Hat»"),
        ({"order": "x"}, "order «x»"),
        ({"page": "99"}, "page «99»"),
        ({"from": "101"}, "from «101»"),
        ({"wrong": "maybe"}, "wrong «maybe»"),
        ({"from": "100", "to": "0"}, ""),
    ],
)
def test_a_bad_link_to_test_images_is_named_and_the_page_goes_on(query, message, run):
    app = show(TEST, run=run.id, **query)
    assert message in said(app) and tiles(app, "tests")


def test_filters_that_match_nothing_say_so(run):
    app = show(TEST, run=run.id, **{"from": "0", "to": "0"})
    assert "No test image is left with these filters." in said(app) and not tiles(app, "tests")
    low = f"{SCORES[0].max() + 1:.3f}"
    app = show("pages/Influence.py", run=run.id, target="test:0.loss", low=low)
    assert said(app).count("No training image is left on this side") == 2
    sound(button(app, "Scores").click().run())
    assert "low" not in app.query_params and len(tiles(app, "harmful")) == 12


def test_a_cell_of_the_matrix_is_clicked_or_chosen_by_the_keyboard(page, tmp_path):
    run = run_of(runs.outputs_root(tmp_path), "one", {NAMES: ("loss", SCORES[:4])})
    rows, classes = list(class_matrices.groups(run.manifest(), DATASET, "loss")), list(DATASET.classes)

    def strongest(row: int, label: int) -> str:
        scores_N = class_matrices.group_scores(
            run.manifest(), class_matrices.groups(run.manifest(), DATASET, "loss")[rows[row]]
        )
        return f"train:{max(np.flatnonzero(DATASET.train_labels == label), key=lambda i: scores_N[i])}"

    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Training_images?run={run.id}&view=matrix")
        settled(page, "Training images")
        harmful = page.locator(".st-key-gallery-harmful li").first
        expect(harmful).to_contain_text(strongest(0, 0))
        idle(page)
        area = page.locator(".js-plotly-plot .nsewdrag")
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 6.8 / 10, box["y"] + box["height"] * 2.3 / len(rows))
        expect(page.locator(".js-plotly-plot .hoverlayer")).to_contain_text(classes[6])
        page.mouse.down()
        page.mouse.up()
        expect(harmful).to_contain_text(strongest(2, 6))
        expect(page).to_have_url(re.compile("label=Shirt"))
        idle(page)
        choice = page.get_by_role("combobox", name="Label of the training images")
        choice.focus()
        for key in ("ArrowDown", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        expect(harmful).not_to_contain_text(strongest(2, 6))
        label = classes.index(choice.input_value())
        assert label != 6
        expect(harmful).to_contain_text(strongest(2, label))
        idle(page)
        page.go_back()
        expect(harmful).to_contain_text(strongest(2, 6))
