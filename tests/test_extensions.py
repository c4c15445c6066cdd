"""Parts of one's own, registered from a file each (tests/extensions), are as exact as the built-in ones: the optimizer
goes backwards through its memory and its gradient, and all weights are compared with finite differences.
tests/test_growth.py shows that such files need no other line anywhere."""

import importlib
import sys

import numpy as np
import pytest
import torch

import engine
from engine import config as configs
from engine import datasets, files
from engine.analysis import target_view
from engine.config import RunConfig
from engine.core import targets as torch_targets
from engine.core.stream import examples
from engine.errors import ConfigError
from engine.jobs import execute as work
from engine.jobs.registry import JOBS, from_record
from engine.jobs.replay import Replay
from engine.models.registry import module
from engine.runs.run import Run
from engine.targets import FUNCTIONS, Target
from tests.helpers import ROOT, differences

FILES = ("optimizer", "data", "model", "function", "job")
NAMES = ("dummy-rms", "dummy-images", "dummy-net", "brier", "dummy-norm")
REGISTRIES = (configs.MODELS, configs.OPTIMIZERS, configs.DATASETS)
H = 1e-5


@pytest.fixture(scope="module")
def grown():
    """The five files imported, and forgotten afterwards: other tests see the project as it is."""
    tables = [registry._things for registry in REGISTRIES] + [FUNCTIONS, torch_targets.FUNCTIONS, JOBS]
    before = [dict(table) for table in tables]
    yield {name: importlib.import_module(f"tests.extensions.{name}") for name in FILES}
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in FILES:
        del sys.modules[f"tests.extensions.{name}"]
    datasets.registry.clear()


@pytest.fixture(scope="module")
def config(grown) -> RunConfig:
    return configs.check(
        RunConfig(
            preset="growth",
            dataset="dummy-images",
            model="dummy-net",
            recipe=grown["optimizer"].recipe(),
            targets=("test:0", "class:1", "test:all"),
            target_function="brier",
            device="cpu",
            precision="float64",
        ),
        *datasets.load("dummy-images").sizes,
    )


def run_of(config: RunConfig, root) -> Run:
    run = Run.create(root, config)
    with run.lock():
        work.execute(run)
    return run


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> Run:
    return run_of(config.replace(replay_mode="disk"), tmp_path_factory.mktemp("growth"))


def test_nothing_else_knows_of_them():
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("ui/*.py"), *ROOT.glob("pages/*.py"), ROOT / "app.py"]:
        text = path.read_text()
        assert not any(f'"{name}"' in text for name in NAMES), path


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "recompute"])
def test_a_run_of_all_five_trains_and_has_the_same_scores_in_every_mode(config, run, mode, tmp_path):
    scores = run.scores().matrix("brier-000")
    assert scores.shape == (3, 20) and np.abs(scores).max(1).min() > 1e-4
    other = run_of(config.replace(replay_mode=mode, segment=2 if mode == "recompute" else 0), tmp_path)
    assert np.array_equal(other.scores().matrix("brier-000"), scores)
    assert other.manifest().training_digest == run.manifest().training_digest
    sgd = config.replace(**{"recipe.optimizer": "sgd"})
    assert sgd.training_digest("x") != config.training_digest("x")
    assert not np.allclose(run_of(sgd, tmp_path).scores().matrix("brier-000"), scores, rtol=0.1)


@pytest.mark.slow
def test_its_scores_are_the_derivative(config, run):
    """The run's, the public API's, and central differences over every weight."""
    dataset = datasets.load("dummy-images")
    cpu, double = torch.device("cpu"), torch.float64
    train, test = (
        examples(dataset, split, cpu, double).batch(torch.arange(n)) for split, n in (("train", 20), ("test", 6))
    )
    sets = [Target.parse(text).resolve(dataset).indices for text in config.targets]
    trained = engine.train(module(config, dataset), *train, config.recipe, device="cpu")
    asked = {"function": "brier", "targets": sets}
    scores = engine.attribute(trained, *test, **asked)
    assert np.allclose(scores, run.scores().matrix("brier-000"), rtol=1e-5, atol=1e-8)
    expected = differences(trained, 20, H, *test, **asked)
    assert np.linalg.norm(scores - expected) <= 1e-6 * np.linalg.norm(expected)


def test_further_targets_and_what_pages_say_of_them(run):
    dataset = datasets.load("dummy-images")
    with run.lock():
        work.execute(run, Replay(("test:3",), "loss", "disk"))
        work.execute(run, Replay(("test:3",), "brier", "disk"))
    record = run.manifest()
    view = target_view.view(record, dataset, Target.parse("test:0"))
    sidecar = record.score_sets.sidecars()[0]
    assert sidecar["unit"] == "points per unit of example weight" and "raised the brier (harmful)" in sidecar["sign"]
    assert view.values["brier"] == pytest.approx(sidecar["targets"][0]["value"], rel=1e-5)
    assert {ref.key for ref in record.score_sets.targets()} >= {"test:3.loss", "test:3.brier"}


def test_its_job_is_recorded_checked_and_done(run, grown):
    job = grown["job"].DummyNorm(order=1)
    assert from_record(job.record()) == job
    with run.lock():
        with pytest.raises(ConfigError, match="no norm of order 0"):
            work.execute(run, grown["job"].DummyNorm(order=0))
        result = work.execute(run, job)
    assert result.reports == ("dummy-norm",)
    path = run.path / "validation" / "dummy-norm.json"
    assert files.read_json(path, "")["norm"] > 0 and "validation/dummy-norm.json" in run.manifest().files
