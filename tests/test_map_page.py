"""The page *Map*: what it says of runs that lack something, and in a browser: drawn around, ticked, asked by keys."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import files
from engine.analysis import features as kept
from engine.datasets import registry as dataset_registry
from engine.jobs import umap
from engine.runs import notes
from engine.runs import run as runs
from tests.app import server
from tests.helpers import button, idle, said, settled, show, shown, tiles, wait_until
from tests.made_up import SAMPLE, run_of
from tests.test_browser import violations
from tests.test_map import winds_around

PAGE = "pages/Map.py"
DATASET = dataset_registry.load("fashion-mnist-sample")
NAMES = ("test:0", "test:1", "test:2", "train:17")
SCORES = 1e-3 * np.random.default_rng(4).standard_t(3, size=(4, 6000)).astype(np.float32)


def with_features(run: runs.Run) -> runs.Run:
    """Two numbers an image: a round cloud, wider than it is high, with the test images among the others."""
    rng = np.random.default_rng(1)
    files.make_folder(run.path / kept.FOLDER)
    cloud = [(rng.normal(size=(n, 2)) * (4, 1)).astype(np.float32) for n in (6000, len(DATASET.test_labels))]
    written = {
        name: files.write_npy(run.path / name, rows) for name, rows in zip((kept.TRAIN, kept.TEST), cloud, strict=True)
    }
    about = files.write_json(run.path / kept.ABOUT, {"of": "made-up features"})
    run.add_files({**written, kept.ABOUT: about})
    return run


@pytest.fixture
def made_up(root) -> runs.Run:
    return with_features(run_of(root, "one", {NAMES: ("loss", SCORES)}))


def captions(app) -> str:
    return "\n".join(each.value for each in app.caption)


@pytest.mark.slow
def test_each_run_is_drawn_by_what_it_has_and_says_what_it_lacks(made_up, root, monkeypatch):
    app = show(PAGE, run="one")
    assert "by what its last layer sees" in captions(app) and "of the variance" in captions(app) and not said(app)
    app = show(PAGE, run="one", source="influence", colour="effect", target="train:17.loss")
    assert "that help and harm the same" in captions(app) and not said(app)
    assert "has no place" in captions(show(PAGE, run="one", source="influence", target="test:1.loss"))
    assert "has no place among images by influence" in said(show(PAGE, run="one", source="influence", view="near"))
    app = show(PAGE, run="one", view="near", near="50", target="test:1.loss", colour="loss")
    assert not said(app) and "of the variance" in captions(app)
    assert not said(app) and "of the variance" in captions(app)
    monkeypatch.setattr(umap, "installed", lambda: False)
    assert "pip install umap-learn" in said(show(PAGE, run="one", method="umap"))
    monkeypatch.setattr(umap, "installed", lambda: True)
    assert not button(show(PAGE, run="one", method="umap"), "Draw it with UMAP").disabled

    bare = run_of(root, "bare", {("test:0",): ("loss", SCORES[:1])}, train_logits=False)
    app = show(PAGE, run="bare")
    assert "whose pixels are alike" in captions(app) and not said(app), "the only source that it has"
    assert "Loss on the given label" not in app.selectbox(key="map-colour-bare").options
    assert "needs scores of 3 targets; this run has 1" in said(show(PAGE, run="bare", source="influence"))
    app = show(PAGE, run="bare", source="features")
    assert "are not there yet" in said(app) and "has no weights" in captions(app)
    bare.update_manifest(files=bare.manifest().files | {kept.STATE: "0" * 64})
    assert not button(show(PAGE, run="bare", source="features"), "Compute the features").disabled
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    assert "nothing is computed here" in captions(show(PAGE, run="bare", source="features"))
    monkeypatch.delenv("REPLAY_READ_ONLY")

    unscored = run_of(root, "unscored", {})
    app = show(PAGE, run=unscored.id)
    assert not said(app) and not [box for box in app.selectbox if box.label == "Pinned target"]


@pytest.mark.slow
def test_maps_of_few_and_of_equal_images_say_so(root, own_data):
    for name, images in (("few", 2), ("equal", 30)):
        pixels = np.full((images, 8, 8), 7, np.uint8)
        labels = np.arange(images) % 2
        path = own_data.parent / f"{name}.npz"
        np.savez(
            path, images=pixels, labels=labels, test_images=pixels, test_labels=labels, classes=np.array(["a", "b"])
        )
        dataset = dataset_registry.load(dataset_registry.canonical(f"arrays:{path}")).name
        config = SAMPLE.replace(dataset=dataset, **{"recipe.batch_size": images})
        run_of(root, name, {("test:0",): ("loss", np.arange(images, dtype=np.float32)[None])}, config)
    assert "needs 3 images; here are 2" in said(show(PAGE, run="few"))
    assert "All 30 images are equal" in said(show(PAGE, run="equal"))


@pytest.mark.slow
def test_tags_colour_and_numbers_choose(made_up):
    notes.tick(made_up, {5: True}, 6000)
    notes.write_note(made_up, 9, "#odd", instead_of="")
    app = show(PAGE, run="one", colour="tag:#odd")
    assert app.selectbox(key="map-colour-one").value == "tag:#odd"
    app.radio[0].set_value("image")
    app.number_input[1].set_value(9)
    button(app, "Choose the nearest").click()
    app.run()
    rows = kept.read(made_up).train.astype(np.float64)
    away = np.linalg.norm(rows - rows[9], axis=1)
    away[9] = np.inf
    nearest = np.sort(np.argsort(away, kind="stable")[:50])
    assert [tile["index"] for tile in tiles(app, "map")] == nearest[:24].tolist()
    assert "50 images, nearest to train:9; 0 of them ticked" in captions(app)
    app.button(key="map-tick").click().run()
    assert set(notes.read(made_up).ticked) == {5, *nearest.tolist()}
    app.button(key="map-untick").click().run()
    assert notes.read(made_up).ticked == (5,)


# -- in a browser

PLACES = """chart => {  // every training image by its number: where it is on the screen
  const {xaxis: x, yaxis: y} = chart._fullLayout, box = chart.getBoundingClientRect(), places = {}
  for (const trace of chart._fullData.filter(one => one.marker.symbol === 'circle'))
    for (let i = 0; i < trace.x.length; i++)
      places[trace.customdata[i]] = [box.x + x._offset + x.l2p(trace.x[i]), box.y + y._offset + y.l2p(trace.y[i])]
  return places
}"""
LASSO = np.array([[-160, -70], [40, -110], [150, -20], [90, 90], [-20, 30], [-120, 100]])  # pixels from the middle


def drawn_chart(tab):
    """Once plotly has drawn it, and it stands in view."""
    chart = tab.locator(".st-key-map-plot .js-plotly-plot")
    expect(chart.locator(".nsewdrag").first).to_be_attached()
    chart.scroll_into_view_if_needed()
    idle(tab)
    return chart


def lasso(tab, corners: np.ndarray) -> None:
    """The line is drawn as the pointer moves, by the page: plotly, which looks at all points then, hears of nothing."""
    tab.mouse.move(*corners[0])
    tab.mouse.down()
    for x, y in [*corners[1:], corners[0]]:
        tab.mouse.move(x, y, steps=6)
        assert len(outlined(tab)) > 1 and not tab.locator(".select-outline, .selectionlayer path").count()
    tab.mouse.up()


def outlined(tab) -> list[list[float]]:
    """The corners of what stands on the chart, or is being drawn, in pixels of its area."""
    path = tab.locator(".drawn-around > path").last.get_attribute("d") or ""
    return [[float(number) for number in corner.split(",")] for corner in re.findall(r"[-\d.]+,[-\d.]+", path)]


def test_what_is_drawn_around_is_chosen_ticked_and_reaches_the_what_if(page, made_up, root):
    with server(root, page) as (url, _):
        page.goto(f"{url}/Map?run=one&target=test:1.loss")
        settled(page, "Map")
        chart = drawn_chart(page)
        places = {int(i): at for i, at in chart.evaluate(PLACES).items()}
        assert len(places) == 6000
        area = chart.locator(".nsewdrag").first.bounding_box()
        corners = LASSO + [area["x"] + area["width"] / 2, area["y"] + area["height"] / 2]
        lasso(page, corners)
        expect(page.get_by_text("drawn around on the map")).to_be_visible()
        text = page.get_by_text("drawn around on the map").inner_text()
        expected = {i for i, (x, y) in places.items() if winds_around(x, y, corners)}
        at_edge = {i for i, at in places.items() if distance_to(corners, np.array(at)) < 2}  # pixels
        assert len(expected) > 300 and int(re.search(r"([\d,]+) images", text)[1].replace(",", "")) > 0
        page.get_by_role("button", name=re.compile("Tick all")).click()
        wait_until(lambda: len(notes.read(made_up).ticked) > 0, page)
        ticked = set(notes.read(made_up).ticked)
        assert ticked - at_edge == expected - at_edge, "exactly what lies within"
        assert shown(page, "map") == sorted(ticked)[:24]
        expect(page.locator(".st-key-ticks-count")).to_contain_text(f"{len(ticked):,} images ticked")

        stands_on_the_points(page)
        hover(page, chart, sorted(expected - at_edge))
        by_keys(page, made_up)
        assert not outlined(page), "what is chosen now was not drawn around"

        found = []
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            found += [f"{width}: {problem}" for theme in ("light", "dark") for problem in violations(page, theme)]
        assert not found, "\n\n".join(found)

        page.set_viewport_size({"width": 1440, "height": 900})
        page.get_by_role("link", name="Influence", exact=True).click()
        settled(page, "Influence")
        expect(page.get_by_text(re.compile(f"of {len(ticked):,} ticked images"))).to_be_visible()


def stands_on_the_points(tab) -> None:
    """The outline moves with the map: half of the ranges, and it is twice as large."""
    before = np.array(outlined(tab))
    for title, times in (("Zoom in", 2), ("Reset axes", 1)):
        tab.locator(f'.st-key-map-plot [data-title="{title}"]').click()
        wide = times * np.ptp(before, axis=0)
        wait_until(lambda wide=wide: np.allclose(np.ptp(np.array(outlined(tab)), axis=0), wide, atol=2), tab)


def distance_to(corners: np.ndarray, at: np.ndarray) -> float:
    """To the nearest edge, in pixels."""
    a, b = corners, np.roll(corners, -1, 0)
    along = np.clip(((at - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
    return float(np.linalg.norm(a + along[:, None] * (b - a) - at, axis=1).min())


def hover(tab, chart, within: list[int]) -> None:
    """The picture of the point under the pointer stands beside it, and its words are text: of the outermost, and of
    one that was drawn around."""
    chart.scroll_into_view_if_needed()
    places = {int(i): at for i, at in chart.evaluate(PLACES).items()}
    every = np.array([places[i] for i in range(len(places))])
    nearest = [np.partition(np.linalg.norm(every - every[i], axis=1), 1)[1] for i in within]
    for alone in (int(np.argmax(every[:, 0])), within[int(np.argmax(nearest))]):  # nothing else is near
        tab.mouse.move(places[alone][0] - 3, places[alone][1])
        tab.mouse.move(*places[alone])
        box = tab.locator(".beside-pointer:not([hidden])")
        expect(box.locator("img")).to_have_attribute("alt", re.compile(f"Training image {alone},"))
        expect(box).to_contain_text(f"train:{alone}")
        tab.mouse.move(5, 5)
        expect(box).to_have_count(0)


def by_keys(tab, run) -> None:
    """Without a pointer: the fields are opened, filled and sent by keys alone."""
    summary = tab.locator(".st-key-map-by-numbers summary")
    summary.focus()
    tab.keyboard.press("Enter")
    field = tab.get_by_role("spinbutton", name="The nearest")
    expect(field).to_be_visible()
    field.fill("20")
    field.press("Tab")
    send = tab.get_by_role("button", name="Choose the nearest")
    send.focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("20 images, nearest to the target")).to_be_visible()
    features = kept.read(run)
    away = np.linalg.norm(features.train.astype(np.float64) - features.test[1], axis=1)
    assert shown(tab, "map") == sorted(np.argsort(away, kind="stable")[:20].tolist())
