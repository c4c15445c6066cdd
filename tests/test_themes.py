"""Themes: Ward's groups against scipy's and a plain loop, planted themes that are found, and what is said of them."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from engine import files
from engine.__main__ import main
from engine.analysis import clusters, features, themes, trust
from engine.analysis.features import Features
from engine.analysis.logits import softmax
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.runs import notes
from engine.runs import run as runs
from tests.made_up import run_of

DATASET = dataset_registry.load("fashion-mnist-sample")
N, LABELS = len(DATASET.train_labels), DATASET.train_labels
COAT, SHIRT, BAG = (DATASET.classes.index(name) for name in ("Coat", "Shirt", "Bag"))
LABEL_OF = {"shirts": SHIRT, "bags": BAG}


def together(groups) -> np.ndarray:
    """bool [M, M]: what a partition says, whatever its groups are called."""
    return np.equal.outer(np.asarray(groups), np.asarray(groups))


# -- groups


def cloud(m: int, seed: int = 0) -> np.ndarray:
    """Points of several scales, some of them equal."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(m, 5)) * rng.choice([0.1, 1, 3], size=(m, 1))
    points[m // 2 : m // 2 + 3] = points[0]
    return points


@pytest.mark.slow
@pytest.mark.parametrize("m", [2, 3, 60, 200])
def test_the_groups_are_those_of_scipy_at_every_height(m):
    from scipy.cluster.hierarchy import fcluster, linkage

    points = cloud(m) if m > 9 else np.random.default_rng(1).normal(size=(m, 2))
    merges, theirs = clusters.ward(clusters.distances(points)), linkage(points, "ward")
    np.testing.assert_allclose([merge.height for merge in merges], theirs[:, 2], atol=1e-6)
    for groups in range(1, min(m, 25) + 1):
        expected = fcluster(theirs, groups, "maxclust")
        assert len(np.unique(expected)) == groups, "no two merges of equal height decide here"
        assert np.array_equal(together(clusters.cut(merges, groups)), together(expected))


def test_heights_never_fall_and_each_merge_adds_least_to_the_squares():
    points = np.random.default_rng(2).normal(size=(12, 3))
    merges = clusters.ward(clusters.distances(points))
    groups, squares = [[i] for i in range(12)], 0.0

    def around(of) -> float:
        return float(((points[of] - points[of].mean(0)) ** 2).sum())

    for merge in merges:  # by the definition, from the means
        pairs = [(around(a + b) - around(a) - around(b), a, b) for a in groups for b in groups if a < b]
        added, a, b = min(pairs, key=lambda pair: pair[0])
        assert {min(a), min(b)} == {merge.a, merge.b} and merge.height == pytest.approx(np.sqrt(2 * added))
        groups = [g for g in groups if g not in (a, b)] + [a + b]
        squares += added
    assert squares == pytest.approx(around(list(range(12))))
    assert [m.height for m in merges] == sorted(m.height for m in merges)


def test_the_silhouettes_are_those_of_a_plain_loop():
    points = np.random.default_rng(3).normal(size=(14, 2))
    groups = np.array([0] * 6 + [1] * 5 + [2] * 2 + [3])
    distances = clusters.distances(points)
    for i, found in enumerate(clusters.silhouettes(distances, groups)):
        own = [distances[i, j] for j in range(14) if groups[j] == groups[i] and j != i]
        others = [np.mean([distances[i, j] for j in range(14) if groups[j] == g]) for g in set(groups) - {groups[i]}]
        a, b = np.mean(own) if own else 0.0, min(others)
        assert found == pytest.approx((b - a) / max(a, b) if own else 0.0)


def test_planted_groups_are_found_and_counted_in_any_order():
    rng = np.random.default_rng(4)
    planted = np.repeat([0, 1, 2, 3], [20, 15, 9, 4])
    points = 6 * np.eye(4)[planted] + rng.normal(size=(48, 4)) * 0.5
    found = clusters.grouped(points)
    assert np.array_equal(together(found.of_point), together(planted)) and found.silhouette > 0.6
    order = rng.permutation(48)
    assert np.array_equal(together(clusters.grouped(points[order]).of_point), together(planted[order]))
    assert len(np.unique(clusters.grouped(points, 7).of_point)) == 7


@pytest.mark.parametrize(
    "points, count, groups",
    [
        (np.zeros((0, 3)), None, 0),
        (np.zeros((1, 3)), None, 1),
        (np.ones((9, 3)), None, 1),
        (np.ones((9, 3)), 4, 1),
        (np.eye(2), None, 1),  # of two points each would be alone, and the silhouette says nothing
        (np.eye(2), 5, 2),
        (np.repeat(np.eye(3), 4, axis=0), None, 3),
        (np.repeat(np.eye(3), 4, axis=0), 7, 3),  # no more than points that differ
    ],
)
def test_few_points_and_equal_ones(points, count, groups):
    assert len(np.unique(clusters.grouped(points, count).of_point)) == groups


# -- themes of a target


@pytest.fixture
def planted(root):
    """Two harmful themes and a helpful one: 30 shirts that look like coats, 20 bags, 25 coats. What tells the first two
    apart is the features: what an image does to the second target it does to the first, but for the last digits."""
    rng = np.random.default_rng(5)
    shirts, bags, coats = (np.flatnonzero(LABELS == c)[:n] for c, n in ((SHIRT, 30), (BAG, 20), (COAT, 25)))
    scores = np.zeros((2, N), np.float32)
    for images, size in ((shirts, 0.02), (bags, 0.01), (coats, -0.03)):
        scores[0, images] = size * rng.uniform(0.5, 1.5, len(images))
    scores[1] = scores[0] / 3
    run = run_of(root, "planted", {("test:0", "test:1"): ("loss", scores)})
    logits = run.manifest().train_logits().copy()
    logits[shirts[:6]] += 12 * np.eye(10)[COAT]  # sure, and not of the label
    sha256 = files.write_npy(run.path / themes.TRAIN_LOGITS, logits)
    run.update_manifest(files={**run.manifest().files, themes.TRAIN_LOGITS: sha256})
    train = (4 * np.eye(10)[LABELS] + rng.normal(size=(N, 10)) * 0.3).astype(np.float32)
    train[shirts] += 4 * (np.eye(10)[COAT] - np.eye(10)[SHIRT]).astype(np.float32)
    features = Features(train, train[: len(DATASET.test_labels)], "penultimate features of the model")
    return run.manifest(), features, {"shirts": shirts, "bags": bags, "coats": coats}


def found_of(planted, **more) -> themes.Themes:
    record, features, _ = planted
    return themes.find(record, DATASET, record.score_sets.target("test:0.loss"), features, **more)


def test_planted_themes_are_found_with_what_there_is_to_say_of_them(planted):
    record, features, images = planted
    found, scores = found_of(planted), record.score_sets.matrix("loss-000")[0].astype(np.float64)
    harmful, helpful = found.sides["harmful"], found.sides["helpful"]
    assert [sorted(theme.images) for theme in harmful.themes] == [sorted(images["shirts"]), sorted(images["bags"])]
    assert sorted(i for theme in helpful.themes for i in theme.images) == sorted(images["coats"])
    assert (harmful.grouped, harmful.of, harmful.share) == (50, 50, pytest.approx(1))
    shirts, bags = harmful.themes
    assert shirts.effect == pytest.approx(scores[images["shirts"]].sum()) and shirts.effect > bags.effect > 0
    assert shirts.share == pytest.approx(shirts.effect / (shirts.effect + bags.effect))
    assert all(theme.effect < 0 < theme.share for theme in helpful.themes)
    assert (shirts.labels, shirts.looks_like, bags.looks_like) == (((SHIRT, 30),), (COAT, 30), (BAG, 20))
    right = {c: int((record.train_logits()[images[c]].argmax(1) == label).sum()) for c, label in LABEL_OF.items()}
    assert 15 < right["shirts"] < 30 and shirts.predicted == (SHIRT, right["shirts"])
    said = f"30 × Shirt that look like Coat: {right['shirts']} predicted so"
    assert themes.name_of(shirts, DATASET.classes) == said
    assert themes.name_of(bags, DATASET.classes) == f"20 × Bag: {right['bags']} predicted so"
    assert found.all()[0] in (shirts, helpful.themes[0]) and found.numbered("harmful:2") == bags
    assert themes.grouped_by(found) == "Grouped by penultimate features of the model."
    assert "30 labels" not in themes.doubts_in_words(bags, DATASET)


def test_the_most_central_image_is_the_nearest_to_the_mean_of_its_theme(planted):
    _, features, images = planted
    (shirts, _) = found_of(planted).sides["harmful"].themes
    rows = features.train[np.sort(np.concatenate([images["shirts"], images["bags"]]))].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unit = dict(zip(np.sort(np.concatenate([images["shirts"], images["bags"]])).tolist(), rows, strict=True))
    mean = np.mean([unit[i] for i in images["shirts"].tolist()], axis=0)
    far = [float(np.linalg.norm(unit[i] - mean)) for i in shirts.images.tolist()]
    assert far == sorted(far) and far[0] < far[-1]


def test_a_label_looks_wrong_by_confident_learning(planted):
    record, _, images = planted
    p, doubted = softmax(record.train_logits()), {}
    least = [np.mean([p[i, c] for i in np.flatnonzero(LABELS == c)]) for c in range(10)]
    for i in images["shirts"].tolist():
        sure = [c for c in range(10) if p[i, c] >= least[c]]
        if sure and (likely := max(sure, key=lambda c: p[i, c])) != LABELS[i]:
            doubted[i] = likely
    shirts = found_of(planted).sides["harmful"].themes[0]
    assert shirts.doubted == doubted and doubted and set(doubted.values()) == {COAT}
    said = themes.doubts_in_words(shirts, DATASET)
    assert said.startswith(f"{len(doubted)} label") and "wrong (" in said and "known" not in said
    true = np.where(np.isin(np.arange(N), images["shirts"][:3]), COAT, LABELS)
    known = themes.doubts_in_words(shirts, replace(DATASET, true_train_labels=true))
    assert known.endswith("; 3 are known to be wrong.")


def test_influence_tells_apart_what_features_do_not_and_scores_of_any_unit_count_alike(root):
    scores = np.zeros((3, N), np.float32)
    scores[0, :40] = 0.01
    scores[1, :20], scores[2, 20:40] = 1e-8, 1e-8  # another unit, and another kind of image each
    record = run_of(root, "one", {("test:0", "test:1", "test:2"): ("loss", scores)}).manifest()
    same = np.ones((N, 4), np.float32)
    found = themes.find(record, DATASET, record.score_sets.target("test:0.loss"), Features(same, same, "x"))
    assert [sorted(t.images) for t in found.sides["harmful"].themes] == [list(range(20)), list(range(20, 40))]
    assert found.by == ("what they did to the run's 3 targets",) and found.sides["helpful"].themes == ()


def test_themes_do_not_depend_on_the_order_of_the_images(planted, root):
    record, features, _ = planted
    order = np.random.default_rng(6).permutation(N)  # where the images of another data set of the same content are
    moved = replace(DATASET, train_images=DATASET.train_images[order], train_labels=LABELS[order])
    scores = record.score_sets.matrix("loss-000")[:, order]
    other = run_of(root, "moved", {("test:0", "test:1"): ("loss", scores)}).manifest()
    elsewhere = replace(features, train=features.train[order])
    again = themes.find(other, moved, other.score_sets.target("test:0.loss"), elsewhere)
    for side, of_side in found_of(planted).sides.items():
        there = [set(order[theme.images].tolist()) for theme in again.sides[side].themes]
        assert [set(theme.images.tolist()) for theme in of_side.themes] == there
    first, second = found_of(planted), found_of(planted)
    assert [t.images.tolist() for t in first.all()] == [t.images.tolist() for t in second.all()]


def test_what_cannot_be_grouped_is_one_theme_and_says_so(root):
    scores = np.zeros((1, N), np.float32)
    scores[0, [3, 5, 7]] = 0.1, 0.3, 0.2
    record = run_of(root, "one", {("test:0",): ("margin", scores)}, train_logits=False).manifest()
    target, same = record.score_sets.target("test:0.margin"), np.ones((N, 2), np.float32)
    found = themes.find(record, DATASET, target, Features(same, same, "x"))
    (theme,) = found.sides["helpful"].themes  # of a margin, what raises it
    assert sorted(theme.images) == [3, 5, 7] and theme.effect == pytest.approx(0.6) and theme.share == pytest.approx(1)
    assert (found.sides["helpful"].silhouette, found.by, theme.doubted, theme.predicted) == (None, (), None, None)
    assert themes.grouped_by(found).startswith("Not grouped") and "not judged" in themes.doubts_in_words(theme, DATASET)
    assert found.sides["harmful"] == themes.Side((), 0, 0, 0, None)
    with mock.patch.object(features, "of_pixels", side_effect=AssertionError):  # of all images: megabytes for a few
        asked = themes.find(record, DATASET, target, None, count=2)  # by pixels
    assert len(asked.sides["helpful"].themes) == 2 and "pixels" in asked.by[0]
    assert len(themes.table(found, DATASET, record)) == 3


@pytest.mark.parametrize("asked", [{"top": 1}, {"top": 1001}, {"count": 0}, {"count": 21}, {"count": True}])
def test_numbers_out_of_range_are_refused(planted, asked):
    with pytest.raises(ConfigError, match="must be a whole number from"):
        found_of(planted, **asked)


@pytest.mark.parametrize("name", ["harmful:3", "harmful:0", "harmful", "harmful:x", "up:1", "harmful:٣"])
def test_a_theme_that_is_not_there_is_refused_with_those_that_are(planted, name):
    with pytest.raises(ConfigError) as error:
        found_of(planted).numbered(name)
    assert "harmful:1 to harmful:2" in error.value.remedy


def test_features_that_are_not_finite_are_refused(planted):
    record, features, images = planted
    features.train[images["bags"][0], 1] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        found_of(planted)


# -- names


def test_a_theme_keeps_the_name_that_a_person_gave_it_whatever_order_its_images_have(planted, root):
    run, theme = runs.Run.open(root, "planted"), found_of(planted).sides["harmful"].themes[0]
    notes.write_theme(run, theme.key, "  Dark\n shirts ")
    notes.tick(run, {3: True}, N)
    assert notes.read(run).themes == {theme.key: "Dark shirts"} and notes.read(run).ticked == (3,)
    assert replace(theme, images=theme.images[::-1]).key == theme.key != replace(theme, images=theme.images[1:]).key
    notes.write_theme(run, theme.key, "")
    assert notes.read(run).themes == {}
    with pytest.raises(ConfigError, match="81 characters"):
        notes.write_theme(run, theme.key, "x" * 81)


# -- the command line


@pytest.mark.slow
def test_the_command_prints_writes_and_leaves_a_theme_out(quick, tmp_path, capsys):
    path = tmp_path / "themes.csv"
    call = ["themes", quick.id, "--target", "test:1", "--top", "40", "--csv", str(path)]
    assert main([*call, "--leave-out", "harmful:1"]) == 0
    said, record = capsys.readouterr().out, quick.manifest()
    dataset = dataset_registry.load(record.config.dataset)
    found = themes.find(record, dataset, record.score_sets.target("test:1.loss"), None, 40)
    assert "Grouped by pixels" in said and "harmful:1" in said and "helpful:1" in said
    (report,) = trust.what_ifs(record)
    theme = found.numbered("harmful:1")
    assert report["left_out"] == sorted(theme.images.tolist())
    (outcome,) = [each for each in report["targets"] if each["key"] == "test:1.loss"]
    assert outcome["change"] == pytest.approx(-theme.effect) and outcome["actual"] is not None
    rows = pd.read_csv(path)
    assert len(rows) == sum(side.grouped for side in found.sides.values())
    first = rows[rows["theme"] == "harmful:1"]
    assert first["index"].tolist() == theme.images.tolist() and first["place"].tolist()[0] == 1
    assert first["score"].sum() == pytest.approx(theme.effect, rel=1e-4)
    assert first["name"].iloc[0] == themes.name_of(theme, dataset.classes)
    for wrong in (["--leave-out", "harmful:99"], ["--target", "test:7"]):
        capsys.readouterr()
        assert main([*call[:4], *wrong]) == 2 and wrong[1] in capsys.readouterr().err
    assert len(trust.what_ifs(quick.manifest())) == 1
