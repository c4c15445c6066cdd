"""How ranks of torchrun share a run's work: time of each phase on 1, 2, 4 and 8 GPUs, and whether all bits are equal.

    python -m tools.bench_scaling --json scaling.json --plot scaling.png
    python -m tools.bench_scaling --gpus 1,2 --targets 16 --retrainings 32 --images 30000
    python -m tools.bench_scaling --device cpu --images 600 --batch 100 --model small-cnn --targets 16 --retrainings 8

The preset resnet9-short with its batches of 1,000, one epoch of `--images` (the retrainings and replays of more epochs
are as many times longer). Each phase is timed from the log of the run: from where all of it has been given out to where
all of its results are on disk; `wall` has the whole command, with the start of its processes. One GPU is one process,
without torchrun. Where Fashion-MNIST is not at hand, images of the same size are made up: they take the same time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import config as configs
from engine.device import choose, describe
from engine.runs.run import Run, outputs_root
from engine.trajectory.state_files import read_with_header

SUBSETS_LEAST = 5


def main() -> None:
    options = read_options()
    with tempfile.TemporaryDirectory(dir=options.outputs, prefix="scaling-") as folder:
        root = outputs_root(folder)
        began = time.monotonic()
        report: dict[str, Any] = {
            "device": describe(choose(options.device)),
            "torch": torch.__version__,
            "targets": options.targets,
            "retrainings": options.retrainings,
            "options": {k: str(v) for k, v in vars(options).items()},
        }
        run = trained(options, root)
        report["steps"], report["train_seconds"] = run.manifest().steps, run.manifest().timings["train_seconds"]
        report["counts"] = []
        reference: dict[str, bytes] = {}
        for gpus in options.gpus:
            if time.monotonic() - began > options.most_seconds:
                report["cut"] = f"stopped before {gpus} GPUs, after {options.most_seconds} s"
                break
            measured, results = measure(options, run, gpus)
            reference = reference or results
            measured["bitwise_equal"] = results == reference
            report["counts"].append(measured)
            speed_up(report["counts"])
            print(json.dumps(measured), flush=True)
            Path(options.json).write_text(json.dumps(report, indent=1))  # what there is, should time run out
        report["seconds"] = round(time.monotonic() - began, 1)
        Path(options.json).write_text(json.dumps(report, indent=1))
    if options.plot:
        plot(report, Path(options.plot))
    print(table(report))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", help="numbers of GPUs, or of ranks on CPUs (1, 2, 4, 8 as far as there are)")
    parser.add_argument("--device", choices=configs.DEVICES, default="auto")
    parser.add_argument("--model", default="resnet9")
    parser.add_argument("--images", type=int, default=30_000, help="training images, one epoch (30000)")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument("--retrainings", type=int, default=64, help="subsets left out; those of all images come on top")
    parser.add_argument("--per-pass", type=int, default=8, help="targets a pass (8)")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, as of the command run")
    parser.add_argument("--most-seconds", type=float, default=540.0, help="no further number is begun after these")
    parser.add_argument("--outputs", help="folder for the run, which is deleted afterwards (the system's for such)")
    parser.add_argument("--json", default="scaling.json")
    parser.add_argument("--plot", help="a .png file")
    options = parser.parse_args()
    there = torch.cuda.device_count() if choose(options.device).type == "cuda" else (os.cpu_count() or 1)
    counts = [int(n) for n in options.gpus.split(",")] if options.gpus else [n for n in (1, 2, 4, 8) if n <= there]
    options.gpus = counts
    return options


# -- the run


def trained(options: argparse.Namespace, root: Path) -> Run:
    """A run of the preset with one target, trained in a process of its own: the GPU is free afterwards."""
    data = images(root / "images.npz", options.images)
    settings = {
        "recipe.epochs": 1,
        "recipe.batch_size": options.batch,
        "device": options.device,
        "targets_per_pass": options.per_pass,
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    words += [word for each in options.set for word in ("--set", each)]
    engine(
        root,
        1,
        "run",
        "--preset",
        "resnet9-short",
        "--model",
        options.model,
        "--data",
        data,
        "--targets",
        "test:0",
        *words,
    )
    (run,) = (Run(root, path.parent.name) for path in root.glob("*/manifest.json"))
    return run


def images(path: Path, n: int) -> str:
    """The name of a data set of n training images of 28 × 28 in ten classes, each a pattern in noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (10, 28, 28))
    labels = {"": np.arange(n) % 10, "test_": np.arange(1000) % 10}
    arrays = {f"{split}labels": each for split, each in labels.items()}
    for split, each in labels.items():
        arrays[f"{split}images"] = (patterns[each] + rng.integers(0, 128, (len(each), 28, 28))).astype(np.uint8)
    np.savez(path, classes=np.array([f"class {c}" for c in range(10)]), **arrays)
    return f"arrays:{path}"


