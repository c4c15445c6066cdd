"""Models as people write them: exact scores, or a refusal before training that names what is at fault.

Each model that is accepted is trained in float64, and its scores are compared with central differences over
every example weight. Each situation was met in a public report; the kinds are listed by the names of the tests.
"""

import array
import collections
import copy
import ctypes
import functools
import io
import itertools
import os
import random
import re
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import engine
from engine import Recipe
from engine.core.check import check_model
from engine.core.memory import bytes_per_target
from engine.core.stream import Examples, Stream
from engine.errors import ConfigError, ModelError
from engine.models.functional import FunctionalModel
from tests.helpers import differences

N, H = 18, 1e-5
RECIPE = Recipe(epochs=2, batch_size=8, peak_lr=0.1, seed=3)


def data(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


def error_of(model: nn.Module, **options) -> float:
    """Relative error of the scores of three targets against central differences of every weight."""
    inputs, labels = data()
    trained = engine.train(model, inputs, labels, RECIPE, device="cpu")
    scores = engine.attribute(trained, inputs[:3] * 0.9, labels[:3], **options)
    expected = differences(trained, N, H, inputs[:3] * 0.9, labels[:3])
    assert np.abs(scores).max() > 1e-4
    return float(np.linalg.norm(scores - expected) / np.linalg.norm(expected))


def refusal_of(model: nn.Module) -> str:
    inputs, labels = data()
    with pytest.raises(ModelError) as error:
        engine.train(model, inputs, labels, RECIPE, device="cpu")
    assert error.value.remedy
    return error.value.what


def head(features: int = 192) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 3))


