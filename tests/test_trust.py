"""Scores against retraining: the LDS, the retrainings it rests on, what-ifs, smoothness, suspects."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from engine import api, files
from engine.analysis import lds, suspects, trust
from engine.analysis import what_if as what_ifs
from engine.config import Recipe
from engine.core import retraining
from engine.core.schedule import BatchPlan
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.datasets import registry as dataset_registry
from engine.errors import CancelledError, ConfigError, DivergedError, IntegrityError
from engine.jobs import ahead, registry
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.models import functional as functional_models
from engine.models import registry as model_registry
from engine.runs import run as runs
from engine.runs.job import JobRecord, fields_of_schema_2
from engine.trajectory.state_files import read_state
from tests.made_up import SMALL

pytestmark = pytest.mark.slow  # they train again and again

CONFIG = SMALL.replace(targets=("test:0", "test:3", "class:6", "test:all"))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.outputs_root(tmp_path_factory.mktemp("trust"))


def execute(run: runs.Run, kind: str | None = None, cancel=None, **options):
    job = registry.from_record(JobRecord(kind, fields_of_schema_2({"options": options}))) if kind else None
    with run.lock():
        return work.execute(run, job, cancel)


def validated(run: runs.Run, subsets: int, drops=(0.01,), seed: int = 0):
    return execute(run, "validate", subsets=subsets, drops=list(drops), seed=seed)


@pytest.fixture(scope="module")
def scored(root) -> runs.Run:
    run = runs.Run.create(root, CONFIG)
    execute(run)
    return run


@pytest.fixture
def run(scored, tmp_path) -> runs.Run:
    """A copy of the scored run, for a test to change."""
    import shutil

    shutil.copytree(scored.path, tmp_path / scored.id)
    return runs.Run.open(tmp_path, scored.id)


# -- statistics


def test_the_rank_correlation_is_that_of_pandas_ties_included():
    rng = np.random.default_rng(0)
    a, b = rng.integers(6, size=(2, 4, 30)).astype(float)  # few values: many ties
    expected = [pd.DataFrame({"a": x, "b": y}).corr(method="spearman").iloc[0, 1] for x, y in zip(a, b)]
    np.testing.assert_allclose(lds.spearman(a, b), expected, atol=1e-12)


def test_agreement_knows_perfect_scaled_shuffled_and_constant_predictions():
    rng = np.random.default_rng(1)
    actual = rng.normal(size=(6, 200))
    _, perfect = lds.agreement(actual, actual)
    assert perfect.lds == perfect.low == perfect.high == perfect.slope == perfect.r2 == 1
    each, halved = lds.agreement(actual / 2, actual)  # ranks do not see the scale, slope and R² do
    assert halved.lds == 1 and halved.slope == pytest.approx(2) and 0.7 < halved.r2 < 0.8
    _, shuffled = lds.agreement(rng.permuted(actual, axis=1), actual)
    assert abs(shuffled.lds) < 0.1 and shuffled.low < 0 < shuffled.high
    each, _ = lds.agreement(np.zeros((1, 20)), actual[:1, :20])
    assert np.isnan(each[0].lds) and np.isnan(each[0].slope)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, rho, inside = np.random.default_rng(2), 0.8, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of ranks, for a normal pair
    for _ in range(60):
        x = rng.normal(size=(1, 50))
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
        each, _ = lds.agreement(x, y)
        inside += each[0].low <= truth <= each[0].high
    assert 50 <= inside <= 60


def test_subsets_are_a_pure_function_and_more_of_them_begin_with_the_same():
    first = lds.subset(6000, 0.01, seed=3, m=2)
    assert len(first) == 60 == len(np.unique(first)) and np.array_equal(first, lds.subset(6000, 0.01, 3, 2))
    assert not np.array_equal(first, lds.subset(6000, 0.01, 3, 1))
    assert not np.array_equal(first, lds.subset(6000, 0.01, 4, 2))


# -- a case with a known answer


@pytest.fixture(scope="module")
def convex():
    """Logistic regression, in float64: the loss is convex and training near its end."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    labels = (
        inputs @ torch.randn(5, generator=generator, dtype=torch.float64)
        + 0.5 * torch.randn(400, generator=generator, dtype=torch.float64)
        > 0
    ).long()
    torch.manual_seed(0)
    trained = api.train(
        nn.Linear(5, 2), inputs[:300], labels[:300], Recipe(epochs=30, batch_size=100, peak_lr=0.5, weight_decay=1e-3)
    )
    return trained, inputs[300:308], labels[300:308]


