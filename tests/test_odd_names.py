"""Names of classes and files of any kind, on every page of a real browser and in exports: text, and no more."""

import csv
import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine import config as configs
from engine.datasets import registry
from engine.jobs import execute as work
from engine.runs import run as runs
from tests.app import server
from tests.helpers import PAGES, download, idle, settled, tab_is_sound, turn
from tests.images import picture
from ui.text import line

pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)

NAMES = [
    "<script>alert(1)<script>",
    "=cmd|'calc'!A1",
    "two\nlines \"quoted\" and 'single'",
    "a" * 251,
    os.fsdecode(b"caf\xe9"),
    "![x](http:⁄⁄evil.example⁄p.png) :red[b] $x$",
]


@pytest.fixture
def odd(tmp_path, monkeypatch) -> runs.Run:
    """A run on a folder whose classes and files have all these names."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    for k, label in enumerate(NAMES):
        (tmp_path / "odd" / label).mkdir(parents=True)
        for n, name in enumerate(NAMES):
            picture(100 * k + n, (12, 12)).save(tmp_path / "x.png")
            (tmp_path / "x.png").rename(tmp_path / "odd" / label / f"{name}.png")
    settings = {"recipe.epochs": 1, "recipe.batch_size": 10, "targets": ("test:0", "class:1")}
    config = configs.preset("sample").replace(dataset=f"folder:{tmp_path / 'odd'}", **settings)
    registry.load(config.dataset)
    run = runs.Run.create(runs.outputs_root(), config)
    work.execute(run)
    return run


def enlarged(page: Page, gallery: str) -> dict[str, str]:
    """What stands beside the first image of a gallery, enlarged."""
    idle(page)
    page.locator(f".st-key-gallery-{gallery} li .open").first.click()
    rows = page.locator(f".st-key-gallery-{gallery} dialog .facts tr")
    expect(rows.first).to_be_visible()
    pairs = rows.evaluate_all("rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    page.keyboard.press("Escape")
    return {pair[0]: pair[-1] for pair in pairs}


def test_every_page_shows_odd_names_as_the_text_that_they_are(odd, page, tmp_path):
    dataset = registry.load(odd.manifest().config.dataset)
    files = {line(name) for name in (*dataset.train_names, *dataset.test_names)}
    alarms: list[str] = []
    page.set_default_timeout(120_000)
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    galleries = {
        "Data": "data-samples",
        "Influence": "harmful",
        "Test_images": "tests",
        "Find_bad_labels": "suspects",
    }
    with server(odd.root, page) as (url, _):
        page.goto(url)
        for path, heading in PAGES.items():
            name = "" if path == "app.py" else Path(path).stem
            turn(page, f"{url}/{name}?run={odd.id}")
            settled(page, heading)
            idle(page)
            tab_is_sound(page)
            if name in galleries:
                details = enlarged(page, galleries[name])
                assert details["File"] in files, (name, details)
                label = details.get("Given label") or details.get("True label") or details["Label"]
                assert label in set(map(line, dataset.classes)), (name, details)
            assert (
                page.locator("script", has_text="alert(1)").count() == 0
                and page.locator('img[src*="evil"]').count() == 0
            )
        turn(page, f"{url}/Data?data={dataset.name}")
        settled(page, "Data")
        idle(page)
        tab_is_sound(page)
        turn(page, f"{url}/Find_bad_labels?run={odd.id}")
        settled(page, "Find bad labels")
        file = download(page, page.get_by_role("button", name="All suspects as CSV"))
        file.save_as(tmp_path / "suspects.csv")
    assert alarms == []
    rows = list(csv.DictReader((tmp_path / "suspects.csv").open(encoding="utf-8", newline="")))
    assert {row["file"].removeprefix("'") for row in rows} == set(dataset.train_names)
    assert all(not value.startswith("=") for row in rows for value in row.values())
