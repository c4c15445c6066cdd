"""Duplicates among 60,000 images, timed and held against all pairs: `make bench-duplicates`.

    python -m tools.bench_duplicates [--json FILE] [--folder DIR]

On the full Fashion-MNIST (60,000 training and 10,000 test images), by every way: seconds, memory, and what was found.
The first 2,000 images are also compared pair by pair in float64 by loops of NumPy's, and the groups must be the same.
And a data set that is made to be hard: 60,000 images that are all near each other, and none the same.

With `--folder`, one that `python -m tools.emoji DIR` wrote: how many of the copies that it added are found at each
distance, and how many of the pairs are copies: what the distances that are offered first were chosen by.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from engine import device
from engine.analysis import duplicates as kept
from engine.analysis import features
from engine.config import Recipe, RunConfig
from engine.core import near
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.jobs import execute as work
from engine.jobs.duplicates import SENSIBLE, FindDuplicates
from engine.jobs.features import Features
from engine.runs import run as runs

CONFIG = RunConfig(
    preset="bench",
    dataset="fashion-mnist",
    targets=("test:0",),
    recipe=Recipe(epochs=1, batch_size=1000, peak_lr=0.1),
    replay_mode="recompute",
)

JOBS = {
    "exact": FindDuplicates(kept.EXACT),
    "hash": FindDuplicates(kept.HASH),
    "hash, turned": FindDuplicates(kept.HASH, turned=True),
    "pixels": FindDuplicates(kept.PIXELS),
    "features": FindDuplicates(kept.FEATURES),
}

ALL_PAIRS = 2000

BITS = (0, 2, 4, 6, 8, 10)

COSINES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)  # distances

KINDS = ("jpeg", "smaller", "quarter", "mirrored")  # of `tools.emoji.copies`

SKINS = {f"1F3F{digit}" for digit in "BCDEF"}


def do(run: runs.Run, job) -> float:
    """Seconds."""
    began = time.monotonic()
    with run.lock():
        work.execute(run, job)
    return time.monotonic() - began


def timed(run: runs.Run) -> dict[str, dict]:
    rows = {}
    for name, job in JOBS.items():
        if job.by == kept.FEATURES:
            rows["compute the features"] = {"seconds": do(run, Features())}
        seconds = do(run, job)
        found = kept.known(run.manifest(), job.by)
        assert found is not None
        rows[name] = {
            "seconds": seconds,
            "groups": len(found.starts),
            "images": len(found.images),
            "twins": len(found.twins),
            "pairs": found.pairs,
            "largest": int(found.sizes.max(initial=0)),
            "rss": psutil.Process().memory_info().rss,
        }
        print(name, rows[name], flush=True)
    return rows


# -- against all pairs


def same_as_all_pairs(run: runs.Run) -> int:
    """The pairs of the first images of the training split by features, in float64; how many of them are near."""
    found = features.read(run.manifest())
    assert found is not None
    rows = np.asarray(found.train[:ALL_PAIRS])
    away = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    similarity, least = away @ away.T, 1 - SENSIBLE[kept.FEATURES]
    close = similarity >= least
    np.fill_diagonal(close, False)
    similar = near.Directions.of(lambda index: rows[index], len(rows), torch.device("cpu"))
    told = near.neighbours(similar, ALL_PAIRS, least)
    doubtful = np.abs(similarity - least).min() < 1e-6
    assert doubtful or (told.degree == close.sum(1)).all(), "another answer than that of all pairs"
    return int(close.sum()) // 2


def all_near() -> dict[str, float]:
    """60,000 hashes, each with 1 bit of 64 changed: one group, whose 1.8 · 10⁹ pairs are never in memory."""
    rng, before = np.random.default_rng(0), psutil.Process().memory_info().rss
    bits = np.zeros((1, 60_000, 64), bool)
    bits[0, np.arange(60_000), rng.integers(64, size=60_000)] = True
    began, most = time.monotonic(), 0

    def look(done: int) -> None:
        nonlocal most
        most = max(most, psutil.Process().memory_info().rss)

    similar = near.Hashes.of(bits, np.zeros(60_000, bool), torch.device("cpu"))
    found = near.neighbours(similar, 60_000, 1 - 4 / 32, look)
    stars = near.stars(similar, found, 1 - 4 / 32, look)
    return {
        "seconds": time.monotonic() - began,
        "pairs": found.pairs,
        "groups": len(stars),
        "more bytes at most": most - before,
    }


# -- which distance is sensible


def emoji_of(name: str) -> tuple[str, str]:
    """Vendor and code of a file of `tools.emoji`, whatever was done with it; and the same without the skin."""
    stem = Path(name).stem
    while stem.partition("-")[0] in (*KINDS, "moved"):
        stem = stem.partition("-")[2]
    return stem, "-".join(part for part in stem.split("-") if part.upper() not in SKINS)


def by_distance(run: runs.Run, dataset: Dataset, made: dict, turned: bool, by: str, distances) -> list[dict]:
    names = [*(dataset.train_names or ()), *(dataset.test_names or ())]
    # Some were moved to another class since they were copied: their own names are still theirs.
    number = {Path(name).name.removeprefix("moved-"): i for i, name in enumerate(names)}
    rows = []
    for distance in distances:
        do(run, FindDuplicates(by, distance, turned))
        found = kept.known(run.manifest(), by)
        assert found is not None
        group = dict(zip(found.images.tolist(), found.group_of.tolist(), strict=True))
        recall = {
            kind: np.mean(
                [group.get(number[Path(a).name], -1) == group.get(number[Path(b).name], -2) for a, b in pairs]
            )
            for kind, pairs in made["copies"].items()
        }
        firsts = np.repeat(found.images[found.starts], found.sizes)
        kinds = Counter(
            "copy" if a == b else "other skin" if p == q else "other"
            for (a, p), (b, q) in (
                (emoji_of(names[i]), emoji_of(names[j]))
                for i, j in zip(firsts.tolist(), found.images.tolist())
                if i != j
            )
        )
        row = {"by": by, "turned": turned, "distance": distance, "found": recall, "members": dict(kinds)}
        rows.append(row)
        print(row, flush=True)
    return rows


def thresholds(folder: Path, root: Path) -> list[dict]:
    dataset = datasets.load(datasets.canonical(f"folder:{folder}?side=32"))
    made = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    config = replace(CONFIG, dataset=dataset.name, recipe=Recipe(epochs=4, batch_size=350, peak_lr=0.1))
    run = runs.Run.create(root, config, "emoji")
    do(run, None)
    do(run, Features())
    asked = ((False, kept.HASH, BITS), (True, kept.HASH, BITS), (False, kept.PIXELS, COSINES))
    asked += ((False, kept.FEATURES, COSINES),)
    return [row for turned, by, distances in asked for row in by_distance(run, dataset, made, turned, by, distances)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_duplicates")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--folder", type=Path, help="that tools.emoji wrote: which distance finds what")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = runs.outputs_root(folder)
        if call.folder is not None:
            measured: dict = {"thresholds": thresholds(call.folder, root)}
        else:
            run = runs.Run.create(root, CONFIG, "fashion")
            do(run, None)
            measured = {"timed": timed(run), "pairs of the first 2,000": same_as_all_pairs(run), "all near": all_near()}
    measured |= {"device": device.describe(), "threads": torch.get_num_threads(), "load": os.getloadavg()}
    print(json.dumps(measured, indent=1, default=float))
    if call.json:
        call.json.write_text(json.dumps(measured, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
