"""What a run is asked of a training image, a confusion, a logit and a difference is exact: adjoints against finite
differences of the final state, scores against retraining with every weight moved, float64; the same in every mode, and
in what checks the scores."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine import config as configs
from engine import datasets
from engine.__main__ import main
from engine.analysis import compare, target_view, trust
from engine.analysis import what_if as what_ifs
from engine.config import MODELS, Recipe, RunConfig
from engine.core import targets as torch_targets
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.errors import ConfigError
from engine.jobs import asked as questions
from engine.jobs import execute as work
from engine.jobs.estimate import estimate
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.models import registry as model_registry
from engine.runs import uploads
from engine.runs.run import Run, outputs_root
from engine.targets import Target, UploadedImage, target_function
from engine.trajectory.state_files import read_state

N, H, TOLERANCE = 24, 1e-5, 1e-6
CPU, DOUBLE = torch.device("cpu"), torch.float64
KINDS = ("test:1", "class:2", "test:all", "train:3", "train:20", "confusion")
FUNCTIONS = ("loss", "margin", "logit", "logit:1", "difference:2>0")


def hard_images() -> datasets.Dataset:
    """24 training and 36 test images of three classes, a third of the labels wrong: a model confuses some."""
    rng, arrays = np.random.default_rng(7), {}
    for split, n in (("train", N), ("test", 36)):
        truth = np.arange(n) % 3
        arrays[f"{split}_labels"] = np.where(rng.random(n) < 0.35, (truth + 1) % 3, truth)
        bright = 60 * truth[:, None, None, None]
        arrays[f"{split}_images"] = (rng.integers(0, 120, (n, 5, 5, 1)) + bright).astype(np.uint8)
    return datasets.Dataset("hard-images", "Hard images", "made by a test", ("Ape", "Bee", "cat"), **arrays)


def net(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 6),
        nn.BatchNorm1d(6),
        nn.GELU(),
        nn.Linear(6, classes),
    )


@pytest.fixture(scope="module")
def data():
    tables = [registry._things for registry in (configs.DATASETS, MODELS)]
    before = [dict(table) for table in tables]
    datasets.register("hard-images", hard_images)
    MODELS.register("asked-net", net)
    yield datasets.load("hard-images")
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    datasets.registry.clear()


@pytest.fixture(scope="module")
def config(data) -> RunConfig:
    return RunConfig(
        preset="asked",
        dataset="hard-images",
        model="asked-net",
        recipe=Recipe(epochs=3, batch_size=8, peak_lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-3),
        targets=("test:1",),
        replay_mode="disk",
        device="cpu",
        precision="float64",
    )


def executed(run: Run, job=None):
    with run.lock():
        return work.execute(run, job)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("asked"), config)
    executed(run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A copy of the trained run, for a test to change."""
    shutil.copytree(trained.path, tmp_path / trained.id)
    return Run.open(tmp_path, trained.id)


@pytest.fixture(scope="module")
def confusions(trained, data) -> list[str]:
    """Those that the model makes, the largest first."""
    predicted = trained.manifest().test_logits().argmax(1)
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    sizes = {pair: int(((data.test_labels == pair[0]) & (predicted == pair[1])).sum()) for pair in pairs}
    assert max(sizes.values()) >= 2
    return [f"confusion:{a}>{b}" for a, b in sorted(pairs, key=lambda pair: -sizes[pair]) if sizes[a, b]]


@pytest.fixture(scope="module")
def asked(trained, data, confusions) -> list[questions.Asked]:
    """One target of each kind, an uploaded image among them."""
    record, splits = trained.manifest(), {s: examples(data, s, CPU, DOUBLE) for s in ("train", "test")}
    image = data.test_images[:1] // 2 + 17
    own = dataclasses.replace(splits["test"], inputs=torch.from_numpy(image), labels=torch.tensor([1]))
    each = [questions.Asked(UploadedImage("0123456789abcdef", 1), "own", own, np.array([0]))]
    for target in map(Target.parse, [*KINDS[:-1], confusions[0]]):
        members = target.resolve(data, record.test_logits)
        each.append(questions.Asked(target, members.split, splits[members.split], members.indices))
    return each


