"""Several seeds of one recipe: means and spreads against numpy, what may be averaged, and a run that is repeated."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import engine
from engine import files
from engine.__main__ import main
from engine.analysis import lds, seeds, trust
from engine.analysis.compare import TOP
from engine.analysis.overlap import SIDES, overlap
from engine.config import from_dict
from engine.datasets import registry as datasets
from engine.errors import ConfigError, IntegrityError
from engine.jobs import execute as work
from engine.jobs import repeat
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.runs import notes, uploads
from engine.runs.notes import SeedGroup
from engine.runs.run import Run, summaries
from engine.targets import Target
from tests.helpers import wait_for
from tests.made_up import SAMPLE, run_of
from tools.hold import Hold

N = 6000


def made_up(root, seed: int, scores_KN: np.ndarray, name: str = "", targets=("test:0", "class:2"), **changes) -> Run:
    settings = SAMPLE.replace(**{"recipe.seed": seed, **changes})
    return run_of(root, name or f"seed-{seed}", {targets: ("loss", scores_KN)}, settings)


def scores_of(seed: int, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, N)).astype(np.float32)


def records(*of: Run):
    return [run.manifest() for run in of]


# -- the mean and its spread


def test_mean_spread_and_counts_are_those_of_a_plain_loop(root):
    """Image by image, in Python's own arithmetic; and the lists by full sorts."""
    runs = [made_up(root, seed, scores_of(seed)) for seed in (0, 3, 5)]
    first, second = seeds.over_seeds(records(*runs))
    assert (first.target.key, second.target.key) == ("test:0.loss", "class:2.loss") and first.seeds == (0, 3, 5)
    rows = [scores_of(seed)[1] for seed in (0, 3, 5)]
    strongest = [set(np.argsort(-np.abs(row))[:TOP].tolist()) for row in rows]
    for i in (0, 17, int(np.abs(rows[0]).argmax()), N - 1):
        values = [float(row[i]) for row in rows]
        mean = sum(values) / 3
        spread = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        assert second.mean_N[i] == pytest.approx(mean) and second.spread_N[i] == pytest.approx(spread)
        assert second.error_N[i] == pytest.approx(spread / 3**0.5)
        assert second.same_sign_N[i] == sum((value > 0) == (mean > 0) for value in values)
        assert second.strong_N[i] == sum(i in of for of in strongest)


def test_an_image_that_turns_its_sign_is_on_no_list_of_all(root):
    every, turned = scores_of(0), scores_of(1)
    for rows in (every, turned):
        rows[:, 40:43] = [9, -12, 7]
    turned[:, 42] = -7
    (of, _) = seeds.over_seeds(records(made_up(root, 0, every), made_up(root, 1, turned)))
    sides = {side: overlap(of, side, TOP).images("all").tolist() for side in SIDES}
    assert sides["helpful"][0] == 41 and sides["harmful"][0] == 40 and not any(42 in side for side in sides.values())
    assert of.strong_N[42] == 2 and of.same_sign_N[42] == 0
    table = seeds.table(of, datasets.load(SAMPLE.dataset))
    assert table["image"].tolist()[:2] == [41, 40] and table.loc[0, ["mean", "spread", "seed_1"]].tolist() == [
        -12,
        0,
        -12,
    ]


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(root):
    base = made_up(root, 0, scores_of(0))
    noisy = made_up(root, 1, scores_of(1), "noisy", dataset="fashion-mnist-sample-noisy")
    longer = made_up(root, 1, scores_of(1), "longer", **{"recipe.epochs": 3})
    window = made_up(root, 1, scores_of(1), "window", window=0.5)
    twin, asked = made_up(root, 0, scores_of(1), "twin"), made_up(root, 1, scores_of(1), "asked", ("test:5", "test:6"))
    for other, why in (
        (noisy, "they have other data"),
        (longer, "they differ in recipe.epochs"),
        (window, "they differ in window"),
        (twin, "have the same seed, 0"),
        (asked, "have no target in common"),
    ):
        with pytest.raises(ConfigError, match=why) as error:
            seeds.over_seeds(records(base, other))
        assert error.value.remedy
    with pytest.raises(ConfigError, match="one training"):
        seeds.over_seeds(records(base))
    half = made_up(root, 2, scores_of(2), "half", ("test:0", "test:9"))  # what it has counts
    assert [(of.target.key, of.runs) for of in seeds.over_seeds(records(base, asked, half))] == [
        ("test:0.loss", ("seed-0", "half"))
    ]
    assert main(["mean", base.id, "--with", "noisy"]) == 2 and main(["mean", base.id, "--with", "nobody"]) == 3
    alike = seeds.alike(base.manifest(), [Run(root, run.id) for run in summaries(root)])
    assert [record.folder.name for record in alike] == ["seed-0", "asked", "half"]


