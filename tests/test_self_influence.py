"""Self-influence: against the full scores, finite differences and a plain loop; killed, resumed, and never twice."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import engine
from engine import files
from engine.__main__ import main
from engine.analysis import self_influence as kept
from engine.core import self_influence as core
from engine.datasets import registry as datasets
from engine.errors import ConfigError, IntegrityError
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.self_influence import SelfInfluence
from engine.runs.run import Run
from tests.helpers import RECIPE, ROOT, images, net

KILLED = """
import os, signal, sys
from pathlib import Path
from engine.jobs import execute, self_influence
from engine.runs.run import Run

keep = self_influence.Work._keep
def last_words(self, part, found):
    keep(self, part, found)
    os.kill(os.getpid(), signal.SIGKILL)
self_influence.Work._keep = last_words
run = Run.open(Path(sys.argv[1]), sys.argv[2])
with run.lock():
    execute.execute(run, self_influence.SelfInfluence("0-35", int(sys.argv[3])))
"""


def do(run: Run, job) -> None:
    with run.lock():
        work.execute(run, job)


def known(run: Run) -> kept.Known:
    found = kept.known(run.manifest())
    assert found is not None
    return found


# -- the mathematics


@pytest.fixture(scope="module")
def trained():
    return engine.train(net(), *images(), RECIPE)


@pytest.fixture(scope="module")
def full(trained) -> np.ndarray:
    """dφ_i/dw_j, float32 [26, 26]: as many targets as a whole number of passes has, for each to have the same width."""
    inputs, labels = images()
    index = [*range(26), 0, 1]
    return engine.attribute(trained, inputs[index], labels[index], targets_per_pass=4)[:26]


@pytest.mark.slow
def test_self_influence_is_the_diagonal_of_the_scores_bit_for_bit(trained, full):
    scores, errors = engine.self_influence(trained, targets_per_pass=4)
    assert np.array_equal(scores, np.diag(full)) and not errors.any()
    assert (scores < 0).sum() > 20, "training on an image lowers its own loss, as a rule"
    some = [17, 3, 25]  # in another order, and in a pass that is not full
    assert np.array_equal(engine.self_influence(trained, some, targets_per_pass=4)[0], np.diag(full)[some])


@pytest.mark.slow
def test_passes_are_filled_up(trained, monkeypatch):
    """For the width of its pass decides a score's last bits, on models larger than this one."""
    carried, replay = [], core.replay
    monkeypatch.setattr(core, "replay", lambda *a, **how: carried.append(len(a[3].theta)) or replay(*a, **how))
    assert len(engine.self_influence(trained, range(18), targets_per_pass=4)[0]) == 18 and carried == [16, 4]


@pytest.mark.slow
def test_self_influence_is_what_finite_differences_give(trained):
    inputs, labels = images()
    scores, _ = engine.self_influence(trained, [2, 11])
    for i, score in zip((2, 11), scores, strict=True):
        ends = []
        for h in (1e-4, -1e-4):
            weights = torch.ones(26, dtype=torch.float64)
            weights[i] += h
            state = engine.retrain(trained, weights)
            ends.append(engine.evaluate(trained, inputs[[i]], labels[[i]], state=state)[0])
        assert score == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


@pytest.mark.slow
def test_in_a_window_it_is_the_diagonal_of_the_windows_scores(trained):
    inputs, labels = images()
    scores, _ = engine.self_influence(trained, range(24), targets_per_pass=4, window=0.5)
    windowed = engine.attribute(trained, inputs[:24], labels[:24], targets_per_pass=4, window=0.5)
    assert np.array_equal(scores, np.diag(windowed)) and scores.any()
    assert not np.array_equal(scores, engine.self_influence(trained, range(24), targets_per_pass=4)[0])