def test_on_a_convex_model_the_scores_predict_retraining_to_second_order(convex):
    trained, inputs, labels = convex
    scores, before = api.attribute(trained, inputs, labels), api.evaluate(trained, inputs, labels)
    direction = -torch.from_numpy(np.isin(np.arange(300), lds.subset(300, 0.05, 0, 0)).astype(float))
    errors = []
    for size in (0.1, 0.05, 0.025):
        state = api.retrain(trained, 1 + size * direction)
        actual = api.evaluate(trained, inputs, labels, state=state) - before
        errors.append(np.abs(actual - size * scores @ direction.numpy()).max())
    assert errors[0] > 1e-9
    for coarse, fine in zip(errors, errors[1:]):  # half the change, a quarter of the error
        assert 3.5 < coarse / fine < 4.5


@pytest.mark.slow
def test_on_a_convex_model_the_lds_is_near_one_and_of_shuffled_scores_near_zero(convex):
    trained, inputs, labels = convex
    scores, before = api.attribute(trained, inputs, labels), api.evaluate(trained, inputs, labels)
    left_out = [lds.subset(300, 0.02, 0, m) for m in range(60)]
    actual = []
    for d in left_out:
        weights = torch.ones(300, dtype=torch.float64)
        weights[torch.from_numpy(d)] = 0
        actual.append(api.evaluate(trained, inputs, labels, state=api.retrain(trained, weights)) - before)
    actual = np.stack(actual, axis=1)
    _, mean = lds.agreement(lds.predicted(scores, left_out), actual)
    assert mean.lds > 0.99 and 0.9 < mean.slope < 1.1 and mean.r2 > 0.98
    shuffled = np.random.default_rng(0).permuted(scores, axis=1)
    _, mean = lds.agreement(lds.predicted(shuffled, left_out), actual)
    assert abs(mean.lds) < 0.2
    _, mean = lds.agreement(lds.predicted(-scores, left_out), actual)
    assert mean.lds < -0.99


# -- retraining


@pytest.mark.slow
def test_retraining_with_all_weights_one_is_the_run_bit_for_bit(scored):
    dataset = dataset_registry.load(CONFIG.dataset)
    model, train_set = model_registry.build(CONFIG, dataset), examples(dataset, "train", CPU, torch.float32)
    (state,) = retraining.retrain(model, Stream(train_set, CONFIG.recipe), torch.ones(1, train_set.n))
    stored = read_state(scored.path / "model" / "state.safetensors", {}, "")
    assert torch.equal(state.theta, stored["theta"]) and torch.equal(state.buffers, stored["buffers"])


@pytest.mark.slow
def test_side_by_side_is_one_at_a_time_to_rounding():
    dataset = dataset_registry.load(CONFIG.dataset)
    model, train_set = model_registry.build(CONFIG, dataset), examples(dataset, "train", CPU, torch.float32)
    weights = torch.ones(3, train_set.n)
    for m in range(3):
        weights[m, torch.from_numpy(lds.subset(train_set.n, 0.01, 0, m))] = 0
    together = retraining.retrain(model, Stream(train_set, CONFIG.recipe), weights)
    for row, state in zip(weights, together, strict=True):
        alone = train(model, Stream(train_set, CONFIG.recipe, row))
        for a, b in zip(state.parts, alone.parts, strict=True):
            assert (a - b).norm() / b.norm() < 1e-5
    assert not torch.equal(together[0].theta, together[1].theta)


def test_side_by_side_names_the_retraining_that_diverged():
    inputs, labels = torch.randn(20, 3), torch.arange(20) % 2
    model = functional_models.FunctionalModel(nn.Linear(3, 2))
    train_set = api.Examples(inputs, labels, torch.float32)
    weights = torch.ones(2, 20)
    weights[1] = float("inf")
    with pytest.raises(DivergedError, match="Retraining 2 of 2"):
        retraining.retrain(model, Stream(train_set, Recipe(epochs=4, batch_size=10, peak_lr=1.0)), weights)


