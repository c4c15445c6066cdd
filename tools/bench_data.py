"""A large data set of one's own, measured from the files to the comparison of two runs: `make bench-data`.

    python -m tools.bench_data --images 100000 --side 64

makes images (noise over a pattern of their class), writes them as a folder of PNG files or an .npz file, and then
prepares, maps, trains, replays in disk and recompute mode, explains more, retrains, ranks, compares and shows every
page in a browser. All of it is done twice: with few images and with many, of one size and in batches of one size, so
that the difference is what the number of images takes. Every stage is a process of its own, and its peak its own: of
all that was resident (`VmHWM`), memory-mapped files included, although the system takes these back when it needs
them; and of what is of no file (`RssAnon`). Ends with exit code 1 where a difference is above `LIMIT`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine import device
from tools.serve import ROOT, chromium, drawn, server

LIMIT = 2e9  # bytes beside what few images take

LOOK = 0.02  # seconds between looks at a stage's memory

FEW = 4  # batches of training images, in the pipeline that is compared with

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
    images = 128 + 30 * waves[labels][..., None] + rng.integers(-40, 41, (n, side, side, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_folder(root: Path, n: int, side: int, classes: int) -> None:
    """ROOT/{train,test}/CLASS/NUMBER.png."""
    from PIL import Image

    def write(number: int, split: str, label: int, image: np.ndarray) -> None:
        Image.fromarray(image).save(root / split / f"c{label:03d}" / f"{number:07d}.png", compress_level=0)

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


# -- stages that are no commands, each in its own process


def make(call: argparse.Namespace) -> None:
    write = write_folder if call.form == "folder" else write_arrays
    write(Path(call.data), call.images, call.side, call.classes)


def load(call: argparse.Namespace) -> None:
    from engine.datasets import registry

    dataset = registry.load(call.data)
    print(f"{dataset.sizes.n_train:,} + {dataset.sizes.n_test:,}", dataset.mean.round(3).tolist())


def compare(_: argparse.Namespace) -> None:
    from engine.analysis import compare as comparison
    from engine.runs import run as runs

    a, b = (run.manifest() for run in runs.list_runs(runs.outputs_root())[:2])
    for both in comparison.common(a, b):
        found = comparison.agreement(both.a_N, both.b_N)
        comparison.moved(both.a_N, both.b_N, 24)
        print(f"Spearman {found.spearman:.4f}", end=" ")


STAGES = {"make": make, "load": load, "compare": compare}


# -- the pipeline


@dataclass
class Usage:
    """Of a process: bytes of all that was resident at the most, and of what is of no file."""

    peak: int = 0
    own: int = 0

    def look(self, pid: int) -> None:
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            self.peak = max(self.peak, int(fields["VmHWM"].split()[0]) << 10)
            self.own = max(self.own, int(fields["RssAnon"].split()[0]) << 10)
        except (OSError, KeyError):  # it has ended
            pass


@dataclass(frozen=True)
class Row:
    """A stage of a pipeline, as it was measured."""

    stage: str
    seconds: float
    peak: int
    own: int


@contextmanager
def watched(pid: int):
    """Looks at a process's memory all the time."""
    usage, done = Usage(), threading.Event()

    def watch() -> None:
        while not done.wait(LOOK):
            usage.look(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield usage
    finally:
        done.set()
        thread.join()


class Pipeline:
    """All stages on one data set, in a folder of its own."""

    def __init__(self, folder: Path, images: int, call: argparse.Namespace):
        self.folder, self.images, self.call = folder, images, call
        self.rows: list[Row] = []
        self.environment = os.environ | {
            "REPLAY_DATA_DIR": str(folder / "data"),
            "REPLAY_OUTPUTS_DIR": str(folder / "outputs"),
        }

    def run(self) -> list[Row]:
        made = self.folder / ("large" if self.call.form == "folder" else "large.npz")
        data = f"{self.call.form}:{made}"
        self.tool("make", str(made))
        self.rows.clear()  # making them is no part of it
        self.tool("load", data, title="prepare, decoding every file")
        self.tool("load", data, title="load what is prepared")
        for mode in ("disk", "recompute"):
            settings = {
                "recipe.epochs": self.call.epochs,
                "recipe.batch_size": self.call.batch,
                "width": self.call.width,
            }
            arguments = ["--data", data, "--mode", mode, "--targets", "test:0,test:1", "--function", "loss"]
            arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
            self.engine(f"train and replay, {mode} mode", "run", *arguments)
        run = max((self.folder / "outputs").glob("*/config.json")).parent.name
        self.engine("replay the mean of all test images", "attribute", run, "--targets", "test:all")
        self.engine("validate: 5 retrainings", "validate", run, "--subsets", "5", "--drop", "0.01")
        self.engine("rank suspects, into a CSV", "suspects", run, "--csv", str(self.folder / "suspects.csv"))
        self.tool("compare", data, title="compare the two runs")
        self.pages(run, data)
        return self.rows

    def tool(self, stage: str, data: str, title: str = "") -> None:
        options = ["--images", str(self.images), "--side", str(self.call.side), "--classes", str(self.call.classes)]
        options += ["--form", self.call.form]
        self.measured(title or stage, "tools.bench_data", "--stage", stage, "--data", data, *options)

    def engine(self, title: str, *arguments: str) -> None:
        self.measured(title, "engine", *arguments)

    def measured(self, title: str, *command: str) -> None:
        """Runs a module to its end."""
        began = time.monotonic()
        with (self.folder / "said").open("w+") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=self.environment, stdout=said, stderr=subprocess.STDOUT
            )
            with watched(process.pid) as usage:
                code = process.wait()
            if code:
                said.seek(0)
                raise SystemExit(f"{title} failed:\n{said.read()}")
        self.add(Row(title, time.monotonic() - began, usage.peak, usage.own))

    def pages(self, run: str, data: str) -> None:
        """Every page in a browser; what is measured is the server."""
        from ui.navigation import PAGES

        began = time.monotonic()
        os.environ.update(self.environment)
        other = next(path.name for path in (self.folder / "outputs").iterdir() if path.name != run)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(120_000)
            with server(self.folder / "outputs", page) as (url, process), watched(process.pid) as usage:
                for path, _, _ in PAGES:
                    name = "" if path == "app.py" else Path(path).stem
                    page.goto(f"{url}/{name}?run={run}&other={other}&data={data}")
                    drawn(page)
                    if page.get_by_text("This page stopped").count():
                        raise SystemExit(f"The page {name} stopped.")
        self.add(Row("every page in a browser: the server", time.monotonic() - began, usage.peak, usage.own))

    def add(self, row: Row) -> None:
        print(
            f"{self.images:,} images: {row.stage}: {row.seconds:,.0f} s, {row.peak / 1e6:,.0f} MB",
            file=sys.stderr,
            flush=True,
        )
        self.rows.append(row)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=float, default=0.25, help="of the model, small-cnn")
    parser.add_argument("--form", choices=("folder", "arrays"), default="folder")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--data", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    call = arguments()
    if call.stage:
        STAGES[call.stage](call)
        return
    few = FEW * call.batch
    measured = []
    for images in (few, call.images):
        with tempfile.TemporaryDirectory() as folder:
            measured.append(Pipeline(Path(folder), images, call).run())
    size = call.images * call.side**2 * 3
    print(
        f"{device.describe()}; {call.images:,} training images of {call.side} × {call.side} × 3 ({size / 1e6:,.0f} MB) "
        f"as {call.form}; small-cnn of width {call.width:g}, batches of {call.batch}, {call.epochs} epoch(s)\n\n"
        f"| stage | seconds | peak, MB | of it of no file, MB | peak with {few:,} images, MB | difference, MB |\n"
        "|---|---|---|---|---|---|"
    )
    for small, large in zip(*measured, strict=True):
        columns = (large.peak, large.own, small.peak, large.peak - small.peak)
        print(f"| {large.stage} | {large.seconds:,.0f} | {' | '.join(f'{value / 1e6:,.0f}' for value in columns)} |")
    most = max(large.peak - small.peak for small, large in zip(*measured, strict=True))
    print(f"\nAt most {most / 1e6:,.0f} MB beside what {few:,} images take (limit {LIMIT / 1e6:,.0f} MB).")
    if call.json:
        rows = [[asdict(row) for row in rows] for rows in measured]
        Path(call.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    sys.exit(most > LIMIT)


if __name__ == "__main__":
    main()