@pytest.mark.slow
def test_an_estimate_is_the_signed_sum_and_its_error_what_others_got(trained, full):
    everything = np.arange(26)
    groups = core.groups_of(everything, 5)
    assert sorted(np.concatenate([group.rows for group in groups])) == everything.tolist()
    assert {-1.0, 1.0} == set(np.concatenate([group.signs for group in groups])) and [
        len(group.rows) for group in groups
    ] == [5, 5, 5, 5, 5, 1]
    expected, noise = np.empty((2, 26))
    for group in groups:
        for i, sign in zip(group.rows, group.signs, strict=True):
            expected[i] = sum(sign * z * full[j, i] for j, z in zip(group.rows, group.signs, strict=True))
            others = [sum(z * full[j, i] for j, z in zip(o.rows, o.signs)) ** 2 for o in groups if o is not group]
            noise[i] = np.sqrt(np.mean(others) * (len(group.rows) - 1) / len(group.rows))
    scores, errors = engine.self_influence(trained, together=5)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(errors, noise, rtol=1e-4, atol=1e-6)
    assert errors[groups[-1].rows[0]] == 0 and scores[groups[-1].rows[0]] == pytest.approx(
        np.diag(full)[groups[-1].rows[0]], rel=1e-5
    )


@pytest.mark.slow
def test_standard_errors_are_as_large_as_the_errors(full):
    """Over many draws of groups and signs, from the scores that are known: nothing is replayed."""
    rng, ratios = np.random.default_rng(3), []
    for _ in range(200):
        order, signs = rng.permutation(26), rng.choice((-1.0, 1.0), 26)
        groups = [core.Group(order[i : i + 4], signs[i : i + 4]) for i in range(0, 24, 4)]
        replayed = np.stack([group.signs @ full[group.rows] for group in groups])
        for group, (own, error) in zip(groups, core.own_scores(replayed, groups), strict=True):
            ratios.append(np.stack([own - np.diag(full)[group.rows], error]))
    misses, errors = np.concatenate(ratios, axis=1)
    assert np.sqrt(np.mean(misses**2)) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.1)
    assert abs(misses.mean()) < 0.1 * np.abs(misses).mean(), "unbiased"


def test_a_group_that_is_alone_takes_its_error_from_the_images_outside():
    replayed = np.array([[3.0, -1.0, 2.0, 4.0]], np.float32)
    ((own, error),) = core.own_scores(replayed, [core.Group(np.array([1, 0]), np.array([-1.0, 1.0]))])
    assert own.tolist() == [1.0, 3.0]
    np.testing.assert_allclose(error, np.sqrt((4 + 16) / 2 * 1 / 2), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (([0, 26],), "whole numbers from 0 to 25"),
        (([1, 1],), "names an image twice"),
        (([],), "one at least"),
        (([0.5],), "whole numbers"),
    ],
)
def test_images_that_are_none_are_refused(trained, arguments, said):
    with pytest.raises(ConfigError, match=said):
        engine.self_influence(trained, *arguments)


@pytest.mark.parametrize("together", [0, 14, True, 1.0])
def test_too_many_together_are_refused(trained, together):
    with pytest.raises(ConfigError, match="from 1 to 13"):
        engine.self_influence(trained, together=together)


# -- the job


@pytest.mark.slow
def test_the_job_keeps_what_a_replay_has_on_its_diagonal(quick):
    do(quick, Replay(tuple(f"train:{i}" for i in range(24)), "loss"))
    do(quick, SelfInfluence("0-20"))  # a part of 16, and one whose last pass has to be filled
    targets = [quick.scores().target(f"train:{i}.loss") for i in range(21)]
    found, rows = known(quick), quick.scores().rows(targets)
    assert np.array_equal(found.score_N[:21], [row[i] for i, row in enumerate(rows)]) and found.score_N[:21].any()
    assert found.error_N[:21].tolist() == [0.0] * 21 and found.together_N[:21].tolist() == [1.0] * 21
    assert np.isnan(found.scores[:, 21:]).all() and sorted(found.images) == list(range(21))
    assert not [path for path in (quick.path / "scores").iterdir() if path.stat().st_size > 40_000]


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_a_killed_job_goes_on_to_the_same_bits(quick, root, together):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), quick.id, str(together)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    half = known(quick)
    assert len(half.images) == 16 * together and len(quick.manifest().jobs) == 1
    with quick.lock():
        work.execute(quick)
    whole = known(quick)
    assert np.array_equal(whole.scores[:, half.images], half.scores[:, half.images]) and len(whole.images) == 36
    quick.update_manifest(files={k: v for k, v in quick.manifest().files.items() if "self-influence" not in k})
    do(quick, SelfInfluence("0-35", together))
    assert np.array_equal(known(quick).scores, whole.scores, equal_nan=True)


