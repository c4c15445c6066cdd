"""Configurations: what is refused, what is read from older files, and digests that stay what they were."""

import dataclasses
import json
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

import engine
from engine import config as configs
from engine.config import CHOICES, FLAGS, LISTS, RANGES, TEXTS, Recipe, RunConfig
from engine.errors import ConfigError
from engine.registry import Registry
from tests.helpers import ROOT

FINGERPRINT = "ab" * 32
# Two config.json of schema 2 as f4cbe6d wrote them, with the training digests that it took of them.
OF_SCHEMA_2 = {
    "08913e26dbabc9cca15097add472a7b1635d56669d47f6563a39aadc49705aea": {
        "schema": 2,
        "preset": "sample",
        "dataset": "fashion-mnist-sample",
        "model": "small-cnn",
        "width": 1.0,
        "recipe": {
            "epochs": 6,
            "batch_size": 250,
            "peak_lr": 0.05,
            "schedule": "one-cycle",
            "warmup": 0.3,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.0005,
            "decay_norm_bias": False,
            "seed": 0,
        },
        "targets": ["test:0", "test:1"],
        "target_function": "loss",
        "replay_mode": "disk",
        "segment": 0,
        "checkpoint_mb": 0.0,
        "clean_when_done": False,
        "targets_per_pass": 0,
        "device": "auto",
        "precision": "float32",
    },
    "1f418dfb5072e92167b5a8a533ea2b0f68fd11c4256f5e46aa303f970734945f": {
        "schema": 2,
        "preset": "resnet9",
        "dataset": "fashion-mnist",
        "model": "resnet9",
        "width": 0.5,
        "recipe": {
            "epochs": 8,
            "batch_size": 1000,
            "peak_lr": 0.03,
            "schedule": "cosine",
            "warmup": 0.3,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.0005,
            "decay_norm_bias": False,
            "seed": 3,
        },
        "targets": ["test:0", "test:1"],
        "target_function": "loss",
        "replay_mode": "disk",
        "segment": 0,
        "checkpoint_mb": 0.0,
        "clean_when_done": False,
        "targets_per_pass": 0,
        "device": "auto",
        "precision": "float64",
    },
}


@pytest.mark.parametrize("digest", OF_SCHEMA_2)
def test_configurations_of_schema_2_are_read_and_keep_their_digests(digest):
    config = configs.from_dict(OF_SCHEMA_2[digest])
    assert config.training_digest(FINGERPRINT) == digest
    assert config.recipe.optimizer == "sgd" and config.targets == ("test:0", "test:1")
    again = configs.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.training_digest(FINGERPRINT) == digest


def test_the_digest_covers_what_decides_a_training_and_nothing_else():
    config = configs.preset("sample")
    digest = config.training_digest(FINGERPRINT)
    other = {"model": "resnet9", "width": 2.0, "precision": "float64"}
    recipe = {"epochs": 7, "batch_size": 9, "peak_lr": 0.1, "schedule": "cosine", "warmup": 0.1, "momentum": 0.1}
    recipe |= {"nesterov": False, "weight_decay": 0.1, "decay_norm_bias": True, "seed": 1, "optimizer": "another"}
    recipe |= {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "eps_root": 1e-6, "clip_norm": 1.0, "label_smoothing": 0.1}
    recipe |= {"class_weights": "balanced", "groups": (("*", 2.0, None),), "warmup_steps": 3, "anneal": "linear"}
    recipe |= {"div_factor": 5.0, "final_div_factor": 9.0, "milestones": (0.2,), "gamma": 0.2, "power": 2.0}
    recipe |= {"augment": "flip"}
    assert set(recipe) == {f.name for f in dataclasses.fields(Recipe)}
    changes = [{k: v} for k, v in other.items()] + [{f"recipe.{k}": v} for k, v in recipe.items()]
    digests = [config.replace(**change).training_digest(FINGERPRINT) for change in changes]
    assert len({digest, *digests, config.training_digest("cd" * 32)}) == len(changes) + 2
    asked = {"targets": ("test:9",), "target_function": "margin", "replay_mode": "memory", "segment": 3}
    asked |= {"checkpoint_mb": 1.0, "clean_when_done": True, "targets_per_pass": 2, "device": "cpu", "preset": "own"}
    asked |= {"compile": "on", "replay_precision": "float64", "window": 0.5}
    assert {*asked, *configs.TRAINING} == {f.name for f in dataclasses.fields(RunConfig)}
    assert {config.replace(**{k: v}).training_digest(FINGERPRINT) for k, v in asked.items()} == {digest}


def test_missing_fields_have_their_defaults():
    config = configs.from_dict({"schema": configs.SCHEMA, "recipe": {"epochs": 3}})
    assert config == RunConfig(recipe=Recipe(epochs=3))


def test_unknown_fields_are_refused_and_name_the_version_that_wrote_them():
    written = {**configs.preset("sample").to_dict(), "version": "9.1.0", "temperature": 2.0}
    written["recipe"] = {**written["recipe"], "ema": 0.9}
    with pytest.raises(ConfigError, match="'temperature', 'recipe.ema'.*written by version '9.1.0'") as caught:
        configs.from_dict(written, "outputs/x/config.json")
    assert "Open the run with version '9.1.0'" in caught.value.remedy and "outputs/x/config.json" in str(caught.value)
    del written["version"]
    with pytest.raises(ConfigError, match="another version"):
        configs.from_dict(written)
    newer = {**configs.preset("sample").to_dict(), "schema": 99, "version": "12.0"}
    with pytest.raises(ConfigError, match="schema 99, written by version '12.0'.*reads schema 2 to 3"):
        configs.from_dict(newer)
    assert configs.preset("sample").to_dict()["version"] == engine.__version__


