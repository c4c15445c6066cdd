"""A run with every option of a recipe: by the command line, in every mode, after kills, checked and estimated."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from engine import config as configs
from engine.__main__ import main
from engine.config import LISTS, Recipe
from engine.errors import ConfigError
from engine.jobs import estimate
from engine.jobs import execute as work
from engine.runs.run import Run, list_runs
from tests.helpers import ROOT
from tests.made_up import SMALL
from ui import formats

WORDS = {
    "width": "0.125",
    "recipe.optimizer": "adamw",
    "recipe.beta1": "0.8",
    "recipe.beta2": "0.99",
    "recipe.eps_root": "1e-8",
    "recipe.peak_lr": "0.01",
    "recipe.clip_norm": "1",
    "recipe.label_smoothing": "0.1",
    "recipe.class_weights": "balanced",
    "recipe.groups": "*.bias:0.5:0,*weight:1",
    "recipe.schedule": "step",
    "recipe.milestones": "0.5,0.75",
    "recipe.warmup_steps": "2",
    "recipe.epochs": "2",
    "recipe.batch_size": "1000",
}
CONFIG = SMALL.replace(
    recipe=Recipe(
        epochs=2,
        batch_size=1000,
        optimizer="adamw",
        beta1=0.8,
        beta2=0.99,
        eps_root=1e-8,
        peak_lr=0.01,
        clip_norm=1,
        label_smoothing=0.1,
        class_weights="balanced",
        groups=(("*.bias", 0.5, 0.0), ("*weight", 1.0, None)),
        schedule="step",
        warmup_steps=2,
    ),
)
KILLED = """
import os, signal, sys
from pathlib import Path
from engine.jobs import execute
from engine.runs.events import EventLog
from engine.runs.run import Run
from tests.forked import one_of
from tools.hold import every_step_told

run_id, phase = one_of([case.split() for case in sys.argv[2:]])
every_step_told()
append = EventLog.append
def last_words(self, kind, **fields):
    said = append(self, kind, **fields)
    if kind == "progress" and fields["phase"] == phase and fields["step"] >= 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return said
EventLog.append = last_words
run = Run.open(Path(sys.argv[1]), run_id)
with run.lock():
    execute.execute(run)
