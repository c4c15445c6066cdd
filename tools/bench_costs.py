"""What a replay costs against each of its sizes: `python -m tools.bench_costs --device cpu --json FILE`.

    K   targets: seconds of a step backwards
    T   steps: seconds of a whole replay, of 4 targets
    P   parameters, by the width of the model: seconds of a target-step
    B   images a step: seconds of a target-step

One operation at a time, so that no size needs a compiler; `tools.bench_replay` has compiled steps for each K. In each
round everything is timed once, and a figure is the median over rounds. `tools.plot_costs` draws them, each with a line
through its points and with the two limits that no program passes on this machine:

    operations      twice those of a training step, at the rate of a large product of matrices
    bytes           of each convolution's and linear layer's inputs and outputs: values and gradients are read once,
                    the tangents of both are written and read once; at the rate of a large copy
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine import config, device
from engine.core.replay import replay
from engine.core.step import Eager, step
from engine.core.stream import Stream
from engine.core.training import advance
from engine.trajectory.stores import MemoryStore
from tools.bench_replay import EAGER_CHUNK, Bench

KS = (1, 2, 4, 8, 16, 32)
EPOCHS = (1, 2, 3, 4)
WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the preset's width
PARTS_OF_B = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the preset's batch
TARGETS = 4


class Kept(MemoryStore):
    """A store as a trajectory."""

    rebuilt = 0

    def rebuild(self) -> None:
        pass


def points(bench: Bench, axis: str) -> list[tuple[float, Callable[[], object], Bench, int]]:
    """Of an axis: the size, what is timed there, on what, and how many target-steps that is (1: a figure is all of
    it)."""
    preset, chunk = bench.preset, EAGER_CHUNK[bench.where.type]
    eager = Eager(bench.model, "float32", chunk)
    if axis == "K":
        return [(k, (lambda k=k: bench.back(eager, k)), bench, 1) for k in KS]
    if axis == "T":
        return [(*replays(bench, eager, epochs), bench, 1) for epochs in EPOCHS]
    made = []
    for factor in WIDTHS if axis == "P" else PARTS_OF_B:
        changes = {"width": preset.width * factor} if axis == "P" else {}
        batch = preset.recipe.batch_size if axis == "P" else round(factor * preset.recipe.batch_size)
        other = Bench(preset.replace(**changes), bench.where, bench.synthetic, batch, TARGETS)
        passes = Eager(other.model, "float32", chunk)
        size = other.model.parameters if axis == "P" else batch
        made.append((size, (lambda o=other, p=passes: o.back(p, TARGETS)), other, TARGETS))
    return made


def replays(bench: Bench, passes: Eager, epochs: int) -> tuple[int, Callable[[], object]]:
    """The steps of a training of so many epochs, and its replay."""
    stream, states = Stream(bench.stream.data, replace(bench.stream.recipe, epochs=epochs)), Kept(bench.optimizer)
    advance(bench.model, stream, bench.state, 0, stream.steps, states.put)
    return stream.steps, lambda: replay(bench.model, stream, states, bench.first(TARGETS), passes=passes)


def limits(bench: Bench) -> dict[str, float]:
    """Operations and bytes of a target-step that cannot be left out."""
    sizes = []

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        sizes.append(inputs[0].numel() * inputs[0].element_size() + output.numel() * output.element_size())

    layers = [m for m in bench.model.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    bench.model(bench.state.theta, bench.state.buffers, bench.inputs.batch[0], training=True)
    for hook in hooks:
        hook.remove()
    with FlopCounterMode(display=False) as counter:
        step(bench.model, bench.optimizer, bench.state, bench.inputs)
    return {"operations": 2.0 * counter.get_total_flops(), "bytes": 6.0 * sum(sizes)}


def rates(bench: Bench) -> dict[str, float]:
    """Of this machine: operations a second of a large product, bytes a second of a large copy, read and written."""
    n, length = (8192, 1 << 28) if bench.where.type == "cuda" else (2048, 1 << 26)
    a, x = torch.randn(n, n, device=bench.where), torch.randn(length, device=bench.where)
    y = torch.empty_like(x)
    product = min(bench.timed(lambda: a @ a) for _ in range(5))
    copy = min(bench.timed(lambda: y.copy_(x)) for _ in range(5))
    return {"operations": 2 * n**3 / product, "bytes": 2 * x.numel() * x.element_size() / copy}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="", help="sample on a CPU, resnet9-short on a GPU where not given")
    parser.add_argument("--synthetic", action="store_true", help="random images of the preset's shape")
    parser.add_argument("--axes", default="K,T,P,B")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    where = device.choose(options.device)
    preset = config.preset(options.preset or ("resnet9-short" if where.type == "cuda" else "sample"))
    with device.exact_arithmetic():
        bench = Bench(preset, where, options.synthetic, 0, max(KS))
        result = {
            "device": device.describe(where),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "preset": preset.preset,
            "rates": rates(bench),
            "axes": {},
        }
        for axis in options.axes.split(","):
            began, rows = time.perf_counter(), points(bench, axis)
            times: list[list[float]] = [[] for _ in rows]
            for _ in range(options.rounds + 1):
                for row, (_, act, on, count) in zip(times, rows, strict=True):
                    row.append(on.timed(act) / count)
            result["axes"][axis] = [
                {"size": size, "seconds": statistics.median(row[1:]), **limits(on)}
                for row, (size, _, on, _) in zip(times, rows, strict=True)
            ]
            options.json.write_text(json.dumps(result, indent=1))
            print(axis, f"{time.perf_counter() - began:.0f} s", [f"{statistics.median(r[1:]):.4g}" for r in times])


if __name__ == "__main__":
    main()
