"""Maps without a browser: principal components against the singular value decomposition, images that act alike,
neighbours, what lies within a lasso, and what colours the points."""

import numpy as np
import pytest

from engine.analysis import map_values, maps, projection, selection
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.runs.notes import Notes
from engine.targets import Target
from tests.made_up import run_of

RNG = np.random.default_rng(0)


# -- principal components


@pytest.mark.parametrize("shape", [(60, 7), (9, 40), (40, 1), (3, 2)])
def test_they_are_those_of_the_singular_value_decomposition_with_one_sign(shape, monkeypatch):
    rows = (RNG.normal(size=shape) * np.arange(1, shape[1] + 1) + 100).astype(np.float32)
    _, s, vt = np.linalg.svd(rows - rows.mean(0, dtype=np.float64), full_matrices=False)
    axes = min(2, len(s))
    plane = projection.principal(rows)
    assert plane.explained[:axes] == pytest.approx((s**2 / (s**2).sum())[:axes], abs=1e-9)
    assert plane.explained[axes:] == (0.0,) * (2 - axes)
    for axis in range(axes):
        expected = vt[axis] * np.sign(vt[axis][np.abs(vt[axis]).argmax()])
        np.testing.assert_allclose(plane.axes[:, axis], expected, atol=1e-6)
    np.testing.assert_allclose(
        plane.project(rows)[:, :axes], (rows - plane.mean) @ plane.axes[:, :axes], rtol=1e-5, atol=1e-5
    )
    monkeypatch.setattr(projection, "PIECE", 3 * shape[1])  # blocks of three rows
    again = projection.principal(rows)
    np.testing.assert_allclose(again.axes, plane.axes, atol=1e-9)
    assert np.array_equal(projection.principal(rows).axes, again.axes), "the same each time"


def test_there_is_no_plane_of_too_few_of_equal_or_of_endless_rows():
    with pytest.raises(ConfigError, match="needs 3 images; here are 2"):
        projection.principal(np.ones((2, 4), np.float32))
    with pytest.raises(ConfigError, match="All 5 images are equal"):
        projection.principal(np.full((5, 4), 0.1, np.float32))
    with pytest.raises(ConfigError, match="All 5 images are equal"):
        projection.principal(np.full((5, 40), 0.1, np.float32))
    with pytest.raises(ConfigError, match="not finite"):
        projection.principal(np.array([[1, np.nan], [2, 3], [4, 5]], np.float32))
    one_line = projection.principal(np.outer([0, 1, 2, 3], np.arange(1, 9)).astype(np.float32))
    assert one_line.explained == pytest.approx((1, 0)) and not one_line.axes[:, 1].any()


# -- sources


def test_images_that_act_alike_have_one_direction_however_strong_they_are():
    scores = RNG.normal(size=(4, 30))
    scores[2] *= 1000  # a target whose unit is larger
    scores[:, 5] = -3 * scores[:, 4]
    scores[:, 6] = 0.01 * scores[:, 4]
    scores[:, 7] = 0
    rows = maps.directions(scores.astype(np.float32))
    expected = np.array(
        [column / (np.linalg.norm(column) or 1) for column in (scores / np.sqrt((scores**2).mean(1))[:, None]).T]
    )
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(rows[6], rows[4], atol=1e-5)
    np.testing.assert_allclose(rows[5], -rows[4], atol=1e-5)
    assert not rows[7].any() and rows.dtype == np.float32


def test_each_source_says_what_it_lacks(root):
    scores = RNG.standard_t(3, size=(3, 6000)).astype(np.float32)
    run = run_of(root, "two", {("test:0", "test:1"): ("loss", scores[:2])})
    record, dataset = run.manifest(), dataset_registry.load("fashion-mnist-sample")
    with pytest.raises(ConfigError, match="needs scores of 3 targets; this run has 2"):
        maps.rows_of(record, dataset, "influence")
    with pytest.raises(ConfigError, match="no weights") as error:
        maps.rows_of(record, dataset, "features")
    assert "another source" in error.value.remedy
    run = run_of(root, "three", {("test:0", "test:1", "train:5"): ("loss", scores)})
    record = run.manifest()
    rows = maps.rows_of(record, dataset, "influence")
    assert rows.train.shape == (6000, 3) and rows.test is None
    before = maps.digest_of(record, dataset, "influence")
    with pytest.raises(ConfigError, match="has no place among images by influence"):
        maps.neighbourhood(record, dataset, "influence", Target.parse("test:0"))
    near = maps.neighbourhood(record, dataset, "influence", Target.parse("train:5"), 50)
    away = np.linalg.norm(rows.train.astype(np.float64) - rows.train[5], axis=1)
    away[5] = np.inf
    assert near.images.tolist() == np.argsort(away, kind="stable")[:50].tolist()
    np.testing.assert_allclose(near.distance, np.sort(away)[:50], rtol=1e-5)
    near = maps.neighbourhood(record, dataset, "pixels", Target.parse("class:2"), 40)
    assert near.map.train.shape == (40, 2) and near.target.shape == (2,)
    run.update_manifest(files={k: "0" * 64 if k.endswith("000.npy") else v for k, v in record.files.items()})
    assert maps.digest_of(run.manifest(), dataset, "influence") != before


