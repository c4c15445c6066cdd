"""How long a table of 200 runs takes, and what it opens: `python -m tools.bench_many`.

Makes runs of the sample with made-up scores of 8 targets, a validation each, recipes and seeds that differ, and reads
the table in a process of its own, cold (nothing read before) and again. What is opened is counted by the system's own
calls, seen from inside through an audit hook. Then the lists of one target over 50 of them, whose scores are opened.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from engine import device, files
from engine.config import preset
from engine.datasets import registry as datasets
from engine.runs import run as runs

TARGETS = tuple(f"test:{i}" for i in range(8))
SUBSETS = 32


def make(root: Path, number: int) -> None:
    """Runs of four recipes, whose seeds differ."""
    dataset = datasets.load("fashion-mnist-sample")
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(len(TARGETS), len(dataset.train_labels)))
    for i in range(number):
        changes = {"recipe.epochs": (4, 6)[i % 2], "width": (1.0, 2.0)[i // 2 % 2], "recipe.seed": i // 4}
        config = preset("sample").replace(**changes, targets=TARGETS)
        run = runs.Run.create(root, config, f"run-{i:04d}")
        scores = (shared + 2 * rng.normal(size=shared.shape)).astype(np.float32)
        kept = dict(run.manifest().files)
        kept["scores/loss-000.npy"] = files.write_npy(run.path / "scores/loss-000.npy", scores)
        norms = [1.0] * 144
        sidecar = {
            "target_function": "loss",
            "training_digest": "made up",
            "targets": [{"name": name, "title": name, "adjoint_growth": 1.5, "norms": norms} for name in TARGETS],
        }
        kept["scores/loss-000.json"] = files.write_json(run.path / "scores/loss-000.json", sidecar)
        kept["validation/lds-loss-0.01-0.json"] = files.write_json(
            run.path / "validation/lds-loss-0.01-0.json", report(rng)
        )
        run.update_manifest(
            status_said="finished",
            jobs=(),
            files=kept,
            trained=True,
            steps=144,
            scored=True,
            test_accuracy=float(rng.uniform(0.8, 0.86)),
            timings={"train_seconds": 8.0, "replay_seconds": 12.0},
            data_fingerprint=dataset.fingerprint,
            training_digest="made up",
            device_name="a CPU",
            sizes={"scores": scores.nbytes},
        )


def report(rng: np.random.Generator) -> dict:
    """A validation of all targets, as `engine.jobs.validation` writes it."""
    figures = {"lds": 0.98, "low": 0.95, "high": 0.99, "slope": 1.0, "r2": 0.9, "noise_share": 0.0}
    changes = {what: rng.normal(size=SUBSETS).tolist() for what in ("predicted", "actual")}
    return {
        "function": "loss",
        "unit": "nats",
        "left_out": 60,
        "subsets": SUBSETS,
        "seed": 0,
        "repeats": 0,
        "drop": 0.01,
        "device_name": None,
        "training_digest": "made up",
        **{f"{name}_mean": figures[name] for name in ("lds", "slope", "r2")},
        "lds_mean_low": 0.95,
        "lds_mean_high": 0.99,
        "noise_share": 0.0,
        "targets": [{"key": f"{n}.loss", "name": n, "title": n, **figures, **changes} for n in TARGETS],
    }


def read(root: Path) -> None:
    """The table, cold and again; in a process that has read nothing before."""
    from engine.analysis import many, overlap

    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    for what in ("cold", "again"):
        began, before = time.perf_counter(), len(opened)
        entries = many.entries(root, runs.summaries(root))
        groups, differ = many.grouped(entries), many.differing(entries)
        inside = [path for path in opened[before:] if path.startswith(str(root))]
        scores = sum(path.endswith(".npy") for path in inside)
        print(
            f"| {len(entries)} runs, {what} | {time.perf_counter() - began:.2f} s | {len(inside):,} files, {scores} of "
            f"scores | {len(groups)} rows, columns {', '.join(differ)} |"
        )
    began = time.perf_counter()
    some = [runs.Run(root, entry.id).manifest() for entry in entries[:50]]
    first = overlap.over_runs(some)[0]
    found = overlap.overlap(first, "helpful", 50)
    counts = ", ".join(f"{len(found.images(b))} {b} (chance {found.expected(b):.2g})" for b in overlap.BANDS)
    print(f"| lists of one target in {len(some)} runs | {time.perf_counter() - began:.2f} s | | {counts} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    call = parser.parse_args()
    if call.read is not None:
        read(call.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = runs.outputs_root(Path(folder).resolve() / "outputs")
        make(root, call.runs)
        print(f"{device.describe()}\n\n| what | time | opened | |\n|---|---|---|---|", flush=True)
        subprocess.run([sys.executable, "-m", "tools.bench_many", "--read", str(root)], check=True)


if __name__ == "__main__":
    main()
