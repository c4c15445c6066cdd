"""Scores from all sides, by brute force: filters, ranks, steps, sums over classes, two runs, and what people note."""

import csv
import json
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from engine import files
from engine.analysis import class_matrix as class_matrices
from engine.analysis import compare, lds, lists
from engine.analysis import outward as outward_effects
from engine.analysis import test_images as test_lists
from engine.analysis.ranking import rank
from engine.config import Recipe
from engine.core.schedule import plan_for
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, IntegrityError, RunNotFoundError
from engine.runs import notes
from engine.runs.run import Run, summary
from engine.runs.scores import TargetRef
from tests.helpers import ROOT
from tests.made_up import SAMPLE, run_of
from ui import formats

N, CLASSES = 300, 4
rng = np.random.default_rng(5)
SCORES = rng.normal(size=(3, N)).astype(np.float32)
SCORES[:, 7] = 0
LABELS = rng.integers(CLASSES, size=N)
TARGETS = [
    TargetRef("test:0", "loss", "a", 0),
    TargetRef("test:1", "loss", "a", 1),
    TargetRef("class:2", "loss", "a", 2),
]


class MadeUp:
    """The record of a run of three targets without files, and its score sets."""

    id = "made-up"

    def targets(self):
        return TARGETS

    def target(self, key):
        return next(t for t in TARGETS if t.key == key)

    def rows(self, targets):
        return [SCORES[t.row] for t in targets]

    @property
    def score_sets(self):
        return self


DATASET = SimpleNamespace(classes=tuple("abcd"), train_labels=LABELS, test_labels=np.array([1, 1, 3]))


@pytest.mark.parametrize("function", ["loss", "margin"])
@pytest.mark.parametrize(
    "chosen",
    [
        lists.Filter(),
        lists.Filter(label=2),
        lists.Filter(relation="same"),
        lists.Filter(relation="other", low=-0.5),
        lists.Filter(label=1, low=-1.0, high=0.25),
        lists.Filter(low=9.0),
    ],
)
def test_filtered_pages_are_those_of_a_full_sort(function, chosen):
    scores_N = SCORES[0]
    kept = [
        i
        for i in range(N)
        if (chosen.label is None or LABELS[i] == chosen.label)
        and (chosen.relation == "any" or (LABELS[i] == 3) == (chosen.relation == "same"))
        and (chosen.low is None or scores_N[i] >= chosen.low)
        and (chosen.high is None or scores_N[i] <= chosen.high)
    ]
    sign = 1 if function == "loss" else -1
    harmful = sorted((i for i in kept if sign * scores_N[i] > 0), key=lambda i: -sign * scores_N[i])
    helpful = sorted((i for i in kept if sign * scores_N[i] < 0), key=lambda i: sign * scores_N[i])
    among = chosen.among(scores_N, LABELS, 3)
    assert np.flatnonzero(among).tolist() == kept
    found, page = [[], []], 1
    while True:
        ranking = rank(scores_N, function, 16, among, page)
        assert (ranking.helpful_of, ranking.harmful_of, ranking.first) == (
            len(helpful),
            len(harmful),
            16 * (page - 1) + 1,
        )
        found[0] += ranking.helpful.tolist()
        found[1] += ranking.harmful.tolist()
        if page == ranking.pages:
            break
        page += 1
    assert found == [helpful, harmful]


def test_the_label_of_a_target_of_several_is_no_filter():
    with pytest.raises(ConfigError, match="several labels"):
        lists.Filter(relation="same").among(SCORES[0], LABELS, None)


@pytest.mark.parametrize("n, batch_size, epochs", [(100, 10, 3), (103, 20, 4), (7, 7, 2)])
def test_the_steps_that_used_an_image_are_those_whose_batch_holds_it(n, batch_size, epochs):
    recipe = Recipe(epochs=epochs, batch_size=batch_size, seed=3)
    plan = plan_for(recipe, n)
    found = outward_effects.used_in(recipe, n, range(n))
    for i in range(n):
        assert found[i].tolist() == [t + 1 for t in range(len(plan)) if i in plan[t]]
    assert [f.tolist() for f in outward_effects.used_in(recipe, n, [5, 2])] == [found[5].tolist(), found[2].tolist()]


