"""From a real mistake to its cause to a better model: `make mistake-story`, the figures and pictures of docs/story.md.

    python -m tools.mistake_story [--seeds 3] [--pictures DIR] [--json FILE] [--keep DIR]

A folder of emoji by category (`tools.emoji`), of three vendors to train on, and of a fourth, whose labels are right, to
test with. An annotator took clock faces for objects: Unicode files them under *Travel & Places*. A run is trained on it
as the app proposes. The rest of the way is clicked in the browser (`tools.mistake_walk`): the wrong prediction, its
harmful theme, the theme left out, the labels set right, the training on them. After it, beside what was clicked:

    random   training again without as many images at random, beside the theme
    seeds    the same recipe on the data as they were and as they are corrected, with other seeds

Prints Markdown; with `--pictures`, keeps what the pages showed on the way.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine import device, proposal
from engine.__main__ import main as command
from engine.analysis import themes, trust
from engine.analysis.logits import judged
from engine.analysis.test_images import TestFilter, test_images
from engine.config import RunConfig
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.jobs import execute as work
from engine.jobs.what_if import WhatIf
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.run import Run
from tools import emoji
from tools.mistake_walk import NEAREST, compare, retrained, walk

TRAINING, TEST = ("google", "apple", "twitter"), "facebook"
KIND, RIGHT, WRONG = "clock", "Travel & Places", "Objects"
"""Of short names that begin so: the 24 clock faces, of every half hour."""
LEFT_OUT = ("Component",)  # five patches of skin
SIDE = 32  # pixels


# -- the folder


def write(root: Path) -> set[str]:
    """`train` and `test`, each with a folder a category; returns the files that the annotator filed wrongly, as the
    data set names them."""
    wrong = set()
    for split, vendors in (("train", TRAINING), ("test", (TEST,))):
        for vendor in vendors:
            package = emoji.fetched(vendor)
            for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
                source = package / "img" / vendor / "64" / entry["image"]
                if entry["category"] in LEFT_OUT or not source.is_file():
                    continue
                mistaken = split == "train" and entry["short_name"].startswith(KIND)
                folder = root / split / (WRONG if mistaken else entry["category"])
                folder.mkdir(parents=True, exist_ok=True)
                to = folder / f"{vendor}-{entry['short_name']}.png"
                shutil.copy(source, to)
                if mistaken:
                    wrong.add(to.name)
    return wrong


def is_of_kind(dataset: Dataset, split: str, kind: set[str]) -> np.ndarray:
    """Which images are of these names, whatever folder they are in: bool [N]."""
    count = dataset.sizes.n_train if split == "train" else dataset.sizes.n_test
    return np.array([Path(dataset.file_name(split, i) or "").name in kind for i in range(count)])


def kind_of(vendors: tuple[str, ...]) -> set[str]:
    """The names of all files of the kind."""
    names = set()
    for vendor in vendors:
        package = emoji.fetched(vendor)
        entries = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
        names |= {f"{vendor}-{e['short_name']}.png" for e in entries if e["short_name"].startswith(KIND)}
    return names


# -- the steps


def trained(root: Path, config: RunConfig, run_id: str, name: str) -> Run:
    if (root / run_id / "manifest.json").is_file() and Run.open(root, run_id).manifest().trained:
        return Run.open(root, run_id)  # of a call before, with --keep
    run = Run.create(root, config, run_id)
    do(run)
    notes.write_name(run, name)
    return run


def do(run: Run, job=None) -> None:
    with run.lock():
        work.execute(run, job)


def answers(run: Run, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each test image, and its probability."""
    _, predicted, best = judged(run.manifest().test_logits(), labels)
    return predicted, np.exp(best)