class Model(nn.Module):
    """A hidden layer, and whatever a subclass does to it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 3)
        self.double()

    def forward(self, x):
        return self.last(self.between(torch.tanh(self.first(x.flatten(1)))))

    def between(self, h):
        return h


# -- attributes


class KeptActivation(Model):
    def between(self, h):
        self.seen = h
        self.cache = {"h": [h, h + 1]}
        return h


class ConstantAttribute(Model):
    def __init__(self):
        super().__init__()
        self.mean = torch.full((6,), 0.3, dtype=torch.float64)
        self.tables = [torch.from_numpy(np.linspace(0, 1, 6))]

    def between(self, h):
        return (h - self.mean) * self.tables[0]


class BranchOnValues(Model):
    """Runs on no tensor without values."""

    def between(self, h):
        return h if float(self.scale) > 0 else -h

    def __init__(self):
        super().__init__()
        self.scale = torch.ones((), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeptActivation, ConstantAttribute, BranchOnValues])
@pytest.mark.parametrize("used_before", [False, True])
def test_attributes_that_hold_tensors(kind, used_before):
    model = kind()
    if used_before:
        model(data()[0])
    assert error_of(model) <= 1e-6
    assert error_of(model, targets_per_pass=1) <= 1e-6


def test_what_a_pass_leaves_in_a_container_is_put_back():
    class Kept(Model):
        def __init__(self):
            super().__init__()
            self.table, self.row, self.names = {"a": [1]}, [], {"x"}

        def between(self, h):
            self.table["h"] = h
            self.table["a"].append(h)
            self.row.append(h)
            self.names.add("y")
            self.register_buffer("late", h.detach())
            return h

    model = FunctionalModel(Kept(), dtype=torch.float64)
    for training in (True, False):
        model(model.theta0, model.buffers0, data()[0], training)
        kept = model.module
        assert (kept.table, kept.row, kept.names) == ({"a": [1]}, [], {"x"}) and not hasattr(kept, "late")


def test_the_memory_estimate_is_never_fatal():
    class Only(Model):
        def between(self, h):
            return h * float(h.sum() * 0 + 1) if h.device.type == "meta" else h

    class Never(Model):
        def between(self, h):
            raise RuntimeError("not on zeros either")

    shape = (8, 3, 8, 8)
    expected = bytes_per_target(FunctionalModel(Model(), dtype=torch.float64), shape)
    measured = bytes_per_target(FunctionalModel(Only(), dtype=torch.float64), shape)
    assert expected / 4 < measured < 4 * expected
    assert bytes_per_target(FunctionalModel(Never(), dtype=torch.float64), shape) > expected


# -- BatchNorm: frozen, shared, asked about


def norms() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), head(4 * 36)).double()


@pytest.mark.slow
def test_a_frozen_batch_norm_stays_frozen():
    model = norms()
    model[0].eval().requires_grad_(False)
    inputs, labels = data()
    trained = engine.train(model, inputs, labels, RECIPE, device="cpu")
    assert torch.equal(trained.model_state["0.running_mean"], torch.zeros(3, dtype=torch.float64))
    assert trained.model_state["2.running_mean"].abs().max() > 0
    assert error_of(model) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("asked", [nn.BatchNorm2d, nn.modules.batchnorm._BatchNorm])
def test_an_overridden_train_that_freezes_norms_is_respected(asked):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = norms()

        def forward(self, x):
            return self.net(x)

        def train(self, mode=True):
            super().train(mode)
            for part in self.modules():
                if isinstance(part, asked):
                    part.eval()
            return self

    inputs, labels = data()
    state = engine.train(Frozen(), inputs, labels, RECIPE, device="cpu").model_state
    assert not state["net.0.running_mean"].any() and not state["net.2.running_mean"].any()
    assert error_of(Frozen()) <= 1e-6


@pytest.mark.slow
def test_one_norm_in_two_places():
    bn = nn.BatchNorm2d(3)
    torch.manual_seed(0)
    assert error_of(nn.Sequential(bn, nn.Conv2d(3, 3, 3), bn, head(108)).double()) <= 1e-6


@pytest.mark.slow
def test_a_norm_that_is_asked_for_its_features_and_hangs_in_a_list_too():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.bn, self.out = nn.BatchNorm2d(3), head()
            self.all = [self.bn]

        def forward(self, x):
            assert isinstance(self.bn, nn.BatchNorm2d)
            return self.out(self.all[0](x) / self.bn.num_features)

    assert error_of(Asks().double()) <= 1e-6


def test_a_norm_that_hangs_in_a_list_alone_is_refused():
    class Hidden(Model):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.BatchNorm1d(6).double()]

        def between(self, h):
            return self.hidden[0](h)

    refusal_of(Hidden())


def test_a_model_that_makes_a_constant_image_no_number_is_named():
    class Standardised(Model):
        def forward(self, x):
            return super().forward((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))

    inputs, labels = data()
    engine.train(Standardised(), inputs, labels, RECIPE, device="cpu")
    inputs[0] = 0.5
    with pytest.raises(ModelError, match="logits are not finite") as error:
        engine.train(Standardised(), inputs, labels, RECIPE, device="cpu")
    assert "constant image" in error.value.remedy


# -- reparametrised weights


@pytest.mark.slow
def test_weight_norm_is_exact_in_both_forms():
    """torch's own kernel for it has no forward derivative."""
    torch.manual_seed(0)
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.Tanh(), head(144)).double()
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Tanh(), head(144)).double()
    assert error_of(old) <= 1e-6 and error_of(new) <= 1e-6
    old(data()[0])  # now it holds a weight that torch refuses to copy
    assert error_of(old) <= 1e-6
    over_all = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=None)
    expected = over_all(inputs := torch.randn(2, 3, 8, 8))
    functional = FunctionalModel(nn.Sequential(over_all, nn.Flatten()))
    given = functional(functional.theta0, functional.buffers0, inputs, True)[0]
    assert torch.allclose(given, expected.flatten(1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_spectral_norm_is_refused_in_training_mode_and_exact_where_it_rests(wrapped):
    torch.manual_seed(0)
    model = nn.Sequential(wrapped(nn.Conv2d(3, 4, 3)), nn.Tanh(), head(144)).double()
    assert "spectral_norm" in refusal_of(model) and "«0" in refusal_of(model)
    model(data()[0])
    refusal_of(model)
    model[0].eval()
    assert error_of(model) <= 1e-6


@pytest.mark.slow
def test_pruned_modules_are_exact_and_what_is_pruned_stays_so():
    """Their weight is an attribute, made of a parameter and a mask before each pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), head(144)).double()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_structured(model[2][1], "weight", 0.5, dim=1)
    assert error_of(model) <= 1e-6
    model(data()[0])  # now it holds a weight that torch refuses to copy
    assert error_of(model) <= 1e-6
    inputs, labels = data()
    state = engine.train(model, inputs, labels, RECIPE, device="cpu").model_state
    for name in ("0.weight", "2.1.weight"):
        kept = model.get_buffer(f"{name}_mask") > 0
        assert torch.equal(state[f"{name}_mask"] > 0, kept) and 0 < kept.sum() < kept.numel()
        assert not torch.equal(state[f"{name}_orig"][kept], model.get_parameter(f"{name}_orig")[kept])


def test_lazy_modules_are_named():
    assert "lazy" in refusal_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    assert "lazy" in refusal_of(nn.Sequential(nn.LazyBatchNorm2d(), head()))


# -- attention


class Attention(nn.Module):
    def __init__(self, need_weights=False):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.need = nn.Conv2d(3, 8, 4, 4), need_weights
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.out(self.attention(x, x, x, need_weights=self.need)[0].mean(1))


class Encoder(Attention):
    def __init__(self, norm_first=False):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first).double()

    def forward(self, x):
        return self.out(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Direct(Attention):
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)[:, None]
        return self.out(F.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0].mean(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Attention(False), id="without weights"),
        pytest.param(Attention(True), id="with weights", marks=pytest.mark.slow),
        pytest.param(Encoder(), id="encoder", marks=pytest.mark.slow),
        pytest.param(Encoder(True), id="norm first", marks=pytest.mark.slow),
        pytest.param(Direct(), id="direct"),
    ],
)
def test_attention_is_exact(model):
    assert error_of(model) <= 1e-6


def test_torchs_flags_are_put_back():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    error_of(Model())
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()) == before
    assert before == (True, True)


# -- state and randomness that a step cannot see

OWN_TORCH, OWN_NUMPY = torch.Generator().manual_seed(1), np.random.default_rng(1)
CALLS = itertools.count()
PASSES = {"n": 0}
NUMBER = 0


class Counter(Model):
    calls = 0

    def between(self, h):
        self.calls += 1
        return h if self.calls < 1000 else h.relu()


class ClassCounter(Model):
    total = 0

    def between(self, h):
        if self.training:
            ClassCounter.total += 1
        return h if ClassCounter.total < 1000 else h.relu()


class GlobalCounter(Model):
    def between(self, h):
        global NUMBER
        NUMBER += self.training
        return h if NUMBER < 1000 else h.relu()


class GlobalDict(Model):
    def between(self, h):
        PASSES["n"] += 1
        return h if PASSES["n"] < 1000 else h.relu()


class Iterator(Model):
    def between(self, h):
        return h if next(CALLS) < 1000 else h.relu()


class TensorCounter(Model):
    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(())

    def between(self, h):
        self.calls = self.calls + 1
        return h * (self.calls < 1000)


class Moving(Model):
    """A moving average in an attribute."""

    mean = 0.0

    def between(self, h):
        out = h - self.mean
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return out


class Previous(Model):
    """Of the pass before: the same after each pass over the same images, and yet a state."""

    before = None

    def between(self, h):
        out = h if self.before is None else h + 0.1 * self.before
        self.before = h.detach().mean(0)
        return out


class Buffer(Model):
    """A buffer of a dtype that is no part of the state."""

    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=dtype))

    def between(self, h):
        if self.training:
            if self.steps.dtype == torch.bool:
                self.steps.logical_not_()
            else:
                self.steps += 1
        return h * (1 + 1e-3 * self.steps.abs() if self.steps.dtype != torch.bool else 1 + self.steps)


class SlowBuffer(Model):
    """A float buffer that follows the model slowly, out of the gradient's sight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))

    def between(self, h):
        out = h - self.mean
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 1e-5)
        return out


class Clipped(Model):
    def between(self, h):
        with torch.no_grad():
            self.last.weight.clamp_(-0.1, 0.1)
        return h


class TorchNoise(Model):
    def between(self, h):
        return h + 1e-12 * torch.randn(h.shape, generator=OWN_TORCH, dtype=h.dtype)


class RareNoise(Model):
    def between(self, h):
        return F.dropout(h, 1e-9, self.training)


class EvaluationNoise(Model):
    def between(self, h):
        return h if self.training else F.dropout(h, 0.5)


class PythonNoise(Model):
    def between(self, h):
        return h if random.random() > 1e-9 else -h


class NumPyNoise(Model):
    def between(self, h):
        return h if np.random.rand() > 1e-9 else -h


class OwnNumPyNoise(Model):
    def between(self, h):
        return h if OWN_NUMPY.random() > 1e-9 else -h


class AttributeNoise(Model):
    def __init__(self):
        super().__init__()
        self.source = random.Random(0)

    def between(self, h):
        return h if self.source.random() > 1e-9 else -h


def with_hook() -> nn.Module:
    model, seen = Model(), {"calls": 0}

    def hook(module, inputs, output):
        seen["calls"] += 1
        return output if seen["calls"] < 1000 else -output

    model.first.register_forward_hook(hook)
    return model


def with_gradient_hook() -> nn.Module:
    model = Model()
    model.first.weight.register_hook(lambda g: 0.1 * g)
    return model


class Ticks:
    """Counts in a slot, beyond the reach of `vars`."""

    __slots__ = ("n",)

    def __init__(self):
        self.n = 0

    def __call__(self, *_):
        self.n += 1
        return self.n

    def hook(self, part, inputs, output):
        return output if self() < 1000 else -output


TICKS, LOCAL, NAMES = Ticks(), threading.local(), {"n": 0}


class Total:
    n = 0


def through_another(limit: int = 1000) -> bool:
    return further() < limit


def further() -> int:
    NAMES["n"] += 1
    return NAMES["n"]


def counts_itself() -> int:
    counts_itself.n = getattr(counts_itself, "n", 0) + 1
    return counts_itself.n


def in_a_closure():
    n = 0

    def tick():
        nonlocal n
        n += 1
        return n

    return tick


class Seldom(Model):
    """Something counts the passes, and changes them after a thousand: no output shows it."""

    def __init__(self, counter, tick=lambda counter: counter()):
        super().__init__()
        self.counter, self.tick = counter, tick

    def between(self, h):
        return h if self.tick(self.counter) < 1000 else h.relu()


def add(container, key=0) -> int:
    container[key] += 1
    return container[key]


class GlobalObject(Model):
    def between(self, h):
        return h if TICKS() < 1000 else h.relu()


class GlobalClass(Model):
    def between(self, h):
        Total.n += 1
        return h if Total.n < 1000 else h.relu()


class ThreadLocal(Model):
    def between(self, h):
        LOCAL.n = getattr(LOCAL, "n", 0) + 1
        return h if LOCAL.n < 1000 else h.relu()


class OtherFunction(Model):
    def between(self, h):
        return h if through_another() else h.relu()


class FunctionsOwn(Model):
    def between(self, h):
        return h if counts_itself() < 1000 else h.relu()


class Environment(Model):
    def between(self, h):
        os.environ["REPLAY_TEST_PASSES"] = str(int(os.environ.get("REPLAY_TEST_PASSES", "0")) + 1)
        return h


class SparseState(Model):
    def __init__(self):
        super().__init__()
        self.table = torch.eye(2).to_sparse()

    def between(self, h):
        self.table = self.table * 1.01
        return h


class Reseeds(Model):
    def __init__(self):
        super().__init__()
        self.source = torch.Generator().manual_seed(1)

    def between(self, h):
        self.source.manual_seed(self.source.initial_seed() + 1)
        return h


def with_a_hook(hook) -> nn.Module:
    model = Model()
    model.first.register_forward_hook(hook)
    return model


HIDDEN = {
    "slots": (lambda: Seldom(Ticks()), "self.counter"),
    "bytes": (lambda: Seldom(bytearray(1), add), "self.counter"),
    "array": (lambda: Seldom(array.array("i", [0]), add), "self.counter"),
    "ctypes": (lambda: Seldom(ctypes.c_int(0), lambda c: setattr(c, "value", c.value + 1) or c.value), "self.counter"),
    "list iterator": (lambda: Seldom(iter([0] * 5000), next), "self.counter"),
    "cycle": (lambda: Seldom(itertools.cycle([1, 2, 3]), next), "self.counter"),
    "deque": (lambda: Seldom(collections.deque([0, 1]), lambda c: c.rotate() or 0), "self.counter"),
    "partial": (lambda: Seldom(functools.partial(add, [0])), "self.counter"),
    "closure": (lambda: Seldom(in_a_closure()), "«n» of in_a_closure"),
    "bound method": (lambda: Seldom(Ticks().__call__), "Ticks"),
    "global object": (GlobalObject, "TICKS"),
    "global class": (GlobalClass, "Total"),
    "thread's own": (ThreadLocal, "LOCAL"),
    "two functions away": (OtherFunction, "NAMES"),
    "a function's attribute": (FunctionsOwn, "counts_itself"),
    "environment": (Environment, "os.environ"),
    "sparse": (SparseState, "self.table"),
    "seeds of a generator": (Reseeds, "self.source"),
    "an object as hook": (lambda: with_a_hook(functools.partial(Ticks.hook, Ticks())), "an argument"),
    "a method as hook": (lambda: with_a_hook(Ticks().hook), "Ticks"),
    "counter": (Counter, "self.calls"),
    "class counter": (ClassCounter, "ClassCounter.total"),
    "global counter": (GlobalCounter, "NUMBER"),
    "global dict": (GlobalDict, "PASSES"),
    "iterator": (Iterator, "CALLS"),
    "tensor counter": (TensorCounter, "self.calls"),
    "moving average": (Moving, "self.mean"),
    "the pass before": (Previous, "remembers|self.before"),
    "int buffer": (lambda: Buffer(torch.int64), "steps"),
    "complex buffer": (lambda: Buffer(torch.complex128), "steps"),
    "bool buffer": (lambda: Buffer(torch.bool), "steps"),
    "slow buffer": (SlowBuffer, "mean"),
    "clipped weights": (Clipped, "parameters|cannot be replayed"),
    "torch generator": (TorchNoise, "random"),
    "rare dropout": (RareNoise, "random"),
    "noise in evaluation": (EvaluationNoise, "evaluation pass is random"),
    "python": (PythonNoise, "Python's"),
    "NumPy": (NumPyNoise, "NumPy's"),
    "NumPy generator": (OwnNumPyNoise, "OWN_NUMPY"),
    "generator in an attribute": (AttributeNoise, "self.source"),
    "hook": (with_hook, "seen"),
    "gradient hook": (with_gradient_hook, "hook"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_state_and_randomness_that_a_step_cannot_see_are_named(kind):
    make, said = HIDDEN[kind]
    assert re.search(said, refusal_of(make())), kind


def test_constant_buffers_of_any_dtype_are_kept():
    class Constants(Model):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([5, 4, 3, 2, 1, 0]))
            self.register_buffer("mask", torch.tensor([True, False] * 3))
            self.register_buffer("phase", torch.tensor(1 + 2j, dtype=torch.complex128))

        def between(self, h):
            return (h[:, self.order] * self.mask * self.phase).imag + h

    assert error_of(Constants()) <= 1e-6


def test_a_float_buffer_that_counts_is_part_of_the_state():
    class Counts(Model):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

        def between(self, h):
            if self.training:
                self.steps = self.steps + 1
            return h * (1 + 0.1 * self.steps)

    assert error_of(Counts()) <= 1e-6


# -- what a copy or a functional call would leave behind


def trained_as_in_a_loop(model: nn.Module) -> float:
    """The largest difference of a parameter or buffer from that of a plain loop over the same batches."""
    inputs, labels = data()
    trained = engine.train(model, inputs, labels, RECIPE, device="cpu")
    optimizer = torch.optim.SGD(
        [
            dict(params=[p for p in model.parameters() if p.requires_grad and p.dim() > 1]),
            dict(params=[p for p in model.parameters() if p.requires_grad and p.dim() <= 1], weight_decay=0.0),
        ],
        lr=RECIPE.peak_lr,
        momentum=RECIPE.momentum,
        nesterov=RECIPE.nesterov,
        weight_decay=RECIPE.weight_decay,
    )
    for t in range(trained.stream.steps):
        step = trained.stream.at(t)
        for group in optimizer.param_groups:
            group["lr"] = step.lr
        optimizer.zero_grad()
        F.cross_entropy(model(step.batch[0].clone()), step.batch[1]).backward()
        optimizer.step()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = trained.model_state
    assert state.keys() >= {k for k, p in model.named_parameters() if p.requires_grad}
    return max(float((state[k] - tensors[k].detach()).abs().max()) for k in state)


def with_forward_around() -> nn.Module:
    model = Model()
    inner = model.forward
    model.forward = lambda x: 2 * inner(x)
    return model


def with_a_parts_forward_around() -> nn.Module:
    model = Model()
    inner = model.last.forward
    model.last.forward = lambda x: 2 * inner(x)
    return model


def with_compiled_forward() -> nn.Module:
    model = Model()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def with_a_hook_that_asks_the_model() -> nn.Module:
    model = Model()

    def hook(part, inputs, output):
        return output * model.last.weight.sum()

    model.first.register_forward_hook(hook)
    return model


class RealOrigMod(Model):
    """A module of that name which torch.compile did not make."""

    def __init__(self):
        super().__init__()
        self._orig_mod = nn.Linear(6, 6).double()

    def between(self, h):
        return self._orig_mod(h)


class Masked(Model):
    """A mask of attention among the buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf] * 3, dtype=torch.float64))

    def between(self, h):
        return torch.softmax(h + self.mask, 1)


class FreezesInForward(Model):
    """Sets a mode in forward, the same each time."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def between(self, h):
        self.norm.eval()
        return self.norm(h)


class InputGradient(Model):
    def between(self, h):
        with torch.enable_grad():
            z = h if h.requires_grad else h.detach().requires_grad_()
            return h + torch.autograd.grad((z**3).sum(), z, create_graph=True)[0]


FOLLOWED = {
    "forward around": with_forward_around,
    "a part's forward around": with_a_parts_forward_around,
    "compiled forward": with_compiled_forward,
    "hook": with_a_hook_that_asks_the_model,
    "_orig_mod": RealOrigMod,
    "infinite mask": Masked,
    "mode in forward": FreezesInForward,
    "gradient in forward": InputGradient,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLLOWED)
def test_what_a_copy_could_lose_is_trained_as_in_a_loop_of_ones_own(kind):
    assert trained_as_in_a_loop(FOLLOWED[kind]()) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLLOWED)
def test_what_a_copy_could_lose_is_exact(kind):
    assert error_of(FOLLOWED[kind]()) <= 1e-6


@pytest.mark.parametrize("ends_in_float", [False, True])
def test_a_layer_that_computes_in_float32_is_right_in_a_training_in_float32(ends_in_float):
    class Norm(Model):
        def between(self, h):
            return F.layer_norm(h.float(), (6,)).type_as(h) @ torch.eye(6)

        def forward(self, x):
            return super().forward(x).float() if ends_in_float else super().forward(x)

    inputs, labels = data()
    trained = engine.train(Norm().float(), inputs.float(), labels, RECIPE, device="cpu")
    assert np.isfinite(engine.attribute(trained, inputs[:2].float(), labels[:2])).all()
    assert "dtype" in refusal_of(Norm())


class Alias(Model):
    """A list of the weights, or a view of them, beside the module."""

    def __init__(self, of):
        super().__init__()
        self.register_buffer("mean", torch.ones(6, dtype=torch.float64))
        self.kept = [of(self)]

    def between(self, h):
        if self.training:
            self.mean = self.mean * 0.9
        return h * self.kept[0].sum() + self.mean


class Unregistered(Model):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(6, 6).double()]

    def between(self, h):
        return self.hidden[0](h)


