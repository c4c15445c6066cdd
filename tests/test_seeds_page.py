"""Several seeds in a browser: repeated on *Runs and storage*, killed, resumed on *Live*, averaged on *Compare runs*."""

import csv
import io
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from engine.analysis import seeds
from engine.analysis.overlap import overlap
from engine.jobs import execute as work
from engine.jobs import repeat
from engine.jobs.validation import Validate
from engine.runs import notes
from engine.runs.notes import SeedGroup
from engine.runs.run import Run, summaries
from tests.app import server
from tests.helpers import button, download, go, idle, said, settled, show, shown, sound, steps_done, tiles, wait_until
from tests.test_browser import AXE, violations
from tests.test_seeds import made_up, scores_of
from tools.hold import Hold

COMPARE = "pages/Compare_runs.py"


@pytest.fixture
def three(root) -> list[Run]:
    """Three trainings of one recipe, as a group; image 7 is strong in every, image 40 + seed in one."""
    group = SeedGroup("seed-0", (0, 1, 2))
    runs = []
    for seed in group.seeds:
        rows = scores_of(seed)
        rows[:, 7], rows[:, 40 + seed] = -20, 30
        runs.append(made_up(root, seed, rows))
        notes.write_group(runs[-1], group)
    return runs


@pytest.mark.slow
def test_what_matters_in_every_training_and_in_one(three, root):
    app = show(COMPARE, run="seed-0", view="seeds")
    assert app.query_params == {"run": "seed-0", "view": "seeds", "target": "test:0.loss"}
    (of, _) = seeds.over_seeds([run.manifest() for run in three])
    every = tiles(app, "all-helpful")
    assert [tile["index"] for tile in every] == overlap(of, "helpful", 50).images("all").tolist()[:24]
    assert every[0]["index"] == 7 and every[0]["lines"] == ["helps 20.0 ± 0.0", "in 3 of 3"]
    counts = app.table[0].value
    assert counts["Images"].tolist() == [f"{len(overlap(of, 'helpful', 50).images(b))}" for b in ("all", "most", "one")]
    app.button_group(key="overlap-side").set_value("harmful").run()
    assert sound(app).query_params["side"] == "harmful"
    first = tiles(app, "one-harmful")[:3]
    assert sorted(tile["index"] for tile in first) == [40, 41, 42] and first[0]["lines"][0].startswith("seed ")
    app.button(key="tick-one-harmful").click().run()
    assert {40, 41, 42} < set(notes.read(three[0]).ticked) and not notes.read(three[1]).ticked
    table = app.dataframe[0].value
    assert table["Image"][0] == 7 and table["Mean"][0] == pytest.approx(-20) and table["Same sign (of 3)"][0] == 3
    assert table["Spread"].tolist() == pytest.approx(of.spread_N[of.strongest(200)].tolist())
    assert "How far it foretells other trainings is measured once" in "".join(c.value for c in app.caption)
    app = show(COMPARE, run="seed-0", view="seeds", runs="seed-2", target="class:2.loss")
    assert app.query_params["runs"] == "seed-2" and app.query_params["target"] == "class:2.loss"
    assert "Seed 1" not in app.dataframe[0].value and "Seed 2" in app.dataframe[0].value


@pytest.mark.slow
def test_runs_of_other_data_or_targets_are_refused_on_the_page(three, root):
    made_up(root, 1, scores_of(1), "noisy", dataset="fashion-mnist-sample-noisy")
    made_up(root, 9, scores_of(1), "asked", ("test:5", "test:6"))
    app = show(COMPARE, run="seed-0", view="seeds", runs="noisy,seed-1")
    assert "they have other data" in said(app) and app.query_params["runs"] == "seed-1" and tiles(app, "all-helpful")
    app = show(COMPARE, run="seed-0", view="seeds", runs="asked")
    assert "no target in common" in said(app) and not tiles(app, "all-helpful")
    app = show(COMPARE, run="noisy", view="seeds")
    assert "There is no other training of this recipe yet" in said(app) and button(app, "Repeat with other seeds")


