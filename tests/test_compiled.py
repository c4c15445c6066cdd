"""Compiled steps: the same function as uncompiled ones, the same bits again, and a way on where there are none.

Compiling takes half a minute for the smallest model: most of these tests are slow, and share one compiled step.
"""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine import config, device
from engine.core import code_cache, compiled, step
from engine.core.compiled import Compiled, CompileError
from engine.core.replay import replay
from engine.core.state import Adjoint, State
from engine.core.stream import Examples, Stream
from engine.core.targets import adjoints
from engine.core.training import advance, initial_state, optimizer_for
from engine.errors import ConfigError
from engine.jobs import execute as work
from engine.jobs.compiling import SAVES, TAKES, WORTH, pays
from engine.library import checks
from engine.models.functional import FunctionalModel
from engine.runs.run import Run, outputs_root
from tests.helpers import RECIPE, images, net
from tools.exactness import CASES, SETS, relative_error, scores_and_differences
from tools.exactness import problem as exactness_problem

TARGETS = 3


def problem(module: nn.Module | None = None):
    """Model, stream, a state after two steps, and adjoints of three targets, in float64."""
    model, (x, y) = FunctionalModel(module or net(), dtype=torch.float64), images()
    stream = Stream(Examples(x, y, torch.float64), RECIPE)
    return model, stream, *state_and_adjoint(model, stream)


def state_and_adjoint(model: FunctionalModel, stream: Stream) -> tuple[State, Adjoint]:
    state = advance(model, stream, initial_state(model, optimizer_for(model, stream.recipe)), 0, 2)
    generator = torch.Generator().manual_seed(2)
    theta, *opt, buffers = (
        torch.randn(TARGETS, part.numel(), generator=generator, dtype=torch.float64) for part in state.parts
    )
    return state, Adjoint(theta, tuple(opt), buffers)


class Made(NamedTuple):
    """A compiled step; of SGD a stream, a state after two steps, and adjoints of three targets; a training by AdamW
    whose steps it carries out, too, and its test images."""

    passes: Compiled
    stream: Stream
    state: State
    adjoint: Adjoint
    trained: engine.Trained
    test: tuple[torch.Tensor, torch.Tensor]


EVERYTHING = CASES["AdamW, all options"]  # a pullback that reads the gradient; class weights are an input of the step


@pytest.fixture(scope="module")
def made() -> Made:
    """Compiled with two targets a pass, of which three need two passes, the second padded."""
    rec, batch_norm, _ = EVERYTHING
    network, train, test = exactness_problem(batch_norm)
    trained = engine.train(network, *train, rec, device="cpu")
    inputs = {name: getattr(rec, name) for name in ("batch_size", "label_smoothing", "class_weights")}
    stream = Stream(trained.stream.data, dataclasses.replace(RECIPE, **inputs))
    state, adjoint = state_and_adjoint(trained.model, stream)
    with device.exact_arithmetic():
        passes = Compiled(trained.model, "float64", (state, stream.at(2)))
        passes.compile_forwards()
        passes.compile_backwards(2)
    return Made(passes, stream, state, adjoint, trained, test)


def back(passes, stream, state, adjoint, t=3):
    optimizer = optimizer_for(passes.model, stream.recipe)
    after, scores = step.step_back(passes, optimizer, state, stream.at(t), adjoint)
    return torch.cat([*(part.reshape(-1) for part in after.parts), scores.reshape(-1)])


@pytest.mark.slow
def test_compiled_steps_are_the_uncompiled_ones(made):
    passes, stream, state, adjoint, *_ = made
    model, optimizer = passes.model, optimizer_for(passes.model, stream.recipe)
    for t in (2, 5):  # other batches and learning rates than those that were compiled for
        expected, loss = step.step(model, optimizer, state, stream.at(t))
        found, its_loss = step.step(passes, optimizer, state, stream.at(t))
        assert its_loss.item() == pytest.approx(loss.item(), rel=1e-12)
        for one, other in zip(expected.parts, found.parts, strict=True):
            assert not torch.equal(one, state.theta) and torch.allclose(one, other, rtol=1e-10, atol=1e-13)
        expected = back(step.Eager(model), stream, state, adjoint, t)
        found = back(passes, stream, state, adjoint, t)
        assert relative_error(found.numpy(), expected.numpy()) < 1e-12
        assert found[-TARGETS * stream.recipe.batch_size :].abs().min() > 0