def engine(root: Path, ranks: int, *words: str) -> float:
    """Seconds of one command, by so many ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "engine", *words, "--outputs", str(root)]
    environment = {**os.environ, "REPLAY_DATA_DIR": str(root / "data")}
    environment.setdefault("OMP_NUM_THREADS", "1" if ranks > 1 else str(torch.get_num_threads()))
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}")
    return time.monotonic() - began


# -- measuring


def measure(options: argparse.Namespace, run: Run, gpus: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Seconds of the replay and of the retrainings by so many GPUs, and the bits of what came of them."""
    _, offset = run.events()
    asked = f"test:1-{options.targets}"
    wall_replay = engine(run.root, gpus, "attribute", run.id, "--targets", asked)
    events, offset = run.events(offset)
    replay = seconds(events, "replay", "Wrote scores/")
    subsets = str(max(SUBSETS_LEAST, options.retrainings))
    wall_retrain = engine(run.root, gpus, "validate", run.id, "--subsets", subsets)
    events, _ = run.events(offset)
    retrain = seconds(events, "retrain", "Wrote validation/")
    scores = run.scores().matrix(run.scores().names()[-1])
    results = {"scores": np.ascontiguousarray(scores).tobytes()}
    folder = run.path / "validation" / "retrained"
    for path in sorted(folder.iterdir()):
        results[path.stem] = read_with_header(path, {}, "")[0]["logits"].numpy().tobytes()
        path.unlink()  # the next number of GPUs trains them again
    measured = {
        "gpus": gpus,
        "replay_seconds": replay,
        "retrain_seconds": retrain,
        "wall_replay_seconds": round(wall_replay, 2),
        "wall_retrain_seconds": round(wall_retrain, 2),
        "retrainings": len(results) - 1,
        "targets_per_pass": run.manifest().targets_per_pass,
        "scores_not_zero": bool(np.abs(scores).max() > 0),
    }
    return measured, results


def seconds(events: list[dict], phase: str, end: str) -> float:
    """From the last beginning of a phase to the first note after it that begins so."""
    begun = max(i for i, e in enumerate(events) if e["kind"] == "phase" and e["phase"] == phase)
    ended = next(e["time"] for e in events[begun:] if e["kind"] == "note" and e["text"].startswith(end))
    return round(ended - events[begun]["time"], 2)


def speed_up(counts: list[dict[str, Any]]) -> None:
    """Beside each count, how many times faster than the first it is: each phase, and both together."""
    first = counts[0]
    for each in counts:
        for name in ("replay_seconds", "retrain_seconds", "wall_replay_seconds", "wall_retrain_seconds"):
            each[name.replace("seconds", "speed_up")] = round(first[name] / each[name], 3)
        both = [sum(c[f"{phase}_seconds"] for phase in ("replay", "retrain")) for c in (first, each)]
        each["speed_up"] = round(both[0] / both[1], 3)


def table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['device']}, torch {report['torch']}: {report['targets']} targets, {report['retrainings']} "
        f"retrainings, {report['steps']} steps",
        f"{'GPUs':>5}{'replay':>10}{'×':>7}{'retrain':>10}{'×':>7}{'both ×':>9}  bits",
    ]
    for c in report["counts"]:
        lines.append(
            f"{c['gpus']:>5}{c['replay_seconds']:>8.1f} s{c['replay_speed_up']:>7.2f}{c['retrain_seconds']:>8.1f} s"
            f"{c['retrain_speed_up']:>7.2f}{c['speed_up']:>9.2f}  {'equal' if c['bitwise_equal'] else 'OTHER'}"
        )
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Speed-up against the number of GPUs, beside the ideal."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} is not drawn: matplotlib is not installed. The figures are in the JSON.", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    gpus = [c["gpus"] for c in report["counts"]]
    figure, axes = pyplot.subplots(figsize=(5, 4), layout="constrained")
    axes.plot(gpus, gpus, color="0.7", linestyle="--", label="ideal")
    for name, label in (("replay_speed_up", "replay"), ("retrain_speed_up", "retrainings")):
        axes.plot(gpus, [c[name] for c in report["counts"]], marker="o", label=label)
    axes.set(xlabel="GPUs", ylabel="times as fast as one", title=report["device"], xticks=gpus)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