@pytest.mark.slow
def test_what_is_known_is_not_computed_again_and_never_made_worse(quick, capsys):
    do(quick, SelfInfluence("4-6"))
    exact = known(quick).scores[:, 4:7].copy()
    dataset = datasets.load(quick.manifest().config.dataset)
    assert SelfInfluence("0-6").check(quick, dataset).replays(quick, dataset) == 4
    do(quick, SelfInfluence("0-9", 5))
    found = known(quick)
    assert np.array_equal(found.scores[:, 4:7], exact) and (found.error_N[[0, 1, 2, 3, 7, 8, 9]] > 0).all()
    do(quick, SelfInfluence("0-3"))
    assert found.together_N[0] == 5 and known(quick).together_N[:7].tolist() == [1.0] * 7
    names = [path.name for path in (quick.path / "scores").glob("self-influence-*")]
    assert len(names) == 2, "the newest, and the one before for pages that are being drawn"
    assert kept.recorded_name(quick.manifest()) == f"scores/{max(names)}"
    capsys.readouterr()
    assert main(["self-influence", quick.id, "--images", "0-6,4", "--count", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Self-influence of 7 training images: 0 targets to replay" in printed
    first = known(quick).images[0]
    assert f" {first} " in printed.splitlines()[2]
    path = quick.path / kept.recorded_name(quick.manifest())
    path.write_bytes(path.read_bytes()[:-4] + b"xxxx")
    with pytest.raises(IntegrityError, match="has changed since it was written"):
        known(quick)


@pytest.mark.slow
def test_choices_of_images(quick):
    record = quick.manifest()
    dataset = datasets.load(record.config.dataset)

    def read(text: str) -> tuple[str, list[int]]:
        canonical = kept.canonical(text, dataset)
        return canonical, kept.chosen(canonical, record, dataset).tolist()

    assert read(" 7, 3-5 ,4") == ("3-5,7", [3, 4, 5, 7]) and kept.listed(np.array([7, 4, 3])) == "3-4,7"
    assert read("all") == ("all", list(range(120)))
    assert read("class:b") == ("class:1", np.flatnonzero(dataset.train_labels == 1).tolist())
    logits = record.train_logits().astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(120), dataset.train_labels]
    assert read("loss:9") == ("loss:9", sorted(np.argsort(-losses)[:9].tolist()))
    assert read("loss:500")[1] == list(range(120)), "no more than there are"
    for wrong in ("", "class:9", "class:d", "loss:", "loss:0", "120", "5-3", "test:1", "-1", "1,x"):
        with pytest.raises(ConfigError):
            kept.canonical(wrong, dataset)
    said = [kept.in_words(text) for text in ("all", "class:1", "loss:500", "3-5,7", "7")]
    assert said == [
        "all training images",
        "the training images of class 1",
        "the 500 training images of the highest losses",
        "4 training images",
        "training image 7",
    ]
    for together in (0, 3, 2000):
        with pytest.raises(ConfigError, match="from 1 to 2 for 4 images"):
            SelfInfluence("0-3", together).check(quick, dataset)


@pytest.mark.slow
def test_rankings_of_what_is_known(quick):
    record, scores = quick.manifest(), np.full((3, 120), np.nan, np.float32)
    dataset = datasets.load(record.config.dataset)
    assert kept.known(record) is None
    scores[:, [5, 9, 70]] = [[-0.5, 0.25, -2.0], [0, 0.1, 0], [1, 8, 1]]
    name = "scores/self-influence-003.npy"
    quick.update_manifest(files=record.files | {name: files.write_npy(quick.path / name, scores)})
    found = known(quick)
    table = kept.ranked(quick.manifest(), dataset, found)
    assert table["index"].tolist() == [70, 5, 9] and table["self_influence"].tolist() == [2.0, 0.5, -0.25]
    assert table["standard_error"].tolist() == [0, 0, np.float32(0.1)]
    assert table["given_label"].tolist() == [dataset.classes[label] for label in dataset.train_labels[[70, 5, 9]]]
    of = {each.label: each for each in kept.by_class(found, dataset.train_labels)}
    assert sum(each.images for each in of.values()) == 3
    assert max(each.largest for each in of.values()) == 2.0
    assert "loss-000" in quick.scores().names() and "self-influence-003" not in quick.scores().names()