@pytest.mark.slow
def test_a_targets_scores_do_not_depend_on_the_others(made):
    """At the same place in a pass, the first here: with the padding beside it, or another target."""
    passes, stream, state, adjoint, *_ = made
    together = passes.linearize(state, stream.at(2), False).tangents(adjoint.theta, adjoint.buffers)
    for k in (0, 2):
        alone = passes.linearize(state, stream.at(2), False).tangents(adjoint.theta[[k]], adjoint.buffers[[k]])
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[k], other[0])


@pytest.mark.slow
def test_two_threads_may_replay_with_one_compiled_step(made):
    passes, stream, state, adjoint, *_ = made
    expected, found = back(passes, stream, state, adjoint), {}

    def replayed(i: int) -> None:
        found[i] = back(passes, stream, state, adjoint)

    threads = [threading.Thread(target=replayed, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(each, expected) for each in found.values())


@pytest.mark.slow
def test_compiled_scores_equal_finite_differences(made):
    (rec, batch_norm, function), trained = EVERYTHING, made.trained
    with device.exact_arithmetic():
        end = adjoints(trained.model, trained.state, checks.targets_data(trained, *made.test), SETS, function)
        scores = replay(trained.model, trained.stream, trained.trajectory, end, passes=made.passes).numpy()
    _, differences = scores_and_differences(rec, batch_norm, function)
    assert np.abs(scores).max() > 1e-3 and relative_error(scores, differences) <= 1e-6


class Noisy(nn.Module):
    """Draws random numbers in a pass."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x) + torch.rand_like(x[:, 0, 0, :3])


class Branching(nn.Module):
    """Python decides by a value."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x) * (2 if x.sum() > 0 else 3)


@pytest.mark.slow
@pytest.mark.parametrize("module, said", [(Noisy, "draws random numbers"), (Branching, "cannot be compiled")])
def test_what_cannot_be_compiled_says_why(module, said):
    model, stream, state, _ = problem(module().double())
    passes = Compiled(model, "float64", (state, stream.at(2)))
    with pytest.raises(CompileError, match=said):
        passes.compile_forwards()


@pytest.mark.slow
def test_what_computes_something_else_is_not_used(monkeypatch):
    model, stream, state, _ = problem()
    monkeypatch.setattr(Compiled, "_compiled", lambda self, graph, *_: _wrong(graph))
    passes = Compiled(model, "float64", (state, stream.at(2)))
    with pytest.raises(CompileError, match="something else"):
        passes.compile_forwards()


def _wrong(graph):
    return lambda *arguments: tuple(1.001 * each for each in graph(*arguments))


def _uncompiled(monkeypatch, model, example):
    """Passes whose graphs are run as they are, and a list that gets the three graphs of the division."""
    parts = []
    monkeypatch.setattr(Compiled, "_compiled", lambda self, graph, *_: graph)
    monkeypatch.setattr(compiled, "divide", _recording(parts, compiled.divide))
    return Compiled(model, "float64", example), parts


@pytest.mark.slow
def test_the_division_keeps_what_the_targets_share(monkeypatch):
    """Run as they are, without a compiler: the two graphs compute what the one did, and no convolution of the primal
    pass is left in that of the tangents."""
    model, stream, state, adjoint = problem()
    passes, parts = _uncompiled(monkeypatch, model, (state, stream.at(2)))
    with device.exact_arithmetic():
        passes.compile_backwards(2)
        found = back(passes, stream, state, adjoint)
        expected = back(step.Eager(model), stream, state, adjoint)
    assert relative_error(found.numpy(), expected.numpy()) < 1e-12
    (whole, primal, tangent) = parts

    # Of the weights forwards, and of their gradient: the images have no tangent.
    assert len(_convolutions(tangent)) == 2 == len(_convolutions(primal))
    assert len(_convolutions(whole)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("needs_grad", [True, False])
def test_nothing_is_computed_that_is_zero_or_that_nobody_reads(monkeypatch, needs_grad):
    """Run without a compiler. The gradient, which SGD's pullback does not read, is there where it was asked for."""
    model, stream, state, adjoint = problem()
    passes, parts = _uncompiled(monkeypatch, model, (state, stream.at(2)))
    with device.exact_arithmetic():
        passes.compile_backwards(1, needs_grad)
        found, expected = (p.linearize(state, stream.at(3), needs_grad) for p in (passes, step.Eager(model)))
        found_all, expected_all = (each.tangents(adjoint.theta, adjoint.buffers) for each in (found, expected))
    for one, other in zip(found_all, expected_all, strict=True):
        assert other.abs().max() > 0 and torch.allclose(one, other, rtol=1e-10, atol=1e-13)
    assert (found.gradient is None) == (not needs_grad)
    assert not needs_grad or torch.allclose(found.gradient, expected.gradient, rtol=1e-10, atol=1e-13)
    _, primal, tangent = parts
    # Forwards, and the weight's gradient where it is asked for; of the tangents both. The images have no tangent.
    assert len(_convolutions(primal)) == 1 + needs_grad and len(_convolutions(tangent)) == 2


def _convolutions(graph) -> list:
    return [n for n in graph.graph.nodes if n.op == "call_function" and "convolution" in str(n.target)]


def _recording(parts, divide):
    def recorded(whole, *arguments):
        primal, tangent = divide(whole, *arguments)
        parts.extend([whole, primal, tangent])
        return primal, tangent

    return recorded


# -- runs

OWN = """
from torch import nn

def own(channels, height, width, classes):
    size = channels * height * width
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes), nn.BatchNorm1d(classes))
"""  # a third of the code of a model that ships, to be compiled
CONFIG = config.preset("sample").replace(
    targets=("test:0", "test:1", "class:2"), compile="on", **{"recipe.epochs": 1, "recipe.batch_size": 1000}
)


def run_of(root, **changes) -> Run:
    file = root.parent / "own.py"
    file.write_text(OWN)
    run = Run.create(root, CONFIG.replace(model=f"{file}:own", **changes))
    with run.lock():
        work.execute(run)
    return run


def notes(run: Run) -> str:
    return "\n".join(e.get("text", "") for e in run.events_log.read()[0] if e["kind"] == "note")


@pytest.mark.slow
def test_compiled_runs_have_the_same_bits_in_every_mode_and_in_other_processes(tmp_path, monkeypatch):
    root = outputs_root(tmp_path / "outputs")
    scores, digests = {}, set()
    for mode in ("memory", "recompute", "disk"):
        run = run_of(root, replay_mode=mode)
        manifest = run.manifest()
        assert manifest.compiled and "were compiled in" in notes(run)
        assert [e for e in run.events_log.read()[0] if e.get("phase") == "compile" and e["kind"] == "progress"]
        scores[mode] = run.scores().matrix("loss-000")
        digests.add((run.path / "model" / "digests.json").read_text())
    assert len(digests) == 1 and np.abs(scores["memory"]).max() > 1e-3
    assert np.array_equal(scores["memory"], scores["recompute"]) and np.array_equal(scores["memory"], scores["disk"])
    assert (tmp_path / code_cache.FOLDER).is_dir() and not list(root.glob(".*compiled*"))
    uncompiled = run_of(root, compile="off", replay_mode="memory")
    plain = uncompiled.scores().matrix("loss-000")
    assert not uncompiled.manifest().compiled and relative_error(scores["memory"], plain) < 1e-3
    assert not np.array_equal(scores["memory"], plain)
    # Another process, which finds the compiled code in its folder, replays to the same bits from what training left.
    command = [sys.executable, "-m", "engine", "attribute", run.id, "--outputs", str(root)]
    command += ["--targets", ",".join(CONFIG.targets)]
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=540)
    assert np.array_equal(run.scores().matrix("loss-001"), scores["memory"])
    assert run.manifest().steps_recomputed == 0 and "again" not in notes(run), notes(run)


@pytest.mark.slow
def test_without_a_compiler_a_run_goes_on_and_says_so(tmp_path, monkeypatch):
    def missing(self):
        raise CompileError("It cannot be compiled: no C++ compiler.", "It runs without.")

    monkeypatch.setattr(Compiled, "compile_forwards", missing)
    monkeypatch.setattr(Compiled, "compile_backwards", lambda self, *_: missing(self))
    run = run_of(outputs_root(tmp_path / "outputs"), replay_mode="memory", **{"recipe.batch_size": 3000})
    manifest = run.manifest()
    assert manifest.compiled is False and manifest.scored and "Steps are not compiled" in notes(run)
    assert np.abs(run.scores().matrix("loss-000")).max() > 1e-4


def test_auto_compiles_where_it_pays():
    for kind in ("cpu", "cuda"):
        assert not pays(TAKES[kind], kind) and pays(1.1 * WORTH * TAKES[kind] / SAVES[kind], kind)
    assert config.preset("sample").compile == "off"


def test_the_folder_of_compiled_code_is_ours_and_bounded(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("REPLAY_CACHE_DIR", raising=False)
    monkeypatch.setattr(code_cache, "_kept", {})
    monkeypatch.setattr(code_cache, "MOST_BYTES", 250)
    folder = tmp_path / code_cache.FOLDER
    folder.mkdir(mode=0o700)
    for age, name in ((9000, "oldest"), (8000, "older"), (10, "young")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (0, time.time() - age))
    assert code_cache.keep_in(tmp_path / "outputs") == []
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert {path.name for path in folder.iterdir()} == {"older", "young"}
    other = tmp_path / "shared"
    other.mkdir()
    other.chmod(0o777)
    monkeypatch.setenv("REPLAY_CACHE_DIR", str(other))
    assert "others may write" in code_cache.keep_in(tmp_path / "outputs")[0]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)


# -- memory that runs out


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_targets_of_a_pass(monkeypatch):
    model, stream, state, adjoint = problem()
    tried = []

    def tangents(self, v, b, exact=step.EagerLinearized.tangents):
        tried.append(self.passes.chunk)
        if self.passes.chunk > 1:
            raise torch.OutOfMemoryError("no room")
        return exact(self, v, b)

    class Kept:
        def get(self, t):
            return state

    expected = replay(model, stream, Kept(), adjoint, targets_per_pass=1)
    monkeypatch.setattr(step.EagerLinearized, "tangents", tangents)
    told = []
    found = replay(model, stream, Kept(), adjoint, targets_per_pass=4, on_fewer=told.append)
    assert told == [2, 1] and tried[:3] == [4, 2, 1] and torch.equal(found, expected) and found.abs().max() > 0

    def never(self, v, b):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(step.EagerLinearized, "tangents", never)
    with pytest.raises(torch.OutOfMemoryError):
        replay(model, stream, Kept(), adjoint, targets_per_pass=2)


def test_a_batch_that_is_too_large_for_the_device_is_refused_with_the_number_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.core.memory.memory_total", lambda device: 60_000_000)
    run = Run.create(outputs_root(tmp_path / "outputs"), CONFIG.replace(**{"recipe.batch_size": 3000}))
    with run.lock(), pytest.raises(ConfigError, match="A step of 3,000 images takes more memory") as refused:
        work.execute(run)
    fits = int(refused.value.problems["recipe.batch_size"].split(" images")[0].replace(",", ""))
    assert 100 < fits < 3000 and f"{fits:,} or less" in refused.value.remedy
    assert not run.manifest().trained
