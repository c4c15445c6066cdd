"""Influence in a browser of every width: targets chosen by looking, one row of filters, and an address that «back»
goes through."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from engine.analysis.scale import Scale
from engine.datasets import registry as dataset_registry
from engine.runs import notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import at_rest, idle, pick, said, settled, show, shown, sound, tiles, wait_until
from tests.made_up import run_of
from tests.test_browser import AXE, violations
from ui import formats, target_strip

INFLUENCE = "pages/Influence.py"
DATASET = dataset_registry.load("fashion-mnist-sample")
N, LABELS = len(DATASET.train_labels), DATASET.train_labels
IMAGES = (*range(10), 16, 17)  # the last two are mistakes of the made-up logits
NAMES = (*(f"test:{i}" for i in IMAGES), "class:4", "train:17", "test:all")
SCORES = 1e-3 * np.random.default_rng(4).standard_t(3, size=(len(NAMES) + 1, N)).astype(np.float32)
PHONE = {"width": 390, "height": 844}


def made_up_in(root: Path) -> runs.Run:
    """Fifteen targets with scores of their loss, one of them of its margin too; logits are made up."""
    return run_of(root, "one", {NAMES: ("loss", SCORES[:-1]), ("test:1",): ("margin", SCORES[-1:])})


@pytest.fixture
def run(root) -> runs.Run:
    return made_up_in(root)


def strongest(row: int, page: int = 1, k: int = 12, among=slice(None)) -> list[int]:
    """Of a page of the harmful images of a target's loss."""
    indices = np.arange(N)[among]
    return indices[np.argsort(-SCORES[row, indices])][(page - 1) * k : page * k].tolist()


def strip(app) -> dict:
    (drawn,) = [e.proto for e in app.get("bidi_component") if '"targets"' in e.proto.json]
    return json.loads(drawn.json)


# -- targets


@pytest.mark.slow
def test_the_strip_has_every_target_once_with_what_the_model_made_of_it(run):
    app = show(INFLUENCE, run=run.id, target="test:1.margin")
    data, predicted = strip(app), run.manifest().test_logits().argmax(1)
    assert [one["name"] for one in data["targets"]] == list(NAMES) and data["chosen"] == "test:1"
    images = {one["name"]: one for one in data["targets"]}
    for i in IMAGES:
        one = images[f"test:{i}"]
        assert one["right"] == (predicted[i] == DATASET.test_labels[i]) and len(one["images"]) == 1
        assert one["title"].endswith(f"predicted {DATASET.classes[predicted[i]]}")
    assert {one["right"] for one in data["targets"][: len(IMAGES)]} == {True, False}, "both are seen"
    assert images["class:4"]["right"] is None and len(images["class:4"]["images"]) == 4
    assert images["train:17"]["words"] == DATASET.classes[LABELS[17]] and images["train:17"]["right"] is not None
    # The panel beside it says the probability of every class, and draws no chart for it.
    (table,) = [each.body for each in app.sidebar.get("html") if 'class="probabilities"' in each.body]
    logits = run.manifest().test_logits()[1]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    rows = re.findall(r"<th[^>]*>(.*?)</th>.*?width:([\d.]+)%.*?<td>(.*?)</td>", table)
    assert rows == [
        (label, f"{100 * share:.2f}", formats.percent(share))
        for label, share in zip(DATASET.classes, shares.tolist(), strict=True)
    ]
    assert not app.sidebar.get("plotly_chart")


@pytest.mark.slow
def test_the_function_is_chosen_apart_from_the_image(run):
    app = show(INFLUENCE, run=run.id, target="test:1.loss")
    function = app.button_group(key=f"function-of-{run.id}-test:1")
    assert function.value == "loss"
    sound(function.set_value("margin").run())
    assert app.query_params["target"] == "test:1.margin" and strip(app)["chosen"] == "test:1"
    # A margin is harmed by what lowers it: another order, another unit, the same words.
    assert [tile["index"] for tile in tiles(app, "harmful")] == np.argsort(SCORES[-1])[:12].tolist()
    assert any("a lower margin on the target" in caption.value for caption in app.caption)
    assert not [g for g in show(INFLUENCE, run=run.id, target="test:2.loss").button_group if "function" in str(g.key)]