@pytest.mark.slow
def test_where_a_person_looks_the_cost_is_said_and_guests_start_nothing(three, root, monkeypatch):
    for page in ("pages/Trust.py", "pages/Runs_and_storage.py", COMPARE):
        app = show(page, run="seed-0", **({"view": "seeds"} if page == COMPARE else {}))
        assert not any(each.label == "Trainings in all" for each in app.number_input)  # folded away
        app.session_state["repeat-a-run" if page == "pages/Runs_and_storage.py" else "repeat-seed-0"] = True
        app.run()
        count = next(each for each in app.number_input if each.label == "Trainings in all")
        count.set_value(5).run()
        told = [m.value for m in app.markdown if m.value.startswith("To do: 2 trainings, 4 targets to replay")]
        assert told and "Disk:" in told[0] and button(app, "Repeat with other seeds")
    app = show("pages/Influence.py", run="seed-0")
    live = show("pages/Live.py", run="seed-1")
    assert any(m.value.startswith("**Seed 2 of 3:**") for m in live.markdown)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    for page in ("pages/Trust.py", COMPARE, "pages/Live.py"):
        app = show(page, run="seed-0", **({"view": "seeds"} if page == COMPARE else {}))
        assert not [b for b in app.button if "seeds" in b.label and not b.disabled]


def test_a_group_from_its_start_over_a_killed_server_to_its_mean(page, quick, root, tmp_path):
    """Three seeds through the real queue: the server is killed in the second training, another goes on from there."""
    with quick.lock():
        work.execute(quick, Validate(6, (0.05,)))
    hold = Hold("train", 5, tmp_path / "never")
    main = page.get_by_test_id("stMainBlockContainer")
    with server(root, page, hold=hold) as (url, process):
        page.goto(f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        main.locator("summary", has_text="Repeat a run with other seeds").click()
        count = main.get_by_role("spinbutton", name="Trainings in all")
        count.fill("3")
        count.press("Enter")
        expect(main.get_by_text("To do: 2 trainings, 4 targets to replay, 14 retrainings")).to_be_visible()
        idle(page)
        main.get_by_role("button", name="Repeat with other seeds").click()
        settled(page, "Live")
        expect(main.get_by_text("Seed 2 of 3:")).to_be_visible()
        wait_until(lambda: steps_done(page)[0] == "Train" and steps_done(page)[1] >= 5, page)
        expect(main.get_by_role("link", name="Seed 2: queued")).to_be_visible()
        expect(main.get_by_role("button", name="Stop all seeds")).to_be_visible()
        page.goto("about:blank")
        process.send_signal(signal.SIGKILL)
        process.wait()
    made = [run.id for run in summaries(root) if run.id != quick.id]
    assert [Run(root, run_id).status for run_id in made] == ["interrupted"] * 2
    with server(root, page) as (url, _):
        page.goto(f"{url}/Live?run={quick.id}")
        settled(page, "Live")
        expect(main.get_by_text("Seed 1 of 3:")).to_be_visible()
        main.get_by_role("button", name="Resume 2 seeds").click()
        expect(main.get_by_role("link", name="Mean over 3 seeds", exact=True)).to_be_visible()
        for seed in (1, 2):
            expect(main.get_by_role("link", name=f"Seed {seed}: finished")).to_be_visible()
        assert sorted(run.id for run in summaries(root)) == sorted([quick.id, *made])
        go(page, main.get_by_role("link", name="Mean over 3 seeds", exact=True), "Compare runs")
        expect(main.get_by_text(re.compile("the mean of the other 2 ordered what happened"))).to_be_visible()
        (of, _) = seeds.over_seeds(seeds.alike(quick.manifest(), [Run(root, run_id) for run_id in made]))
        everywhere = overlap(of, "helpful", 50).images("all").tolist()
        assert everywhere and shown(page, "all-helpful") == everywhere[:24]
        file = download(page, main.get_by_role("button", name="All as CSV", exact=True))
        rows = list(csv.DictReader(io.StringIO(Path(file.path()).read_text(encoding="utf-8-sig"))))
        assert {int(row["image"]): float(row["mean"]) for row in rows} == pytest.approx(
            dict(enumerate(of.mean_N.tolist()))
        )
        assert np.ptp(of.scores_SN, axis=0).max() > 0
        for width in (390, 1024, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            expect(main.get_by_role("heading", name=re.compile("^In all 3 trainings"))).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        idle(page)
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        assert not [problem for theme in ("light", "dark") for problem in violations(page, theme)]
    assert repeat.plan(quick, 3).open == ()