def surest_mistake(run: Run, dataset: Dataset, kind: np.ndarray) -> dict:
    """Of those test images of the class that are taken for the other one, the surest that is of the kind; how many of
    them are, and where it stands among all mistakes."""
    right, wrong = map(dataset.classes.index, (RIGHT, WRONG))
    logits, labels = run.manifest().test_logits(), dataset.test_labels
    in_order, _, confidence = test_images(logits, labels, TestFilter(wrong=True), "wrong first")
    pair, *_ = test_images(logits, labels, TestFilter(wrong=True, true=right, predicted=wrong), "wrong first")
    alike = pair[kind[pair]]
    image = int(alike[0])
    return {
        "image": image,
        "file": Path(dataset.file_name("test", image) or "").name,
        "confidence": float(confidence[image]),
        "place": in_order.tolist().index(image) + 1,
        "mistakes": len(in_order),
        "of_the_pair": len(pair),
        "of_the_kind": len(alike),
    }


def without(run: Run, key: str, images: np.ndarray, report: dict) -> dict:
    """The target's loss before, as predicted and as a retraining gave it, in nats."""
    assert report["left_out"] == sorted(images.tolist())
    (target,) = (target for target in report["targets"] if target["key"] == key)
    figures = {when: target[when] and target[when]["loss"] for when in ("before", "predicted", "actual")}
    return {"images": len(images), **figures, "probability": target["actual"]["probability"]}


def at_random(run: Run, key: str, count: int) -> dict:
    """Without as many images at random."""
    images = np.random.default_rng(0).choice(len(run.manifest().train_logits()), count, replace=False)
    do(run, WhatIf.of(sorted(images.tolist())))
    return without(run, key, images, trust.what_ifs(run.manifest())[-1])


def seed_row(run: Run, dataset: Dataset, image: int, kind: np.ndarray) -> dict:
    predicted, confidence = answers(run, dataset.test_labels)
    right = predicted == dataset.test_labels
    return {
        "seed": run.manifest().config.recipe.seed,
        "accuracy": float(right.mean()),
        "kind": f"{int(right[kind].sum())} of {int(kind.sum())}",
        "kind_right": float(right[kind].mean()),
        "answer": dataset.classes[predicted[image]],
        "confidence": float(confidence[image]),
    }


def story(root: Path, folder: Path, seeds: int, pictures: Path | None) -> dict:
    """Everything that is computed; the runs stay in `root`."""
    began = time.monotonic()
    wrong = write(folder)
    dataset = datasets.load(f"folder:{folder}?side={SIDE}")
    kind, test_kind = is_of_kind(dataset, "train", wrong), is_of_kind(dataset, "test", kind_of((TEST,)))
    config = proposal.for_dataset(dataset).config.replace(targets=("test:all",))
    first = trained(root, config, "before-0", "As labelled")
    mistake = surest_mistake(first, dataset, test_kind)
    key, right = f"test:{mistake['image']}.loss", dataset.classes.index(RIGHT)
    walked = walk(first, dataset, mistake["image"], kind, right, pictures)
    theme = walked.theme
    checks = {
        "the theme": without(first, key, theme.images, retrained(first, theme)),
        "as many at random": at_random(first, key, len(theme.images)),
    }
    after = Run.open(root, walked.after)
    rows: dict[str, list[dict]] = {"before": [], "after": []}
    for seed in range(seeds):
        for when, run, title in (("before", first, "As labelled"), ("after", after, "As labelled, corrected")):
            if seed:
                settings = run.manifest().config.replace(**{"recipe.seed": seed})
                run = trained(root, settings, f"{when}-{seed}", title)
            rows[when].append(seed_row(run, dataset, mistake["image"], test_kind))
            print(when, rows[when][-1], flush=True)
    if pictures:
        compare(root, walked.after, pictures)
    return {
        "device": device.describe(),
        "load": os.getloadavg(),
        "seconds": time.monotonic() - began,
        "data": {"training": dataset.sizes.n_train, "test": dataset.sizes.n_test, "classes": list(dataset.classes)},
        "recipe": config.to_dict(),
        "mistake": mistake,
        "wrong": int(kind.sum()),
        "theme": {
            "name": themes.name_of(theme, dataset.classes),
            "place": walked.place,
            "images": len(theme.images),
            "wrong": int(kind[theme.images].sum()),
            "effect": theme.effect,
            "share": theme.share,
            "doubted": None if theme.doubted is None else len(theme.doubted),
        },
        "corrected": {"of the theme": walked.of_theme, "in all": walked.corrected, "looked at": walked.looked_at},
        "checks": checks,
        "seeds": rows,
        "steps": [asdict(task) for task in walked.tasks],
    }


