"""What each replay mode takes, measured side by side: `make bench-storage`.

Every run is a process of its own; times are medians of rounds in which the modes take turns, since
machines are shared and noisy. The estimate of the same configuration stands beside what was used.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np

from engine import config as configs
from engine import device, files
from engine.jobs import estimate
from engine.trajectory.segments import segment_length
from tools.faults import engine, peak_memory, settings, the_run

ROUNDS = 3
CONFIG = configs.preset("sample").replace(targets=("test:0", "test:1"))
# The same run in the layout that this design replaces: what is kept and for how many steps.
PARAMETERS, STEPS = 14_200_000, 2_352


def measured(folder: Path, mode: str, number: int):
    root = folder / f"{mode}-{number}"
    root.mkdir()
    with engine(root, "run", *settings(CONFIG.replace(replay_mode=mode))) as process:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    return the_run(root)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = estimate.estimate(CONFIG, folder, measure=True)
        made = {mode: [] for mode in configs.REPLAY_MODES}
        for number in range(ROUNDS):
            for mode, before in made.items():
                before.append(measured(folder, mode, number))
        seconds = {
            mode: [sum(r.manifest().timings[f"{p}_seconds"] for p in ("train", "replay")) for r in rs]
            for mode, rs in made.items()
        }
        scores = [r.scores().matrix("loss-000") for rs in made.values() for r in rs]
        print(
            f"{device.describe()}; `sample` with {len(CONFIG.targets)} targets, {told.steps} steps, segments of "
            f"{told.segment}; medians of {ROUNDS} rounds\n"
        )
        print(
            "| mode | trajectory, bytes a step | in all | whole run on disk (estimate) | time × memory mode | seconds "
            "(estimate) | peak RAM (estimate) | meters | resume points |\n|---|---|---|---|---|---|---|---|---|"
        )
        for mode, rs in made.items():
            trajectory = files.size_of(rs[0].path / "trajectory")
            ratio = statistics.median(a / b for a, b in zip(seconds[mode], seconds["memory"], strict=True))
            peak = statistics.median(r.manifest().peak_bytes["rss"] for r in rs)
            share = {
                key: statistics.median(
                    r.manifest().timings[f"{key}_seconds"] / s for r, s in zip(rs, seconds[mode], strict=True)
                )
                for key in ("meter", "resume")
            }
            guess = told.modes[mode]
            print(
                f"| {mode} | {trajectory / told.steps:,.0f} B | {trajectory / 1e6:.1f} MB | "
                f"{files.size_of(rs[0].path) / 1e6:.2f} MB ({guess.disk / 1e6:.2f}) | {ratio:.2f} | "
                f"{statistics.median(seconds[mode]):.1f} s ({guess.seconds:.1f}) | {peak / 1e6:.0f} MB "
                f"({guess.ram / 1e6:.0f}) | {share['meter']:.2%} | {share['resume']:.2%} |"
            )
        same = all(np.array_equal(s, scores[0]) for s in scores)
        print(f"\nscores of all {len(scores)} runs: {'bitwise equal' if same else 'DIFFERENT'}")
        peaks = [peak_memory(folder, steps) / 1e6 for steps in (100, 1600)]
        print(f"peak memory in disk mode: {peaks[0]:.0f} MB at T = 100, {peaks[1]:.0f} MB at T = 1,600")
    state, full = 4 * PARAMETERS, 8 * PARAMETERS
    segment = segment_length(STEPS, full)
    print(
        f"\n{PARAMETERS / 1e6:.1f} M parameters, {STEPS:,} steps, from the shapes: "
        f"memory mode {STEPS * state / 1e9:.0f} GB of memory; disk mode {STEPS * state / 1e9:.0f} GB of disk; "
        f"recompute mode {-(-STEPS // segment) * full / 1e9:.1f} GB of disk and "
        f"{segment * state / 1e9:.1f} GB of memory (segments of {segment})"
    )


if __name__ == "__main__":
    main()