def test_metasmoothness_is_one_for_a_straight_answer_and_low_for_noise():
    generator = torch.Generator().manual_seed(0)
    start, nudge, noise = (torch.randn(1000, generator=generator) for _ in range(3))

    def state(theta):
        return State(theta, (theta,), theta[:0])

    def smoothness(*thetas):
        return retraining.metasmoothness(*(state(theta) for theta in thetas))

    assert smoothness(start, start + nudge, start + 2 * nudge) == pytest.approx(1)
    assert smoothness(start, start + nudge, start) == pytest.approx(-1)
    assert abs(smoothness(start, start + nudge, start + nudge + noise)) < 0.15


# -- validation of a run


@pytest.mark.slow
def test_a_validation_says_what_retraining_says(run):
    validated(run, 6)
    (report,) = trust.reports(run.manifest())
    assert (report["subsets"], report["left_out"], report["drop"], report["function"]) == (6, 60, 0.01, "loss")
    assert report["noise_share"] == 0 and report["repeats"] == 1  # bit for bit on a CPU
    dataset = dataset_registry.load(CONFIG.dataset)
    model, train_set = model_registry.build(CONFIG, dataset), examples(dataset, "train", CPU, torch.float32)
    test_set = examples(dataset, "test", CPU, torch.float32)
    from engine.core import targets as phi
    from engine.targets import Target

    left_out = lds.subset(6000, 0.01, 0, 4)
    weights = torch.ones(6000)
    weights[torch.from_numpy(left_out)] = 0
    sets = [Target.parse(t).resolve(dataset).indices for t in CONFIG.targets]
    state = train(model, Stream(train_set, CONFIG.recipe, weights))
    after = phi.values(model, state, test_set, sets, "loss").double().numpy()
    before = np.array([t["value"] for t in run.scores().sidecars()[0]["targets"]])
    scores = run.scores().matrix("loss-000")
    assert [t["name"] for t in report["targets"]] == list(CONFIG.targets)
    for k, target in enumerate(report["targets"]):
        assert target["actual"][4] == pytest.approx(after[k] - before[k], abs=1e-6)
        assert target["predicted"][4] == pytest.approx(-scores[k][left_out].sum(), rel=1e-4)
        assert abs(target["actual"][4]) > 1e-6
    ours = lds.spearman(
        np.array([t["predicted"] for t in report["targets"]]), np.array([t["actual"] for t in report["targets"]])
    )
    assert report["lds_mean"] == pytest.approx(ours.mean())
    assert report["lds_mean"] > 0.5 and report["lds_mean_low"] <= report["lds_mean"] <= report["lds_mean_high"]


def counted(monkeypatch) -> list[int]:
    trained, original = [], retraining.retrain

    def count(model, stream, weights, *more):
        states = original(model, stream, weights, *more)
        trained.append(len(weights))
        return states

    monkeypatch.setattr(retraining, "retrain", count)
    return trained


@pytest.mark.slow
def test_finished_retrainings_are_never_trained_twice(run, monkeypatch):
    trained = counted(monkeypatch)
    cancel = threading.Event()
    original = files.write_bytes

    def cancelling(path, content):
        if path.name.startswith("0.01-0-2"):
            cancel.set()
        return original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("engine.trajectory.state_files.files.write_bytes", cancelling)
        with pytest.raises(CancelledError):
            execute(run, "validate", cancel, subsets=6, drops=[0.01], seed=0)
    assert (
        sum(trained) == 4 and trust.reports(run.manifest()) == [] and run.manifest().resumable
    )  # the run's own weights, and three
    execute(run)  # resume
    assert sum(trained) == 7 and trust.reports(run.manifest())[0]["subsets"] == 6
    dataset = dataset_registry.load(run.manifest().config.dataset)
    assert Validate(8).ahead(run, dataset) == ahead.retraining(run, dataset, 2)  # what is left to do
    validated(run, 8)  # more subsets: only the new ones
    assert sum(trained) == 9 and Validate(8).ahead(run, dataset) == ahead.retraining(run, dataset, 0)
    timings = run.manifest().timings  # of the retrainings of both jobs that ended
    assert timings["retrainings"] == 5 and 0 < trust.retraining_seconds(run.manifest()) < timings["retrain_seconds"]
    # A kept retraining that is damaged is found, and trained again.
    path = run.path / "validation" / "retrained" / "0.01-0-5.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = trust.reports(run.manifest())[0]["targets"]
    validated(run, 8)
    assert sum(trained) == 10 and trust.reports(run.manifest())[0]["targets"] == before
    # So is one that stands in another's place.
    one, other = (run.path / "validation" / "retrained" / f"0.01-0-{m}.safetensors" for m in (1, 2))
    one.write_bytes(other.read_bytes())
    validated(run, 8)
    assert sum(trained) == 11 and trust.reports(run.manifest())[0]["targets"] == before


