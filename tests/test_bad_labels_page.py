"""*Find bad labels* and the bar of ticks: in a browser, with the mouse, the keyboard, and on a phone."""

import dataclasses
import re
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
from playwright.sync_api import Page, expect

from engine.analysis import neighbours, suspects, trust
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.runs import corrections, notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import Held, at_rest, download, go, idle, settled, shown, tick, wait_until
from tests.made_up import SAMPLE, SMALL, run_of

NOISY = "fashion-mnist-sample-noisy"
SCORES = np.random.default_rng(4).normal(size=(2, 6000)).astype(np.float32)


def made_up(root) -> runs.Run:
    return run_of(root, "one", {("test:all", "test:0"): ("loss", SCORES)}, SAMPLE.replace(dataset=NOISY))


def decided(run: runs.Run) -> set[int]:
    """The images that *Find bad labels* shows as ticked."""
    both = corrections.read(run)
    return {*both.labels, *both.excluded}


def bar(page: Page):
    return page.locator(".st-key-ticks-bar")


def test_the_bar_stays_in_view_and_says_what_is_ticked(page, tmp_path):
    run, dataset = made_up(tmp_path), dataset_registry.load(NOISY)
    page.set_viewport_size({"width": 390, "height": 844})
    # A server that is late, as on a busy machine: what a click draws is seen all the same (ui/delivery.py).
    with server(tmp_path, page, inside="tests.late_loop") as (url, _):
        page.goto(f"{url}/Training_images?run=one&view=browse")
        settled(page, "Training images")
        status = bar(page).get_by_role("status")
        expect(status).to_have_text("No image is ticked.")
        element = status.element_handle()
        first = shown(page, "browse")[0]
        box = page.locator(".st-key-gallery-browse .grid input").first
        box.focus()
        box.press("Space")
        expect(status).to_have_text("1 image ticked: 1 to leave out")
        assert element.evaluate("e => e.isConnected"), "a screen reader hears what changes in an element that stays"
        assert notes.read(run).ticked == (first,) and not len(corrections.read(run))
        expect(bar(page)).to_be_in_viewport(ratio=1)
        buttons = bar(page).get_by_role("button").filter(visible=True)
        rows = "all => new Set(all.map(each => each.getBoundingClientRect().top)).size"
        for width in (1024, 641, 390):
            page.set_viewport_size({"width": width, "height": 844})
            wait_until(lambda: buttons.evaluate_all(rows) == 1, page)

        # It covers nothing at the page's end, and nothing that the keyboard goes to.
        idle(page)
        pictures = page.locator(".st-key-gallery-browse .grid .open").all()
        for element in (*pictures, page.get_by_role("button", name="Copy link")):
            element.focus()
            assert element.bounding_box()["y"] + element.bounding_box()["height"] <= bar(page).bounding_box()["y"]

        # What is ticked and not on this page is seen, and un-ticked, all the same.
        others = [index for index in range(6000) if index != first][-30:]
        notes.tick(run, dict.fromkeys(others, True), 6000)
        bar(page).get_by_role("button", name="See them").click()
        expect(page.get_by_role("dialog").get_by_text("31 images, with the labels given.")).to_be_visible()
        assert shown(page, "ticked-influence") == sorted([first, *others])[:24]
        page.locator(".st-key-gallery-ticked-influence .grid input").first.click()
        wait_until(lambda: len(notes.read(run).ticked) == 30, page)
        page.keyboard.press("Escape")
        expect(status).to_have_text("30 images ticked: 30 to leave out")

        # One label for all, then the model's for each.
        idle(page)
        bar(page).get_by_role("button", name="Relabel").click()
        page.get_by_role("combobox", name="One label for all").click()
        page.get_by_role("option", name="Coat").click()
        expect(status).to_have_text("30 images ticked: 30 to relabel")
        assert set(notes.read(run).labels_in(notes.INFLUENCE).values()) == {dataset.classes.index("Coat")}
        page.get_by_role("button", name="Accept the model's labels").click()
        said = run.manifest().train_logits().argmax(1)
        ticked = notes.read(run).ticked
        expected = {i: int(said[i]) for i in ticked if said[i] != dataset.train_labels[i]}
        wait_until(lambda: notes.read(run).labels_in(notes.INFLUENCE) == expected, page)
        page.keyboard.press("Escape")
        bar(page).get_by_role("button", name="Clear").click()
        expect(status).to_have_text("No image is ticked.")