def test_one_image_outwards():
    targets, scores_KM = outward_effects.scores_on(MadeUp(), [4, 9])
    assert targets == TARGETS and (scores_KM == SCORES[:, [4, 9]]).all()
    for index in (4, 9, 31):
        effects = outward_effects.outward(MadeUp(), index)
        shares = [e.score / np.abs(SCORES[TARGETS.index(e.ref)]).max() for e in effects]
        assert shares == sorted(shares, reverse=True) and len(effects) == 3
        for e in effects:
            row = SCORES[TARGETS.index(e.ref)]
            order = np.argsort(-row if row[index] > 0 else row)
            assert e.score == row[index] and e.side == ("harmful" if row[index] > 0 else "helpful")
            assert order[e.rank - 1] == index and e.of == (np.sign(row) == np.sign(row[index])).sum()
            assert np.isclose(abs(e.share), abs(e.score) / np.abs(row).max()) and (e.share > 0) == (e.side == "harmful")


def test_a_margin_that_goes_up_is_help_and_a_score_of_zero_is_neither(monkeypatch):
    margin = TargetRef("test:0", "margin", "a", 0)
    monkeypatch.setattr(MadeUp, "targets", lambda self: [TARGETS[0], margin])
    loss, opposite = sorted(outward_effects.outward(MadeUp(), 4), key=lambda e: e.ref.function)
    assert {loss.side, opposite.side} == {"harmful", "helpful"} and loss.score == opposite.score
    assert [(e.side, e.rank, e.of, e.score) for e in outward_effects.outward(MadeUp(), 7)] == [
        ("none", None, 0, 0.0)
    ] * 2


def test_the_strongest_on_several_targets():
    indices, matrix = outward_effects.strongest(MadeUp(), ["test:0.loss", "class:2.loss"], 5)
    expected = {i for row in (0, 2) for i in np.argsort(-np.abs(SCORES[row]))[:5]}
    assert set(indices.tolist()) == expected and (matrix == SCORES[[0, 2]][:, indices].T).all()


def test_class_on_class_sums_the_scores():
    titles, matrix = class_matrices.class_matrix(MadeUp(), DATASET, "loss")
    assert titles == ["Test images of b", "All test images of class c"]
    for c in range(CLASSES):
        assert matrix[1, c] == pytest.approx(sum(float(SCORES[2, i]) for i in range(N) if LABELS[i] == c))
        assert matrix[0, c] == pytest.approx(
            sum((float(SCORES[0, i]) + float(SCORES[1, i])) / 2 for i in range(N) if LABELS[i] == c)
        )
    assert class_matrices.class_matrix(MadeUp(), DATASET, "margin")[0] == []


def test_rows_stand_in_the_order_of_the_classes(monkeypatch):
    names = ["test:all", "class:2", f"image:{'0a' * 8}:3", "test:2", "class:0", "test:0", "test:1"]
    monkeypatch.setattr(MadeUp, "targets", lambda self: [TargetRef(name, "loss", "a", 0) for name in names])
    groups = class_matrices.groups(MadeUp(), DATASET, "loss")
    assert list(groups) == [
        "Test images of b",
        "Test images of d",
        "All test images of class a",
        "All test images of class c",
        "All test images",
        "Own image 0a0a0a · d",
    ]
    assert [t.name for t in groups["Test images of b"]] == ["test:0", "test:1"]


def test_test_images_are_filtered_and_ordered():
    logits, labels = rng.normal(size=(200, CLASSES)) * 3, rng.integers(CLASSES, size=200)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kept = [
        i
        for i in range(200)
        if shares[i].argmax() != labels[i] and shares[i].argmax() == 1 and 0.4 <= shares[i].max() <= 0.9
    ]
    found, predicted, confidence = test_lists.test_images(
        logits, labels, test_lists.TestFilter(True, None, 1, 0.4, 0.9), "least sure"
    )
    assert found.tolist() == sorted(kept, key=lambda i: shares[i].max()) and (predicted == shares.argmax(1)).all()
    assert confidence == pytest.approx(shares.max(1))
    found, *_ = test_lists.test_images(logits, labels, test_lists.TestFilter(), "wrong first")
    wrong = shares.argmax(1) != labels
    assert wrong[found[: wrong.sum()]].all() and (np.diff(shares.max(1)[found[: wrong.sum()]]) <= 0).all()
    counts = test_lists.confusion(predicted, labels, CLASSES)
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
    same = compare.agreement(a, b)
    assert same.spearman == pytest.approx(1) and same.overlap == 1
    assert compare.agreement(a, -b).spearman == pytest.approx(-1)
    b[[11, 20]] = [-30, 40]
    assert sorted(compare.moved(a, b, 2).tolist()) == [11, 20]
    assert (
        compare.agreement(a, SCORES[1]).overlap
        == len(set(np.argsort(-np.abs(a))[:50]) & set(np.argsort(-np.abs(SCORES[1]))[:50])) / 50
    )
    drawn = compare.drawn(a, b)
    assert len(drawn) == N and (np.diff(drawn) > 0).all()
    many = np.random.default_rng(1).standard_t(3, (2, 20_000))
    found = compare.drawn(*many)
    strong = {i for row in many for i in np.argsort(-np.abs(row))[: compare.STRONG]}
    assert strong < set(found.tolist()) and len(strong) + 1500 < len(found) <= len(strong) + compare.OTHERS
    assert (found == compare.drawn(*many)).all()


