"""*Find bad labels* and the bar of ticks: in a browser, with the mouse, the keyboard, and on a phone."""

import numpy as np
from playwright.sync_api import Page, expect

from engine.datasets import registry as dataset_registry
from engine.runs import notes
from engine.runs import run as runs
from tests.helpers import idle, settled, shown, wait_until
from tests.made_up import SAMPLE, run_of
from tools.serve import server

NOISY = "fashion-mnist-sample-noisy"
SCORES = np.random.default_rng(4).normal(size=(2, 6000)).astype(np.float32)


def made_up(root) -> runs.Run:
    return run_of(root, "one", {("test:all", "test:0"): ("loss", SCORES)}, SAMPLE.replace(dataset=NOISY))


def bar(page: Page):
    return page.locator(".st-key-ticks-bar")


def test_the_bar_stays_in_view_and_says_what_is_ticked(page, tmp_path):
    run, dataset = made_up(tmp_path), dataset_registry.load(NOISY)
    page.set_viewport_size({"width": 390, "height": 844})
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Find_bad_labels?run=one")
        settled(page, "Find bad labels")
        status = bar(page).get_by_role("status")
        expect(status).to_have_text("No image is ticked: tick those to leave out, or to relabel.")
        element = status.element_handle()
        first = shown(page, "suspects")[0]
        box = page.locator(".st-key-gallery-suspects .grid input").first
        box.focus()
        box.press("Space")
        expect(status).to_have_text("1 image ticked: 1 to leave out")
        assert element.evaluate("e => e.isConnected"), "a screen reader hears what changes in an element that stays"
        assert notes.read(run).ticked == () and notes.read(run).ticked_in(notes.LABELS) == (first,)
        expect(bar(page)).to_be_in_viewport(ratio=1)

        # It covers nothing at the page's end, and nothing that the keyboard goes to.
        idle(page)
        last = page.get_by_role("button", name="All suspects as CSV")
        last.focus()
        assert last.bounding_box()["y"] + last.bounding_box()["height"] <= bar(page).bounding_box()["y"]

        # What is ticked and not on this page is seen, and un-ticked, all the same.
        others = [index for index in range(6000) if index != first][-30:]
        notes.tick(run, dict.fromkeys(others, True), 6000, notes.LABELS)
        bar(page).get_by_role("button", name="See them").click()
        expect(page.get_by_role("dialog").get_by_text("31 images, with the labels given.")).to_be_visible()
        assert shown(page, "ticked-labels") == sorted([first, *others])[:24]
        page.locator(".st-key-gallery-ticked-labels .grid input").first.click()
        wait_until(lambda: len(notes.read(run).ticked_in(notes.LABELS)) == 30, page)
        page.keyboard.press("Escape")
        expect(status).to_have_text("30 images ticked: 30 to leave out")

        # One label for all, then the model's for each.
        idle(page)
        bar(page).get_by_role("button", name="Relabel").click()
        page.get_by_role("combobox", name="One label for all").click()
        page.get_by_role("option", name="Coat").click()
        expect(status).to_have_text("30 images ticked: 30 to relabel")
        assert set(notes.read(run).labels_in(notes.LABELS).values()) == {dataset.classes.index("Coat")}
        page.get_by_role("button", name="Accept the model's labels").click()
        said = run.manifest().train_logits().argmax(1)
        ticked = notes.read(run).ticked_in(notes.LABELS)
        expected = {i: int(said[i]) for i in ticked if said[i] != dataset.train_labels[i]}
        wait_until(lambda: notes.read(run).labels_in(notes.LABELS) == expected, page)
        page.keyboard.press("Escape")
        bar(page).get_by_role("button", name="Clear").click()
        expect(status).to_have_text("No image is ticked: tick those to leave out, or to relabel.")
