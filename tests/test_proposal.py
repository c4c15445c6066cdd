"""What is proposed for data of one's own: valid for any sizes, made of small steps, and what the command line starts
from. That such recipes agree with retraining is measured in docs/trust.md."""

import numpy as np
import pytest

from engine import commands, config
from engine.__main__ import main
from engine.analysis import suspects, trust
from engine.config_file import loads
from engine.core.schedule import plan_for
from engine.datasets import registry
from engine.errors import ConfigError
from engine.jobs.validation import Validate
from engine.proposal import Proposal, for_dataset, propose
from engine.runs import run as runs
from tests.images import emoji, folder
from tools.emoji import spoil

SIZES = [  # training and test images, channels, (height, width), classes
    (1_000, 200, 3, (32, 32), 10),
    (160, 40, 3, (48, 48), 2),
    (1_528, 383, 3, (64, 64), 10),
    (60_000, 10_000, 1, (28, 28), 10),
    (100_000, 1_000, 3, (64, 64), 10),
    (100, 100, 3, (64, 64), 100),
    (800, 200, 3, (40, 64), 5),
    (10_000, 10_000, 3, (64, 64), 10_000),
    (50, 10, 1, (8, 8), 3),
    (3, 1, 3, (1024, 4), 2),
    (2, 1, 1, (4, 4), 2),
]


def proposed(training: int, test: int, channels: int, size: tuple[int, int], classes: int) -> Proposal:
    return propose("folder:/x", training=training, test=test, channels=channels, size=size, classes=classes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_proposal_is_valid_for_the_data_that_it_was_made_for(sizes):
    training, test, channels, size, classes = sizes
    made = proposed(*sizes)
    config.check(made.config, training, test, classes, (*size, channels))
    assert made.config.dataset == "folder:/x"
    assert len(plan_for(made.config.recipe, training)) >= min(training // 3, 30), "a training of a few steps is none"
    assert all(reason.endswith(".") and reason.isprintable() for reason in made.reasons) and len(made.reasons) >= 3


def test_the_two_recipes_that_were_measured_are_proposed():
    """docs/trust.md: the `sample` preset, and the emoji."""
    sample = proposed(6_000, 1_000, 1, (28, 28), 10).config
    preset = config.preset("sample")
    assert (sample.recipe, sample.model, sample.model_options) == (preset.recipe, preset.model, preset.model_options)
    emoji = proposed(1_528, 383, 3, (64, 64), 10).config
    assert emoji.recipe == config.Recipe(epochs=12, batch_size=100, peak_lr=0.02)
    assert (emoji.model, emoji.model_options) == ("small-cnn", "scale=0.22")


def test_the_reasons_say_the_numbers_of_the_recipe():
    made = proposed(1_528, 383, 3, (64, 64), 10)
    said = " ".join(made.reasons)
    recipe = made.config.recipe
    for number in (f"{recipe.batch_size:,}", f"{recipe.epochs}", f"{recipe.peak_lr:g}", "1,528"):
        assert number in said


def test_few_images_a_class_are_warned_of():
    few, enough = (proposed(training, 100, 3, (64, 64), 100) for training in (499, 500))
    assert "Validate before you rely" in few.reasons[-1] and "5 training images a class" in few.reasons[-1]
    assert not any("Validate" in reason for reason in enough.reasons)


def test_targets_are_spread_over_the_test_images():
    """In a folder they lie class by class: the first ones are all of one class."""
    targets = [int(text.removeprefix("test:")) for text in proposed(1_528, 383, 3, (64, 64), 10).config.targets]
    assert len(set(targets)) == 8 and np.diff(targets).min() >= 383 // 8 and max(targets) >= 383 * 7 // 8
    assert proposed(10, 3, 3, (64, 64), 2).config.targets == ("test:0", "test:1", "test:2")


@pytest.mark.parametrize("sizes", [(1, 1, 3, (8, 8), 2), (9, 0, 3, (8, 8), 2), (9, 3, 3, (8, 8), 1)], ids=str)
def test_what_cannot_be_trained_gets_no_recipe(sizes):
    with pytest.raises(ConfigError, match="There is no recipe for"):
        proposed(*sizes)


# -- command line


@pytest.fixture
def pets(tmp_path, monkeypatch, root):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return f"folder:{folder(tmp_path / 'pets', {'cat': 25, 'dog': 25}, (24, 16))}"


def test_a_run_of_ones_own_data_starts_from_the_proposal(pets, monkeypatch, capsys):
    """Up to the run's folder; that such a folder trains is tested elsewhere."""
    started = []
    monkeypatch.setattr(commands, "_execute", started.append)
    made = for_dataset(registry.load(pets))
    assert main(["run", "--data", pets, "--set", "recipe.epochs=2"]) == 0
    assert main(["run", "--data", pets, "--preset", "sample", "--set", "recipe.batch_size=9"]) == 0
    assert main(["run", "--data", "fashion-mnist-sample"]) == 0
    assert main(["run", "--data", "fashion-mnist-sample-noisy"]) == 0
    own, named, built_in, noisy = (run.manifest().config for run in started)
    assert own == made.config.replace(**{"recipe.epochs": 2})
    asked = {"targets": made.config.targets}  # the preset's are of its own images
    assert named == config.preset("sample").replace(dataset=pets, **asked, **{"recipe.batch_size": 9})
    assert built_in == config.preset("sample") and noisy == config.preset("sample-noisy")
    said = capsys.readouterr().err
    assert all(said.count(reason) == 1 for reason in made.reasons)
    assert len(runs.list_runs(runs.outputs_root())) == 4


def test_the_proposal_is_printed_as_a_file_with_its_reasons(pets, tmp_path, capsys):
    made = for_dataset(registry.load(pets))
    assert main(["config", "--data", pets]) == 0
    text = capsys.readouterr().out
    assert loads(text) == made.config
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert all(reason in comments for reason in made.reasons)
    assert main(["config", "--data", "folder:/nowhere"]) in (1, 2)
    assert "There is no folder /nowhere" in capsys.readouterr().err


# -- a real folder


@pytest.mark.slow
def test_the_proposal_for_a_real_folder_agrees_with_retraining_and_finds_its_wrong_labels(tmp_path, monkeypatch, root):
    """Small pictures, few targets and few retrainings; `make bench-emoji` has all of them."""
    from engine.jobs import execute as work

    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    wrong = set(spoil(emoji(tmp_path / "emoji"))["moved"])
    made = for_dataset(registry.load(f"folder:{tmp_path / 'emoji'}?side=16"))
    targets = (*made.config.targets[::2], "test:all")
    run = runs.Run.create(root, made.config.replace(targets=targets, replay_mode="memory"))
    with run.lock():
        work.execute(run)
        work.execute(run, Validate(12, (0.01,), 0))
    (report,) = trust.reports(run.manifest())
    assert report["lds_mean"] > 0.85 and report["targets_that_vary"] == len(targets), report["lds_mean"]
    tables = {by: suspects.ranked(run.manifest(), "test:all.loss", by) for by in suspects.ORDERS}
    inside = wrong & set(tables["loss"]["file"])
    found = {by: inside & set(table["file"][:50]) for by, table in tables.items()}
    assert len(inside) >= 12, "the others were drawn for the test split"
    chance = 50 / len(tables["loss"])
    assert len(found["loss"]) > 10 * chance * len(inside) and len(found["harm"]) > 5 * chance * len(inside), found