"""


def done(root, config, run_id: str) -> Run:
    run = Run.create(root, config, run_id)
    with run.lock():
        work.execute(run)
    return run


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Run:
    return done(tmp_path_factory.mktemp("recipes"), CONFIG.replace(replay_mode="disk"), "disk")


@pytest.mark.slow
def test_the_command_line_says_the_same_recipe(expected, root, capsys):
    words = [part for name, value in WORDS.items() for part in ("--set", f"{name}={value}")]
    targets = ["--targets", ",".join(SMALL.targets), "--mode", "recompute"]
    assert main(["run", *targets, *words, "--outputs", str(root)]) == 0
    (run,) = list_runs(root)
    assert run.manifest().config.recipe == CONFIG.recipe
    scores = run.scores().matrix("loss-000")
    assert np.abs(scores).max(1).min() > 0 and np.array_equal(scores, expected.scores().matrix("loss-000"))
    assert main(["what-if", run.id, "--leave-out", "3,4", "--outputs", str(root)]) == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(expected, root):
    phases = {}
    for phase, mode in ("train", "memory"), ("train", "disk"), ("replay", "disk"), ("replay", "recompute"):
        run = Run.create(root, CONFIG.replace(replay_mode=mode, segment=3 if mode == "recompute" else 0))
        phases[run.id] = phase
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", KILLED, str(root), *map(" ".join, phases.items())]
    killed = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.stdout.split() == [str(-signal.SIGKILL)] * 4, killed.stderr
    for run_id, phase in phases.items():
        run = Run.open(root, run_id)
        reached = [e for e in run.events()[0] if e["kind"] == "progress" and e["phase"] == phase]
        assert run.status == "interrupted" and reached[-1]["step"] >= 5
        with run.lock():
            work.execute(run)
        assert np.array_equal(run.scores().matrix("loss-000"), expected.scores().matrix("loss-000")), run_id


@pytest.mark.slow
def test_the_estimate_counts_the_moments(expected, root):
    sgd = estimate.estimate(SMALL, root)
    both = estimate.estimate(CONFIG, root)
    assert sgd.moments == 0 and both.moments == 2 * both.parameters
    assert both.bytes_per_step - sgd.bytes_per_step == 8 * both.parameters
    sizes = {path.stat().st_size for path in (expected.path / "trajectory").glob("step-*")}
    assert sizes and all(abs(size - both.bytes_per_step) < 512 for size in sizes)


# -- what may be written


@pytest.mark.parametrize(
    "text, value",
    [
        ("recipe.milestones", ("0.3,0.6", (0.3, 0.6))),
        ("recipe.milestones", ("", ())),
        ("recipe.class_weights", ("none", "none")),
        ("recipe.class_weights", ("balanced", "balanced")),
        ("recipe.class_weights", ("1,2,0.5", (1.0, 2.0, 0.5))),
        ("recipe.groups", ("head.*:10", (("head.*", 10.0, None),))),
        ("recipe.groups", ("*.bias:1:0,a:0.1:1e-05", (("*.bias", 1.0, 0.0), ("a", 0.1, 1e-5)))),
        ("recipe.groups", ("", ())),
    ],
)
def test_lists_are_read_as_they_are_written(text, value):
    written, meant = value
    assert LISTS[text].read(written) == meant and LISTS[text].problem(meant) is None
    assert LISTS[text].read(LISTS[text].write(meant)) == meant
    config = SMALL.replace(**{text: meant})
    again = configs.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again.recipe) == hash(config.recipe)
    assert again.training_digest("x") == config.training_digest("x")


@pytest.mark.parametrize(
    "name, written",
    [("recipe.milestones", w) for w in ("a", "0.5,", "0.7,0.5", "0.5,0.5", "1.5", "-0.1", "nan", "inf")]
    + [("recipe.class_weights", w) for w in ("Balanced", "1,x", "-1,1", "0,0,0", "nan,1", "", "1e9,1")]
    + [("recipe.groups", w) for w in ("head", "head:x", ":1", "a:1:2:3", "a:-1", "a:1:-1", "a:nan", "a b:1", "a:1,")],
)
def test_lists_that_are_no_such_lists_are_named(name, written):
    config = SMALL.replace(**{name: LISTS[name].read(written)})
    problem = configs.problems(config, 6000, 1000, 10)[name]
    assert problem.startswith(("must ", "has ")) and len(problem) < 400
    with pytest.raises(ConfigError, match=name):
        configs.check(config, 6000, 1000, 10)


def test_arrays_are_tuples():
    weights, milestones = np.float32([1, 2, 0.5]), [np.float64(0.25), 0.5]
    recipe = Recipe(class_weights=weights, milestones=milestones, groups=[["a.*", np.int64(2), np.float64(0.5)]])
    assert recipe == Recipe(class_weights=(1.0, 2.0, 0.5), milestones=(0.25, 0.5), groups=(("a.*", 2, 0.5),))
    assert hash(recipe) and json.dumps(dataclasses.asdict(recipe))
    whole, floats = (SMALL.replace(**{"recipe.groups": (("a.*", n, None),)}) for n in (2, 2.0))
    assert whole.training_digest("x") == floats.training_digest("x")
    assert not configs.problems(SMALL.replace(recipe=recipe), 6000, 1000, 3)


@pytest.mark.parametrize("value", [None, 3, [1], (1, 2), ((1, 2, 3),), (("a", 1),), (("a", "1", None),), {"a": 1}, "x"])
def test_groups_of_another_kind_are_named(value):
    assert "recipe.groups" in configs.problems(SMALL.replace(**{"recipe.groups": value}))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"eps": 0.0}, "recipe.eps"),
        ({"beta1": 1.0}, "recipe.beta1"),
        ({"beta2": 1.0}, "recipe.beta2"),
        ({"clip_norm": -1.0}, "recipe.clip_norm"),
        ({"label_smoothing": 1.0}, "recipe.label_smoothing"),
        ({"class_weights": (1.0, 2.0)}, "recipe.class_weights"),
        ({"warmup_steps": 6}, "recipe.warmup_steps"),
        ({"warmup_steps": 1.5}, "recipe.warmup_steps"),
        ({"power": 0.0}, "recipe.power"),
        ({"gamma": 2.0}, "recipe.gamma"),
        ({"anneal": "cubic"}, "recipe.anneal"),
        ({"div_factor": 0.5}, "recipe.div_factor"),
        ({"final_div_factor": 0.0}, "recipe.final_div_factor"),
    ],
)
def test_values_out_of_range_are_named(changes, name):
    at_fault = configs.problems(SMALL.replace(**{f"recipe.{k}": v for k, v in changes.items()}), 6000, 1000, 10)
    assert set(at_fault) == {name} and not at_fault[name].endswith(".")


def test_eps_may_be_0_where_there_is_one_in_the_root():
    assert configs.problems(SMALL.replace(**{"recipe.eps": 0.0, "recipe.eps_root": 1e-8})) == {}


def test_what_differs_between_recipes_is_shown_as_it_is_written():
    shown = [formats.setting(value) for value in (CONFIG.recipe.groups, (), (0.5, 0.75), "balanced", tuple(range(10)))]
    assert shown == ["*.bias:0.5:0.0, *weight:1.0", "none", "0.5, 0.75", "balanced", "0, 1, 2, 3, 4, 5, 6, 7, … (10)"]