class TwoNames(Model):
    """A buffer under two names, or a view of another; a parameter that is a part of another."""

    def __init__(self, kind):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))
        if kind == "parameter":
            self.part = nn.Parameter(self.first.weight.data[:2])
        else:
            self.register_buffer("again", self.mean if kind == "same" else self.mean[:3])

    def between(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        return h - self.mean


class LeavesMode(Model):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def between(self, h):
        out = self.norm(h)
        self.norm.eval()
        return out


class CachesWeights(Model):
    kept = None

    def between(self, h):
        if self.kept is None:
            self.kept = self.last.weight.detach().sum()
        return h * self.kept


class AsksCounter(LeavesMode):
    def between(self, h):
        return self.norm(h) * (1 + 0.01 * self.norm.num_batches_tracked)


class Grows(Model):
    def __init__(self, change):
        super().__init__()
        self.register_buffer("bank", torch.ones(2, 6, dtype=torch.float64))
        self.change = change

    def between(self, h):
        out = h * self.bank.to(h.dtype).sum(0)
        if self.training:
            self.bank = self.change(self.bank)
        return out


class LeavesOut(Model):
    def parameters(self, recurse=True):
        return self.last.parameters()


class Says(Model):
    """Raises or ends the process in a pass."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def between(self, h):
        raise self.error


class OwnTrain(Model):
    def train(self):
        return super().train(True)


class Around(Model):
    """A part with whatever is done to it."""

    def __init__(self, part, change=lambda part: None):
        super().__init__()
        self.part = part
        change(part)
        self.double()

    def between(self, h):
        return self.part(h)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


class Ends(Model):
    def __init__(self, end):
        super().__init__()
        self.end = end

    def forward(self, x):
        return self.end(super().forward(x))


def without_init() -> nn.Module:
    class Bare(nn.Module):
        def __init__(self):
            self.width = 3

    return Bare()


def beyond(h):
    return h + (h.shape[0] > 1) * h.mean(0)


LEFT_BEHIND = {
    "alias of a parameter": (lambda: Alias(lambda m: m.last.weight), "«last.weight».* another way"),
    "alias of a buffer": (lambda: Alias(lambda m: m.mean), "«mean».* another way"),
    "view of a parameter": (lambda: Alias(lambda m: m.first.weight.detach()[0]), "«first.weight».* another way"),
    "layers in a list": (Unregistered, "none of its parameters"),
    "a buffer twice": (lambda: TwoNames("same"), "«mean» and «again» share memory"),
    "view of a buffer": (lambda: TwoNames("view"), "«mean» and «again» share memory"),
    "part of a parameter": (lambda: TwoNames("parameter"), "share memory"),
    "mode left": (LeavesMode, "«norm» in another mode"),
    "weights cached": (CachesWeights, "remembers"),
    "counter of steps": (AsksCounter, "num_batches_tracked"),
    "buffer grows": (lambda: Grows(lambda b: torch.cat([b, b])), "buffer «bank»"),
    "buffer is gone": (lambda: Grows(lambda b: None), "buffer «bank»"),
    "buffer in half": (lambda: Grows(lambda b: b.half()), "float16|«bank»"),
    "parameters() of its own": (LeavesOut, "leaves .* out"),
    "file": (lambda: Says(FileNotFoundError("no file")), "FileNotFoundError"),
    "exit": (lambda: Says(SystemExit(3)), "SystemExit"),
    "train of its own": (OwnTrain, "prepared"),
    "no init": (without_init, "super"),
    "meta": (lambda: Around(nn.Linear(6, 6, device="meta")), "«part.weight» is on the device meta"),
    "sparse": (lambda: Around(Model(), lambda p: p.register_buffer("a", torch.eye(6).to_sparse())), "sparse_coo"),
    "scripted part": (lambda: Around(torch.jit.script(nn.Linear(6, 6))), "«part» is compiled by torch.jit"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 3))), "compiled by torch.jit"),
    "data parallel": (lambda: nn.DataParallel(Model()), "spreads a module"),
    "backward hook": (
        lambda: Around(nn.Linear(6, 6), lambda p: p.register_full_backward_hook(lambda *_: None)),
        "«part».* backward hook",
    ),
    "lock": (lambda: Around(nn.Linear(6, 6), lambda p: setattr(p, "lock", threading.Lock())), "«lock» of «part»"),
    "batch statistics": (lambda: Around(Function(lambda h: h - h.mean(0))), "depend on the images beside"),
    "beside": (lambda: Around(Function(beyond)), "depend on the images beside"),
    "norm of the batch": (lambda: Around(Function(lambda h: h / h.norm(dim=0))), "depend on the images beside"),
    "bfloat16": (lambda: Around(Function(lambda h: h.bfloat16().to(h.dtype))), "«part».* in bfloat16"),
    "detached": (lambda: Ends(torch.Tensor.detach), "does not depend on any parameter"),
    "constant": (lambda: Ends(torch.zeros_like), "does not depend on any parameter"),
    "half logits": (lambda: Ends(torch.Tensor.half), "float16"),
    "whole logits": (lambda: Ends(lambda y: y.round().long()), "int64"),
    "function": (lambda: Around(Function(lambda h: F.dropout(h, 1e-9))), "dropout|bernoulli.* in «part»"),
    "generator": (lambda: Around(Function(lambda h: h if random.random() > 1e-9 else -h)), "in «part».* Python's"),
}


@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_what_a_copy_or_a_functional_call_cannot_follow_is_refused_by_name(kind):
    make, said = LEFT_BEHIND[kind]
    assert re.search(said, refusal_of(make())), kind


def test_autocast_is_refused_in_the_precision_where_it_acts():
    class Auto(Model):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    inputs, labels = data()
    with pytest.raises(ModelError, match="bfloat16"):
        engine.train(Auto().float(), inputs.float(), labels, RECIPE, device="cpu")


# -- small wrong terms


class SmallDetach(nn.Module):
    def __init__(self, factor: float, where: str = "branch"):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.branch, self.out, self.factor = nn.Linear(32, 32), nn.Linear(32, 3), factor
        self.double()

    def forward(self, x):
        h = self.trunk(x)
        return self.out(h + self.factor * torch.tanh(self.branch(h)).detach() * h)


class ZeroAtFirst(SmallDetach):
    """Its wrong branch has no effect at the initial weights."""

    def __init__(self):
        super().__init__(1.0)
        self.gain = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        h = self.trunk(x)
        return self.out(h + self.gain * torch.tanh(self.branch(h)).detach() * h)


@pytest.mark.parametrize(
    "model",
    [SmallDetach(1.0), SmallDetach(1e-3), SmallDetach(1e-6), ZeroAtFirst()],
    ids=["1", "1e-3", "1e-6", "zero"],
)
def test_a_small_wrong_term_is_found_and_named(model):
    assert "does not agree" in refusal_of(model)


class Forgets(nn.Module):
    def forward(self, h):
        return h + 0.1 * h.detach() ** 2


class Deep(Model):
    def __init__(self, wrong: nn.Module):
        super().__init__()
        self.rows = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1), wrong), nn.BatchNorm1d(6)]).double()

    def between(self, h):
        for row in self.rows:
            h = row(h)
        return h


class Looks(nn.Module):
    """A padding row that is read, and that its gradient leaves out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 6, padding_idx=0)

    def forward(self, h):
        return h + self.table((h.detach() > 0).sum(1) % 4) + self.table(torch.zeros(len(h), dtype=torch.int64))


