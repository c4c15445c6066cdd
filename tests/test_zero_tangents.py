"""Sums and products with tangents that are known to be zero: what torch makes of them, without its detour."""

import contextlib
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import Recipe, attribute, train
from engine.core import zero_tangents
from tests.helpers import images, net

SHAPES = [((2, 3), (2, 3)), ((2, 3, 1), (1, 3, 4)), ((3, 1, 1), (2, 3, 4, 4)), ((), (3,)), ((3,), ()), ((), ())]
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.int64, torch.float32),
]


def values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.arange(1, 1 + int(np.prod(shape))).reshape(shape).to(dtype)


@pytest.mark.parametrize("zeros", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_they_are_what_zeros_give_that_are_written_out(shapes, dtypes, zeros):
    given, written = [], []
    for shape, dtype, zero in zip(shapes, dtypes, zeros, strict=True):
        written.append(torch.zeros(shape, dtype=dtype) if zero else values(shape, dtype))
        given.append(torch._efficientzerotensor(shape, dtype=dtype) if zero else written[-1])
    for made in (torch.add, torch.sub, torch.mul, lambda a, b: torch.add(a, b, alpha=3)):
        result, expected = made(*given), made(*written)
        assert result.dtype == expected.dtype and result.shape == expected.shape
        assert result._is_zerotensor() == (made is torch.mul or all(zeros))
        assert torch.equal(result.clone(), expected)


def test_a_sum_has_memory_of_its_own_and_keeps_the_order_of_its_values():
    """What is added to later on is not the tangent that it came from; how a kernel rounds may depend on the order."""
    tangent = values((2, 3), torch.float32).T
    result = tangent + torch._efficientzerotensor((3, 2))
    assert result.data_ptr() != tangent.data_ptr() and result.stride() == tangent.stride() == (1, 3)


def test_shapes_that_do_not_go_together_are_refused():
    for made in (torch.add, torch.mul):
        with pytest.raises((ValueError, RuntimeError), match="broadcast|expand"):
            made(torch._efficientzerotensor((2, 3)), torch.ones(4))


@contextlib.contextmanager
def references() -> Iterator[list[str]]:
    """The sums and products that torch's reference implementations compute, which are Python."""
    calls: list[str] = []

    def watch(frame, event, _):
        name = frame.f_code.co_name
        if event == "call" and name in ("add", "sub", "mul") and "torch/_refs/" in frame.f_code.co_filename:
            calls.append(name)

    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.slow
def test_scores_have_the_bits_of_torchs_own_kernels_and_no_step_asks_its_references():
    inputs, labels = images()
    asked = []
    for epochs in (1, 3):
        trained = train(net(), inputs, labels, Recipe(epochs=epochs, batch_size=13, peak_lr=0.05))
        with references() as ours:
            scores = attribute(trained, inputs[:3], labels[:3])
        with zero_tangents.torchs_own(), references() as theirs:
            expected = attribute(trained, inputs[:3], labels[:3])
        assert np.abs(scores).min() > 0 and np.array_equal(scores, expected)
        asked.append((len(ours), len(theirs)))
    assert asked[1][0] == asked[0][0] and asked[1][1] - asked[0][1] > 40, asked  # of 2 and of 6 steps
