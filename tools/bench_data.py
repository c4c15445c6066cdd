"""A large data set of one's own, measured from the files to the comparison of two runs: `make bench-data`.

    python -m tools.bench_data --images 100000 --side 64

makes images (noise over a pattern of their class), writes them as a folder of PNG files or an .npz file, and then
prepares, maps, trains, replays in disk and recompute mode, browses and compares. Every stage is a process of its own,
so that its peak memory is its own: `peak` is all that was resident, memory-mapped files included, which the system
takes back when it needs them; `own` is what cannot be taken back. The first stage is the same on the embedded sample:
what the engine takes by itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]

LOOK = 0.02  # seconds between looks at a stage's memory

TARGETS = ",".join(f"test:{i}" for i in range(4))

PIECE = 1000  # images made at a time

TEST = 0.02  # of the images made are for testing


def pixels(first: int, n: int, side: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, side, side, 3] and labels of the images from number `first` on: noise over a class's own waves."""
    rng = np.random.default_rng(first)
    labels = np.arange(first, first + n) % classes
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack(
        [np.sin(2 * np.pi * (c % 7 + 1) * x + c) + np.cos(2 * np.pi * (c % 5 + 1) * y) for c in range(classes)]
    )
    images = 128 + 30 * waves[labels][..., None] + rng.normal(0, 25, (n, side, side, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_folder(root: Path, n: int, side: int, classes: int) -> None:
    """ROOT/{train,test}/CLASS/NUMBER.png."""
    from PIL import Image

    def write(number: int, split: str, label: int, image: np.ndarray) -> None:
        Image.fromarray(image).save(root / split / f"c{label:03d}" / f"{number:07d}.png", compress_level=1)

    for split in ("train", "test"):
        for label in range(classes):
            (root / split / f"c{label:03d}").mkdir(parents=True)
    tests = max(classes, round(TEST * n))
    with ThreadPoolExecutor(2) as pool:
        for first in range(0, n + tests, PIECE):
            images, labels = pixels(first, min(PIECE, n + tests - first), side, classes)
            jobs = [
                pool.submit(write, first + i, "train" if first + i < n else "test", labels[i], images[i])
                for i in range(len(images))
            ]
            for job in jobs:
                job.result()


def write_arrays(path: Path, n: int, side: int, classes: int) -> None:
    """As numpy.savez would, but in pieces."""
    tests = max(classes, round(TEST * n))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for prefix, first, count in (("", 0, n), ("test_", n, tests)):
            with archive.open(f"{prefix}images.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
                np.lib.format.write_array_header_1_0(member, header)
                for start in range(first, first + count, PIECE):
                    images, _ = pixels(start, min(PIECE, first + count - start), side, classes)
                    member.write(images.tobytes())
            with archive.open(f"{prefix}labels.npy", "w") as member:
                np.lib.format.write_array(member, np.arange(first, first + count) % classes)


# -- stages, each in its own process


def load(data: str) -> None:
    from engine.datasets import registry

    dataset = registry.load(data)
    print(f"{dataset.sizes.n_train:,} + {dataset.sizes.n_test:,}", dataset.mean.round(3).tolist())


def browse(_: str) -> None:
    """What the pages ask for: lists of the strongest by several filters, tiles, the confusion matrix, suspects."""
    from engine.analysis import ranking, suspects, test_images
    from engine.datasets import registry
    from engine.runs import run as runs
    from engine.runs import uploads

    record = runs.list_runs(runs.outputs_root())[0].manifest()
    dataset = registry.load(record.config.dataset)
    for target in record.score_sets.targets():
        scores = record.score_sets.row(target)
        for page in (1, 2, 50):
            best = ranking.rank(scores, target.function, 24, page=page)
            for side in (best.harmful, best.helpful):
                for index in np.asarray(side).tolist():
                    uploads.png(dataset.train_images[index])
    logits = record.test_logits()
    test_images.confusion(logits.argmax(1), dataset.test_labels, len(dataset.classes))
    suspects.ranked(record)


def compare(_: str) -> None:
    from engine.analysis import compare as comparison
    from engine.runs import run as runs

    a, b = (run.manifest() for run in runs.list_runs(runs.outputs_root())[:2])
    for both in comparison.common(a, b):
        found = comparison.agreement(both.a_N, both.b_N)
        comparison.moved(both.a_N, both.b_N, 24)
        print(f"Spearman {found.spearman:.4f}", end=" ")


STAGES = {"load": load, "browse": browse, "compare": compare}


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and those of them that are of no file."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(fields[name].split()[0]) << 10 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):  # it has ended
        return 0, 0


def measured(name: str, command: list[str], environment: dict[str, str]) -> dict:
    """Runs a stage to its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = own = 0
    while process.poll() is None:
        resident, anonymous = memory(process.pid)
        peak, own = max(peak, resident), max(own, anonymous)
        time.sleep(LOOK)
    seconds = time.monotonic() - began
    text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{text}")
    print(f"| {name} | {seconds:,.1f} | {peak / 1e6:,.0f} | {own / 1e6:,.0f} |", flush=True)
    return {"stage": name, "seconds": seconds, "peak": peak, "own": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--form", choices=("folder", "arrays"), default="folder")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--data", default="", help=argparse.SUPPRESS)
    call = parser.parse_args()
    if call.stage:
        STAGES[call.stage](call.data)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {
            "REPLAY_DATA_DIR": str(folder / "data"),
            "REPLAY_OUTPUTS_DIR": str(folder / "outputs"),
        }
        began = time.monotonic()
        if call.form == "folder":
            write_folder(folder / "large", call.images, call.side, call.classes)
            data = f"folder:{folder / 'large'}"
        else:
            write_arrays(folder / "large.npz", call.images, call.side, call.classes)
            data = f"arrays:{folder / 'large.npz'}"
        size = call.images * call.side**2 * 3
        print(
            f"{call.images:,} training images of {call.side} × {call.side} × 3 ({size / 1e6:,.0f} MB) as {call.form}, "
            f"made in {time.monotonic() - began:.0f} s; batches of {call.batch}, {call.epochs} epochs\n"
        )
        print("| stage | seconds | peak, MB | of it own, MB |\n|---|---|---|---|")

        def run(title: str, dataset: str, mode: str, outputs: str, batch: int) -> dict:
            settings = [f"recipe.epochs={call.epochs}", f"recipe.batch_size={batch}"]
            arguments = ["--data", dataset, "--mode", mode, "--targets", TARGETS, "--function", "loss"]
            return measured(
                title,
                ["engine", "run", *arguments, *(part for each in settings for part in ("--set", each))],
                environment | {"REPLAY_OUTPUTS_DIR": str(folder / outputs)},
            )

        def stage(title: str, which: str) -> dict:
            return measured(title, ["tools.bench_data", "--stage", which, "--data", data], environment)

        rows = [
            run("the sample, disk mode", "fashion-mnist-sample", "disk", "sample", 500),
            stage("load, decoding", "load"),
            stage("load, mapped", "load"),
            run("train and replay, disk", data, "disk", "outputs", call.batch),
            run("train and replay, recompute", data, "recompute", "outputs", call.batch),
            stage("browse", "browse"),
            stage("compare", "compare"),
        ]
        print(f"\nMost beside the sample's own: {(max(r['peak'] for r in rows[1:]) - rows[0]['peak']) / 1e6:,.0f} MB")
        if call.json:
            Path(call.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