@pytest.mark.parametrize(
    "harm",
    [
        {"schema": 1},
        {"schema": "2"},
        {"schema": True},
        {"schema": None},
        {"recipe": []},
        {"recipe": {"epochs": "8"}},
        {"targets": "test:0"},
        {"targets": [["test:0"]]},
        {"targets": [None]},
        {"targets": []},
        {"model": ["small-cnn"]},
        {"width": float("nan")},
        {"width": 10**400},
        {"preset": 7},
        {"device": {}},
    ],
)
def test_mistyped_entries_are_refused(harm):
    with pytest.raises(ConfigError) as caught:
        configs.from_dict({**next(iter(OF_SCHEMA_2.values())), **harm})
    assert caught.value.remedy
    for values in ([], None, "x", 3):
        with pytest.raises(ConfigError, match="not a configuration"):
            configs.from_dict(values)


def test_a_second_name_of_a_target_in_an_older_file_is_the_first():
    values = {**next(iter(OF_SCHEMA_2.values())), "targets": ["test:007", "test:7", "test:٧", "class:02"]}
    assert configs.from_dict(values).targets == ("test:7", "class:2")
    with pytest.raises(ConfigError, match="is no target"):
        configs.from_dict({**values, "schema": 3})


# -- values


@pytest.mark.parametrize(
    "name, value",
    [("recipe.epochs", np.int64(3)), ("recipe.peak_lr", np.float64(0.1)), ("width", np.float32(0.5))]
    + [("recipe.seed", np.uint8(7)), ("recipe.nesterov", np.bool_(True)), ("recipe.peak_lr", 1)],
)
def test_numbers_of_numpy_are_taken_and_become_pythons(name, value):
    config = configs.check(configs.preset("sample").replace(**{name: value}))
    assert not isinstance(configs.get(config, name), np.generic) and configs.get(config, name) == value
    assert configs.from_dict(json.loads(json.dumps(config.to_dict()))) == config and config.training_digest("")
    if name in RANGES:
        assert RANGES[name].problem(value) is None


@pytest.mark.parametrize(
    "name, value",
    [("recipe.epochs", v) for v in (0, 2.0, True, "8", None, np.float64(3), 10**5000, -(10**5000), [3], Decimal(3))]
    + [("width", v) for v in (float("inf"), float("nan"), 1e999, 10**400, "1", 1 + 0j, np.bool_(True), np.ones(2))]
    + [("recipe.optimizer", v) for v in ("adamax", 3, None, ["sgd"], "x" * 5000)]
    + [("model", "resnet 9"), ("dataset", "../x"), ("recipe.nesterov", 1), ("clean_when_done", "yes")]
    + [("preset", v) for v in ("Own!", "", "x" * 41, "../x", "-a", None, "a b", "é")],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else type(value).__name__,
)
def test_values_out_of_range_are_named_whatever_they_are(name, value):
    problems = configs.problems(configs.preset("sample").replace(**{name: value}), 6000, 1000, 10)
    assert problems[name].startswith("must be ") and len(problems[name]) < 300


def test_every_setting_has_a_text():
    for name in [*RANGES, *CHOICES, *FLAGS, *LISTS, *TEXTS]:
        what = FLAGS[name] if name in FLAGS else {**RANGES, **CHOICES, **LISTS, **TEXTS}[name].what
        assert what.endswith(".") and configs.get(configs.preset("sample"), name) is not None
    named = {*RANGES, *CHOICES, *FLAGS, *LISTS, *TEXTS, "preset", "targets", "recipe"}
    fields = {f.name for f in dataclasses.fields(RunConfig)} | {f"recipe.{f.name}" for f in dataclasses.fields(Recipe)}
    assert named == fields


# -- registries


def test_names_are_known_without_torch():
    code = (
        "from engine import config as c; import sys; print(*c.MODELS, *c.OPTIMIZERS, *c.DATASETS);"
        "c.check(c.preset('sample'), 6000, 1000, 10); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"small-cnn", "resnet9", "sgd", "fashion-mnist"} <= set(done.stdout.split())


def test_every_built_in_is_where_its_registry_says():
    for registry in (configs.MODELS, configs.OPTIMIZERS, configs.DATASETS):
        assert registry.names() and all(callable(registry.get(name)) for name in registry)


def test_registered_names_are_known_at_once_and_taken_names_are_refused(monkeypatch):
    registry = Registry("model", "model", {"small-cnn": "engine.models.small_cnn:small_cnn"})
    monkeypatch.setattr(configs, "MODELS", registry)
    config = configs.preset("sample").replace(model="mine")
    assert "model" in configs.problems(config)
    build = registry.register("mine", lambda: None)
    assert registry.register("mine", build) is build and registry.get("mine") is build
    assert configs.problems(config) == {} and registry.names() == ("small-cnn", "mine") and "mine" in registry
    for name in ("mine", "small-cnn"):
        with pytest.raises(ConfigError, match="already"):
            registry.register(name, lambda: None)
    for name in ("Mine", "a b", "../x", "", "x" * 65, None, 3):
        with pytest.raises(ConfigError, match="no name of a model"):
            registry.register(name, lambda: None)
    with pytest.raises(ConfigError, match="no model «other»") as caught:
        registry.get("other")
    assert "small-cnn, mine" in caught.value.remedy and "model" in caught.value.problems