# -- what is printed


def print_story(told: dict) -> None:
    mistake, theme, corrected = told["mistake"], told["theme"], told["corrected"]
    print(
        f"{told['device']}, load {told['load'][0]:.1f}; {told['seconds'] / 60:.1f} minutes; "
        f"{told['data']['training']:,} training images, {told['data']['test']:,} test images\n"
    )
    print(
        f"{mistake['file']}: test image {mistake['image']}, {RIGHT} taken for {WRONG} ({mistake['confidence']:.1%}), "
        f"mistake {mistake['place']} of {mistake['mistakes']} by confidence; {mistake['of_the_kind']} of the "
        f"{mistake['of_the_pair']} of this pair are of the kind"
    )
    print(
        f"harmful theme {theme['place']}, the first of one label: {theme['name']}; {theme['images']} images, "
        f"{theme['wrong']} of them among the "
        f"{told['wrong']} wrong labels; sum of scores {theme['effect']:+.3f} nats, {theme['share']:.1%} of all harm; "
        f"{theme['doubted']} labels doubted.\n"
        f"Corrected: {corrected['of the theme']} in the theme, {corrected['in all']} in all, of "
        f"{corrected['looked at']} looked at: the theme and the {NEAREST} nearest to its first image\n"
    )
    print("| left out | loss before | predicted | retrained |\n|---|---|---|---|")
    for what, check in told["checks"].items():
        print(
            f"| {what} ({check['images']} images) | {check['before']:.3f} | {check['predicted']:.3f} "
            f"| {check['actual']:.3f} |"
        )
    print(
        f"\n| seed | accuracy before | after | {KIND} right before | after | the image before | after |\n|" + "---|" * 7
    )
    for before, after in zip(told["seeds"]["before"], told["seeds"]["after"], strict=True):
        print(
            f"| {before['seed']} | {before['accuracy']:.3f} | {after['accuracy']:.3f} | {before['kind']} "
            f"| {after['kind']} | {said(before)} | {said(after)} |"
        )
    means = [np.mean([row["accuracy"] for row in told["seeds"][when]]) for when in ("before", "after")]
    shares = [np.mean([row["kind_right"] for row in told["seeds"][when]]) for when in ("before", "after")]
    print(f"| mean | {means[0]:.3f} | {means[1]:.3f} | {shares[0]:.0%} | {shares[1]:.0%} | | |")


def print_steps(told: dict) -> None:
    print("\n| in the browser | clicks and keys | seconds | of them computing |\n|---|---|---|---|")
    for step in told["steps"]:
        print(f"| {step['name']} | {step['clicks']} | {step['seconds']:.0f} | {step['computing']:.0f} |")


def said(row: dict) -> str:
    return f"{row['answer']}, {row['confidence']:.0%}"


@contextlib.contextmanager
def place(keep: str | None) -> Iterator[Path]:
    if keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", metavar="DIR", help="where folder, data and runs stay")
    call = parser.parse_args()
    with place(call.keep) as folder:
        os.environ["REPLAY_DATA_DIR"] = str(folder / "data")
        os.environ["REPLAY_OUTPUTS_DIR"] = str(folder / "outputs")
        known = folder / "told.json"
        if known.is_file():
            told = json.loads(known.read_text(encoding="utf-8"))
        else:
            if call.pictures:
                call.pictures.mkdir(parents=True, exist_ok=True)
            told = story(runs.outputs_root(), folder / "emoji", call.seeds, call.pictures)
            known.write_text(json.dumps(told, indent=1), encoding="utf-8")
        print_story(told)
        print_steps(told)
        table = io.StringIO()
        with contextlib.redirect_stdout(table):
            command(["compare"])
        print(f"\n$ python -m engine compare\n{table.getvalue()}")
        if call.json:
            call.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
