"""The page *Duplicates*, and the warning of a twin on other pages: drawn, in a browser with a real job, and by axe."""

import re

import pytest
from playwright.sync_api import expect

from engine.analysis import duplicates as kept
from engine.jobs import execute as work
from engine.jobs.duplicates import FindDuplicates
from engine.runs import notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import button, go, idle, pick, said, settled, show, shown, tiles, turn, wait_until
from tests.test_influence_page import AXE, violations

PAGE = "pages/Duplicates.py"


def looked(run: runs.Run, *jobs: FindDuplicates) -> runs.Run:
    with run.lock():
        for job in jobs:
            work.execute(run, job)
    return run


def texts(app) -> str:
    return "\n".join(each.value for each in (*app.markdown, *app.caption))


@pytest.mark.slow
def test_each_group_is_a_row_with_what_its_images_are_and_do(copied):
    looked(copied, FindDuplicates(kept.EXACT), FindDuplicates(kept.HASH, 3))
    app = show(PAGE, run=copied.id, by=kept.HASH)
    figures = {each.label: each.value for each in app.metric}
    assert figures == {
        "Groups": "3",
        "Images in them": "9",
        "Training images to spare": "3",
        "Test images with a twin in training": "2 of 10",
    }
    record = copied.manifest()
    scores_N = record.score_sets.row(record.score_sets.targets()[0])
    assert [[tile["index"] for tile in tiles(app, f"dup-hash-{group}")] for group in range(3)] == [
        [0, 3, 4],
        [6, 7],
        [],
    ]
    assert [tile["index"] for tile in tiles(app, "dup-hash-2-test")] == [2, 3]
    assert tiles(app, "dup-hash-0")[0]["lines"] == ["the first"] and tiles(app, "dup-hash-0")[1]["lines"] == ["0 bits"]
    assert "**Labels differ:** ant 3, bee 1" in texts(app) and "3 in training, 1 in test" in texts(app)
    together = scores_N[[0, 3, 4]].sum()
    assert ("harms" if together > 0 else "helps") in next(e.value for e in app.markdown if "3 in training" in e.value)

    # What is kept is ticked on the spot; of the group whose labels differ nothing, unless a person says so.
    assert button(app, "Keep one of each").label == "Keep one of each: tick 1 image"
    button(app, "Keep one of each").click().run()
    assert notes.read(copied).ticked == (7,)
    button(app, "Tick 5 training images").click().run()
    assert set(notes.read(copied).ticked) == {0, 3, 4, 6, 7}

    app = show(PAGE, run=copied.id, by=kept.EXACT, where="test")
    assert tiles(app, "dup-exact-1-test") and not tiles(app, "dup-exact-0")
    app = show(PAGE, run=copied.id, by=kept.HASH, group="1")
    assert [tile["index"] for tile in tiles(app, "dup-hash-0")] == [0, 3, 4] and not tiles(app, "dup-hash-1")
    app = show(PAGE, run=copied.id, by="smell", order="taste", group="99")
    assert said(app).count("does not exist here") == 3


@pytest.mark.slow
def test_a_run_without_scores_a_damaged_file_and_a_read_only_app(copied, monkeypatch):
    looked(copied, FindDuplicates(kept.EXACT), FindDuplicates(kept.HASH))
    path = copied.path / kept.path_of(kept.HASH)
    path.write_bytes(path.read_bytes()[:-9])
    copied.storage().clean(("scores",))
    app = show(PAGE, run=copied.id)
    assert "has changed since it was written" in said(app) and tiles(app, "dup-exact-0")
    assert "together" not in texts(app) and "harmful" not in {o for box in app.selectbox for o in box.options}
    assert "has changed since it was written" in said(show("pages/Test_images.py", run=copied.id))
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show(PAGE, run=copied.id)
    assert button(app, "Keep one of each").disabled and not [b for b in app.button if b.label == "Look for duplicates"]


def test_from_the_form_to_the_ticks_and_the_warning_on_influence(page, copied, root):
    """The whole way: the form, the job on Live, its result, a group, its ticks, and the twin on the other pages; looked
    at by axe in both themes, wide and on a phone."""
    with server(root, page) as (url, _):
        page.goto(f"{url}/Duplicates?run={copied.id}")
        settled(page, "Duplicates")
        expect(page.get_by_role("button", name="Look for duplicates")).to_be_visible()
        page.get_by_text("Also turned by a quarter, or mirrored").click()
        idle(page)
        page.get_by_role("button", name="Look for duplicates").click()
        settled(page, "Live")
        go(page, page.get_by_role("link", name="Look at the duplicates"), "Duplicates")
        wait_until(lambda: "by=hash" in page.url, page)
        assert shown(page, "dup-hash-0") == [0, 3, 4] and shown(page, "dup-hash-2") == [8, 9]

        page.get_by_role("button", name="Keep the first: tick 2").click()
        expect(page.get_by_text("2 images ticked: 2 to leave out")).to_be_visible()
        assert notes.read(copied).ticked == (3, 4)
        page.get_by_text("Order and filters").click()
        pick(page, "Where", "In training and test")
        expect(page.locator(".st-key-gallery-dup-hash-2")).to_have_count(0)
        expect(page).to_have_url(re.compile("where=across"))
        problems = []
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            idle(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
            problems += [problem for theme in ("light", "dark") for problem in violations(page, theme)]
        assert not problems, "\n\n".join(problems)
        page.set_viewport_size({"width": 1440, "height": 900})

        turn(page, f"{url}/Influence?run={copied.id}&target=test:0.loss")
        settled(page, "Influence")
        warning = page.locator(".st-key-twin")
        expect(warning).to_contain_text("This test image has a twin in training")
        expect(warning).to_contain_text("Training image 0, label ant: 0 of 64 bits.")
        source = warning.locator("img").get_attribute("src")
        assert source is not None and source == _own_picture(page), "the twin is the very same image"
        warning.get_by_role("link", name="Look at the twin").click()
        settled(page, "Training images")
        expect(page).to_have_url(re.compile("image=0"))
        turn(page, f"{url}/Test_images?run={copied.id}&order=index")
        settled(page, "Test images")
        below = page.locator(".st-key-gallery-tests li").filter(has_text="twin in training")
        expect(below).to_have_count(2)
        assert below.evaluate_all("tiles => tiles.map(t => Number(t.dataset.index))") == [0, 1]


def _own_picture(page) -> str | None:
    return page.locator(".st-key-target-card img").first.get_attribute("src")


@pytest.mark.slow
def test_nothing_alike_is_said(quick):
    looked(quick, FindDuplicates(kept.EXACT))
    app = show(PAGE, run=quick.id)
    assert "No two images are alike" in said(app)
    found = kept.known(quick.manifest(), kept.EXACT)
    assert found is not None and not len(found.images) and found.distinct == found.n_train + found.n_test