def trained_again(config: RunConfig, data, weights: torch.Tensor | None = None) -> State:
    """By another way than a run's job."""
    model = model_registry.build(config, data)
    return train(model, Stream(examples(data, "train", CPU, DOUBLE), config.recipe, weights))


def by_hand(config: RunConfig, data, state: State, asked: list[questions.Asked], function: str) -> np.ndarray:
    """φ of each target, [K], from the logits of its images, by NumPy."""
    model, values = model_registry.build(config, data), []
    for each in asked:
        inputs, labels = each.examples.batch(torch.from_numpy(each.rows))
        logits = model(state.theta, state.buffers, inputs, training=False)[0].detach().numpy()
        values.append(target_function(function).from_logits(logits, labels.numpy()).mean())
    return np.array(values)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_adjoints_are_the_derivative_of_every_kind_of_target(config, data, asked, function):
    """Along random directions of parameters and running statistics."""
    model, state = model_registry.build(config, data), trained_again(config, data)
    adjoint = questions.adjoints(model, state, asked, function)
    assert adjoint.theta.shape == (len(asked), model.parameters) and adjoint.theta.dtype == DOUBLE
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        delta = [torch.randn(part.shape, generator=generator, dtype=DOUBLE) for part in (state.theta, state.buffers)]
        delta[1] = delta[1] * 0.1
        ends = []
        for sign in (1, -1):
            theta, buffers = (p + sign * 1e-6 * d for p, d in zip((state.theta, state.buffers), delta, strict=True))
            ends.append(by_hand(config, data, State(theta, state.opt, buffers), asked, function))
        difference = (ends[0] - ends[1]) / 2e-6
        predicted = (adjoint.theta @ delta[0] + adjoint.buffers @ delta[1]).numpy()
        assert np.abs(difference).min() > 1e-3
        np.testing.assert_allclose(predicted, difference, rtol=TOLERANCE, atol=TOLERANCE)
    values = questions.values(model, state, asked, function)
    np.testing.assert_allclose(values, by_hand(config, data, state, asked, function), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_scores_of_every_kind_are_the_derivative_of_retraining(config, data, run, asked, confusions, function):
    """A run's own scores against central differences over every example weight."""
    targets = (*KINDS[:-1], confusions[0])
    name = executed(run, Replay(targets, function)).scores
    assert name == f"{target_function(function).slug}-001"
    scores, asked = run.scores().matrix(name), asked[1:]
    differences = np.empty(scores.shape)
    for i in range(N):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=DOUBLE)
            weights[i] += sign * H
            ends.append(by_hand(config, data, trained_again(config, data, weights), asked, function))
        differences[:, i] = (ends[0] - ends[1]) / (2 * H)
    for target, score, difference in zip(targets, scores, differences, strict=True):
        assert np.abs(difference).max() > 1e-3, target
        assert np.linalg.norm(score - difference) <= TOLERANCE * np.linalg.norm(difference), target


@pytest.mark.slow
def test_self_influence_holds_the_images_own_effect(run, data):
    """A training image helps itself more than others do on the average, and its own score stands at its index."""
    name = executed(run, Replay(("train:0-23",), "loss")).scores
    scores = run.scores().matrix(name)
    assert scores.shape == (N, N)
    own = np.diag(scores)
    assert own.mean() < scores.mean() and (own < 0).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "recompute"])
