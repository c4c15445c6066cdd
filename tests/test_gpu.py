"""The same on a GPU, where there is one."""

import numpy as np
import pytest
import torch

import engine
from engine import config, device
from engine.core.compiled import Compiled
from engine.core.converted import Converted, converted
from engine.core.features import penultimate
from engine.core.memory import TANGENT_COPIES, bytes_per_target
from engine.core.state import Adjoint
from engine.core.step import Eager, step_back
from engine.core.stream import Examples, Stream, examples
from engine.core.training import initial_state, optimizer_for
from engine.datasets import registry as dataset_registry
from engine.models import registry as model_registry
from tests import all_at_once
from tests.helpers import RECIPE, images, net

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


def test_scores_on_the_gpu_are_those_of_the_cpu():
    inputs, labels = images()
    on = {
        where: engine.attribute(engine.train(net(), inputs, labels, RECIPE, device=where), inputs[:3], labels[:3])
        for where in ("cpu", "cuda")
    }
    assert np.linalg.norm(on["cpu"] - on["cuda"]) <= 1e-6 * np.linalg.norm(on["cpu"])


def test_all_modes_are_bitwise_equal_on_the_gpu(tmp_path):
    inputs, labels = images()
    (tmp_path / "disk").mkdir()
    modes = [
        dict(replay_mode="memory"),
        dict(replay_mode="disk", trajectory_folder=tmp_path / "disk"),
        *(dict(replay_mode="recompute", segment=segment) for segment in (1, 2, 3, 4, 9)),
    ]
    scores = [
        engine.attribute(
            engine.train(net(), inputs.float(), labels, RECIPE, device="cuda", **mode), inputs[:3].float(), labels[:3]
        )
        for mode in modes
    ]
    assert np.abs(scores[0]).max() > 0 and all(np.array_equal(s, scores[0]) for s in scores)


@pytest.mark.usefixtures("own_data")
def test_all_that_is_drawn_has_the_same_scores_in_every_mode_and_when_resumed_on_the_gpu(root, tmp_path):
    scores = all_at_once.scores_by_mode(root, tmp_path, "cuda")
    assert np.abs(scores["memory"]).max(1).min() > 0
    assert all(np.array_equal(scores["memory"], other) for other in scores.values()), list(scores)


def test_a_targets_memory_is_within_its_estimate():
    preset = config.preset("sample").replace(model="resnet9", width=0.5)
    dataset, where = dataset_registry.load(preset.dataset), torch.device("cuda")
    model = model_registry.build(preset, dataset, where)
    stream = Stream(examples(dataset, "train", where, torch.float32), preset.recipe)
    optimizer = optimizer_for(model, preset.recipe)
    state, inputs = initial_state(model, optimizer), stream.at(0)
    peaks = {}
    with device.exact_arithmetic():
        for k in (2, 6):
            theta, *opt, buffers = (torch.randn(k, part.numel(), device=where) for part in state.parts)
            end = Adjoint(theta, tuple(opt), buffers)
            torch.cuda.reset_peak_memory_stats()
            step_back(model, optimizer, state, inputs, end)
            peaks[k] = torch.cuda.max_memory_allocated()
    each, told = (peaks[6] - peaks[2]) / 4, bytes_per_target(model, stream.batch_shape)
    print(f"a target takes {each / 1e6:.0f} MB, {TANGENT_COPIES * each / told:.2f} copies of what a forward saves")
    assert 0.3 * told < each <= told


GPU_BOUNDS = {"float64": 1e-6, "float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.1}  # of a step's scores, against float64


@pytest.mark.parametrize("precision", GPU_BOUNDS)
def test_a_compiled_step_in_each_precision(precision):
    """One target a pass: against float64 step by step, the same bits again, and in no more memory for more targets."""
    where, preset = torch.device("cuda"), config.preset("sample")
    dataset = dataset_registry.load(preset.dataset)
    model = model_registry.build(preset, dataset, where)
    stream = Stream(examples(dataset, "train", where, torch.float32), preset.recipe)
    optimizer = optimizer_for(model, preset.recipe)
    state, inputs = initial_state(model, optimizer), stream.at(0)
    theta, *opt, buffers = (torch.randn(3, part.numel(), device=where) for part in state.parts)
    end = Adjoint(theta, tuple(opt), buffers)
    exact = Converted(Eager(model.to(where, torch.float64), "float64"), torch.float64)
    with device.exact_arithmetic():
        wide = precision == "float64"
        example = converted(state, inputs, torch.float64) if wide else (state, inputs)
        passes = Compiled(model.to(where, torch.float64) if wide else model, precision, example)
        passes.compile_backwards(1)
        passes = Converted(passes, torch.float64) if wide else passes
        (_, expected), (_, found), (_, again) = (
            step_back(each, optimizer, state, inputs, end) for each in (exact, passes, passes)
        )
        second = Adjoint(theta[1:2], tuple(part[1:2] for part in opt), buffers[1:2])
        _, alone = step_back(passes, optimizer, state, inputs, second)
    assert found.abs().max() > 0 and torch.equal(found, again) and torch.equal(found[1:2], alone)
    assert ((found - expected).norm() / expected.norm()).item() <= GPU_BOUNDS[precision]


def test_features_on_the_gpu_are_those_of_the_cpu():
    inputs, labels = images()
    on = {}
    for where in ("cpu", "cuda"):
        trained = engine.train(net(), inputs, labels, RECIPE, device=where)
        data = Examples(inputs.to(where), labels.to(where), inputs.dtype)
        on[where] = torch.cat(list(penultimate(trained.model, trained.state, data))).cpu()
    assert on["cpu"].shape == (26, 5) and torch.allclose(on["cpu"], on["cuda"], rtol=1e-6, atol=1e-9)
