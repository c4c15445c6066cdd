"""The probe before a run: its number is that of a loop written out, it tells a smooth recipe from a chaotic one, it
costs what it says, and nothing is left of one that was cancelled, wherever it stood."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.__main__ import main
from engine.analysis.trust import LEVELS
from engine.config import Recipe, RunConfig
from engine.core.retraining import direction
from engine.core.step import step
from engine.core.stream import Stream, examples
from engine.core.training import initial_state, optimizer_for
from engine.datasets import registry
from engine.errors import CancelledError, ConfigError, IntegrityError, ReadOnlyError
from engine.jobs import probe
from engine.jobs.queue import JobQueue
from engine.models import registry as models
from engine.runs.run import Run
from tests.helpers import ROOT, until


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch) -> RunConfig:
    """Of 200 grey images of four classes, blobs in the four corners and noise: a step takes milliseconds."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    rng, labels = np.random.default_rng(0), np.arange(250) % 4
    images = rng.integers(0, 160, (250, 12, 12), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[6 * (label // 2) :, 6 * (label % 2) :][:6, :6] += 60
    splits = {"images": images[:200], "labels": labels[:200], "test_images": images[200:], "test_labels": labels[200:]}
    np.savez(tmp_path / "blobs.npz", **splits)
    recipe = Recipe(epochs=3, batch_size=20, peak_lr=0.01)
    return RunConfig(dataset=f"arrays:{tmp_path / 'blobs.npz'}", model_options="scale=0.5", recipe=recipe)


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


# -- the number


@pytest.mark.slow
def test_the_number_is_that_of_four_trainings_in_a_plain_loop(root, config):
    report = probe.measure(root, config)
    dataset = registry.load(config.dataset)
    model = models.build(config, dataset)
    data = examples(dataset, "train", torch.device("cpu"), torch.float32)
    optimizer = optimizer_for(model, config.recipe)
    v, ends = 0.1 * direction(data.n, 0), []
    for factor in (-1, 0, 1, 2):
        stream, state = Stream(data, config.recipe, (1 + factor * v).float()), initial_state(model, optimizer)
        for t in range(stream.steps // 2):
            state = step(model, optimizer, state, stream.at(t))[0]
        ends.append(state.theta.double())
    moves = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    expected = [float((a.abs() * (a * b).sign()).sum() / a.abs().sum()) for a, b in zip(moves, moves[1:], strict=False)]
    assert report.metasmoothness == pytest.approx(expected, abs=1e-9) and len(expected) == 2
    assert (report.steps, report.of) == (stream.steps // 2, stream.steps)


@pytest.mark.slow
def test_with_a_window_the_weights_differ_from_there_on_alone(root, config):
    config = config.replace(window=12.0)
    report, whole = probe.measure(root, config), 30
    dataset = registry.load(config.dataset)
    model, data = models.build(config, dataset), examples(dataset, "train", torch.device("cpu"), torch.float32)
    optimizer, v, ends = optimizer_for(model, config.recipe), 0.1 * direction(data.n, 0), []
    for factor in (-1, 0, 1, 2):
        state = initial_state(model, optimizer)
        for t in range(12 + 9):
            weights = torch.ones(data.n) if t < 12 else (1 + factor * v).float()
            state = step(model, optimizer, state, Stream(data, config.recipe, weights).at(t))[0]
        ends.append(state.theta.double())
    moves = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    expected = [float((a.abs() * (a * b).sign()).sum() / a.abs().sum()) for a, b in zip(moves, moves[1:], strict=False)]
    assert report.metasmoothness == pytest.approx(expected, abs=1e-9)
    assert (report.start, report.steps, report.of) == (12, 9, whole) and "over steps 13 to 21 of 30" in report.verdict[
        1
    ]
    assert probe.cost(config, train_seconds=30.0) == probe.Cost(4, 12 + 4 * 9, 48.0)
    assert probe.known(root, config) == report and probe.known(root, config.replace(window=0.0)) is None
    assert probe.known(root, config.replace(window=0.4)) == report, "the same step, said otherwise"


def test_a_report_of_before_there_were_windows_is_read(root, config):
    report = probe.measure(root, config)
    path = probe.path_of(root, report.training_digest)
    content = json.loads(path.read_text())
    del content["start"]
    path.write_text(json.dumps(content))
    assert probe.known(root, config) == report


@pytest.mark.slow
def test_a_chaotic_recipe_is_told_from_a_smooth_one_and_one_that_diverges(root, config):
    smooth = probe.measure(root, config)
    chaotic = probe.measure(root, config.replace(model_options="scale=8", **{"recipe.peak_lr": 0.5}))
    diverged = probe.measure(root, config.replace(model_options="scale=1e30"))
    assert smooth.mean is not None and chaotic.mean is not None and diverged.mean is None
    assert smooth.mean > probe.GOOD and chaotic.mean < probe.POOR
    assert [each.verdict.level for each in (smooth, chaotic, diverged)] == [LEVELS[0], LEVELS[2], LEVELS[2]]
    assert f"{smooth.mean:.2f}" in smooth.verdict.reason and "diverged at step" in diverged.verdict.reason


def test_no_change_is_nothing_to_judge(root, config):
    report = dataclasses.replace(probe.measure(root, config), metasmoothness=())
    assert report.mean is None and report.verdict.level == LEVELS[1] and "nothing to judge" in report.verdict.reason


# -- cost, and what is kept


def test_the_cost_is_four_times_half_of_the_training(root, config):
    whole = len(
        Stream(examples(registry.load(config.dataset), "train", torch.device("cpu"), torch.float32), config.recipe).plan
    )
    cost = probe.cost(config, train_seconds=8.0)
    assert (cost.trainings, cost.steps) == (4, 4 * (whole // 2)) and cost.seconds == pytest.approx(16.0, rel=0.1)
    heard = []
    probe.measure(root, config, on_progress=lambda *said: heard.append(said))
    assert [done for done, *_ in heard] == list(range(cost.steps)) and {of for _, of, _ in heard} == {cost.steps}
    assert probe.cost(config).seconds > 0


def test_what_was_measured_is_found_again_for_this_training_alone(root, config):
    assert probe.known(root, config) is None
    report = probe.measure(root, config)
    assert probe.known(root, config) == report
    assert probe.known(root, config.replace(targets=("test:1",), replay_mode="memory")) == report, "the same training"
    assert probe.known(root, config.replace(**{"recipe.peak_lr": 0.011})) is None
    assert files_below(root) == [probe.path_of(root, report.training_digest)]


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"kind": "probe"}', b"[]"])
def test_a_damaged_report_is_named_and_not_believed(damage, root, config):
    path = probe.path_of(root, probe.measure(root, config).training_digest)
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match="Delete .*probes"):
        probe.known(root, config)


@pytest.mark.slow
def test_a_report_of_another_training_is_not_believed(root, config):
    one, other = (probe.measure(root, config.replace(**{"recipe.seed": seed})) for seed in (0, 1))
    probe.path_of(root, other.training_digest).replace(probe.path_of(root, one.training_digest))
    with pytest.raises(IntegrityError, match="another training"):
        probe.known(root, config)


# -- cancelled


@pytest.mark.parametrize("at", [0, 1, "last"])
def test_a_cancelled_probe_leaves_nothing(at, root, config):
    cancel = threading.Event()
    last = probe.cost(config, 1.0).steps - 1

    def stop(done: int, of: int, left: float | None) -> None:
        if done == (last if at == "last" else at):
            cancel.set()

    with pytest.raises(CancelledError):
        probe.measure(root, config, cancel, stop)
    assert not files_below(root)


def test_nothing_is_measured_where_nothing_may_be_written(root, monkeypatch, config):
    queue = JobQueue.of(root)
    registry.load(config.dataset)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    heard: list[tuple] = []
    for start in (
        lambda: probe.measure(root, config, on_progress=lambda *said: heard.append(said)),
        lambda: queue.probe(config),
    ):
        with pytest.raises(ReadOnlyError):
            start()
    assert not heard, "it is said before anything is trained"


# -- in the background


@pytest.fixture
def stopped_at_first(monkeypatch):
    """A probe that waits before its first step until `go` is set; `began` is set once it is there."""
    began, go = threading.Event(), threading.Event()
    measure = probe.measure

    def waiting(root, config, cancel, on_progress):
        def report(done, of, left):
            on_progress(done, of, left)
            began.set()
            assert go.wait(60)

        return measure(root, config, cancel, report)

    monkeypatch.setattr(probe, "measure", waiting)
    yield began, go
    go.set()


def ended(probing: probe.Probing, queue: JobQueue) -> probe.Probing:
    """Once the worker no longer has it."""
    until(lambda: probing.ends and probing not in queue.probes())
    return probing


def test_the_worker_measures_and_the_page_sees_how_far_it_is(root, stopped_at_first, config):
    began, go = stopped_at_first
    queue = JobQueue.of(root)
    probing = queue.probe(config)
    assert began.wait(60) and probing.state == "working" and probing.steps == probe.cost(config, 1.0).steps
    assert queue.probe(config) is probing and queue.probes() == [probing], "one for both of two tabs"
    assert queue.active() == [], "a probe is no run"
    go.set()
    assert ended(probing, queue).state == "done" and probing.report == probe.known(root, config)


@pytest.mark.slow
def test_probes_are_cancelled_while_they_wait_and_while_they_work(root, stopped_at_first, config):
    began, go = stopped_at_first
    queue = JobQueue.of(root)
    first, second = queue.probe(config), queue.probe(config.replace(**{"recipe.seed": 1}))
    assert began.wait(60) and (first.state, second.state) == ("working", "queued")
    second.cancel()
    assert second.state == "cancelled" and queue.probes() == [first]
    first.cancel()
    go.set()
    assert ended(first, queue).state == "cancelled" and first.report is None
    again = ended(queue.probe(config), queue)
    assert again.state == "done", "the worker goes on, and a cancelled probe can be asked for again"
    assert again.report is not None and files_below(root) == [probe.path_of(root, again.report.training_digest)]


@pytest.mark.slow
def test_a_run_behind_a_probe_waits_for_it_and_is_run(root, stopped_at_first, config):
    began, go = stopped_at_first
    queue = JobQueue.of(root)
    probing = queue.probe(config)
    assert began.wait(60)
    run_id = queue.start(config)
    assert queue.active() == [run_id]
    go.set()
    ended(probing, queue)
    until(lambda: queue.active() == [])
    assert Run.open(root, run_id).manifest().status == "finished"


@pytest.mark.slow
def test_what_goes_wrong_is_told_and_the_worker_goes_on(root, monkeypatch, config):
    queue = JobQueue.of(root)

    def fails(*_):
        raise RuntimeError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(probe, "measure", fails)
        probing = ended(queue.probe(config), queue)
    assert probing.state == "failed" and "a defect" in str(probing.error)
    assert ended(queue.probe(config), queue).state == "done"
    with pytest.raises(ConfigError):
        queue.probe(config.replace(**{"recipe.peak_lr": -1.0}))


# -- command line


def test_the_command_says_the_cost_the_number_and_the_verdict(root, tmp_path, capsys, config):
    call = ["probe", "--data", config.dataset, "--set", "recipe.epochs=2"]
    assert main(call) == 0
    printed = capsys.readouterr().out.splitlines()
    (file,) = files_below(root)
    report = json.loads(file.read_text())
    assert printed[0].startswith("4 trainings, ") and "about" in printed[0]
    assert printed[1].startswith("metasmoothness {:.3f} and {:.3f}".format(*report["metasmoothness"]))
    assert printed[2].startswith("verdict: ") and printed[3] == str(file)
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines() == printed[1:], "what was measured is not measured again"
    assert main([*call, "--again"]) == 0 and capsys.readouterr().out.startswith("4 trainings, ")


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_process_that_is_ended_leaves_no_half_of_a_report(signal_, root):
    """Once it has said what it costs, which is long before its end."""
    command = [sys.executable, "-m", "engine", "probe", "--preset", "sample", "--outputs", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("4 trainings, 288 steps")
        process.send_signal(signal_)
        assert process.wait() in (130, -signal_) and "metasmoothness" not in process.stdout.read()
    assert not files_below(root)