def test_scores_are_the_same_in_every_mode(run, confusions, mode):
    job = Replay(("train:3", confusions[0], "test:1"), "difference:2>0", "disk")
    first = executed(run, job).scores
    other = executed(run, dataclasses.replace(job, mode=mode)).scores
    assert first != other and np.array_equal(run.scores().matrix(first), run.scores().matrix(other))
    alone = executed(run, Replay(("test:1",), "difference:2>0")).scores
    np.testing.assert_allclose(run.scores().matrix(alone)[0], run.scores().matrix(first)[2], rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_the_library_takes_the_same_functions(config, data):
    inputs, labels = examples(data, "train", CPU, DOUBLE).batch(torch.arange(N))
    model = model_registry.module(config, data)
    result = engine.train(model, inputs, labels, config.recipe, device="cpu")
    for function in FUNCTIONS:
        scores = engine.attribute(result, inputs[:2], labels[:2], function=function)
        values = engine.evaluate(result, inputs[:2], labels[:2], function=function)
        assert scores.shape == (2, N) and np.abs(scores).max() > 1e-3 and np.isfinite(values).all()
    for function, message in (
        ("logit:3", "out of range: the classes are 0 to 2"),
        ("logit:Ape", "must be one of loss"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine.attribute(result, inputs[:1], labels[:1], function=function)


def test_the_estimate_measures_what_a_run_may_be_asked(config, data, tmp_path):
    """A confusion as the whole of its class, for no model is trained yet."""
    asked = config.replace(targets=("confusion:1>2", "train:3"), target_function="difference:2>0")
    expected = estimate(asked, outputs_root(tmp_path), measure=True)
    assert expected.modes["disk"].seconds and expected.recommended
    splits = [examples(data, split, CPU, DOUBLE) for split in ("train", "test")]
    confusion, image = questions.before_training(asked.targets, data, *splits)
    assert confusion.rows.tolist() == np.flatnonzero(data.test_labels == 1).tolist() and confusion.examples is splits[1]
    assert image.rows.tolist() == [3] and image.examples is splits[0]


def test_the_command_line_takes_what_people_write(run, confusions, capsys):
    where = ("--outputs", str(run.root))
    assert (
        main(["attribute", run.id, *where, "--targets", "train:3,class:CAT", "--function", "difference:cat>ape"]) == 0
    )
    assert [ref.key for ref in run.scores().targets()][1:] == ["train:3.difference:2>0", "class:2.difference:2>0"]
    assert "scores/difference-2-0-001.npy" in capsys.readouterr().out
    before = (run.path / "manifest.json").read_bytes()
    for targets, function, message in (
        ("train:3", "logit:dog", "There is no class «dog»"),
        ("confusion:ape>dog", "loss", "There is no class «dog»"),
        ("class:cat,test:40-50", "loss", "test:50 is out of range"),
    ):
        assert main(["attribute", run.id, *where, "--targets", targets, "--function", function]) == 2
        assert message in capsys.readouterr().err
    for function in ("losses", "margin:1", "logit:", "difference", ""):
        with pytest.raises(SystemExit, match="2"):
            main(["attribute", run.id, *where, "--targets", "test:0", "--function", function])
        assert "is no target function; choose one of loss, margin, logit, logit:CLASS" in capsys.readouterr().err
    assert (run.path / "manifest.json").read_bytes() == before


# -- what a run says of them


def test_what_people_write_is_read_when_a_job_is_checked(run, data, confusions):
    label, predicted = map(int, confusions[0].partition(":")[2].split(">"))
    text = f"confusion:{data.classes[label].upper()}>{data.classes[predicted].lower()}"
    job = Replay(("test:0-1, train:3", text, "class:cat"), "difference: CAT > ape")
    assert job.check(run, data) == Replay(
        ("test:0", "test:1", "train:3", confusions[0], "class:2"), "difference:2>0", "disk"
    )
    for targets, function, message in (
        (("test:0-2", "test:1"), "loss", "test:1 is named twice"),
        (("train:24",), "loss", "train:0 to train:23"),
        (("confusion:ape>dog",), "loss", "no class «dog»"),
        (("test:0",), "logit:dog", "no class «dog»"),
        (("test:0",), "logit:3", "out of range"),
        ((), "loss", "No target was named"),
    ):
        with pytest.raises(ConfigError, match=message):
            Replay(targets, function).check(run, data)


@pytest.mark.slow
def test_a_confusion_that_the_model_does_not_make_is_a_sentence(run, data, config, confusions, tmp_path):
    every = {f"confusion:{a}>{b}" for a in range(3) for b in range(3) if a != b}
    never = sorted(every - set(confusions))
    assert never, "the model makes all confusions; choose other images"
    with pytest.raises(ConfigError, match="The model takes no test image of class"):
        Replay((never[0],)).check(run, data)
    # A new run is not lost for it: the log says which of its targets was left out.
    fresh = Run.create(outputs_root(tmp_path / "fresh"), config.replace(targets=("test:1", never[0], confusions[0])))
    executed(fresh)
    assert [ref.name for ref in fresh.scores().targets()] == ["test:1", confusions[0]]
    assert f"{never[0]} is empty. It is left out." in fresh.events_log.path.read_text()
    alone = Run.create(outputs_root(tmp_path / "alone"), config.replace(targets=(never[0],)))
    with pytest.raises(ConfigError, match="makes none of the confusions asked about"):
        executed(alone)
    assert alone.manifest().trained


def test_views_show_the_images_that_were_asked_about(run, data, confusions):
    executed(run, Replay(("train:3", confusions[0]), "logit:1"))
    record = run.manifest()
    image = target_view.view(record, data, Target.parse("train:3"), "logit:1")
    assert (image.members.split, image.members.indices.tolist()) == ("train", [3])
    assert image.true_label == data.train_labels[3]
    logits = record.train_logits()[3].astype(float)
    assert image.predicted_label == logits.argmax() and image.values["logit:1"] == pytest.approx(logits[1], abs=1e-5)
    assert image.values["logit"] == pytest.approx(logits[data.train_labels[3]], abs=1e-5)
    mistaken = target_view.view(record, data, Target.parse(confusions[0]))
    label, predicted = map(int, confusions[0].partition(":")[2].split(">"))
    assert mistaken.true_label == label and mistaken.accuracy == 0
    assert (record.test_logits()[mistaken.members.indices].argmax(1) == predicted).all()
    (ref,) = (ref for ref in record.score_sets.targets() if ref.key == "train:3.logit:1")
    assert ref.title(data).endswith(" · logit of Bee") and ref.score_set == "logit-1-001"
    sidecar = record.score_sets.sidecars()[-1]
    assert [(t["split"], t["images"]) for t in sidecar["targets"]] == [("train", 1), ("test", len(mistaken.members))]
    assert "logit of Bee (helpful)" in sidecar["sign"]
    with pytest.raises(ConfigError, match="no scores for the target «train:4»"):
        target_view.view(record, data, Target.parse("train:4"))


# -- checks by retraining


@pytest.mark.slow
def test_training_images_and_confusions_are_validated(run, data, config, confusions):
    """Predicted and actual change, of logits kept beside those on the test split."""
    executed(run, Replay(("train:3", confusions[0]), "difference:2>0"))
    executed(run, Validate(5, (0.1,)))
    reports = {report["function"]: report for report in trust.reports(run.manifest())}
    report = reports["difference:2>0"]
    assert report["name"] == "lds-difference-2-0-0.1-0" and report["noise_share"] == 0
    assert [t["name"] for t in report["targets"]] == ["train:3", confusions[0]]
    job = Validate(5, (0.1,))
    (left_out, *_) = job.left_out(N).values()
    weights = torch.ones(N, dtype=DOUBLE)
    weights[torch.from_numpy(left_out)] = 0
    asked = []
    for target in map(Target.parse, ("train:3", confusions[0])):
        members = target.resolve(data, run.manifest().test_logits)
        split = examples(data, members.split, CPU, DOUBLE)
        asked.append(questions.Asked(target, members.split, split, members.indices))
    after, before = (
        by_hand(config, data, trained_again(config, data, w), asked, "difference:2>0") for w in (weights, None)
    )
    actual = np.array([t["actual"][0] for t in report["targets"]])
    assert np.abs(actual).min() > 1e-4
    np.testing.assert_allclose(actual, after - before, atol=1e-5)
    # A training image that is made a target since is asked about, too: what is kept lacks its logits.
    executed(run, Replay(("train:20",), "loss"))
    executed(run, Validate(5, (0.1,)))
    assert "did not keep what training images are asked now" in run.events_log.path.read_text()
    path = run.path / "validation" / "retrained" / f"{job.keys(0.1)[0]}.safetensors"
    stored = torch_file(path)
    assert stored["train_rows"].tolist() == [3, 20] and stored["train_logits"].shape == (2, 3)
    names = [t["name"] for r in trust.reports(run.manifest()) if r["function"] == "loss" for t in r["targets"]]
    assert names == ["test:1", "train:20"]
    stamp = path.stat().st_mtime_ns
    executed(run, Validate(5, (0.1,)))
    assert path.stat().st_mtime_ns == stamp  # and none is done a third time


def torch_file(path):
    return read_state(path, {}, "")


def test_a_what_if_asks_a_training_image_that_is_left_out(run, data, config):
    executed(run, Replay(("train:3",), "logit:1"))
    (name,) = executed(run, WhatIf.of([3])).reports
    (report,) = (r for r in trust.what_ifs(run.manifest()) if r["name"] == name)
    (target,) = (t for t in report["targets"] if t["key"] == "train:3.logit:1")
    ref = run.scores().target("train:3.logit:1")
    assert target["change"] == pytest.approx(-float(run.scores().row(ref)[3]), rel=1e-6)
    assert target["predicted"]["logit:1"] == pytest.approx(target["before"]["logit:1"] + target["change"])
    weights = torch.ones(N, dtype=DOUBLE)
    weights[3] = 0
    state = trained_again(config, data, weights)
    logits = torch_targets.logits(model_registry.build(config, data), state, examples(data, "train", CPU, DOUBLE))
    assert target["actual"]["logit:1"] == pytest.approx(logits[3, 1].item(), abs=1e-5)
    assert {"loss", "margin", "logit", "probability"} <= target["actual"].keys()
    predicted = what_ifs.predict(run.manifest(), data, np.array([3]))
    assert [w.key for w in predicted] == [t["key"] for t in report["targets"]]


@pytest.mark.slow
def test_a_confusion_is_common_to_two_runs_only_on_the_same_images(run, data, config, confusions, tmp_path):
    executed(run, Replay((confusions[0],), "loss"))
    key = f"{confusions[0]}.loss"
    other = Run.create(
        outputs_root(tmp_path / "other"), config.replace(**{"recipe.epochs": 1, "targets": ("test:all", confusions[0])})
    )
    executed(other)
    here, there = run.manifest(), other.manifest()
    sets = [Target.parse(confusions[0]).resolve(data, record.test_logits).indices for record in (here, there)]
    assert not np.array_equal(*sets), "the two models make the same mistakes; choose another seed"
    assert key not in [both.target.key for both in compare.common(here, there)]
    assert key in [both.target.key for both in compare.common(here, here)]


def test_an_uploaded_image_is_asked_about_as_before(run, data):
    """Beside targets of both splits, in any order; nothing is added to a split for it."""
    image_id = uploads.keep(run, data.test_images[5])
    label = int(data.test_labels[5])
    name = executed(run, Replay(("train:3", f"image:{image_id}:{label}", "test:5"), "margin")).scores
    scores = run.scores().matrix(name)
    np.testing.assert_allclose(scores[1], scores[2], rtol=1e-5, atol=1e-9)
    assert not np.allclose(scores[0], scores[2], rtol=0.1)


@pytest.mark.slow
def test_images_behind_a_frozen_trunk_are_asked_about_by_their_features(data, config, tmp_path):
    """Of either split, and uploaded: the run's passes begin where the trunk ends."""
    frozen = config.replace(frozen="1")
    run = Run.create(outputs_root(tmp_path / "frozen"), frozen)
    executed(run)
    assert "trunk's features were computed once" in run.events_log.path.read_text()
    own = f"image:{uploads.keep(run, data.test_images[5])}:{data.test_labels[5]}"
    name = executed(run, Replay(("train:3", own, "test:5"), "difference:2>0")).scores
    scores = run.scores().matrix(name)
    np.testing.assert_allclose(scores[1], scores[2], rtol=1e-5, atol=1e-9)
    asked = [questions.Asked(Target.parse("train:3"), "train", examples(data, "train", CPU, DOUBLE), np.array([3]))]
    differences = np.empty(N)
    for i in range(N):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=DOUBLE)
            weights[i] += sign * H
            ends.append(by_hand(frozen, data, trained_again(frozen, data, weights), asked, "difference:2>0")[0])
        differences[i] = (ends[0] - ends[1]) / (2 * H)
    assert np.linalg.norm(scores[0] - differences) <= TOLERANCE * np.linalg.norm(differences)


def test_an_uploaded_image_of_an_old_record_is_found_under_its_old_text(data):
    """Schema 2 took a label with a leading zero."""
    sidecar = {"targets": [{"name": "image:0123456789abcdef:01", "logits": [0.0, 2.0, 1.0]}]}
    record = SimpleNamespace(score_sets=SimpleNamespace(sidecars=lambda: [sidecar]), test_logits=None, run_id="old")
    logits, labels = target_view.at_target(record, data, Target.parse("image:0123456789abcdef:1"))  # type: ignore[arg-type]
    assert logits.tolist() == [[0, 2, 1]] and labels.tolist() == [1]
