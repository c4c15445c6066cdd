"""Removal curves and gradient norms in a browser: asked for, waited for on *Live*, looked at, taken away."""

import re

import pytest
from playwright.sync_api import Page, expect

from engine.analysis import removal
from engine.datasets import registry as dataset_registry
from engine.runs.run import Run
from tests.app import server
from tests.helpers import download, go, idle, settled
from tests.test_browser import AXE, violations

CURVES = '[data-testid="stPlotlyChart"]'


@pytest.fixture
def url(quick, page, quick_made):
    with server(quick.root, page, REPLAY_DATA_DIR=str(quick_made.parents[1] / "data")) as (url, _):
        yield url


def influence(tab: Page, url: str, run: Run) -> None:
    tab.goto(f"{url}/Influence?run={run.id}&target=test:1.loss")
    settled(tab, "Influence")
    idle(tab)


def test_a_curve_is_asked_for_waited_for_and_taken_away(quick, page, url):
    influence(page, url, quick)
    form = page.locator(".st-key-removal-form")
    form.locator("summary").click()
    expect(form.get_by_text(re.compile("This takes about .*: 12 retrainings of"))).to_be_visible()
    form.get_by_role("spinbutton").fill("1")
    form.get_by_role("spinbutton").press("Enter")
    expect(form.get_by_text(re.compile("This takes about .*: 9 retrainings of"))).to_be_visible()
    idle(page)
    form.get_by_role("button", name="Draw the curve").click()
    expect(page.get_by_text("Trained again: 9 sets left out.")).to_be_visible()  # on Live, once it is done
    (report,) = removal.reports(quick.manifest(), "test:1.loss")
    assert len(report["sets"]) == 9
    idle(page)
    go(page, page.get_by_role("link", name=re.compile("Removal curve on")), "Influence")
    drawn = page.locator(f'[class*="st-key-removal-change-"] {CURVES}')
    expect(drawn.locator(".legendtext")).to_have_text(
        ["random", "most helpful, predicted", "most helpful", "most harmful, predicted", "most harmful"]
    )
    file = download(page, page.get_by_role("button", name="Curve as CSV"))
    rows = file.path().read_text().splitlines()
    assert len(rows) == 10 and rows[0].startswith("target,set,draw,share,left_out,predicted_change,standard_error,")


def test_the_curve_fits_and_is_readable_in_both_themes(quick, page, url):
    from engine.jobs import execute as work
    from engine.jobs.removal import Removal

    with quick.lock():
        work.execute(quick, Removal("test:1.loss", draws=2))
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        influence(page, url, quick)
        curve = page.locator(f'[class*="st-key-removal-change-"] {CURVES}')
        expect(curve.locator(".main-svg").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert curve.evaluate("e => e.getBoundingClientRect().right <= innerWidth + 1")
        if AXE.is_file():
            assert violations(page, "light") + violations(page, "dark") == []


def test_gradient_norms_are_measured_from_the_page_and_order_the_images(quick, page, url):
    page.goto(f"{url}/Test_images?run={quick.id}")
    settled(page, "Test images")
    idle(page)
    page.get_by_role("button", name="Measure the gradient norms").click()
    expect(page.get_by_text("Measured: the gradient norms of 60 test images")).to_be_visible()
    go(page, page.get_by_role("link", name="Test images by how much there is to explain"), "Test images")
    norms = quick.manifest().gradient_norms()
    first = page.locator(".st-key-gallery-tests .grid img").first
    expect(first).to_be_visible()
    dataset = dataset_registry.load(quick.manifest().config.dataset)
    label = dataset.classes[dataset.test_labels[int(norms.argmax())]]
    expect(page.locator(".st-key-gallery-tests .grid li").first).to_contain_text(label)
    expect(page.locator(".st-key-gallery-tests .grid li").first).to_contain_text("gradient ")
    expect(page).to_have_url(re.compile("order=largest"))
