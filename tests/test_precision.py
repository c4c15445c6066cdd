"""The precisions of training and replay: what each may differ by, and that each repeats to the bit."""

import numpy as np
import pytest
import torch

import engine
from engine import config, device
from engine.core.converted import Converted
from engine.core.precision import computed_in
from engine.core.replay import replay
from engine.core.step import Eager
from engine.core.stream import Examples, Stream
from engine.core.targets import adjoints
from engine.core.training import train
from engine.jobs import execute as work
from engine.models.functional import FunctionalModel
from engine.runs.run import Run
from tests.helpers import RECIPE, images, net
from tools.exactness import relative_error

CPU = torch.device("cpu")

# Largest relative error of scores against a replay of the same float32 training in float64, by the replay's precision.
BOUNDS = {"float64": 1e-6, "float32": 1e-4, "tf32": 1e-4, "bfloat16": 0.2}


class States(list):
    """The states of a training, as its trajectory."""

    def put(self, t, state):
        self.append(state)

    def finish(self, final):
        self.final = final

    def get(self, t):
        return self[t]


@pytest.fixture(scope="module")
def trained():
    x, y = images()
    model, stream = FunctionalModel(net(), dtype=torch.float32), Stream(Examples(x.float(), y, torch.float32), RECIPE)
    states = States()
    train(model, stream, trajectory=states)
    return model, stream, states, adjoints(model, states.final, stream.data, [[0], [1]], "loss")


def scores(trained, precision):
    model, stream, states, adjoint = trained
    passes = Eager(model, precision)
    if precision == "float64":
        passes = Converted(Eager(model.to("cpu", torch.float64), precision), torch.float64)
    with device.exact_arithmetic():
        return replay(model, stream, states, adjoint, passes=passes).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("precision", BOUNDS)
def test_a_replay_in_each_precision(trained, precision):
    exact, found = scores(trained, "float64"), scores(trained, precision)
    assert found.dtype == np.float32 and np.abs(found).max() > 1e-3
    assert relative_error(found, exact) < BOUNDS[precision]
    assert np.array_equal(found, scores(trained, precision))  # to the bit
    if precision == "bfloat16":  # that way was taken
        assert relative_error(found, exact) > 1e-4


@pytest.mark.slow
def test_a_replay_in_float64_is_that_of_a_training_in_float64():
    """Both begin with the same float64 numbers, so that what is left is the conversion alone."""
    x, y = images()
    one = engine.train(net(), x, y, RECIPE, device="cpu")
    model, stream, states = one.model, one.stream, one.trajectory
    end = adjoints(model, one.state, stream.data, [[0]], "loss")
    plain = replay(model, stream, states, end)
    same = replay(model, stream, states, end, passes=Converted(Eager(model, "float64"), torch.float64))
    assert torch.equal(plain, same)


def test_tf32_is_for_as_long_as_a_step_and_those_who_want_the_other_wait(monkeypatch):
    """On a GPU; the flags themselves are there without one."""
    import threading

    gpu, order = torch.device("cuda"), []
    with device.exact_arithmetic():
        with computed_in("tf32", gpu), computed_in("tf32", gpu):
            assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
            other = threading.Thread(target=lambda: _in_float32(order))
            other.start()
            order.append("tf32 ends")
        other.join()
        assert order == ["tf32 ends", False] and not torch.backends.cudnn.allow_tf32


def _in_float32(order):
    with computed_in("float32", torch.device("cuda")):
        order.append(torch.backends.cudnn.allow_tf32)


def test_a_name_that_is_no_precision():
    with pytest.raises(ValueError, match="float16 is none of"), computed_in("float16", CPU):
        pass


def test_fast_is_bfloat16_on_a_gpu_and_the_trainings_elsewhere():
    for precision, on_a_gpu in (("float32", "bfloat16"), ("tf32", "bfloat16"), ("float64", "float64")):
        fast = config.RunConfig(precision=precision, replay_precision="fast")
        assert (fast.replays_in("cuda"), fast.replays_in("cpu")) == (on_a_gpu, precision)
        assert fast.training_digest("") == config.RunConfig(precision=precision).training_digest("")
    assert config.RunConfig().replay_precision == "same" and config.preset("sample").replays_in("cuda") == "float32"
    # The fastest that ranks a whole run as float32 does (docs/performance.md).
    presets = [config.preset(name) for name in ("resnet9", "resnet9-short", "resnet9-window")]
    assert [each.replays_in("cuda") for each in presets] == ["tf32"] * 3


@pytest.mark.slow
def test_runs_in_their_precisions_keep_states_and_scores_in_float32(quick):
    root, small = quick.root, quick.manifest().config.replace(targets=("test:0", "class:1"))
    found = {}
    for name, changes in {
        "float32": {},
        "replayed in float64": {"replay_precision": "float64"},
        "replayed in bfloat16": {"replay_precision": "bfloat16"},
        "trained in bfloat16": {"precision": "bfloat16", "replay_precision": "float32"},
    }.items():
        for mode in ("memory", "recompute") if "bfloat16" in name else ("memory",):
            run = Run.create(root, small.replace(replay_mode=mode, **changes))
            with run.lock():
                work.execute(run)
            matrix = run.scores().matrix("loss-000")
            assert matrix.dtype == np.float32 and np.abs(matrix).max() > 1e-4
            assert np.array_equal(found.setdefault(name, matrix), matrix)  # in every mode
    assert 0 < relative_error(found["float32"], found["replayed in float64"]) < 1e-4
    assert 1e-4 < relative_error(found["replayed in bfloat16"], found["replayed in float64"]) < 0.1
    assert relative_error(found["trained in bfloat16"], found["float32"]) > 1e-4  # another training
