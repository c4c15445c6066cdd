"""A step backwards with torch's own sums of zero tangents, and with those of `engine.core.zero_tangents`:
`python -m tools.bench_zeros`, `--device cuda` on a GPU.

Both in one process, in turn, one operation at a time; milliseconds of a step of `TARGETS` targets, medians over rounds.
The adjoints of both must have the same bits.
"""

import argparse
import contextlib
import statistics

import torch

from engine import config, device
from engine.core import zero_tangents
from engine.core.step import Eager, step_back
from tools.bench_replay import EAGER_CHUNK, Bench

TARGETS = 8
SIZES = {  # changes of the preset `sample`
    "sample": {},
    "sample, an eighth as wide": {"width": 0.125},
    "sample, an eighth as wide, 25 images a step": {"width": 0.125, "recipe.batch_size": 25},
}


def measured(bench: Bench, rounds: int) -> tuple[float, float]:
    """Milliseconds with torch's kernels, and with ours."""
    passes = Eager(bench.model, "float32", EAGER_CHUNK[bench.where.type])
    ways = (zero_tangents.torchs_own, contextlib.nullcontext)
    seconds: tuple[list[float], list[float]] = [], []
    found = []
    for _ in range(rounds):
        for taken, way in zip(seconds, ways, strict=True):
            with way():
                taken.append(bench.timed(lambda: bench.back(passes, TARGETS)))
                before, scores_KB = step_back(passes, bench.optimizer, bench.state, bench.inputs, bench.first(TARGETS))
            found.append((*before.parts, scores_KB))
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True)), "other bits"
    theirs, ours = (1000 * statistics.median(taken) for taken in seconds)
    return theirs, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    for name, changes in SIZES.items():
        bench = Bench(config.preset("sample").replace(**changes), torch.device(given.device), False, 0, TARGETS)
        with device.exact_arithmetic():
            theirs, ours = measured(bench, given.rounds)
        print(f"{name}: {theirs:.1f} ms with torch's, {ours:.1f} ms with ours, {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