def losses(run: runs.Run) -> np.ndarray:
    """−log of the probability of each training image's label, float64 [N]."""
    logits = run.manifest().train_logits().astype(np.float64)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(6000), dataset_registry.load(NOISY).train_labels]


def test_a_choice_counts_also_where_the_next_is_made_before_the_browser_has_its_url(page, tmp_path):
    made_up(tmp_path)
    held, boxes = Held(page), ("The model disagrees", "Ticked only")
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Find_bad_labels?run=one&label=Shirt")
        settled(page, "Find bad labels")
        page.get_by_text("Filters", exact=True).click()
        at_rest(page)
        held.begin()
        for box, written in zip(boxes, (b"disagree=yes", b"ticked=yes"), strict=True):
            page.get_by_text(box, exact=True).click()
            wait_until(lambda written=written: held.has(written), page)
        held.end()
        expect(page).to_have_url(re.compile("disagree=yes.*ticked=yes"))
        idle(page)
        for box in boxes:
            expect(page.get_by_role("checkbox", name=box, exact=True)).to_be_checked()


def test_orders_filters_and_pages_are_in_the_link_and_go_back_with_it(page, tmp_path):
    run, dataset = made_up(tmp_path), dataset_registry.load(NOISY)
    by_harm, by_loss = (np.argsort(-values, kind="stable") for values in (SCORES[0], losses(run)))
    said, shirt = run.manifest().train_logits().argmax(1), dataset.classes.index("Shirt")
    harmful, doubted = ([i for i in order if dataset.train_labels[i] == shirt] for order in (by_harm, by_loss))
    shirts = [i for i in by_loss if dataset.train_labels[i] == shirt != said[i]]

    def expect_images(expected) -> None:
        wait_until(lambda: shown(page, "suspects") == [int(i) for i in expected], page)

    with server(tmp_path, page) as (url, _):
        page.goto(
            f"{url}/Find_bad_labels?run=one&label=Shirt&order=harm&from=24"
        )  # as links were before the pages had numbers
        settled(page, "Find bad labels")
        expect_images(harmful[24:48])
        page.get_by_role("radio", name="Loss on the label given").click()
        expect_images(doubted[:24])
        idle(page)
        expect(page.get_by_text("Set: label Shirt")).to_be_visible()
        page.get_by_text("Filters", exact=True).click()
        at_rest(page)
        tick(page, "The model disagrees")
        expect(page).to_have_url(re.compile("disagree=yes"))
        expect_images(shirts[:24])
        idle(page)
        page.get_by_role("button", name="Page 2", exact=True).click()
        expect_images(shirts[24:48])
        expect(page).to_have_url(re.compile("page=2"))
        assert parse_qs(urlsplit(page.url).query) == {
            "run": ["one"],
            "order": ["loss"],
            "target": ["test:all.loss"],
            "label": ["Shirt"],
            "disagree": ["yes"],
            "page": ["2"],
        }
        other = page.context.new_page()
        other.goto(page.url)
        assert shown(other, "suspects") == shirts[24:48]
        other.close()
        page.go_back()
        expect_images(shirts[:24])
        page.go_back()
        expect_images(doubted[:24])
        page.go_back()
        expect_images(harmful[24:48])


