"""In which numbers a step computes, apart from those in which it keeps what it computes.

    setting     states, adjoints, scores    activations and their tangents          products of matrices, convolutions
    float64     float64                     float64                                 float64
    float32     float32                     float32                                 float32
    tf32        float32                     float32                                 10 bits of fraction in, float32 out
    bfloat16    float32                     bfloat16, statistics float32            bfloat16 in, float32 sums

Training and replay have a setting each (`RunConfig.precision`, `RunConfig.replay_precision`). A replay in another one
than its training is the derivative of the same training, computed with another rounding: it reads the states as they
are, and changes no step. A training in another one is another training, as with another seed.

On a CPU tf32 is float32: there are no such products. When not to use bfloat16: on a CPU, where it is emulated, and
wherever the scores' own rounding matters, such as comparisons of two replays (docs/performance.md has the errors).
"""

import contextlib
from collections.abc import Iterator

import torch

from engine import device as devices
from engine.config import PRECISIONS


@contextlib.contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """A pass through the model within the block computes so; its inputs are float64 where that is asked for."""
    if precision not in PRECISIONS:
        raise ValueError(f"{precision} is none of {', '.join(PRECISIONS)}")
    with devices.products(device, tf32=precision == "tf32"):
        if precision != "bfloat16":
            yield
            return
        # Without its cache: a weight is cast in each pass, under the derivative that is taken there.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield
