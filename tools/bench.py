"""The table in the README: `make bench`. Prints Markdown, with the hardware and what was measured.

Ratios are of medians taken side by side in one process, since machines are shared and noisy.
"""

import statistics
import tempfile
import time

import numpy as np
import torch

from engine import config, device, files
from engine.core.state import Adjoint
from engine.core.step import step, step_back
from engine.core.stream import Stream, examples
from engine.core.training import initial_state, optimizer_for
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.models import registry as model_registry
from engine.runs import run as runs
from tools.exactness import CASES, relative_error, scores_and_differences

ROUNDS = 9


def cost_of_a_target_step(preset: config.RunConfig) -> float:
    """Time of one step backwards for the preset's targets, in training steps a target."""
    dataset, where = dataset_registry.load(preset.dataset), device.choose(preset.device)
    model = model_registry.build(preset, dataset, where)
    inputs = Stream(examples(dataset, "train", where, torch.float32), preset.recipe).at(0)
    optimizer, k = optimizer_for(model, preset.recipe), len(preset.targets)
    state = initial_state(model, optimizer)
    theta, *opt, buffers = (torch.randn(k, part.numel(), device=where) for part in state.parts)
    end = Adjoint(theta, tuple(opt), buffers)
    chunk = 4 if where.type == "cpu" else None

    def timed(act) -> float:
        if where.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        act()
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    ratios = []
    for _ in range(ROUNDS + 2):
        forward = timed(lambda: [step(model, optimizer, state, inputs) for _ in range(10)]) / 10
        back = timed(lambda: step_back(model, optimizer, state, inputs, end, chunk))
        ratios.append(back / forward / k)
    return statistics.median(ratios[2:])


def main() -> None:
    preset = config.preset("sample")
    rows = [("Hardware", device.describe()), ("torch", torch.__version__)]
    errors = [relative_error(*scores_and_differences(*case)) for case in CASES.values()]
    rows.append(
        (
            f"Largest relative error of {len(errors)} cases against finite differences over every "
            "example weight, float64",
            f"{max(errors):.0e}",
        )
    )
    with tempfile.TemporaryDirectory() as folder, device.exact_arithmetic():
        rows.append(
            (
                "One target's step backwards, in training steps (the operation floor is 2)",
                f"{cost_of_a_target_step(preset):.1f}",
            )
        )
        root = runs.outputs_root(folder)
        scores = {}
        for mode in ("memory", "disk"):
            run = runs.Run.create(root, preset.replace(replay_mode=mode))
            with run.lock():
                name = work.execute(run).scores
            scores[mode], manifest = run.scores().matrix(name), run.manifest()
            timings = manifest.timings
            rows.append(
                (
                    f"`sample`, {mode} mode: training, then replay of {len(preset.targets)} targets",
                    f"{timings['train_seconds']:.1f} s + {timings['replay_seconds']:.0f} s",
                )
            )
        steps, trajectory = manifest.steps, files.size_of(run.path / "trajectory")
        rows += [
            ("`sample`: test accuracy (1,000 images)", f"{manifest.test_accuracy:.1%}"),
            (
                "`sample`, disk mode: bytes a step, and in all",
                f"{trajectory / steps:,.0f} B × {steps} = {trajectory / 1e6:.1f} MB",
            ),
            ("Scores of memory and disk mode", "bitwise equal" if np.array_equal(*scores.values()) else "DIFFERENT"),
        ]
    print("| what | measured |\n|---|---|")
    print("\n".join(f"| {what} | {value} |" for what, value in rows))


if __name__ == "__main__":
    main()