@pytest.mark.slow
def test_many_targets_are_a_list_that_can_be_searched(root):
    names = tuple(f"test:{i}" for i in range(target_strip.MOST + 1))
    run = run_of(root, "many", {names: ("loss", np.resize(SCORES, (len(names), N)))})
    app = show(INFLUENCE, run=run.id, target="test:5.loss")
    box = app.selectbox(key=f"target-of-{run.id}")
    assert box.value == "test:5" and len(box.options) == len(names) and f"{len(names)} targets" in box.label
    sound(box.set_value("test:9").run())
    assert app.query_params["target"] == "test:9.loss"
    assert not [e for e in app.get("bidi_component") if '"targets"' in e.proto.json]


@pytest.mark.slow
def test_a_target_that_cannot_be_shown_leaves_the_others(root):
    logits = run_of(root, "try", {}).manifest().test_logits().argmax(1)
    coats = set(logits[DATASET.test_labels == 4])
    empty = next(c for c in range(10) if c != 4 and c not in coats) if len(coats) < 10 else None
    if empty is None:
        pytest.skip("every confusion of coats has an image")
    names = ("test:0", f"confusion:4>{empty}")
    run = run_of(root, "one", {names: ("loss", SCORES[:2])})
    app = show(INFLUENCE, run=run.id, target="test:0.loss")
    assert len(tiles(app, "harmful")) == 12 and [len(one["images"]) for one in strip(app)["targets"]] == [1, 0]


# -- numbers, filters, pins


@pytest.mark.slow
def test_numbers_of_both_lists_have_one_unit_and_a_bar(run):
    app = show(INFLUENCE, run=run.id, target="test:0.loss")
    lists = {side: tiles(app, side) for side in ("helpful", "harmful")}
    drawn = [tile["index"] for side in lists.values() for tile in side]
    scale = Scale.of(SCORES[0, drawn], "loss")
    assert scale.unit == "thousandths of a nat"
    assert any(f"Numbers: {scale.unit}." in caption.value for caption in app.caption)
    for side, verb in (("helpful", "helps"), ("harmful", "harms")):
        for tile in lists[side]:
            score = float(SCORES[0, tile["index"]])
            assert tile["lines"] == [scale.words(score)] and tile["lines"][0].startswith(f"{verb} ")
            assert tile["effect"] == list(scale.effect(score)) and tile["effect"][1] == verb
            assert tile["sentence"].startswith("Without it the loss would ")


@pytest.mark.slow
def test_below_the_row_of_filters_stands_what_is_set(run):
    def row(app) -> list[str]:
        assert [e.label for e in app.expander if e.label.startswith("Filters")] == ["Filters and view"]
        return [each.value for each in app.caption if each.value.startswith("Set: ")]

    assert row(show(INFLUENCE, run=run.id)) == []
    query = {"label": "Coat", "relation": "other", "side": "harmful", "k": "24", "size": "L", "low": "0.001"}
    app = show(INFLUENCE, run=run.id, target="test:0.loss", pin="test:1.loss,test:2.loss", **query)
    assert row(app) == [
        "Set: label Coat · another label than the target's · harmful only · a range of scores · "
        "24 images a side · tiles L · 2 targets pinned"
    ]
    among = (LABELS == 4) & (SCORES[0] >= 0.001) & (LABELS != DATASET.test_labels[0])
    assert [tile["index"] for tile in tiles(app, "harmful")] == strongest(0, 1, 24, among)
    assert app.query_params.items() >= query.items()


@pytest.mark.slow
def test_a_bad_link_is_answered_above_the_row_of_filters(run):
    app = show(INFLUENCE, run=run.id, label="Hat", k="7", side="up", size="XL", relation="x", pin="nobody", low="x")
    assert len(app.warning) == 7 and "label «Hat»" in said(app)
    row = next(e for e in app.expander if e.label.startswith("Filters"))
    assert not row.warning and row.label == "Filters and view"