def test_what_moved_is_in_units_of_each_runs_own_spread():
    """Ten times larger scores throughout have moved nothing; on the raw difference the largest would win."""
    a = np.array([5.0, -4.0, 1.0, 0.0, -2.0, 0.5])
    b = 10 * a
    b[3] = 2.0
    assert compare.moved(a, b, 1).tolist() == [3]
    by_hand = np.abs(a / a.std() - b / b.std())
    assert compare.moved(a, b, 6).tolist() == np.argsort(-by_hand, kind="stable").tolist()
    assert compare.moved(np.zeros(6), b, 2).tolist() == [0, 1], "a run without any effect: the other's scores alone"


def test_scores_that_do_not_vary_have_no_rank_correlation():
    assert np.isnan(compare.agreement(SCORES[0], np.zeros(N)).spearman)
    assert compare.median([0.2, float("nan"), 0.6]) == pytest.approx(0.4) and compare.median([float("nan")]) is None


def test_common_targets_are_by_name_and_function_and_their_source_is_the_files_content(tmp_path):
    few = dataset_registry.load("fashion-mnist-sample").train_labels.shape
    scores = np.random.default_rng(2).normal(size=(5, *few)).astype(np.float32)
    a = run_of(tmp_path, "a", {("test:0", "test:1"): ("loss", scores[:2]), ("test:2",): ("margin", scores[2:3])})
    b = run_of(tmp_path, "b", {("test:1", "test:2"): ("loss", scores[3:])})
    (both,) = compare.common(a.manifest(), b.manifest())
    assert both.target.key == "test:1.loss" and (both.a_N == scores[1]).all() and (both.b_N == scores[3]).all()
    shas = [files.sha256_of(run.path / "scores/loss-000.npy") for run in (a, b)]
    assert both.source == (shas[0], 1, shas[1], 0) and shas[0] != shas[1]
    compare.check(a.manifest(), b.manifest())
    listed = [summary(run) for run in (a, b, Run(tmp_path, "gone"))]
    assert compare.of_the_same_data(a.manifest(), listed) == [listed[1]]


@pytest.mark.parametrize("name, message", [("a", "with itself"), ("none", "has no scores")])
def test_runs_that_cannot_be_compared_say_why(name, message, tmp_path):
    n = len(dataset_registry.load("fashion-mnist-sample").train_labels)
    one = {("test:0",): ("loss", np.ones((1, n)))}
    made = {
        "a": run_of(tmp_path, "a", one),
        "none": run_of(tmp_path, "none", {}),
    }
    with pytest.raises(ConfigError, match=message):
        compare.check(made["a"].manifest(), made[name].manifest())


def test_differences_name_only_what_differs(tmp_path):
    a = run_of(tmp_path, "a", {})
    b = run_of(tmp_path, "b", {}, SAMPLE.replace(width=2.0, **{"recipe.epochs": 9}))
    assert compare.differences(a.manifest(), b.manifest()) == [("recipe.epochs", 2, 9), ("width", 1.0, 2.0)]
    assert compare.differences(a.manifest(), a.manifest()) == []


def test_cells_are_written_in_the_power_of_ten_of_their_row():
    assert formats.with_power([0.0312, -0.5, 0.0]) == (["+0.3", "−5.0", "0.0"], "10⁻¹")
    assert formats.with_power([0.0, -0.0]) == (["0.0", "0.0"], "10⁰")
    assert formats.with_power([12.0, -120.0])[1] == "10²"


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
    assert (
        kept.ticked == (5, 9) and kept.notes == {"5": "wrong label", "run": "looked at"} and kept.of(5) == "wrong label"
    )


