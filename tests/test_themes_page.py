"""Themes as a person meets them: looked at, named, ticked, and left out by a retraining that comes back to them."""

import dataclasses
import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from engine import files
from engine.analysis import features, themes, trust, what_if
from engine.datasets import registry as dataset_registry
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.notes import SeedGroup
from tests.app import server
from tests.helpers import at_rest, button, download, go, idle, said, settled, show, shown, sound, tiles, wait_until
from tests.made_up import SAMPLE, run_of
from tests.test_browser import AXE, violations
from ui import formats, shell
from ui.text import plain

THEMES = "pages/Themes.py"
DATASET = dataset_registry.load("fashion-mnist-sample")
N = len(DATASET.train_labels)
SCORES = 1e-3 * np.random.default_rng(8).standard_t(3, size=(3, N)).astype(np.float32)


def found_of(run: runs.Run, key: str, **more) -> themes.Themes:
    record = run.manifest()
    dataset = dataset_registry.load(record.config.dataset)
    return themes.find(record, dataset, record.score_sets.target(key), features.read(record), **more)


def gallery_of(theme: themes.Theme) -> str:
    return f"{theme.side}-{theme.key}"


# -- without a browser


@pytest.mark.slow
def test_each_theme_has_its_pictures_its_sum_and_what_it_is(root):
    run = run_of(root, "one", {("test:0", "test:1"): ("loss", SCORES[:2]), ("test:0",): ("difference:6>4", SCORES[2:])})
    app = show(THEMES, run=run.id, target="test:0.loss", themes="3", top="50")
    found = found_of(run, "test:0.loss", top=50, count=3)
    assert [h.value for h in app.header][:2] == ["Harmful themes", "Helpful themes"]
    assert len(app.subheader) == 6 and "3 themes a side" in "".join(c.value for c in app.caption)
    for side in themes.SIDES:
        for place, theme in enumerate(found.sides[side].themes, 1):
            drawn = tiles(app, gallery_of(theme))
            assert [tile["index"] for tile in drawn] == theme.images[:10].tolist()
            for tile in drawn:
                looks = [each for each in tile["lines"] if each.startswith("looks like")]
                assert bool(looks) == (tile["index"] in theme.doubted)
            assert f"{place}. {plain(themes.name_of(theme, DATASET.classes))}" in [h.value for h in app.subheader]
            assert any(f"{100 * theme.share:.1f} % of all that" in m.value for m in app.markdown)
    theme = found.sides["harmful"].themes[0]
    sound(app.button(key=f"tick-{theme.key}").click().run())
    assert notes.read(run).ticked == tuple(sorted(theme.images.tolist()))
    # Classes raise and lower; nobody is harmed.
    app = show(THEMES, run=run.id, target="test:0.difference:6>4", side="harmful")
    assert [h.value for h in app.header][:1] == ["Themes that lower it"] and "harms" not in said(app)


@pytest.mark.slow
def test_a_target_that_few_images_moved_and_one_that_none_did(root):
    scores = np.zeros((2, N), np.float32)
    scores[0, [4, 8]] = -0.2
    run = run_of(root, "few", {("test:0", "test:1"): ("loss", scores)}, train_logits=False)
    app = show(THEMES, run=run.id, target="test:0.loss")
    assert "No training image harms this target." in said(app)
    assert any("Labels are not judged" in m.value for m in app.markdown)
    app = show(THEMES, run=run.id, target="test:1.loss")
    assert said(app).count("No training image") == 2 and not app.subheader


def retrained(run: runs.Run, images: np.ndarray, change: float) -> None:
    """A report of a retraining without these images, after which each target's loss is another by so much."""
    record = run.manifest()
    targets = what_if.predict(record, DATASET, np.sort(images))
    after = [{figure: value + change for figure, value in target.before.items()} for target in targets]
    report = {
        "schema": 1,
        "kind": "what-if",
        "training_digest": record.training_digest,
        "left_out": sorted(images.tolist()),
        "relabelled": {},
        "targets": [dataclasses.asdict(dataclasses.replace(t, actual=a)) for t, a in zip(targets, after, strict=True)],
        "test_accuracy": 0.8,
        "test_accuracy_before": 0.8,
    }
    name = "validation/what-if-000.json"
    run.add_files({name: files.write_json(run.path / name, report)})


