"""Removal curves: which sets are left out, the retrainings without them, and what the page says of them."""

import threading

import numpy as np
import pytest
import torch

from engine import files
from engine.__main__ import main
from engine.analysis import lds, removal, trust
from engine.core import targets
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.datasets import registry as dataset_registry
from engine.device import exact_arithmetic, threads
from engine.errors import CancelledError, ConfigError
from engine.jobs import execute as work
from engine.jobs.removal import Removal
from engine.jobs.validation import Validate
from engine.models import registry as model_registry
from engine.runs import run as runs
from engine.trajectory.state_files import read_state
from tests.helpers import button, show, sound

FRACTIONS = 0.01, 0.05
JOB = Removal("test:0.loss", FRACTIONS, draws=2)


def do(run: runs.Run, job=None, **more):
    with run.lock():
        return work.execute(run, job, **more)


def scores_of(run: runs.Run, key: str = "test:0.loss") -> np.ndarray:
    sets = run.manifest().score_sets
    return sets.row(sets.target(key))


# -- the sets


def test_the_sets_are_the_first_of_each_side_and_random_ones_of_the_same_number():
    tau_N = np.random.default_rng(0).normal(size=400).astype(np.float32)
    removed = removal.sets(tau_N, "loss", (0.05, 0.001, 0.01), draws=2, seed=3)
    assert [each.fraction for each in removed] == [0.001] * 4 + [0.01] * 4 + [0.05] * 4, "few images first"
    by = {(each.side, each.fraction, each.draw): set(each.left_out.tolist()) for each in removed}
    assert by["helpful", 0.05, 0] == set(np.argsort(tau_N)[:20]) and by["harmful", 0.05, 0] == set(
        np.argsort(tau_N)[-20:]
    )
    assert by["helpful", 0.001, 0] == {int(tau_N.argmin())}, "at least one"
    assert by["random", 0.05, 1] == set(lds.subset(400, 0.05, 3, 1)), "those of a validation"
    assert by["random", 0.001, 0] != by["random", 0.001, 1] and len(by["random", 0.001, 0]) == 1
    # A margin is helped by what raises it; a side that has fewer gives all that it has, or no set.
    assert set(removal.sets(tau_N, "margin", (0.05,))[0].left_out) == set(np.argsort(-tau_N)[:20])
    few = np.where(np.arange(400) < 3, -1.0, 0.0)
    assert [(each.side, len(each.left_out)) for each in removal.sets(few, "loss", (0.05,), draws=1)] == [
        ("helpful", 3),
        ("random", 20),
    ]


@pytest.mark.parametrize(
    "job, message",
    [
        (Removal("test:9.loss"), "no scores for the target"),
        (Removal("test:0.loss", ()), "different numbers"),
        (Removal("test:0.loss", (0.01, 0.01)), "different numbers"),
        (Removal("test:0.loss", (1.5,)), "different numbers"),
        (Removal("test:0.loss", sides=("worst",)), "no side"),
        (Removal("test:0.loss", sides=(), draws=0), "Nothing is left out"),
        (Removal("test:0.loss", draws=201), "number of random sets"),
        (Removal("test:0.loss", draws=100), "306 retrainings"),
        (Removal("test:0.loss", (0.9,)), "The (helpful|harmful|random) 90 % of test:0.loss"),
    ],
)
def test_a_curve_that_cannot_be_made_says_why(job, message, quick):
    with pytest.raises(ConfigError, match=message):
        job.check(quick, dataset_registry.load(quick.manifest().config.dataset))


# -- the retrainings


@pytest.mark.slow
def test_each_retraining_is_the_training_without_those_images_bit_for_bit(quick):
    """Against a training of its own: the model and the data built anew, the sets ranked here, weights of 0."""
    (name,) = do(quick, JOB).reports
    (report,) = removal.reports(quick.manifest(), "test:0.loss")
    record, tau_N = quick.manifest(), scores_of(quick)
    config, dataset = record.config, dataset_registry.load(record.config.dataset)
    assert report["name"] == name and len(report["sets"]) == 8
    before = targets_loss(record.test_logits()[:1], dataset.test_labels[:1])
    for each in report["sets"]:
        n = round(each["fraction"] * 120)
        chosen = {
            "helpful": np.argsort(tau_N)[:n],
            "harmful": np.argsort(-tau_N)[:n],
            "random": lds.subset(120, each["fraction"], 0, each["draw"]),
        }[each["side"]]
        weights = torch.ones(120)
        weights[torch.from_numpy(chosen.copy())] = 0
        with exact_arithmetic(), threads(record.threads):
            model = model_registry.build(config, dataset)
            data, test = (examples(dataset, s, torch.device("cpu"), torch.float32) for s in ("train", "test"))
            state = train(model, Stream(data, config.recipe, weights))
            logits = targets.logits(model, state, test).numpy()
        assert any(np.array_equal(logits, kept) for kept in kept_logits(quick)), (each["side"], n)
        after = targets_loss(logits[:1], dataset.test_labels[:1])
        assert each["actual"] == pytest.approx(after - before, abs=1e-12) and each["actual"] != 0
        assert each["predicted"] == pytest.approx(-tau_N[chosen].astype(float).sum())
        assert each["label"] == logits[0].argmax() and each["left_out"] == n
    assert all(each["standard_error"] is None for each in report["sets"])


