"""From a folder of images to scores that are proven: `make bench-emoji`.

    python -m tools.bench_emoji [--json FILE] [--subsets M] [--side PIXELS] [--set NAME=VALUE …]

The folder of `tools.emoji` with broken, duplicated, turned and mislabelled files in it, and what the app does with it:

    prepared   its files decoded and put into arrays
    proposed   the recipe for data of this size, and the probe: whether it trains smoothly
    gallery    trained and replayed for the proposal's own targets: what *Influence* shows first
    agreement  16 targets in all, against retrainings that each leave out 1 % of the images
    labels     all test images as the target, and the mislabelled files among the first 50 of *Find bad labels*

Seconds of the wall clock, and of all cores together: on a machine that is not otherwise busy the wall clock lies
between the latter and its part for each core. Prints a table, and everything as JSON.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from engine import config as configs
from engine import device, proposal
from engine.analysis import suspects, trust
from engine.datasets import registry as datasets
from engine.datasets import store
from engine.jobs import execute as work
from engine.jobs import probe
from engine.jobs.replay import Replay
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.runs import run as runs
from tools import emoji

TARGETS, DROP, FIRST = 16, 0.01, 50


class Clock:
    """Seconds by part, of the wall clock and of the process's cores together."""

    def __init__(self):
        self.parts: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.parts[part] = {
            "wall": round(time.monotonic() - wall, 2),
            "cpu": round(time.process_time() - cpu, 2),
        }
        print(f"{part}: {self.parts[part]}", flush=True)

    def total(self, *parts: str) -> dict[str, float]:
        return {kind: round(sum(self.parts[part][kind] for part in parts), 1) for kind in ("wall", "cpu")}


def further_targets(config: configs.RunConfig, test: int) -> tuple[str, ...]:
    """So many more test images, between the run's own, that there are `TARGETS`."""
    more = TARGETS - len(config.targets)
    offset = test // (2 * len(config.targets))
    return tuple(f"test:{i * test // more + offset}" for i in range(more))


def recall(run: runs.Run, wrong: set[str]) -> dict[str, float | int]:
    """Of the mislabelled files in the training split, the part among the first `FIRST` of either order."""
    tables = {by: suspects.ranked(run.manifest(), "test:all.loss", by) for by in suspects.ORDERS}
    inside = wrong & set(tables["loss"]["file"])
    first = {by: len(inside & set(table["file"][:FIRST])) / len(inside) for by, table in tables.items()}
    either = inside & {name for table in tables.values() for name in table["file"][:FIRST]}
    return {"mislabelled": len(inside), **first, "either": len(either) / len(inside)}


def story(call: argparse.Namespace, folder: Path, outputs: Path, clock: Clock) -> dict:
    wrong = set(emoji.spoil(emoji.write(folder / "emoji"))["moved"])
    with clock("prepared"):
        dataset = datasets.load(f"folder:{folder / 'emoji'}{f'?side={call.side}' if call.side else ''}")
    proposed = proposal.for_dataset(dataset)
    config = proposed.config.replace(**call.settings)
    with clock("probe"):
        report = probe.measure(outputs, config)
    run = runs.Run.create(outputs, config)
    with run.lock():
        with clock("gallery"):
            work.execute(run)
        with clock("further targets"):
            work.execute(run, Replay(further_targets(config, dataset.sizes.n_test), "loss", config.replay_mode))
        with clock("agreement"):
            work.execute(run, Validate(call.subsets, (DROP,), 0))
        with clock("smoothness"):
            work.execute(run, Smoothness(1, 0))
        with clock("labels"):
            work.execute(run, Replay(("test:all",), "loss", config.replay_mode))
    manifest, (lds,) = run.manifest(), trust.reports(run.manifest())
    verdict = trust.verdict(manifest)
    return {
        "device": device.describe(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "sizes": dataset.sizes,
        "problems": len(store.problems(dataset)),
        "reasons": proposed.reasons,
        "config": config.to_dict(),
        "probe": {**report.to_json(), "verdict": report.verdict.level},
        "seconds": clock.parts,
        "to_gallery": clock.total("prepared", "gallery"),
        "accuracy": manifest.test_accuracy,
        "agreement": {k: v for k, v in lds.items() if k != "targets"} | {"lds": [t["lds"] for t in lds["targets"]]},
        "metasmoothness": (trust.smoothness(manifest) or {}).get("mean"),
        "growth": verdict.growth,
        "verdict": verdict.level,
        "labels": recall(run, wrong),
        "peak_mb": round(psutil.Process().memory_info().rss / 1e6),
    }


def row(figures: dict) -> str:
    """A line of docs/measurements.md."""
    config, agreement, labels = figures["config"], figures["agreement"], figures["labels"]
    recipe = config["recipe"]
    seconds = figures["to_gallery"]
    return (
        f"| {config['model']}, {recipe['optimizer']}, batch {recipe['batch_size']}, peak {recipe['peak_lr']:g}, "
        f"{recipe['epochs']} epochs "
        f"| {seconds['wall']:.0f} ({seconds['cpu']:.0f}) | {figures['accuracy']:.3f} "
        f"| {agreement['lds_mean']:.3f} ({agreement['lds_mean_low']:.3f} to {agreement['lds_mean_high']:.3f}) "
        f"| {figures['verdict']} | {figures['probe']['verdict']} "
        f"| {labels['loss']:.2f} | {labels['harm']:.2f} | {labels['either']:.2f} of {labels['mislabelled']} |"
    )


def setting(text: str) -> tuple[str, object]:
    """One NAME=VALUE; the value is JSON, or a text."""
    name, _, value = text.partition("=")
    with contextlib.suppress(ValueError):
        return name, json.loads(value)
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--side", type=int, help="pixels; without it what the files' sizes say, 64")
    parser.add_argument("--set", dest="settings", action="append", default=[], type=setting, metavar="NAME=VALUE")
    call = parser.parse_args()
    call.settings = dict(call.settings)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REPLAY_DATA_DIR"] = str(Path(folder) / "data")
        figures = story(call, Path(folder), runs.outputs_root(Path(folder) / "outputs"), Clock())
    print(json.dumps(figures, indent=1))
    if call.json:
        Path(call.json).write_text(json.dumps(figures, indent=1) + "\n")
    print(
        "\n| recipe | seconds to the gallery (of all cores) | accuracy | LDS (95 % interval) | verdict | probe "
        "| found by loss | by harm | by either |\n|" + "---|" * 9
    )
    print(row(figures))


if __name__ == "__main__":
    main()