def test_sets_of_ticks_are_apart_and_a_new_label_goes_with_its_tick(run):
    notes.tick(run, {1: True}, 10)
    notes.tick(run, {2: True}, 10, notes.LABELS)
    notes.relabel(run, {3: 4, 2: 5}, 10, 10, notes.LABELS)
    notes.relabel(run, {3: None}, 10, 10, notes.LABELS)
    kept = notes.read(run)
    assert kept.ticked == kept.ticked_in(notes.INFLUENCE) == (1,) and kept.ticked_in(notes.LABELS) == (2, 3)
    assert kept.labels_in(notes.LABELS) == {2: 5} and kept.labels_in(notes.INFLUENCE) == {}
    assert json.loads((run.path / "notes.json").read_text())["ticked"] == [1]  # as files always had it
    notes.tick(run, {2: False, 3: False}, 10, notes.LABELS)
    assert json.loads((run.path / "notes.json").read_text()) == {"ticked": [1], "notes": {}}
    with pytest.raises(ConfigError, match="train:3 cannot get label 10"):
        notes.relabel(run, {3: 10}, 10, 10)


def test_ticks_of_many_tabs_are_all_kept(run):
    tabs = [threading.Thread(target=notes.tick, args=(run, {i: True}, 100)) for i in range(24)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert notes.read(run).ticked == tuple(range(24))


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"ticked": [1.5], "notes": {}}',
        '{"ticked": [], "notes": {"../x": "y"}}',
        '{"ticked": [-1], "notes": {}}',
        '{"ticked": [], "notes": {}, "sets": {"nobody": []}}',
        '{"ticked": [], "notes": {}, "sets": {"labels": [true]}}',
        '{"ticked": [], "notes": {}, "new_labels": {"labels": {"3": 1}}}',
        '{"ticked": [3], "notes": {}, "new_labels": {"influence": {"03": 1}}}',
        '{"ticked": [3], "notes": {}, "new_labels": {"influence": {"3": -1}}}',
    ],
)
def test_notes_that_are_none_are_named_and_nothing_is_lost(run, content):
    path = run.path / "notes.json"
    path.write_text(content)
    with pytest.raises(IntegrityError, match="notes.json"):
        notes.tick(run, {1: True}, 10)
    assert path.read_text() == content


def test_a_note_takes_the_place_of_none_that_its_writer_did_not_see(run):
    notes.write_note(run, 5, "mine", instead_of="")
    notes.write_note(run, 5, "theirs", instead_of="mine")
    with pytest.raises(ConfigError, match="changed in another tab meanwhile: «theirs»"):
        notes.write_note(run, 5, "mine, longer", instead_of="mine")
    assert notes.read(run).of(5) == "theirs"
    notes.write_note(run, 5, "theirs", instead_of="mine")  # the same: nothing is lost
    notes.write_note(run, 5, "both", instead_of="theirs")
    assert notes.read(run).of(5) == "both"


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
    monkeypatch.setattr(files, "SETTLED", 0)  # as if it had been written long ago
    first = files.sha256_of(path)
    opened = []
    monkeypatch.setattr(
        files.hashlib, "file_digest", lambda file, kind: opened.append(1) or SimpleNamespace(hexdigest=lambda: "new")
    )
    assert files.sha256_of(path) == first and not opened
    path.write_bytes(b"two")
    assert files.sha256_of(path) == "new"


def test_tables_for_spreadsheets_quote_notes_and_names_of_classes():
    """A cell that begins like a formula is one to a spreadsheet, whoever wrote it."""
    frame = pd.DataFrame({"label": ["=1+1", "@x"], "score": [-0.5, 1.5], "note": ["-2", "fine"], "=head": ["+", ""]})
    rows = list(csv.reader(lists.as_csv(frame).splitlines()))
    assert rows == [["label", "score", "note", "'=head"], ["'=1+1", "-0.5", "'-2", "'+"], ["'@x", "1.5", "fine", ""]]


def test_no_page_writes_a_csv_past_the_quoting():
    for path in [*ROOT.glob("pages/*.py"), *ROOT.glob("ui/*.py"), ROOT / "engine" / "commands.py"]:
        for at in path.read_text().split("to_csv(")[:-1]:
            assert at.endswith("spreadsheet_safe(table)."), path.name