def targets_loss(logits_1C: np.ndarray, label: np.ndarray) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits_1C).double(), torch.tensor(label)))


def kept_logits(run: runs.Run) -> list[np.ndarray]:
    folder = run.path / "validation" / "retrained"
    return [read_state(path, {}, "")["logits"].numpy() for path in folder.glob("*.safetensors")]


@pytest.mark.slow
def test_a_curve_that_was_cancelled_goes_on_and_what_was_trained_is_not_trained_twice(quick, monkeypatch):
    from tests.test_trust import counted

    trained, cancel, original = counted(monkeypatch), threading.Event(), files.write_bytes

    def cancelling(path, content):
        if path.suffix == ".safetensors" and len(trained) == 3:
            cancel.set()
        return original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("engine.trajectory.state_files.files.write_bytes", cancelling)
        with pytest.raises(CancelledError):
            do(quick, JOB, cancel=cancel)
    assert len(trained) == 3 and quick.manifest().resumable, "the fourth stopped at its first step"
    do(quick)  # resume
    assert len(trained) == 8, "three were kept"
    (report,) = removal.reports(quick.manifest(), "test:0.loss")
    do(quick, JOB)
    assert len(trained) == 8, "the same curve again trains nothing"
    again = removal.reports(quick.manifest(), "test:0.loss")
    assert [each["name"] for each in again] == ["removal-001", "removal-000"], "the newest first"
    assert again[0]["sets"] == report["sets"]
    # A validation's retrainings of the same seed and fraction are the random sets', and say the standard error.
    do(quick, Validate(20, (0.05,)))
    assert len(trained) == 8 + 18 + 1, "two were there; one of the run's own weights"
    do(quick, JOB)
    (latest, *_) = removal.reports(quick.manifest(), "test:0.loss")
    assert all(each["standard_error"] > 0 for each in latest["sets"])
    assert [each["actual"] for each in latest["sets"]] == [each["actual"] for each in report["sets"]]


@pytest.mark.slow
def test_the_command_says_its_cost_prints_the_curve_and_writes_it(quick, tmp_path, capsys):
    csv = tmp_path / "curve.csv"
    call = ["removal", quick.id, "--target", "test:1", "--share", "0.05", "--random", "1", "--csv", str(csv)]
    assert main(call) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 of 3 retrainings to be done, about ") and "removal-000.json; test:1.loss" in out
    rows = csv.read_text().splitlines()
    assert len(rows) == 4 and rows[1].startswith("test:1.loss,helpful,,0.05,6,")
    (report,) = removal.reports(quick.manifest(), "test:1.loss")
    assert f"{report['sets'][0]['actual']:+.4f}" in out
    assert main(["removal", quick.id, "--target", "test:7"]) == 2, "no scores"
    assert main([*call[:-1], str(tmp_path / "missing" / "x.csv")]) == 2


# -- the page


@pytest.mark.slow
def test_the_form_says_number_and_time_and_the_page_shows_the_newest_curve(quick):
    app = show("pages/Influence.py", run=quick.id, target="test:0.loss")
    each = trust.retraining_seconds(quick.manifest())
    assert each is not None
    captions = " ".join(caption.value for caption in app.caption)
    assert "12 retrainings of" in captions  # three fractions, two sides and two random sets
    app.number_input(key=f"removal-draws-{quick.id}").set_value(4).run()
    assert "18 retrainings of" in " ".join(caption.value for caption in sound(app).caption)
    app.button_group(key=f"removal-sides-{quick.id}").set_value([]).run()
    app.number_input(key=f"removal-draws-{quick.id}").set_value(0).run()
    assert button(sound(app), "Draw the curve").disabled
    do(quick, JOB)
    app = show("pages/Influence.py", run=quick.id, target="test:0.loss")
    assert "were done before" in " ".join(caption.value for caption in app.caption)
    (report,) = removal.reports(quick.manifest(), "test:0.loss")
    assert any("Without the 6 most helpful images the loss changed by" in each.value for each in app.markdown)
    assert [len(table.value) for table in app.table if "Retrained" in " ".join(table.value)] == [len(report["sets"])]
    other = show("pages/Influence.py", run=quick.id, target="test:1.loss")
    assert not any("most helpful images the loss changed by" in each.value for each in other.markdown)