def test_images_are_ticked_by_range_rule_and_key_and_get_labels_one_by_one(page, tmp_path):
    run, dataset = made_up(tmp_path), dataset_registry.load(NOISY)
    given, said = dataset.train_labels, run.manifest().train_logits().argmax(1)
    order = [int(i) for i in np.argsort(-losses(run), kind="stable") if said[i] != given[i]]

    def expect_kept(ticked, labels) -> None:
        wait_until(
            lambda: (decided(run), corrections.read(run).labels) == (set(ticked), labels),
            page,
        )

    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Find_bad_labels?run=one&order=loss&disagree=yes")
        settled(page, "Find bad labels")
        assert shown(page, "suspects") == order[:24]

        # Shift takes all between two boxes, either way.
        boxes = page.locator(".st-key-gallery-suspects .grid input")
        boxes.nth(4).click()
        boxes.nth(2).click(modifiers=["Shift"])
        expect_kept(order[2:5], {})

        # Enlarged: what decides is there, and keys decide and go on.
        page.locator(".st-key-gallery-suspects .open").first.click()
        enlarged = page.locator(".st-key-gallery-suspects dialog")
        expect(enlarged).to_contain_text(f"Model's label{dataset.classes[said[order[0]]]}")
        expect(enlarged.locator("h3")).to_have_text(
            [
                "The model's probabilities",
                *(f"Nearest with the label {dataset.classes[c]}, by pixels" for c in (given[order[0]], said[order[0]])),
            ]
        )
        expect(enlarged.locator(".alike img")).to_have_count(8)
        page.keyboard.press("a")
        expect(enlarged.locator("h2")).to_have_text(re.compile(r"^2\. "))
        page.keyboard.press("x")
        page.keyboard.press("t")  # the third was ticked
        expect(enlarged.locator("h2")).to_have_text(re.compile(r"^4\. "))
        another = next(c for c in range(10) if c not in (given[order[3]], said[order[3]]))
        enlarged.get_by_role("combobox").select_option(str(another))
        labels = {order[0]: int(said[order[0]]), order[3]: another}
        expect_kept([order[0], order[1], order[3], order[4]], labels)
        page.keyboard.press("Escape")
        expect(bar(page).get_by_role("status")).to_have_text("4 images ticked: 2 to leave out, 2 to relabel")

        # All below a threshold, and what was decided as a file.
        idle(page)
        page.get_by_role("button", name="Tick by a rule").click()
        field = page.get_by_role("spinbutton", name="Probability of the given label below")
        field.fill("20")
        field.press("Enter")
        rule = {i for i in order if np.exp(-losses(run)[i]) < 0.2}
        idle(page)
        page.get_by_role("button", name=f"Tick {len(rule):,} images below it").click()
        expect_kept(rule | {order[0], order[1], order[3], order[4]}, labels)
        page.keyboard.press("Escape")
        file = download(page, page.get_by_role("button", name="All suspects as CSV"))
        table = pd.read_csv(file.path(), keep_default_na=False).set_index("index")
        assert {"loss", "harm"} <= set(table.columns) and "score" not in table
        assert set(table.index[table["ticked"]]) == decided(run)
        assert dict(table["new_label"][table["new_label"] != ""]) == {i: dataset.classes[c] for i, c in labels.items()}

        # The ticked ones alone: what is unticked there stays to be seen.
        bar(page).get_by_role("button", name="See them").click()
        expect(page).to_have_url(re.compile("ticked=yes"))
        ticked = [i for i in order if i in decided(run)]
        wait_until(lambda: shown(page, "suspects") == ticked[:24], page)
        boxes.first.click()
        wait_until(lambda: order[0] not in decided(run), page)
        assert shown(page, "suspects") == ticked[:24]


def test_what_is_decided_while_what_came_before_is_being_written_is_what_is_kept(page, tmp_path):
    """Keys are quicker than a slow disk: the last one decides, whatever is still being written for those before it."""
    run, dataset = made_up(tmp_path), dataset_registry.load(NOISY)
    given, said = dataset.train_labels, run.manifest().train_logits().argmax(1)
    order = [int(i) for i in np.argsort(-losses(run), kind="stable") if said[i] != given[i]]
    gallery = page.locator(".st-key-gallery-suspects")
    with server(tmp_path, page, inside="tests.late_disk") as (url, _):
        page.goto(f"{url}/Find_bad_labels?run=one&order=loss&disagree=yes")
        settled(page, "Find bad labels")
        boxes, what = gallery.locator(".grid input"), gallery.locator("dialog").get_by_role("combobox")
        boxes.nth(4).click()
        boxes.nth(2).click(modifiers=["Shift"])
        gallery.locator(".open").nth(2).click()
        for choice in ("leave out", "keep", str(said[order[2]])):
            what.select_option(choice)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("a")
        page.keyboard.press("ArrowLeft")
        another = next(c for c in range(10) if c not in (given[order[3]], said[order[3]]))
        what.select_option(str(another))
        page.keyboard.press("Escape")
        status = bar(page).get_by_role("status")
        expect(status).to_have_text("3 images ticked: 1 to leave out, 2 to relabel")
        page.wait_for_timeout(2000)  # for what comes late
        assert decided(run) == set(order[2:5])
        assert corrections.read(run).labels == {order[2]: int(said[order[2]]), order[3]: another}
        expect(status).to_have_text("3 images ticked: 1 to leave out, 2 to relabel")