FAULTY = {
    "a part of a part": (lambda: Deep(Forgets()), r"«rows.0.2» \(Forgets\)"),
    "within it": (lambda: Deep(Looks()), r"«rows.0.2.table» \(Embedding\)"),
    "second derivative": (lambda: Deep(Function(WrongTangent.apply)), r"«rows.0.2» \(Function\)"),
    "the model itself": (lambda: SmallDetach(1.0), "the model's own forward"),
    "not a number": (lambda: Deep(Function(lambda h: torch.where(h > 9, torch.sqrt(h - 9), h))), r"nan.*«rows.0.2»"),
}


class WrongTangent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx, t):
        return 2.01 * ctx.saved_tensors[0] * t


class SlightlyWrong(WrongTangent):
    @staticmethod
    def jvp(ctx, t):
        return (2 + 1e-3) * ctx.saved_tensors[0] * t


def test_a_tangent_that_is_wrong_by_a_thousandth_is_found():
    assert "does not agree" in refusal_of(Around(Function(SlightlyWrong.apply)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTY)
def test_the_module_in_which_a_wrong_derivative_begins_is_named(kind):
    make, said = FAULTY[kind]
    assert re.search(said, refusal_of(make())), kind


def test_the_same_term_in_the_gradients_sight_is_accepted():
    class Right(SmallDetach):
        def forward(self, x):
            h = self.trunk(x)
            return self.out(h + self.factor * torch.tanh(self.branch(h)) * h)

    inputs, labels = data()
    engine.train(Right(1e-3), inputs, labels, RECIPE, device="cpu")


@pytest.mark.slow
def test_kinks_do_not_refuse_a_right_model():
    """ReLU and max-pooling, biases of zero and black images: their pre-activations lie on the kink."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(144, 32),
            nn.ReLU(),
            nn.Linear(32, 3),
        )
        for part in model.modules():
            if getattr(part, "bias", None) is not None:
                nn.init.zeros_(part.bias)
        inputs, labels = data()
        inputs = inputs.clamp(min=0)
        inputs[:4] = 0
        engine.train(model.double(), inputs, labels, RECIPE, device="cpu")


# -- errors of the model's own code


def test_an_error_names_the_module_it_is_in():
    class Broken(Model):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.Linear(5, 6)).double()

        def between(self, h):
            return self.inner(h)

    assert "inner.1" in refusal_of(Broken())
    inputs, labels = data()
    with pytest.raises(ModelError, match="inner.1"):
        engine.train(Broken(), inputs, labels, RECIPE, device="cpu", check=False)


def test_a_model_that_cannot_be_differentiated_forwards_is_refused_before_training():
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    class UsesIt(Model):
        def between(self, h):
            return OneWay.apply(h)

    refusal_of(UsesIt())


# -- arguments


def changed(tensor: torch.Tensor, index: int, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[index] = value
    return tensor


INPUTS, LABELS = data()

WRONG_DATA = {
    "whole numbers": (INPUTS.long(), LABELS, "not .* of torch.int64"),
    "an array of them": (INPUTS.long().numpy(), LABELS, "array .* of int64"),
    "half": (INPUTS.half(), LABELS, "torch.float16"),
    "float8": (INPUTS.to(torch.float8_e4m3fn), LABELS, "float8"),
    "meta inputs": (INPUTS.to("meta"), LABELS, "`inputs`.*meta"),
    "sparse inputs": (INPUTS.to_sparse(), LABELS, "`inputs`.*sparse"),
    "no images": (INPUTS[:0], LABELS[:0], "no image"),
    "nan": (changed(INPUTS, 200, torch.nan), LABELS, "Input 1 is not finite"),
    "labels of another length": (INPUTS, LABELS[:5], r"`labels`.* not \(5,\)"),
    "a list of texts": (INPUTS, ["cat"] * N, "`labels` are texts"),
    "meta labels": (INPUTS, LABELS.to("meta"), "`labels`.*meta"),
    "negative label": (INPUTS, changed(LABELS, 4, -100), "input 4 is -100"),
    "label beyond": (INPUTS, changed(LABELS, 4, 3), "4 is 3, and the model has 3 classes|C.* at least 4|gives"),
}

ONES = torch.ones(N, dtype=torch.float64)

WRONG_WEIGHTS = {
    "none": (None, "NoneType"),
    "short": (ONES[:3], r"not \(3,\)"),
    "nan": (changed(ONES, 5, torch.nan), "example 5 is nan"),
    "meta": (ONES.to("meta"), "meta"),
    "sparse": (ONES.to_sparse(), "sparse"),
    "complex": (ONES + 0j, "complex"),
}

WRONG_TARGETS = {
    "nothing": ([], "empty"),
    "an empty set": ([[0], []], "Target 1 names no image"),
    "beyond": ([[0], [1, 7]], "Target 1 names image 7, and there are 2"),
    "negative": ([[-1]], "names image -1"),
    "floats": ([[0.5]], "whole numbers"),
    "mask": ([[True, False]], "whole numbers"),
    "a text": ("test:0", "list of index sets"),
    "a dict": ({0: [0]}, "list of index sets"),
    "a set": ([{0, 1}], "whole numbers"),
    "a number": (3, "list of index sets"),
    "huge": ([[10**30]], "whole numbers"),
}


@pytest.fixture(scope="module")
def trained():
    return engine.train(Model(), *data(), RECIPE, device="cpu")


@pytest.mark.parametrize("kind", WRONG_DATA)
def test_wrong_data_are_named_in_every_call(kind, trained):
    inputs, labels, said = WRONG_DATA[kind]
    calls = [
        lambda: engine.train(Model(), inputs, labels, RECIPE, device="cpu"),
        lambda: engine.train(Model(), inputs, labels, RECIPE, device="cpu", check=False),
        lambda: engine.attribute(trained, inputs, labels),
        lambda: engine.evaluate(trained, inputs, labels),
    ]
    for call in calls if kind not in ("half", "float8") else calls[:2]:  # targets are converted
        with pytest.raises((ConfigError, ModelError), match=said) as error:
            call()
        assert error.value.remedy


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_wrong_weights_are_named(kind, trained):
    weights, said = WRONG_WEIGHTS[kind]
    with pytest.raises(ConfigError, match=said):
        engine.retrain(trained, weights)
    if weights is not None:
        with pytest.raises(ConfigError, match=said):
            engine.train(Model(), INPUTS, LABELS, RECIPE, device="cpu", weights=weights)


def test_numbers_that_are_infinite_in_the_precision_of_the_training_are_named():
    trained = engine.train(Model().float(), INPUTS.float(), LABELS, RECIPE, device="cpu")
    with pytest.raises(ConfigError, match="example 2 is 1e\\+300"):
        engine.retrain(trained, changed(ONES, 2, 1e300))
    for call in (engine.attribute, engine.evaluate):
        with pytest.raises(ConfigError, match="Input 0 is not finite"):
            call(trained, INPUTS[:1] * 1e60, LABELS[:1])


@pytest.mark.parametrize("kind", WRONG_TARGETS)
def test_wrong_targets_are_named(kind, trained):
    targets, said = WRONG_TARGETS[kind]
    for call in (engine.attribute, engine.evaluate):
        with pytest.raises(ConfigError, match=said):
            call(trained, INPUTS[:2], LABELS[:2], targets=targets)


@pytest.mark.slow
def test_other_arguments_of_another_kind_are_named(trained, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    folders = [tmp_path / "full", tmp_path / "full" / "file", tmp_path / "none", str(tmp_path / ("x" * 5000)), "a\0b"]
    for folder in [*folders, 3, b"bytes", [tmp_path], ""]:
        with pytest.raises(ConfigError, match="folder"):
            engine.train(Model(), INPUTS, LABELS, RECIPE, device="cpu", trajectory_folder=folder)
    for options in (dict(replay_mode=""), dict(replay_mode=3), dict(replay_mode="disk")):
        with pytest.raises(ConfigError, match="mode"):
            engine.train(Model(), INPUTS, LABELS, RECIPE, device="cpu", **options)
    for recipe in (None, {"epochs": 2}, "fast"):
        with pytest.raises(ConfigError, match="Recipe"):
            engine.train(Model(), INPUTS, LABELS, recipe, device="cpu")
    for wrong in (None, Model(), INPUTS):
        for call, rest in (
            (engine.attribute, (INPUTS, LABELS)),
            (engine.evaluate, (INPUTS, LABELS)),
            (engine.retrain, (ONES,)),
        ):
            with pytest.raises(ConfigError, match="engine.train"):
                call(wrong, *rest)
    other = engine.train(norms(), INPUTS, LABELS, RECIPE, device="cpu").state
    for state in (other, trained, trained.model_state, 3):
        with pytest.raises(ConfigError, match="state"):
            engine.evaluate(trained, INPUTS, LABELS, state=state)


@pytest.mark.slow
def test_a_callers_autocast_changes_nothing():
    inputs = INPUTS.float()
    trained = engine.train(Model().float(), inputs, LABELS, RECIPE, device="cpu")
    expected = engine.attribute(trained, inputs[:2], LABELS[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(engine.attribute(trained, inputs[:2], LABELS[:2]), expected)
        again = engine.train(Model().float(), inputs, LABELS, RECIPE, device="cpu")
    assert torch.equal(again.state.theta, trained.state.theta)


@pytest.mark.parametrize("of", ["state", "data", "weights"])
def test_a_training_that_was_changed_in_place_is_not_explained(of):
    trained = engine.train(Model(), INPUTS, LABELS, RECIPE, device="cpu", weights=ONES)
    tensor = {"state": trained.state.theta, "data": trained.stream.data.inputs, "weights": trained.stream.weights}[of]
    tensor.mul_(2)
    for call in (
        lambda: engine.attribute(trained, INPUTS[:1], LABELS[:1]),
        lambda: engine.evaluate(trained, INPUTS[:1], LABELS[:1]),
        lambda: engine.retrain(trained, ONES),
    ):
        with pytest.raises(ConfigError, match="changed in place"):
            call()


@pytest.mark.parametrize("where", [0, 12])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_named(where, value):
    inputs, labels = data()
    trained = engine.train(Model(), inputs, labels, RECIPE, device="cpu")
    inputs[where, 0, 0, 0] = value
    calls = (
        lambda: engine.train(Model(), inputs, labels, RECIPE, device="cpu"),
        lambda: engine.attribute(trained, inputs, labels),
        lambda: engine.evaluate(trained, inputs, labels),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=f"Input {where} is not finite"):
            call()


def test_wrong_arguments_of_attribute_and_train_are_named():
    inputs, labels = data()
    trained = engine.train(Model(), inputs, labels, RECIPE, device="cpu")
    beyond = torch.tensor([0, 1, 3])
    for function in ("loss", "margin"):
        for call in (engine.attribute, engine.evaluate):
            with pytest.raises(ConfigError, match="label of target 2 is 3, and the model has 3 classes"):
                call(trained, inputs[:3], beyond, function=function)
    with pytest.raises(ConfigError, match="shape"):
        engine.attribute(trained, torch.randn(1, 3, 5, 5).double(), labels[:1])
    for wrong in (-1, 2.5, True, "all"):
        with pytest.raises(ConfigError, match="targets_per_pass"):
            engine.attribute(trained, inputs[:1], labels[:1], targets_per_pass=wrong)
    for options in (
        dict(segment=-3, replay_mode="recompute"),
        dict(segment=-1),
        dict(device="mps"),
        dict(device="gpu"),
    ):
        with pytest.raises(ConfigError, match="segment|device"):
            engine.train(Model(), inputs, labels, RECIPE, **{"device": "cpu", **options})


def test_the_callers_tensors_are_copied():
    inputs, labels = data()
    weights = torch.ones(N, dtype=torch.float64)
    trained = engine.train(Model(), inputs, labels, RECIPE, device="cpu", weights=weights)
    images, of = inputs[:2].clone(), labels[:2].clone()
    before = engine.attribute(trained, images, of)
    inputs.add_(0.5), labels.fill_(0), weights.mul_(2)
    for tensor in trained.model_state.values():
        tensor.add_(1)
    assert np.array_equal(engine.attribute(trained, images, of), before)


@pytest.mark.slow
def test_files_of_another_training_are_not_taken_for_its_own(tmp_path):
    inputs, labels = data()

    def made(name: str, inputs=inputs, seed=1):
        (tmp_path / name).mkdir()
        recipe = Recipe(epochs=2, batch_size=8, peak_lr=0.1, seed=seed)
        return engine.train(Model(), inputs, labels, recipe, device="cpu", trajectory_folder=tmp_path / name)

    first = made("a")
    expected = engine.attribute(first, inputs[:2], labels[:2])
    for name, options in {"b": dict(seed=2), "c": dict(inputs=inputs + 0.1)}.items():
        made(name, **options)
        for path in sorted((tmp_path / name).iterdir())[1:3]:
            (tmp_path / "a" / path.name).write_bytes(path.read_bytes())
        assert np.array_equal(engine.attribute(first, inputs[:2], labels[:2]), expected)  # made again, and said
        assert first.trajectory.rebuilt


def test_a_trained_model_says_that_it_cannot_be_pickled():
    inputs, labels = data()
    trained = engine.train(Model(), inputs, labels, RECIPE, device="cpu")
    for keep in (lambda: torch.save(trained, io.BytesIO()), lambda: copy.deepcopy(trained)):
        with pytest.raises(ConfigError, match="pickled"):
            keep()
    torch.save(trained.model_state, io.BytesIO())


# -- threads


@pytest.mark.slow
def test_two_threads_that_build_models_do_not_disturb_each_other():
    """Beside a thread that draws from torch's own generator, and one that checks models."""
    from engine import config
    from engine.datasets import registry as dataset_registry
    from engine.models import registry

    chosen = config.preset("sample").replace(width=0.25)
    dataset = dataset_registry.load(chosen.dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.recipe.seed)
        expected = FunctionalModel(config.MODELS.get(chosen.model)(1, 28, 28, 10, factor=0.25)).theta0
    ended, wrong = threading.Event(), []

    def builds():
        for _ in range(100):
            if not torch.equal(registry.build(chosen, dataset).theta0, expected):
                wrong.append(1)

    def draws():
        while not ended.is_set():
            torch.manual_seed(5)
            torch.rand(7)

    def checks():
        inputs, labels = data()
        stream = Stream(Examples(inputs, labels, torch.float64), RECIPE)
        while not ended.is_set():
            check_model(FunctionalModel(Model(), dtype=torch.float64), stream)

    others = [threading.Thread(target=target) for target in (draws, checks)]
    builders = [threading.Thread(target=builds) for _ in range(2)]
    for thread in [*others, *builders]:
        thread.start()
    for thread in builders:
        thread.join()
    ended.set()
    for thread in others:
        thread.join()
    assert not wrong


def test_building_and_checking_leave_the_generators_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    inputs, labels = data()
    model = Model()
    torch.manual_seed(11)
    check_model(FunctionalModel(model, dtype=torch.float64), Stream(Examples(inputs, labels, torch.float64), RECIPE))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.random.get_state()[1].tobytes() == before[2]


@pytest.mark.slow
def test_one_trained_model_may_be_asked_by_several_threads():
    inputs, labels = data()
    trained = engine.train(norms(), inputs, labels, RECIPE, device="cpu")
    expected = engine.attribute(trained, inputs[:2], labels[:2]), engine.evaluate(trained, inputs, labels)
    results: list[bool] = []

    def scores():
        for _ in range(3):
            results.append(np.array_equal(engine.attribute(trained, inputs[:2], labels[:2]), expected[0]))

    def values():
        for _ in range(40):
            results.append(np.array_equal(engine.evaluate(trained, inputs, labels), expected[1]))

    threads = [threading.Thread(target=target) for target in (scores, values, values)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 83 and all(results)