@pytest.mark.slow
def test_several_fractions_and_functions_have_a_report_each(run):
    with run.lock():
        work.execute(run, Replay(("test:0",), "margin", "disk"))
    validated(run, 5, (0.01, 0.05))
    assert [(r["function"], r["drop"], r["left_out"]) for r in trust.reports(run.manifest())] == [
        ("loss", 0.01, 60),
        ("margin", 0.01, 60),
        ("loss", 0.05, 300),
        ("margin", 0.05, 300),
    ]


@pytest.mark.slow
def test_a_validation_needs_no_trajectory(run):
    run.storage().clean(("trajectory",))
    validated(run, 5)
    assert trust.reports(run.manifest())[0]["subsets"] == 5


def test_what_cannot_be_validated_says_why_and_leaves_nothing(run, monkeypatch):
    cases = [
        (dict(subsets=4, drops=[0.01], seed=0), "from 5"),
        (dict(subsets=5, drops=[1.0], seed=0), "not possible"),
        (dict(subsets=5, drops=[], seed=0), "No fraction"),
        (dict(subsets=5, drops=[0.9999], seed=0), "no training image of class"),
        (dict(subsets=5, drops=[0.01], seed=-1), "seed"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            execute(run, "validate", **options)
        assert not trust.reports(run.manifest()) and run.status == "finished"

    def diverges(*args):
        raise DivergedError("Training diverged at step 3 of 6: the loss is nan.", "", 2)

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "retrain", diverges)
        with pytest.raises(DivergedError, match="Retraining all-1-0 failed.*step 3"):
            validated(run, 5)
    assert not list((run.path / "validation" / "retrained").iterdir()) and not trust.reports(run.manifest())

    sidecar = run.path / "scores" / "loss-000.json"
    sha = files.write_json(sidecar, {**files.read_json(sidecar, ""), "training_digest": "0" * 64})
    run.add_files({"scores/loss-000.json": sha})
    with pytest.raises(IntegrityError, match="belong to another training"):
        validated(run, 5)
    run.storage().clean(("scores",))
    with pytest.raises(ConfigError, match="no scores"):
        validated(run, 5)


def test_a_drop_that_leaves_an_empty_batch_is_named():
    labels, plan = np.arange(20) % 2, BatchPlan(20, 4, 2, 0)
    lds.check_left_out(plan[0][:3], labels, plan, "This")
    with pytest.raises(ConfigError, match="batch of step 1 empty"):
        lds.check_left_out(plan[0], labels, plan, "This")
    with pytest.raises(ConfigError, match="no training image of class 1"):
        lds.check_left_out(np.flatnonzero(labels), labels, plan, "This")


@pytest.mark.slow
def test_a_report_that_was_changed_or_belongs_to_another_training_is_refused(run):
    validated(run, 5)
    path = run.path / "validation" / "lds-loss-0.01-0.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "lds_mean": 1.0}))
    with pytest.raises(IntegrityError, match="has changed"):
        trust.reports(run.manifest())
    run.add_files({"validation/lds-loss-0.01-0.json": files.write_json(path, {**report, "training_digest": "0" * 64})})
    with pytest.raises(IntegrityError, match="another training"):
        trust.reports(run.manifest())


# -- what if


def test_a_what_if_predicts_and_retrains(run):
    left_out = lds.subset(6000, 0.01, 0, 0)
    execute(run, "what-if", left_out=left_out.tolist(), relabelled={})
    validated(run, 5)  # its first subset is the same
    (what_if,) = trust.what_ifs(run.manifest())
    (report,) = trust.reports(run.manifest())
    for asked, validation in zip(what_if["targets"], report["targets"], strict=True):
        assert asked["change"] == pytest.approx(validation["predicted"][0])
        assert asked["actual"]["loss"] - asked["before"]["loss"] == pytest.approx(validation["actual"][0], abs=1e-12)
    assert what_if["test_accuracy_before"] == run.manifest().test_accuracy
    assert what_if["left_out"] == left_out.tolist()


def test_what_a_retraining_did_to_the_test_set_is_counted_image_by_image(monkeypatch):
    labels = np.array([0, 0, 1, 1, 1])
    before = np.array([[2.0, 0, 0], [0, 1, 0], [0, 2, 0], [0.1, 0, 0], [0, 0, 1]])  # right, wrong, right, wrong, wrong
    after = np.array(
        [[2.0, 0, 0], [3, 0, 0], [0, 0, 2], [0, 0.2, 0], [1, 0, 0]]
    )  # two are corrected, the third is lost
    told = what_ifs.on_test(before, after, labels)
    assert (told["changed"], told["corrected"], told["spoiled"]) == (4, 2, 1)
    assert [(c["index"], c["before"], c["after"]) for c in told["images"]] == [
        (1, 1, 0),
        (2, 1, 2),
        (3, 0, 1),
        (4, 2, 0),
    ]
    p = [np.exp(logits[1, 0]) / np.exp(logits[1]).sum() for logits in (before, after)]
    assert [told["images"][0][f"probability_{when}"] for when in ("before", "after")] == pytest.approx(p)
    loss = np.log(np.exp(after).sum(1)) - after[range(5), labels]
    assert told["loss_after"] == [pytest.approx(loss[:2].mean()), pytest.approx(loss[2:].mean()), None]
    monkeypatch.setattr(what_ifs, "MOST_CHANGED", 2)
    told = what_ifs.on_test(before, after, labels)
    assert told["changed"] == 4 and [c["index"] for c in told["images"]] == [1, 2]


def test_relabelling_is_retrained_and_never_predicted(root):
    run = runs.Run.create(root, CONFIG.replace(width=0.5))  # has learned enough of the class in as few steps
    execute(run)
    labels = dataset_registry.load(CONFIG.dataset).train_labels
    shirts = np.flatnonzero(labels == 6)[:300]
    execute(run, "what-if", left_out=[], relabelled={str(i): 0 for i in shirts.tolist()})
    (what_if,) = trust.what_ifs(run.manifest())
    assert all(t["predicted"] is None and t["change"] is None for t in what_if["targets"])
    images = what_ifs.changed_images(what_if, dataset_registry.load(CONFIG.dataset))
    gained = round(1000 * (what_if["test_accuracy"] - what_if["test_accuracy_before"]))
    assert images and gained == what_if["test"]["corrected"] - what_if["test"]["spoiled"]
    class_6 = what_if["targets"][2]
    assert class_6["name"] == "class:6" and class_6["actual"]["loss"] > class_6["before"]["loss"] + 0.1


def test_what_the_other_figures_will_be_follows_from_the_scored_one(scored):
    """For one image, loss, margin and probability are functions of each other."""
    dataset = dataset_registry.load(CONFIG.dataset)
    for what in what_ifs.predict(scored.manifest(), dataset, np.array([5, 17])):
        if not what.name.startswith("test:") or what.name == "test:all":
            assert what.predicted["probability"] is None and what.predicted["margin"] is None
            continue
        loss = what.before["loss"] + what.change
        p = np.exp(-loss)
        assert what.predicted["loss"] == pytest.approx(loss)
        assert what.predicted["probability"] == pytest.approx(p, abs=1e-4)  # to first order in the change
        assert what.predicted["margin"] == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


@pytest.mark.parametrize(
    "left_out, relabelled, message",
    [
        ([], {}, "No image"),
        ([6000], {}, "not there"),
        ([-1], {}, "not there"),
        ([3, 3], {}, "twice"),
        (list(range(6001)), {}, "6,001 images"),
        ([], {3: 10}, "label 10"),
        ([3], {3: 1}, "both"),
    ],
)
def test_ticks_that_make_no_sense_are_refused(left_out, relabelled, message):
    with pytest.raises(ConfigError, match=message):
        what_ifs.check_changes(left_out, relabelled, dataset_registry.load(CONFIG.dataset))


# -- smoothness and the verdict


def test_smoothness_tells_a_chaotic_recipe_from_a_smooth_one(root):
    found = {}
    for rate in (0.02, 3.0):
        run = runs.Run.create(root, CONFIG.replace(targets=("test:0",), **{"recipe.peak_lr": rate, "recipe.epochs": 2}))
        execute(run)
        execute(run, "smoothness", directions=1, seed=0)
        found[rate] = trust.verdict(run.manifest())
    assert found[0.02].metasmoothness > 0.95 and found[0.02].level == trust.LEVELS[0]
    assert found[3.0].metasmoothness < 0.5 and found[3.0].level == trust.LEVELS[2]


def test_the_verdict_is_measured_agreement_where_there_is_one(scored, monkeypatch):
    assert trust.verdict(scored.manifest()).level in trust.LEVELS[1:]  # growth alone never suffices
    report = {"function": "loss", "seed": 0, "drop": 0.01, "lds_mean_low": 0.0, "lds_mean_high": 1.0, "targets": []}
    levels = []
    for value, subsets in ((0.97, 50), (0.7, 50), (0.1, 50), (0.97, 5)):
        changed = {**report, "lds_mean": value, "subsets": subsets}
        monkeypatch.setattr(trust, "sound", lambda run, of, changed=changed: ([changed] * (of == trust.LDS), []))
        levels.append(trust.verdict(scored.manifest()).level)
    assert levels[:3] == list(trust.LEVELS) and levels[3] != trust.LEVELS[0]  # five subsets decide nothing


# -- suspects


def test_the_noisy_sample_has_five_percent_wrong_labels_and_knows_them():
    clean, noisy = dataset_registry.load("fashion-mnist-sample"), dataset_registry.load("fashion-mnist-sample-noisy")
    wrong = noisy.train_labels != noisy.true_train_labels
    assert wrong.sum() == 300 and np.array_equal(noisy.true_train_labels, clean.train_labels)
    assert np.array_equal(noisy.test_labels, clean.test_labels) and noisy.fingerprint != clean.fingerprint
    assert clean.true_train_labels is None


@pytest.mark.slow
def test_the_most_harmful_images_are_the_wrong_labels(root):
    run = runs.Run.create(
        root,
        CONFIG.replace(dataset="fashion-mnist-sample-noisy", targets=("test:3", "test:all"), **{"recipe.epochs": 3}),
    )
    execute(run)
    found = suspects.ranked(run.manifest())
    assert suspects.target_key(run.manifest()) == "test:all.loss"
    assert (found["harm"].diff().dropna() <= 0).all() and len(found) == 6000
    wrong = (found["given_label"] != found["true_label"]).to_numpy()
    assert suspects.precision_at(found["harm"].to_numpy(), wrong, 0.05) > 0.4  # by chance 0.05
    dataset = dataset_registry.load("fashion-mnist-sample-noisy")
    by_loss = suspects.ranked(run.manifest(), by="loss")
    wrong = (by_loss["given_label"] != by_loss["true_label"]).to_numpy()
    assert (by_loss["loss"].diff().dropna() <= 0).all() and sorted(by_loss["index"]) == list(range(6000))
    assert suspects.precision_at(by_loss["loss"].to_numpy(), wrong, 0.05) > 0.4
    first = found.iloc[0]
    assert first["given_label"] == dataset.classes[dataset.train_labels[first["index"]]]
    logits = run.manifest().train_logits()[first["index"]].astype(float)
    assert first["probability"] == pytest.approx(
        np.exp(logits[dataset.train_labels[first["index"]]]) / np.exp(logits).sum()
    )


def test_precision_and_its_area_by_hand():
    suspicion, wrong = np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False])
    assert suspects.precision_at(suspicion, wrong, 0.4) == 0.5
    assert suspects.average_precision(suspicion, wrong) == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ConfigError):
        suspects.average_precision(suspicion, np.zeros(5, bool))