# -- what foretells another seed


@pytest.mark.slow
def test_the_lds_for_other_seeds_is_the_mean_of_the_correlations():
    """Each training changes by what all share and by its own: a mean of three foretells a fourth better than one."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(5, 60))
    own = rng.normal(size=(4, 5, 60))
    predicted, actual = shared + own, shared + own + 0.01 * rng.normal(size=own.shape)
    found = seeds._left_one_out(predicted, actual, 0.01)
    others = np.array([[np.delete(predicted, h, 0).mean(0)[k] for k in range(5)] for h in range(4)])
    assert found.mean.lds == pytest.approx(lds.spearman(others, actual).mean())
    assert found.mean.low < found.mean.lds < found.mean.high and (found.mean.averaged, found.one.averaged) == (3, 1)
    assert found.one.lds == pytest.approx(lds.spearman(predicted, np.roll(actual, 1, 0)).mean())
    assert 0.35 < found.one.lds < found.mean.lds - 0.1 < 0.7
    assert "the mean of the other 3 ordered what happened" in seeds.in_words(found)
    flat = seeds._left_one_out(predicted, np.zeros_like(actual), 0.01)
    assert np.isnan(flat.mean.lds) and "nothing is known" in seeds.in_words(flat)


# -- the group


def test_a_group_stands_in_the_notes_and_old_notes_stay_readable(root):
    run = made_up(root, 0, scores_of(0))
    notes.write_name(run, "First")
    assert notes.group_of(run) is None and notes.read(run).name == "First"  # as versions before wrote them
    group = SeedGroup("seed-0", (0, 4, 1))
    notes.write_group(run, group)
    assert notes.read(run).group == notes.group_of(run) == group and notes.name_of(run) == "First"
    notes.tick(run, {3: True}, N)
    assert notes.read(run).group == group
    for wrong in ({"name": "../x", "seeds": [0]}, {"name": "x", "seeds": [0, 0]}, {"name": "x", "seeds": "0"}, [1]):
        files.write_json(run.path / "notes.json", {"ticked": [], "notes": {}, "group": wrong})
        with pytest.raises(IntegrityError, match="group"):
            notes.read(run)
        assert notes.group_of(run) is None


def test_a_repetition_differs_in_the_seed_alone_and_takes_what_is_there(root):
    """Other functions and uploaded images are replayed too; a seed that exists is not trained again."""
    base = run_of(
        root,
        "base",
        {("test:0", "class:2"): ("loss", scores_of(0)), ("test:0",): ("margin", scores_of(0, 1))},
        SAMPLE.replace(**{"recipe.seed": 7}, replay_mode="disk"),
    )
    made_up(root, 2, scores_of(2), "there", replay_mode="disk")
    notes.write_name(base, "Base")
    plan = repeat.plan(base, 3)
    assert plan.group == SeedGroup("base", (7, 2, 8))
    own, there, new = plan.members
    assert own.jobs == () and there.run is not None and there.run.id == "there"
    assert there.jobs == (Replay(("test:0",), "margin", "disk"),)
    assert new.run is None and new.jobs == (
        TrainAndReplay(("test:0", "class:2"), "loss", "disk"),
        Replay(("test:0",), "margin", "disk"),
    )
    assert (plan.cost.trainings, plan.cost.targets, plan.cost.retrainings) == (1, 4, 0)
    assert plan.cost.bytes == sum(base.storage().sizes().values())
    first, second = repeat.prepare(plan)
    made = Run.open(root, second).manifest()
    before, after = base.manifest().config.to_dict(), made.config.to_dict()
    assert first == "there" and {k for k in after if after[k] != before[k]} == {"recipe", "clean_when_done"}
    assert after["recipe"] == {**before["recipe"], "seed": 8} and from_dict(after, "") == made.config
    assert [job.kind for job in made.jobs] == ["run", "replay"] and made.status == "interrupted"  # nobody has it yet
    assert all(notes.group_of(Run(root, run_id)) == plan.group for run_id in ("base", first, second))
    assert notes.name_of(Run(root, second)) == "Base, seed 8" and notes.name_of(Run(root, first)) == ""
    again = repeat.plan(base, 3)  # nothing more is made of what is there
    assert again.group == plan.group and [m.run.id for m in again.members] == ["base", "there", second]
    assert [len(m.jobs) for m in again.members] == [0, 1, 2] and repeat.prepare(again) == (first, second)
    assert [len(run.manifest().jobs) for run in (Run.open(root, first), Run.open(root, second))] == [1, 2]
    members = repeat.members(root, plan.group, summaries(root))
    assert {seed: run.id for seed, run in members.items()} == {7: "base", 2: "there", 8: second}


def test_a_run_that_somebody_works_on_is_left_alone(root):
    base, busy = made_up(root, 0, scores_of(0)), made_up(root, 1, scores_of(1), targets=("test:0", "test:9"))
    with busy.lock():
        plan = repeat.plan(base, 2)
        assert plan.members[1].jobs  # it says that it is finished: it is held all the same
        assert repeat.prepare(plan) == () and busy.manifest().jobs == ()
        busy.update_manifest(status_said="replaying")
        assert repeat.plan(base, 2).members[1].busy


def test_what_cannot_be_repeated_is_refused(root):
    base = made_up(root, 0, scores_of(0))
    for count in (1, 0, 33, True, 2.0):
        with pytest.raises(ConfigError, match="2 to 32 seeds"):
            repeat.plan(base, count)
    new = Run.create(root, SAMPLE)
    with pytest.raises(ConfigError, match="not trained to its end"):
        repeat.plan(new, 2)
    python = made_up(root, 0, scores_of(0), "python")
    python.update_manifest(model="python:Net")
    with pytest.raises(ConfigError, match="saved from Python"):
        repeat.plan(python, 2)
    assert main(["repeat", base.id, "--seeds", "33"]) == 2


def test_an_uploaded_image_is_asked_about_in_the_others_too(root):
    """It is kept with a run, so that a training cannot begin with it."""
    base, other = made_up(root, 0, scores_of(0)), made_up(root, 1, scores_of(1))
    image = uploads.keep(base, np.full((28, 28, 1), 9, np.uint8))
    asked = {"loss": [Target.parse("test:0"), Target.parse(f"image:{image}:3")]}
    jobs = repeat._jobs_of_new(base.manifest(), asked, ())
    assert [job.targets for job in jobs if isinstance(job, TrainAndReplay | Replay)] == [
        ("test:0",),
        (f"image:{image}:3",),
    ]
    repeat._keep_uploads(base, other, jobs)
    assert uploads.read(other, image)[0, 0, 0] == 9


# -- end to end


def in_process(run: Run, job=None) -> None:
    with run.lock():
        work.execute(run, job)


def waits_in(root, hold: Hold, call: subprocess.Popen) -> Run:
    """The run whose job waits there."""
    while call.poll() is None:
        for summary in summaries(root):
            run = Run(root, summary.id)
            told = [event for event in run.events()[0] if event["kind"] == "progress"]
            if told and told[-1]["phase"] == hold.phase and hold.step <= told[-1]["step"] < 10:
                return run
        time.sleep(0.05)
    raise AssertionError("ended before")


@pytest.mark.slow
def test_a_group_of_three_killed_in_the_middle_goes_on_to_the_same_bits(quick, root, tmp_path, capsys):
    """The second of three is killed half-way through its replay; the same call goes on, and each run's scores are bit
    for bit those of a run of that seed that nobody repeated. Then what the mean says, against numpy."""
    in_process(quick, Validate(6, (0.05,)))
    hold = Hold("replay", 4, tmp_path / "gate")
    call = subprocess.Popen([sys.executable, *hold.words, "engine", "repeat", quick.id, "--seeds", "3"])
    try:
        killed = waits_in(root, hold, call)
    finally:
        call.send_signal(signal.SIGKILL)
        call.wait()
    assert killed.status == "interrupted" and len(seeds.alike(quick.manifest(), [killed])) == 1
    assert len(list(root.glob("2*"))) == 3 and main(["repeat", quick.id, "--seeds", "3"]) == 0
    said = capsys.readouterr().out
    assert "seeds 0, 1, 2: 1 training, 4 targets to replay, 14 retrainings" in said and "0.0 MB" in said
    assert len(list(root.glob("2*"))) == 3  # none was made twice
    phases = [event["phase"] for event in killed.events()[0] if event["kind"] == "phase"]
    assert phases.count("train") == 1 and phases.count("replay") == 2
    assert any("Resumes the replay" in event.get("text", "") for event in killed.events()[0])
    group = seeds.alike(quick.manifest(), map(lambda each: Run(root, each.id), summaries(root)))
    assert [record.config.recipe.seed for record in group] == [0, 1, 2]
    for record in group[1:]:
        seed = record.config.recipe.seed
        alone = Run.create(root, record.config, f"alone-{seed}")
        in_process(alone)
        assert np.array_equal(alone.scores().matrix("loss-000"), record.score_sets.matrix("loss-000"))
        assert [job.kind for job in record.jobs] == [] and record.status == "finished"
    rows = np.stack([record.score_sets.matrix("loss-000")[1] for record in group])
    assert not np.array_equal(rows[0], rows[1])
    assert main(["mean", quick.id, "--target", "test:1.loss", "--csv", str(tmp_path / "mean.csv"), "--count", "3"]) == 0
    said = capsys.readouterr().out
    assert "mean of 3 trainings, seeds 0, 1, 2" in said and "the mean of the other 2 ordered" in said
    with (tmp_path / "mean.csv").open() as file:
        table = {int(row["image"]): row for row in csv.DictReader(file)}
    assert len(table) == 120
    for i in (0, 63, 119):
        assert float(table[i]["mean"]) == pytest.approx(rows[:, i].mean(dtype=np.float64))
        assert float(table[i]["spread"]) == pytest.approx(rows[:, i].std(dtype=np.float64, ddof=1))
    found = seeds.for_others(group)
    reports = [trust.reports(record)[0] for record in group]
    # Of each run: its scores, summed over what was left out, beside what another run's retrainings gave.
    left_out = [lds.subset(120, 0.05, 0, m) for m in range(6)]
    others = [np.mean([group[s].score_sets.matrix("loss-000") for s in range(3) if s != h], 0) for h in range(3)]
    expected = [
        lds.spearman(lds.predicted(others[h], left_out), np.array([t["actual"] for t in reports[h]["targets"]]))
        for h in range(3)
    ]
    assert found is not None and found.mean.lds == pytest.approx(np.mean(expected))


@pytest.mark.slow
def test_from_python_what_is_there_is_not_trained_again(quick, root):
    folders = engine.repeat(quick.path, seeds=2)
    assert folders[0] == quick.path and Run.open(root, folders[1].name).status == "finished"
    events = len(Run.open(root, folders[1].name).events()[0])
    assert engine.repeat(quick.path, seeds=2) == folders
    assert len(Run.open(root, folders[1].name).events()[0]) == events
    (of, _) = seeds.over_seeds([Run.open(root, folder.name).manifest() for folder in folders])
    assert of.seeds == (0, 1) and np.abs(of.mean_N).max() > 0


@pytest.mark.slow
def test_the_queue_does_a_group_and_stops_and_resumes_it(quick, root):
    queue = JobQueue.of(root)
    plan = repeat.plan(quick, 3)
    with quick.lock():  # the repetitions are runs of their own
        ids = repeat.prepare(plan)
    for run_id in ids:
        queue.resume(run_id)
    for run_id in reversed(ids):
        queue.cancel(run_id)
    wait_for(queue)
    assert len(seeds.alike(quick.manifest(), [Run(root, each) for each in ids])) < 3
    for run_id in ids:
        if Run(root, run_id).manifest().resumable:
            queue.resume(run_id)
    wait_for(queue)
    group = seeds.alike(quick.manifest(), [Run(root, each) for each in ids])
    assert [record.config.recipe.seed for record in group] == [0, 1, 2] and repeat.plan(quick, 3).open == ()