@pytest.mark.slow
def test_a_theme_left_out_in_trainings_of_several_seeds(root):
    group = SeedGroup("seed-0", (0, 1, 2))
    three = []
    for seed in group.seeds:
        config = SAMPLE.replace(**{"recipe.seed": seed})
        three.append(run_of(root, f"seed-{seed}", {("test:0",): ("loss", SCORES[:1] * (1 + seed))}, config))
    asked = dict(run="seed-0", target="test:0.loss", themes="3", top="50")
    theme = found_of(three[0], "test:0.loss", top=50, count=3).sides["harmful"].themes[0]
    retrained(three[0], theme.images, -0.5)
    app = show(THEMES, **asked)
    assert any("One retraining, with this run's own seed (0)" in c.value for c in app.caption) and len(app.table) == 1
    for run in three:
        notes.write_group(run, group)
    retrained(three[1], theme.images, -0.8)
    app = show(THEMES, **asked)
    by_scores, actual = app.table[1].value.to_dict("records")
    mean, spread = 1.5 * theme.effect, theme.effect / np.sqrt(2)  # of the effect once, and twice
    scale = formats.Scale.of([2 * theme.effect, 0.8], "loss")
    assert by_scores["Mean ± standard deviation"] == f"{scale.number(-mean)} ± {scale.size(spread)}"
    assert actual["Mean ± standard deviation"] == f"{scale.number(-0.65)} ± {scale.size(0.3 / np.sqrt(2))}"
    assert (actual["From"], actual["To"]) == (scale.number(-0.8), scale.number(-0.5))
    assert not button(app, "Leave it out in 1 other seed, too").disabled, "seed 2 has none yet"


@pytest.mark.slow
def test_a_run_whose_model_is_elsewhere_has_themes_and_no_retraining(root):
    run = run_of(root, "own", {("test:0",): ("loss", SCORES[:1])})
    run.update_manifest(model="python:Net")
    app = show(THEMES, run=run.id)
    leave = button(app, "Leave this theme out")
    assert leave.disabled and leave.help == shell.FROM_PYTHON and not button(app, "Tick these").disabled


# -- in a browser


@pytest.fixture
def url(quick, page, quick_made):
    with server(quick.root, page, REPLAY_DATA_DIR=str(quick_made.parents[1] / "data")) as (url, _):
        yield url


def opened(tab: Page, url: str, run: runs.Run) -> None:
    tab.goto(f"{url}/Themes?run={run.id}&target=test:1.loss&top=50")
    settled(tab, "Themes")
    idle(tab)


def test_a_theme_is_named_ticked_and_left_out_and_the_result_comes_back_to_it(quick, page, url):
    opened(page, url, quick)
    expect(page.get_by_text(re.compile("^Grouped by pixels, scaled"))).to_be_visible()
    page.get_by_role("button", name="Compute the features").click()
    wait_until(lambda: features.read(quick.manifest()) is not None and not quick.manifest().in_progress, page)
    opened(page, url, quick)
    expect(page.get_by_text(re.compile("^Grouped by penultimate features of the model"))).to_be_visible()
    theme = found_of(quick, "test:1.loss", top=50).numbered("harmful:1")
    assert shown(page, gallery_of(theme)) == theme.images[:10].tolist()
    card = page.locator(".st-key-theme-harmful-1")

    card.get_by_role("button", name="Name").click()
    field = page.get_by_role("textbox", name="Name of this theme")
    field.fill("Blurred **ones**")
    field.press("Enter")
    expect(card.get_by_role("heading", name="1. Blurred **ones**", exact=True)).to_be_visible()
    idle(page)
    page.keyboard.press("Escape")
    at_rest(page)

    card.get_by_role("button", name="Tick these").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-ticks-count")).to_contain_text(f"{len(theme.images)} images ticked")
    idle(page)
    card.get_by_role("button", name="Leave this theme out").click()
    settled(page, "Live")
    go(page, page.get_by_role("link", name=re.compile("Back to the theme")), "Themes")  # on Live, once it is done
    idle(page)
    (report,) = trust.what_ifs(quick.manifest())
    assert report["left_out"] == sorted(theme.images.tolist())
    expect(card.get_by_text(re.compile("Left out. Predicted change of the loss: .*Retrained: "))).to_be_visible()
    expect(card.get_by_role("columnheader", name="Retrained")).to_be_visible()
    file = download(page, page.get_by_role("button", name="Themes as CSV"))
    rows = file.path().read_text().splitlines()
    assert rows[0].startswith("target,theme,name,images,effect,share,unit,place,index,") and len(rows) > 40

    for width in (390, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        at_rest(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if AXE.is_file() and width != 1024:
            assert violations(page, "light") + violations(page, "dark") == []
