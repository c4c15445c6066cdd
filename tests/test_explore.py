"""Scores from all sides, by brute force: filters, ranks, steps, sums over classes, two runs, and what people note."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from engine import compare, explore, files, influence, lds, notes
from engine.config import Recipe
from engine.errors import ConfigError, IntegrityError, RunNotFoundError
from engine.runs import Run, TargetRef
from engine.schedule import plan_for

N, CLASSES = 300, 4
rng = np.random.default_rng(5)
SCORES = rng.normal(size=(3, N)).astype(np.float32)
SCORES[:, 7] = 0
LABELS = rng.integers(CLASSES, size=N)
TARGETS = [TargetRef("test:0", "loss", "a", 0), TargetRef("test:1", "loss", "a", 1), TargetRef("class:2", "loss", "a", 2)]


class MadeUp:
    """A run of three targets without files."""

    id = "made-up"

    def targets(self):
        return TARGETS

    def target(self, key):
        return next(t for t in TARGETS if t.key == key)

    def scores(self, name):
        return SCORES


DATASET = SimpleNamespace(classes=tuple("abcd"), train_labels=LABELS, test_labels=np.array([1, 1, 3]))


@pytest.mark.parametrize("function", ["loss", "margin"])
@pytest.mark.parametrize("chosen", [
    explore.Filter(), explore.Filter(label=2), explore.Filter(relation="same"), explore.Filter(relation="other", low=-0.5),
    explore.Filter(label=1, low=-1.0, high=0.25), explore.Filter(low=9.0)])
def test_filtered_pages_are_those_of_a_full_sort(function, chosen):
    scores_N = SCORES[0]
    kept = [i for i in range(N) if (chosen.label is None or LABELS[i] == chosen.label)
            and (chosen.relation == "any" or (LABELS[i] == 3) == (chosen.relation == "same"))
            and (chosen.low is None or scores_N[i] >= chosen.low) and (chosen.high is None or scores_N[i] <= chosen.high)]
    sign = 1 if function == "loss" else -1
    harmful = sorted((i for i in kept if sign * scores_N[i] > 0), key=lambda i: -sign * scores_N[i])
    helpful = sorted((i for i in kept if sign * scores_N[i] < 0), key=lambda i: sign * scores_N[i])
    among = chosen.among(scores_N, LABELS, 3)
    assert np.flatnonzero(among).tolist() == kept
    found, page = [[], []], 1
    while True:
        ranking = influence.rank(scores_N, function, 16, among, page)
        assert (ranking.helpful_of, ranking.harmful_of, ranking.first) == (len(helpful), len(harmful), 16 * (page - 1) + 1)
        found[0] += ranking.helpful.tolist()
        found[1] += ranking.harmful.tolist()
        if page == ranking.pages:
            break
        page += 1
    assert found == [helpful, harmful]


def test_the_label_of_a_target_of_several_is_no_filter():
    with pytest.raises(ConfigError, match="several labels"):
        explore.Filter(relation="same").among(SCORES[0], LABELS, None)


@pytest.mark.parametrize("n, batch_size, epochs", [(100, 10, 3), (103, 20, 4), (7, 7, 2)])
def test_the_steps_that_used_an_image_are_those_whose_batch_holds_it(n, batch_size, epochs):
    recipe = Recipe(epochs=epochs, batch_size=batch_size, seed=3)
    plan = plan_for(recipe, n)
    found = explore.used_in(recipe, n, range(n))
    for i in range(n):
        assert found[i].tolist() == [t + 1 for t in range(len(plan)) if i in plan[t]]
    assert [f.tolist() for f in explore.used_in(recipe, n, [5, 2])] == [found[5].tolist(), found[2].tolist()]


def test_one_image_outwards():
    targets, scores_KM = explore.scores_on(MadeUp(), [4, 9])
    assert targets == TARGETS and (scores_KM == SCORES[:, [4, 9]]).all()
    effects = explore.outward(MadeUp(), 4)
    shares = [e.score / np.abs(SCORES[TARGETS.index(e.target)]).max() for e in effects]
    assert shares == sorted(shares, reverse=True)
    for e in effects:
        row = SCORES[TARGETS.index(e.target)]
        order = np.argsort(-row if row[4] > 0 else row)
        assert e.score == row[4] and e.harmful == (row[4] > 0) and order[e.rank - 1] == 4 and e.of == N


def test_the_strongest_on_several_targets():
    indices, matrix = explore.strongest(MadeUp(), ["test:0.loss", "class:2.loss"], 5)
    expected = {i for row in (0, 2) for i in np.argsort(-np.abs(SCORES[row]))[:5]}
    assert set(indices.tolist()) == expected and (matrix == SCORES[[0, 2]][:, indices].T).all()


def test_class_on_class_sums_the_scores():
    titles, matrix = explore.class_matrix(MadeUp(), DATASET, "loss")
    assert titles == ["All test images of class c", "Test images of b"]
    for c in range(CLASSES):
        assert matrix[0, c] == pytest.approx(sum(float(SCORES[2, i]) for i in range(N) if LABELS[i] == c))
        assert matrix[1, c] == pytest.approx(sum((float(SCORES[0, i]) + float(SCORES[1, i])) / 2 for i in range(N) if LABELS[i] == c))
    assert explore.class_matrix(MadeUp(), DATASET, "margin")[0] == []


def test_test_images_are_filtered_and_ordered():
    logits, labels = rng.normal(size=(200, CLASSES)) * 3, rng.integers(CLASSES, size=200)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kept = [i for i in range(200) if shares[i].argmax() != labels[i] and shares[i].argmax() == 1 and 0.4 <= shares[i].max() <= 0.9]
    found, predicted, confidence = explore.test_images(logits, labels, explore.TestFilter(True, None, 1, 0.4, 0.9), "least sure")
    assert found.tolist() == sorted(kept, key=lambda i: shares[i].max()) and (predicted == shares.argmax(1)).all()
    assert confidence == pytest.approx(shares.max(1))
    found, *_ = explore.test_images(logits, labels, explore.TestFilter(), "wrong first")
    wrong = shares.argmax(1) != labels
    assert wrong[found[:wrong.sum()]].all() and (np.diff(shares.max(1)[found[:wrong.sum()]]) <= 0).all()
    counts = explore.confusion(predicted, labels, CLASSES)
    assert all(counts[t, p] == sum((labels == t) & (predicted == p)) for t in range(CLASSES) for p in range(CLASSES))


# -- two runs


def test_ranks_average_ties():
    values = rng.integers(6, size=(3, 40))
    less = (values[:, None, :] < values[:, :, None]).sum(-1)
    equal = (values[:, None, :] == values[:, :, None]).sum(-1)
    assert (lds.ranks(values) == less + (equal + 1) / 2).all()


def test_agreement_and_what_moved():
    a = SCORES[0]
    b = (3 * a).astype(np.float32)
    same = compare.agreement(a, b, "k")
    assert same.spearman == pytest.approx(1) and same.overlap == 1
    assert compare.agreement(a, -b, "k").spearman == pytest.approx(-1)
    b[[11, 20]] = [-30, 40]
    assert sorted(compare.moved(a, b, 2).tolist()) == [11, 20]
    assert compare.agreement(a, SCORES[1], "k").overlap == len(
        set(np.argsort(-np.abs(a))[:50]) & set(np.argsort(-np.abs(SCORES[1]))[:50])) / 50
    drawn = compare.drawn(a, b)
    assert len(drawn) == N and (np.diff(drawn) > 0).all()


# -- notes


@pytest.fixture
def run(tmp_path) -> Run:
    (tmp_path / "r1").mkdir()
    return Run.open(tmp_path, "r1")


def test_ticks_and_notes_stay_with_the_run(run):
    notes.tick(run, {5: True, 2: True, 9: True}, 10)
    notes.tick(run, {2: False, 3: False}, 10)
    notes.write_note(run, 5, "  wrong label ")
    notes.write_note(run, notes.RUN, "looked at")
    notes.write_note(run, 7, "x")
    notes.write_note(run, 7, " ")
    kept = notes.read(Run.open(run.root, run.id))
    assert kept.ticked == (5, 9) and kept.notes == {"5": "wrong label", "run": "looked at"} and kept.of(5) == "wrong label"


def test_ticks_of_many_tabs_are_all_kept(run):
    tabs = [threading.Thread(target=notes.tick, args=(run, {i: True}, 100)) for i in range(24)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert notes.read(run).ticked == tuple(range(24))


@pytest.mark.parametrize("content", ["[]", "{", '{"ticked": [1.5], "notes": {}}', '{"ticked": [], "notes": {"../x": "y"}}', '{"ticked": [-1], "notes": {}}'])
def test_notes_that_are_none_are_named_and_nothing_is_lost(run, content):
    path = run.path / "notes.json"
    path.write_text(content)
    with pytest.raises(IntegrityError, match="notes.json"):
        notes.tick(run, {1: True}, 10)
    assert path.read_text() == content


def test_notes_that_cannot_be_are_refused(run):
    with pytest.raises(ConfigError, match="no training image 10"):
        notes.tick(run, {10: True}, 10)
    with pytest.raises(ConfigError, match="10,001 characters"):
        notes.write_note(run, 1, "x" * 10_001)
    run.path.rmdir()
    with pytest.raises(RunNotFoundError):
        notes.tick(run, {1: True}, 10)
    assert not run.path.exists()


def test_a_checksum_is_looked_at_again_only_where_the_file_changed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = files.sha256_of(path)
    opened = []
    monkeypatch.setattr(files.hashlib, "file_digest", lambda file, kind: opened.append(1) or SimpleNamespace(hexdigest=lambda: "new"))
    assert files.sha256_of(path) == first and not opened
    path.write_bytes(b"two")
    assert files.sha256_of(path) == "new"