@pytest.mark.slow
def test_a_pinned_row_and_its_image_have_one_number(run):
    app = show(INFLUENCE, run=run.id, target="test:0.loss", pin="test:1.margin")
    figures = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    (figure,) = [figure for figure in figures if figure["data"][0]["type"] == "heatmap"]
    rows, images = figure["layout"]["yaxis"]["ticktext"], figure["layout"]["images"]
    drawn = tiles(app, "pinned")
    assert rows == [tile["title"] for tile in drawn] and rows[0].startswith("1. ")
    assert [image["source"] for image in images] == [tile["src"] for tile in drawn]
    # Above zero where it harms, whatever the function: a loss that it raised, a margin that it lowered.
    cells = figure["data"][0]["customdata"]
    z = figure["data"][0]["z"]
    harms = np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape(len(drawn), 2)
    for values, row, tile in zip(harms, cells, drawn, strict=True):
        for value, (_, _, words), brief in zip(values, row, tile["lines"], strict=True):
            assert words.startswith(brief) and brief.startswith("harms" if value > 0 else "helps")


@pytest.mark.slow
def test_another_list_begins_with_its_first_page(run):
    app = show(INFLUENCE, run=run.id, target="test:0.loss", page="3")
    assert [tile["index"] for tile in tiles(app, "harmful")] == strongest(0, 3)
    sound(app.selectbox(key=f"label-{run.id}").set_value("Coat").run())
    assert app.query_params["page"] == "1"
    assert [tile["index"] for tile in tiles(app, "harmful")] == strongest(0, 1, among=LABELS == 4)


@pytest.mark.slow
def test_the_ticked_images_have_pages_of_their_own(run):
    notes.tick(run, {3: True, 7: True}, N)
    app = show(INFLUENCE, run=run.id, target="test:0.loss", page="2")
    sound(app.button(key="ticks-see-influence").click().run())
    assert [tile["index"] for tile in tiles(app, "ticked-influence")] == [3, 7] and not app.warning
    assert [tile["index"] for tile in tiles(app, "harmful")] == strongest(0, 2)


# -- in a browser


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> runs.Run:
    """A run for all of these tests: they change nothing of it."""
    return made_up_in(runs.outputs_root(tmp_path_factory.mktemp("served")))


@pytest.fixture
def address(served, page) -> Iterator[str]:
    with server(served.root, page) as (url, _):
        yield f"{url}/Influence?run={served.id}"


def option(page: Page, title: str):
    return page.get_by_role("option", name=re.compile(f"^{title}"))


def steps_of_history(page: Page) -> int:
    return page.evaluate("history.length")


def test_back_and_forward_go_through_all_that_the_address_says(page, address):
    harmful = lambda: shown(page, "harmful")  # noqa: E731
    page.goto(f"{address}&target=test:0.loss")
    settled(page, "Influence")
    assert harmful() == strongest(0)
    before = steps_of_history(page)

    seen = [page.url]
    option(page, "Test image 2 ").click()
    wait_until(lambda: harmful() == strongest(2), page)
    idle(page)  # the address is written at the end of a drawing, and a click in the middle of one may be lost
    seen.append(page.url)
    page.get_by_role("button", name="Next page").click()
    wait_until(lambda: harmful() == strongest(2, 2), page)
    idle(page)
    seen.append(page.url)
    page.get_by_text("Filters and view").click()
    expect(page.get_by_role("combobox", name="Label", exact=True)).to_be_visible()
    at_rest(page)
    pick(page, "Label", "Coat")
    wait_until(lambda: harmful() == strongest(2, 1, among=LABELS == 4), page)
    idle(page)
    seen.append(page.url)
    page.get_by_text("Harmful", exact=True).first.click()  # the row is open still
    wait_until(lambda: "side=harmful" in page.url, page)
    expect(page.locator(".st-key-gallery-helpful")).to_have_count(0)
    idle(page)
    seen.append(page.url)
    assert len(set(seen)) == 5 and steps_of_history(page) == before + 4, "one step for each click"

    lists = [strongest(0), strongest(2), strongest(2, 2), strongest(2, 1, among=LABELS == 4)]
    for place, expected in zip(seen[-2::-1], lists[::-1], strict=True):
        page.go_back()
        wait_until(lambda expected=expected: harmful() == expected, page)
        idle(page)
        assert page.url == place
    expect(option(page, "Test image 0 ")).to_have_attribute("aria-selected", "true")
    expect(page.locator('[data-testid="stSidebar"]').get_by_text("Test image 0").first).to_be_visible()
    for place, expected in zip(seen[1:4], lists[1:], strict=True):
        page.go_forward()
        wait_until(lambda expected=expected: harmful() == expected, page)
        idle(page)
        assert page.url == place