def test_wrong_labels_ticked_by_a_rule_get_the_models_and_a_retraining_is_compared(page, tmp_path):
    """The whole task: three clicks decide on 300 images, one trains again, one leads back to what that did."""
    config = SMALL.replace(dataset=NOISY, targets=("test:all",))
    run = runs.Run.create(tmp_path, config, "one")
    with run.lock():
        work.execute(run)
    order, said = np.argsort(-losses(run), kind="stable")[:300], run.manifest().train_logits().argmax(1)
    given = dataset_registry.load(NOISY).train_labels
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Find_bad_labels?run=one&order=loss")
        settled(page, "Find bad labels")
        idle(page)
        page.get_by_role("button", name="Tick by a rule").click()
        field = page.get_by_role("spinbutton", name="To number")
        field.fill("300")
        field.press("Enter")
        idle(page)
        page.get_by_role("button", name="Tick 300 images of this list").click()
        page.keyboard.press("Escape")
        idle(page)
        bar(page).get_by_role("button", name="Relabel").click()
        page.get_by_role("button", name="Accept the model's labels").click()
        expect(bar(page).get_by_role("status")).to_contain_text("300 images ticked:")
        wait_until(lambda: bool(corrections.read(run).labels), page)
        page.keyboard.press("Escape")
        idle(page)
        bar(page).get_by_role("button", name="train again").click()
        settled(page, "Live")
        go(page, page.get_by_role("link", name="Back to Find bad labels"), "Find bad labels")
        outcome = page.get_by_test_id("stMain")
        (report,) = trust.what_ifs(run.manifest())
        relabelled = {str(i): int(said[i]) for i in sorted(order.tolist()) if said[i] != given[i]}
        assert report["relabelled"] == relabelled and len(report["left_out"]) == 300 - len(relabelled)
        expect(outcome.get_by_text("Trained again: 300 images relabelled").first).to_be_visible()
        after = f"{100 * report['test_accuracy']:.1f} %"
        expect(page.locator('[data-testid="stMetric"]', has_text="Retrained")).to_contain_text(after)
        idle(page)
        changed = report["test"]["changed"]
        page.get_by_text(f"Test images with another predicted label: {changed:,}").click()
        expect(page.locator(".st-key-gallery-changed-images-ticked li")).to_have_count(min(12, changed))


# -- what the page computes


def test_neighbours_are_those_of_a_plain_loop():
    dataset = dataset_registry.load(NOISY)
    pixels = dataset.train_images.reshape(6000, -1).astype(np.float64)
    for index, labels, of_labels in zip(
        (7, 5999), ((3, 3), (1, 9)), neighbours.nearest(dataset, (7, 5999), ((3, 3), (1, 9)), 5)
    ):
        distances = ((pixels - pixels[index]) ** 2).sum(1)
        for label, images in zip(labels, of_labels, strict=True):
            others = [
                i for i in np.argsort(distances, kind="stable") if dataset.train_labels[i] == label and i != index
            ]
            assert images == others[:5]


def test_neighbours_of_large_images_and_of_small_classes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 70, 50, 3)).astype(np.uint8)
    images[4] = images[0]
    dataset = dataclasses.replace(
        dataset_registry.load(NOISY), train_images=images, train_labels=np.array([0, 1, 0, 1, 0, 1])
    )
    assert neighbours.nearest(dataset, (0,), ((0, 1),), 1) == [
        [[4], [min((1, 3, 5), key=lambda i: distance(images, i))]]
    ]
    assert [len(of) for of in neighbours.nearest(dataset, (0,), ((0, 1, 2),), 9)[0]] == [2, 3, 0]


def distance(images, index: int) -> float:
    """Of each third pixel: the longer side has 70, and no more than 32 are compared."""
    small = images[:, ::3, ::3].astype(np.float64)
    return ((small[index] - small[0]) ** 2).sum()


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"index": range(4), "given_label": list("aabb"), **columns})


def test_the_order_is_by_loss_unless_harm_is_known_to_find_more():
    wrong_last, wrong_first = np.array([1.0, 2, 3, 9]), np.array([9.0, 3, 2, 1])
    better = suspects.better_order
    assert better(table(loss=wrong_last, harm=wrong_first)) == ("loss", {})  # nothing is known
    assert better(table(loss=wrong_last, harm=wrong_first, true_label=list("aabb"))) == ("loss", {})  # nothing is wrong
    order, precision = better(table(loss=wrong_last, harm=wrong_first, true_label=list("babb")))
    assert order == "harm" and precision == {"harm": 1.0, "loss": 0.25}
    assert better(table(loss=wrong_first, harm=wrong_last, true_label=list("babb")))[0] == "loss"
    assert better(table(loss=wrong_first, harm=wrong_first, true_label=list("babb")))[0] == "loss"


def test_the_csv_says_what_was_decided():
    decided = suspects.decided(table(), SimpleNamespace(classes=("a", "b")), [3], {1: 1})
    assert decided["ticked"].tolist() == [False, True, False, True] and decided["new_label"].tolist() == [
        "",
        "b",
        "",
        "",
    ]
