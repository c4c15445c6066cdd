"""Counter-based random numbers: against Python's integers and the published SplitMix64, pure, even and independent."""

import pytest
import torch

from engine.core.random import AUGMENTATION, DROPOUT, bits, example_keys, fold_in, uniform

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
N = 20_000
DTYPES = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def mix(x: int) -> int:
    """SplitMix64's output function in Python's integers, which have no sign bit to lose."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def fold(key: int, number: int) -> int:
    return mix((mix((key + GAMMA) & MASK) + number) & MASK)


def unsigned(tensor: torch.Tensor) -> list[int]:
    return [value & MASK for value in tensor.flatten().tolist()]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_the_draws_of_a_key_are_those_of_splitmix64():
    """Its published output from the state 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert unsigned(bits(torch.tensor(1234567), torch.arange(4))) == published
    assert [unsigned(bits(torch.tensor([1234567]), draw))[0] for draw in range(4)] == published


@pytest.mark.parametrize("device", DEVICES)
def test_keys_and_bits_are_exact_modulo_2_to_the_64(device):
    index = torch.tensor([0, 1, 2, 59_999, 2**40], device=device)
    for seed, epoch in ((0, 0), (1, 0), (2**31 - 1, 9_999), (2**63 - 1, 2**62)):
        keys = example_keys(seed, epoch, index)
        assert keys.dtype == torch.int64 and keys.device == index.device
        expected = [fold(fold(fold(0, seed), epoch), i) for i in index.tolist()]
        assert unsigned(keys) == expected
        for draw in (0, 1, 7, 2**33):
            theirs = [mix((key + (draw + 1) * GAMMA) & MASK) for key in expected]
            assert unsigned(bits(keys, draw)) == theirs
        assert unsigned(fold_in(keys, 5)) == [fold(key, 5) for key in expected]


def test_a_key_belongs_to_its_example_and_not_to_its_place_in_the_batch():
    index = torch.randperm(N)[:100]
    keys, whole = example_keys(3, 2, index), example_keys(3, 2, torch.arange(N))
    assert torch.equal(keys, whole[index]) and torch.equal(keys.flip(0), example_keys(3, 2, index.flip(0)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = uniform(keys, 0, torch.float32)
    assert torch.equal(first, uniform(keys, 0, torch.float32)) and torch.equal(before, torch.get_rng_state())


def test_every_example_epoch_seed_purpose_and_draw_has_numbers_of_its_own():
    index = torch.arange(200)
    keys = torch.stack([example_keys(seed, epoch, index) for seed in range(5) for epoch in range(20)])
    keys = torch.stack([keys, fold_in(keys, AUGMENTATION), fold_in(keys, DROPOUT)])
    drawn = torch.cat([keys.flatten(), bits(keys[..., None], torch.arange(6)).flatten()])
    assert len(drawn.unique()) == len(drawn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_numbers_are_exact_and_below_one(dtype):
    digits, keys = DTYPES[dtype], example_keys(0, 0, torch.arange(N))
    numbers = uniform(keys, 0, dtype)
    assert numbers.dtype == dtype and float(numbers.min()) >= 0 and float(numbers.max()) < 1
    expected = [(value >> (64 - digits)) / 2**digits for value in unsigned(bits(keys, 0))]
    assert torch.equal(numbers.double(), torch.tensor(expected, dtype=torch.float64))
    assert float((numbers.double() - uniform(keys, 0, torch.float64)).abs().max()) < 2.0**-digits


@pytest.mark.parametrize("along", ["examples", "epochs", "seeds", "draws"])
def test_numbers_are_even_and_independent_of_their_neighbours(along):
    """Mean, variance, a χ² test of 64 boxes (mean 63, deviation 11.2), and correlation (deviation 0.007)."""
    count = torch.arange(N)
    if along == "examples":
        numbers = uniform(example_keys(0, 0, count), 0, torch.float64)
    elif along == "epochs":
        numbers = torch.cat([uniform(example_keys(0, e, torch.arange(50)), 0, torch.float64) for e in range(N // 50)])
    elif along == "seeds":
        numbers = torch.cat([uniform(example_keys(s, 0, torch.arange(50)), 0, torch.float64) for s in range(N // 50)])
    else:
        numbers = uniform(example_keys(0, 0, torch.tensor(7)), count, torch.float64)
    assert abs(float(numbers.mean()) - 1 / 2) < 4 * (1 / 12 / N) ** 0.5
    assert abs(float(numbers.var()) - 1 / 12) < 4 * (1 / 180 / N) ** 0.5
    boxes = torch.bincount((numbers * 64).long(), minlength=64).double()
    assert float(((boxes - N / 64).square() / (N / 64)).sum()) < 63 + 5 * 11.2
    for distance in (1, 2, 50):
        assert abs(correlation(numbers[:-distance], numbers[distance:])) < 5 / N**0.5


def test_the_bits_of_neighbours_differ_in_half_their_places():
    """Also the last ones, which a multiplication alone leaves as they are."""
    keys = example_keys(0, 0, torch.arange(N))
    differing = bits(keys[:-1], 0) ^ bits(keys[1:], 0)
    places = torch.stack([(differing >> place) & 1 for place in range(64)]).double().mean(1)
    assert float((places - 1 / 2).abs().max()) < 5 * 0.5 / N**0.5