def test_the_strip_by_the_keyboard(page, address):
    page.goto(f"{address}&target=test:0.loss")
    settled(page, "Influence")
    assert shown(page, "harmful") == strongest(0)
    targets = page.get_by_role("listbox", name="Target").get_by_role("option")
    expect(targets).to_have_count(len(NAMES))
    expect(targets.first).to_have_accessible_name(re.compile(r"Test image 0 · \w.*, predicted .*, (right|wrong)"))
    assert targets.evaluate_all("them => them.filter(one => one.tabIndex === 0).length") == 1
    targets.first.focus()
    page.keyboard.press("End")
    expect(targets.last).to_be_focused()
    expect(targets.last).to_be_in_viewport()  # the strip scrolls sideways to it
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_until(lambda: shown(page, "harmful") == strongest(1), page)
    expect(targets.nth(1)).to_be_focused()
    expect(targets.nth(1)).to_have_attribute("aria-selected", "true")


def test_what_is_explained_stays_in_view_at_every_width(page, address):
    card, sidebar = page.get_by_role("region", name="What is explained"), page.locator('[data-testid="stSidebar"]')
    page.goto(f"{address}&target=test:2.loss")
    settled(page, "Influence")
    shown(page, "harmful")
    image = sidebar.get_by_role("img", name=re.compile("^Test image 2,"))
    expect(image).to_be_in_viewport()
    expect(card).to_be_hidden()  # never twice
    rows = page.locator(".st-key-gallery-helpful li, .st-key-gallery-harmful li")
    bottoms = [box["y"] + box["height"] for box in map(lambda li: li.bounding_box(), rows.all())]
    bar = page.locator('[data-testid="stBottom"]').bounding_box()["y"]
    # Two rows of medium tiles in each list are whole on the first screen of a laptop.
    assert len({bottom for bottom in bottoms if bottom <= bar}) >= 2

    page.set_viewport_size(PHONE)
    page.reload()
    settled(page, "Influence")
    shown(page, "helpful")
    expect(card).to_be_in_viewport()
    for words in ("Test image 2", "loss", "nats"):
        expect(card).to_contain_text(words)
    expect(card).to_contain_text(re.compile("✓ right|✗ wrong"))
    expect(page.locator(".st-key-gallery-helpful .grid img").first).to_be_in_viewport(ratio=0.9)
    page.locator(".st-key-gallery-harmful li").last.scroll_into_view_if_needed()
    expect(page.locator("h1")).not_to_be_in_viewport()
    expect(card).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]

    page.set_viewport_size({"width": 1024, "height": 768})
    page.reload()
    settled(page, "Influence")
    shown(page, "harmful")
    expect(card).to_be_hidden()
    sidebar.hover()
    page.locator('[data-testid="stSidebarCollapseButton"] button').click()
    expect(card).to_be_visible()


def test_axe_finds_nothing_serious_on_a_phone_with_all_open(page, address):
    page.set_viewport_size(PHONE)
    page.goto(f"{address}&target=test:1.loss&pin=test:2.loss")
    settled(page, "Influence")
    page.get_by_text("Filters and view").click()
    expect(page.get_by_role("combobox", name="Pin targets to compare")).to_be_visible()
    idle(page)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = [problem for theme in ("light", "dark") for problem in violations(page, theme)]
    assert not found, "\n\n".join(found)


def test_the_explained_image_stands_beside_the_enlarged_one(page, address):
    page.goto(f"{address}&target=test:1.loss")
    settled(page, "Influence")
    shown(page, "harmful")
    page.locator(".st-key-gallery-harmful .open").first.click()
    dialog = page.locator(".st-key-gallery-harmful dialog")
    expect(dialog.get_by_role("img")).to_have_count(2)
    expect(dialog.get_by_role("img").last).to_have_attribute("alt", re.compile("^Test image 1,"))
    expect(dialog).to_contain_text("Without it the loss would")
