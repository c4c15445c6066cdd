"""*Compare runs*, many in a table: filtered, folded, chosen, compared with A, their images held against each other."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import files
from engine.analysis import compare, overlap
from engine.runs import notes
from engine.runs.run import Run
from tests.app import server
from tests.helpers import button, download, idle, said, settled, show, shown, sound, tiles
from tests.made_up import SAMPLE, run_of
from tests.test_browser import violations
from tests.test_many import N, scores_of, three

COMPARE = "pages/Compare_runs.py"


@pytest.fixture
def runs(root) -> list[Run]:
    """Three seeds, a wider model, one of other data, one that cannot be read, and one that waits."""
    made = three(root)
    wide, noisy = SAMPLE.replace(width=2.0), SAMPLE.replace(dataset="fashion-mnist-sample-noisy")
    scores = scores_of(9, 1)
    scores[0, 7] = -20
    made.append(run_of(root, "wide", {("test:0",): ("loss", scores)}, wide))
    made.append(run_of(root, "noisy", {("test:9",): ("loss", np.ones((1, N)))}, noisy))
    made.append(run_of(root, "broken", {("test:0",): ("loss", np.ones((1, N)))}))
    (made[-1].path / "config.json").write_text("{}")
    made.append(Run.create(root, SAMPLE, "waiting"))
    return made


def table(app):
    return app.dataframe[0].value.set_index("Run")


@pytest.mark.slow
def test_all_runs_stand_in_one_table_with_a_column_for_what_differs(runs, monkeypatch):
    def never(path, *args, **kwargs):
        assert "scores" not in str(path), f"{path} was opened"
        return read(path, *args, **kwargs)

    read = files.read_npy
    monkeypatch.setattr(files, "read_npy", never)
    app = show(COMPARE, run="seed-1", view="many")
    assert app.query_params == {"run": "seed-1", "view": "many"} and not said(app)
    found = app.dataframe[0].value
    assert len(found) == 5 and [m.value for m in app.markdown if "of 7 runs" in m.value]
    seeds = found[found["Seed"] == "0, 1, 2"].iloc[0]
    assert seeds["Run"] == "A: Sample, small-cnn: 3 seeds" and seeds["Accuracy (%)"] == pytest.approx(80)
    assert seeds["± accuracy"] == pytest.approx(0) and seeds["Look"].startswith("/Compare_runs?run=seed-0&view=seeds")
    assert found["Width (× channels)"].tolist().count("2") == 1 and "Epochs" not in found
    broken = found[found["Status"] == "finished"]
    assert any("config.json" in remark for remark in broken["Remark"].fillna(""))
    assert set(found["Data"].dropna()) >= {"Sample", "Noisy sample"}
    app = show(COMPARE, run="seed-1", view="many", fold="0")
    assert len(app.dataframe[0].value) == 7 and app.query_params["fold"] == "0"


@pytest.mark.slow
def test_runs_are_chosen_by_filter_and_the_link_keeps_it(runs):
    app = show(COMPARE, run="seed-1", view="many", find='"seed 2"', status="finished", least="79.5")
    assert len(app.dataframe[0].value) == 1 and app.dataframe[0].value["Seed"][0] == "2"
    assert dict(app.query_params) == {
        "run": "seed-1",
        "view": "many",
        "find": '"seed 2"',
        "status": "finished",
        "least": "79.5",
    }
    assert any("accuracy at least 79.5" in c.value for c in app.caption)
    app.text_input(key="many-find").set_value("nobody").run()
    assert "None of the 7 runs passes" in said(sound(app)) and app.query_params["find"] == "nobody"
    app = show(COMPARE, run="seed-1", view="many", runs="seed-1,seed-2,gone", data="x", verdict="no", least="a")
    assert all(name in said(app) for name in ("gone", "«x»", "«no»", "«a»")) and len(app.dataframe[0].value) == 1
    assert app.query_params["runs"] == "seed-1,seed-2"
    button(app, "All runs").click().run()
    assert "runs" not in sound(app).query_params and len(app.dataframe[0].value) == 5


@pytest.mark.slow
def test_scores_are_held_against_as_where_asked(runs, root):
    app = show(COMPARE, run="seed-0", view="many", fold="0", agree="1")
    found = table(app)
    pair = [run.scores().matrix("loss-000") for run in runs[:2]]
    expected = compare.median(compare.agreement(*(m[k] for m in pair)).spearman for k in (0, 1))
    assert found["Rank correlation with A"].dropna().max() >= expected
    assert found["Targets in common"].dropna().tolist().count(2) == 2  # of the two other seeds
    (runs[1].path / "scores" / "loss-000.npy").unlink()
    found = table(show(COMPARE, run="seed-0", view="many", fold="0", agree="1"))
    assert any("loss-000.npy" in why for why in found["Not compared"].fillna(""))


@pytest.mark.slow
def test_images_of_all_runs_and_of_one_beside_chance(runs):
    app = show(COMPARE, run="seed-0", view="many", images="1", k="12", find="sample")
    (first,) = overlap.over_runs([run.manifest() for run in (runs[3], *runs[2::-1])])
    found = overlap.overlap(first, "helpful", 12)
    counts = app.table[0].value
    assert counts["Images"].tolist() == [f"{len(found.images(band)):,}" for band in overlap.BANDS]
    assert counts["By chance"].tolist()[0] == "< 0.1" and counts.iloc[0, 0] == "In all 4 runs"
    assert [tile["index"] for tile in tiles(app, "one-helpful")] == found.images("one").tolist()[:24]
    assert any("of other data" in c.value for c in app.caption)
    app = show(COMPARE, run="seed-0", view="many", images="1", runs="seed-0,noisy")
    assert "It takes two runs with scores on the data of A" in said(app)
    app = show(COMPARE, run="noisy", view="many", images="1")
    assert "It takes two runs" in said(app)
    app = show(COMPARE, run="waiting", view="many")
    assert len(app.dataframe[0].value) == 5 and not said(app), "the table needs no scores"
    app = show(COMPARE, run="waiting", view="two")
    assert "no scores yet" in said(app)


@pytest.mark.slow
def test_one_run_alone_and_guests(root, monkeypatch):
    run_of(root, "alone", {("test:0",): ("loss", scores_of(0, 1))})
    app = show(COMPARE, run="alone", view="many", images="1")
    assert len(app.dataframe[0].value) == 1 and "It takes two runs" in said(app)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show(COMPARE, run="alone", view="many")
    assert len(app.dataframe[0].value) == 1 and not said(app)


def test_a_person_filters_chooses_two_and_ticks_what_is_in_all(runs, root, page):
    main = page.get_by_test_id("stMainBlockContainer")
    with server(root, page) as (url, _):
        page.goto(f"{url}/Compare_runs?run=seed-0")
        settled(page, "Compare runs")
        idle(page)
        main.get_by_text("Many runs in a table").click()
        expect(main.get_by_text("7 of 7 runs")).to_be_visible()
        idle(page)
        main.locator("summary", has_text="Filters").click()
        find = main.get_by_role("textbox", name="Find")
        find.fill("finished small-cnn sample")
        find.press("Enter")
        expect(page).to_have_url(re.compile("find=finished"))
        expect(main.get_by_text("Set: «finished small-cnn sample»")).to_be_visible()
        file = download(page, main.get_by_role("button", name="Table as CSV"))
        rows = list(csv.DictReader(io.StringIO(Path(file.path()).read_text(encoding="utf-8-sig"))))
        assert {row["run"] for row in rows} == {"seed-0", "seed-1", "seed-2", "wide", "noisy"}
        choose_row(page, 0)
        expect(main.get_by_role("button", name="Only these")).to_be_enabled()
        idle(page)
        main.get_by_text("Open their scores").click()
        expect(main.get_by_role("heading", name=re.compile("^In all 4 runs: 1 image"))).to_be_visible()
        assert shown(page, "all-helpful") == [7]
        main.get_by_role("button", name="Tick it", exact=True).click()
        expect(page.get_by_role("status").filter(has_text="1 image ticked: 1 to leave out").first).to_be_attached()
        assert notes.read(Run(root, "seed-0")).ticked == (7,)
        idle(page)
        serious = violations(page, "light") + violations(page, "dark")
        for width in (390, 1024, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            idle(page)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        choose_row(page, 0)
        main.get_by_role("button", name="Compare with A").click()
        expect(page).to_have_url(re.compile("other="))
        expect(main.get_by_text("What differs, A and B:")).to_be_visible()
        page.go_back()
        expect(page).to_have_url(re.compile("view=many"))
        expect(main.get_by_text("Set: «finished small-cnn sample»")).to_be_visible()
        assert not serious, "\n\n".join(serious)


def choose_row(page, number: int) -> None:
    """Its box, at the left; the first row is 0."""
    canvas = page.get_by_test_id("stDataFrame").locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + 15, box["y"] + 35 + 35 * number + 17)
