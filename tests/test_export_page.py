"""Handing a run over in a real browser: chosen, written in the background, downloaded, opened, deleted."""

import io
import zipfile

import pandas as pd
import pytest
from playwright.sync_api import expect

from engine.jobs import export as jobs
from engine.runs import corrections as corrected
from engine.runs.corrections import Corrections
from tests.app import server
from tests.helpers import download, idle, pick, settled, show, sound, turn, wait_until
from tests.test_browser import violations
from ui.run_choice import RunView

pytestmark = pytest.mark.slow


def test_a_run_is_exported_downloaded_and_its_space_freed(quick, page):
    corrected.write(quick, Corrections({0: 1}, frozenset({3})))
    with server(quick.root, page) as (url, _):
        page.goto(f"{url}/Influence?run={quick.id}")
        settled(page, "Influence")
        open_row(page)
        expect(page.get_by_text("python -m engine export")).to_be_visible()
        pick(page, "For", "Corrected folder of images")
        expect(page.get_by_text("1 corrected label and 1 excluded image")).to_be_visible()
        expect(page.get_by_text(f"export {quick.id} --format folder --out folder.zip")).to_be_visible()
        idle(page)
        assert [fault for theme in ("dark", "light") for fault in violations(page, theme)] == []
        page.get_by_role("button", name="Export", exact=True).click()
        settled(page, "Live")
        expect(page.get_by_text("Finished: the export is written.")).to_be_visible()
        with zipfile.ZipFile(io.BytesIO(downloaded(page, f"{quick.id}-folder-000.zip"))) as archive:
            assert sum(name.endswith(".png") for name in archive.namelist()) == 120 + 60 - 1

        turn(page, f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        open_row(page)
        page.get_by_role("button", name="Export", exact=True).click()  # Parquet, which is first
        settled(page, "Live")
        expect(page.get_by_text("Finished: the export is written.")).to_be_visible()
        frame = pd.read_parquet(io.BytesIO(downloaded(page, f"{quick.id}-parquet-000.parquet")))
        assert len(frame) == 180 and frame["score:test:0.loss"].notna().sum() == 120
        assert list(frame["corrected_label"].dropna()) == ["b"] and frame["excluded"].sum() == 1

        turn(page, f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        open_row(page)
        pick(page, "Scores of", next(iter(RunView.of(quick).titles.values())))
        page.keyboard.press("Escape")
        expect(page.get_by_text("--targets test:0.loss")).to_be_visible()
        quick.storage().clean(("scores",))  # by another person
        idle(page)
        page.get_by_role("button", name="Export", exact=True).click()
        expect(page.get_by_text("1 target that was chosen has no scores any more: test:0.loss")).to_be_visible()
        page.goto(f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        pick(page, "Runs to clean", quick_label(page))
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Delete exports").click()
        page.get_by_role("button", name="Delete exports: free").click()
        expect(page.get_by_text("Delete exports:", exact=False).first).to_be_visible()
        wait_until(lambda: jobs.of_run(quick, quick.manifest().files) == [], page)


def open_row(page) -> None:
    """The row, which is drawn anew while its page is."""
    idle(page)
    page.get_by_text("Hand over: export for other programs").click()
    expect(page.get_by_role("combobox", name="For", exact=True)).to_be_visible()
    idle(page)


def quick_label(page) -> str:
    open_row(page)
    box = page.get_by_role("combobox", name="Run to export")
    return box.input_value()


def downloaded(page, name: str) -> bytes:
    file = download(page, page.get_by_role("button", name=name))
    assert file.suggested_filename == name
    with open(file.path(), "rb") as file:
        return file.read()


@pytest.mark.parametrize("page_name", ["Influence", "Runs_and_storage"])
def test_the_row_is_there_on_a_run_whose_model_is_not_here_and_in_read_only_mode(page_name, quick, monkeypatch):
    if page_name == "Influence":
        monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show(f"pages/{page_name}.py", run=quick.id)
    assert any(each.label.startswith("Hand over") for each in sound(app).expander)