def test_a_map_is_kept_until_what_it_was_made_of_changes(root):
    run = run_of(root, "one", {("test:0",): ("loss", RNG.normal(size=(1, 6000)).astype(np.float32))})
    drawn = maps.Map(RNG.normal(size=(6000, 2)).astype(np.float32), None, "made up", "umap")
    written = maps.write(run.path, "umap-pixels", lambda size, write: write(), drawn, "of this")
    run.add_files(written)
    record = run.manifest()
    found = maps.read(record, "umap-pixels", "of this")
    assert (
        found is not None and np.array_equal(found.train, drawn.train) and found.test is None and found.of == "made up"
    )
    assert maps.read(record, "umap-pixels", "of that") is None and maps.read(record, "umap-features", "of this") is None


# -- shapes


def winds_around(x: float, y: float, corners: np.ndarray) -> bool:
    """By the sum of the angles under which the edges are seen: ±2π within, 0 outside of a polygon that does not cross
    itself."""
    angles = np.arctan2(corners[:, 1] - y, corners[:, 0] - x)
    turns = np.diff(np.append(angles, angles[0]))
    return abs(((turns + np.pi) % (2 * np.pi) - np.pi).sum()) > np.pi


def test_what_lies_within_a_lasso_is_what_it_winds_around():
    points = RNG.normal(size=(400, 2)).astype(np.float32)
    for corners in (3, 7, 40):
        angles = np.sort(RNG.uniform(0, 2 * np.pi, corners))
        star = RNG.uniform(0.3, 2, corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        expected = [i for i, (x, y) in enumerate(points.astype(float)) if winds_around(x, y, star)]
        assert selection.within(points, [(star[:, 0], star[:, 1])]).tolist() == expected and len(expected) > 3
    box = selection.within(points, [selection.box(1, -1, 0.5, -0.2)])
    assert (
        box.tolist()
        == np.flatnonzero((np.abs(points[:, 0]) < 1) & (points[:, 1] > -0.2) & (points[:, 1] < 0.5)).tolist()
    )
    both = selection.within(points, [selection.box(-1, 0, -1, 0), selection.box(0, 1, 0, 1)])
    assert both.tolist() == np.flatnonzero((np.abs(points).max(1) < 1) & (points[:, 0] * points[:, 1] > 0)).tolist()
    assert not len(selection.within(points, [(np.array([0.0, 1.0]), np.array([0.0, 1.0]))])), "a line has no inside"


def test_a_browser_may_send_anything():
    good = {"x": [0, 1, 1.5], "y": [0, 0, 1]}
    wrong = [
        *(None, 3, {}, [3], [{"x": [0, 1]}]),
        [{"x": [0, "1", 2], "y": [0, 1, 2]}],
        [{"x": [0, float("nan")], "y": [0, 1]}],
        [{"x": [True, False, True], "y": [0, 1, 2]}],
        [{"x": [0] * 10_001, "y": [0] * 10_001}],
    ]
    for bad in wrong:
        assert selection.shapes_of(bad) == []
    assert len(selection.shapes_of([good, {"x": [1], "y": []}, good])) == 2
    assert len(selection.shapes_of([good] * 200)) == selection.MOST_SHAPES


# -- colours


def test_help_and_harm_are_centred_and_tags_are_read_from_notes(root):
    scores = RNG.standard_t(3, size=(1, 6000)).astype(np.float32)
    run = run_of(root, "one", {("test:0",): ("margin", scores)})
    record, dataset = run.manifest(), dataset_registry.load("fashion-mnist-sample")
    (ref,) = record.score_sets.targets()
    harm = map_values.by_harm(record, ref)
    assert np.array_equal(harm.of, -scores[0].astype(np.float64)) and harm.signed, "a margin that rises is a help"
    assert harm.end == pytest.approx(np.quantile(np.abs(scores), 0.95)) and harm.end < np.abs(scores).max()
    logits = record.train_logits().astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = map_values.by_loss(record, dataset)
    np.testing.assert_allclose(loss.of, -np.log(p[np.arange(6000), dataset.train_labels]), rtol=1e-9)
    agreement = map_values.by_agreement(record, dataset)
    assert np.array_equal(agreement.of == 1, logits.argmax(1) != dataset.train_labels) and 0 < agreement.of.mean() < 1
    notes = Notes(
        (3, 9), {"run": "#none", "4": "a #Blurry one, (#twice)", "7": "#blurry", "9": "plain", "6001": "#gone"}
    )
    assert {name: found.tolist() for name, found in map_values.tags(notes, 6000).items()} == {
        "ticked": [3, 9],
        "with a note": [4, 7, 9],
        "#blurry": [4, 7],
        "#twice": [4],
    }
