"""Random numbers that belong to an example, and to nothing else: no generator, no order, no device.

    key_i = fold_in(fold_in(fold_in(0, seed), epoch or step), i)        one key an example, int64
    bits(key, d) = mix(key + (d + 1) γ)                                 draw d, 64 bits
    uniform(key, d) = bits(key, d) / 2⁶⁴, cut to the digits of a float  in [0, 1)

A generator that is asked in turn ties an example's numbers to its place in the batch, to what else draws,
and to the device. A counter-based one (Salmon et al., SC 2011) is a function: replay, retraining without an
example, and another batch ask for the same key and get the same bits, on a CPU and on a GPU.

`bits(key, ·)` is the output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from the state `key`. All is
int64 arithmetic modulo 2⁶⁴, in which torch wraps around on every device; tests compare with Python's integers.
It is no cipher: do not use it for secrets.
"""

import math

import torch
from torch import Tensor

# What keys are folded with, so that two uses of the same (seed, epoch or step, example) share no bits.
AUGMENTATION, DROPOUT = 1, 2


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd: SplitMix64's increment
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def example_keys(seed: int, epoch_or_step: int, index_B: Tensor) -> Tensor:
    """Keys int64 [B] of the examples `index_B`, int64 [B]: each of (seed, epoch or step, its own index) alone.

    `seed` and `epoch_or_step`: whole numbers below 2⁶³.
    """
    zero = torch.zeros((), dtype=torch.int64)
    return fold_in(fold_in(fold_in(zero, seed), epoch_or_step), index_B)


def fold_in(keys: Tensor, number: int | Tensor) -> Tensor:
    """Other keys, of the same shape, for each number: that of a layer, or of a purpose. Tensors broadcast."""
    return _mix(_mix(keys + GAMMA) + number)


def bits(keys: Tensor, draw: int | Tensor) -> Tensor:
    """64 random bits a key, as int64. `draw` numbers what is drawn of one key, from 0.

    Tensors broadcast: `bits(keys_B[:, None], torch.arange(F))` is [B, F].
    """
    return _mix(keys + (torch.as_tensor(draw) + 1) * GAMMA)


def uniform(keys: Tensor, draw: int | Tensor, dtype: torch.dtype) -> Tensor:
    """Evenly distributed in [0, 1), a number a key; shapes as of `bits`.

    As many of the leading bits as a float of the dtype holds (53 of float64, 24 of float32), so that the
    number is exact, and never rounded up to 1.
    """
    digits = 1 - round(math.log2(torch.finfo(dtype).eps))
    return _shift(bits(keys, draw), 64 - digits).to(dtype) * 2.0**-digits


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, one to one: each bit of x changes about half the bits."""
    x = (x ^ _shift(x, 30)) * _FACTORS[0]
    x = (x ^ _shift(x, 27)) * _FACTORS[1]
    return x ^ _shift(x, 31)


def _shift(x: Tensor, count: int) -> Tensor:
    """To the right with zeros behind: torch's own shift repeats the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)
