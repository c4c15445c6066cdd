"""From a real mistake to its cause to a better model: `make mistake-story`, the figures and pictures of docs/story.md.

    python -m tools.mistake_story [--seeds 3] [--pictures DIR] [--json FILE] [--keep DIR]

A folder of emoji by category (`tools.emoji`), of three vendors to train on, and of a fourth, whose labels are right, to
test with. An annotator took clock faces for objects: Unicode files them under *Travel & Places*. The steps are told
which images are clock faces where a person would see it: in the theme, and among the images near it.

    mistake      the test image that the trained model is surest of among its wrong answers in the class concerned
    theme        of its harmful themes (`engine.analysis.themes`), the strongest whose images have one label
    check        training again without that theme, beside the sum of its scores; and without as many at random
    corrections  the labels of the theme, and of what is alike among the images near it, as a person would set them
    again        the same recipe on the corrected data, beside the old, over several seeds

Prints Markdown; with `--pictures`, writes what the pages show on the way.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from engine import device, proposal
from engine.__main__ import main as command
from engine.analysis import features, themes
from engine.analysis.logits import judged
from engine.analysis.test_images import TestFilter, test_images
from engine.config import RunConfig
from engine.datasets import corrected
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.jobs import execute as work
from engine.jobs.features import Features
from engine.jobs.replay import Replay
from engine.jobs.what_if import WhatIf
from engine.runs import corrections, notes
from engine.runs import run as runs
from engine.runs.run import Run
from tools import emoji

TRAINING, TEST = ("google", "apple", "twitter"), "facebook"
KIND, RIGHT, WRONG = "clock", "Travel & Places", "Objects"
"""Of short names that begin so: the 24 clock faces, of every half hour."""
THEMES = 4  # a side, asked for
LEFT_OUT = ("Component",)  # five patches of skin
SIDE = 32  # pixels
LOOKED_AT = 150  # training images that are the nearest to the theme, which a person goes through after it
COLORS = 160  # of a picture in the docs


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


def strongest_theme(run: Run, dataset: Dataset, key: str) -> tuple[themes.Theme, int, list[str]]:
    """The strongest harmful theme whose images all have one label; its place by effect; and what the command line
    prints of all."""
    record = run.manifest()
    found = themes.find(record, dataset, record.score_sets.target(key), features.read(run), count=THEMES)
    harmful = found.sides["harmful"].themes
    place = next(place for place, theme in enumerate(harmful) if len(theme.labels) == 1)
    return harmful[place], place + 1, themes.lines(found, dataset)


def set_right(run: Run, dataset: Dataset, theme: themes.Theme, kind: np.ndarray) -> corrections.Corrections:
    """What a person decides who has seen the theme, and then the training images whose features are the nearest to it:
    whatever is of that kind gets the right label. The rest stays as given."""
    known = features.read(run)
    assert known is not None
    distance_N = np.square(known.train - known.train[theme.images].mean(0)).sum(1)
    right, wrong = map(dataset.classes.index, (RIGHT, WRONG))
    seen = np.union1d(theme.images, np.argsort(distance_N, kind="stable")[:LOOKED_AT])
    labels = {int(i): right for i in seen if kind[i] and dataset.train_labels[i] == wrong}
    decided = corrections.Corrections(labels)
    corrections.write(run, decided, expected=corrections.read(run), images=len(kind), classes=len(dataset.classes))
    return decided


def what_if(run: Run, key: str, job: WhatIf) -> dict:
    """The target before, as predicted and as it is after a retraining; in nats."""
    before = set(run.manifest().files)
    do(run, job)
    (name,) = (path for path in run.manifest().files if path not in before and path.startswith("validation/what-if-"))
    report = json.loads((run.path / name).read_text(encoding="utf-8"))
    (target,) = (target for target in report["targets"] if target["key"] == key)
    return {
        "images": len(job.left_out),
        "before": target["before"]["loss"],
        "predicted": target["predicted"]["loss"] if target["predicted"] else None,
        "actual": target["actual"]["loss"],
        "probability": target["actual"]["probability"],
    }


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


def story(root: Path, folder: Path, seeds: int) -> dict:
    """Everything that is computed; the runs stay in `root`."""
    wrong = write(folder)
    dataset = datasets.load(f"folder:{folder}?side={SIDE}")
    kind, test_kind = is_of_kind(dataset, "train", wrong), is_of_kind(dataset, "test", kind_of((TEST,)))
    config = proposal.for_dataset(dataset).config
    first = trained(root, config.replace(targets=("test:all",)), "before-0", "As labelled")
    mistake = surest_mistake(first, dataset, test_kind)
    target = f"test:{mistake['image']}"
    key = f"{target}.loss"
    if key not in {ref.key for ref in first.manifest().score_sets.targets()}:
        do(first, Replay((target,), "loss", ""))
    if features.read(first) is None:
        do(first, Features())
    theme, place, printed = strongest_theme(first, dataset, key)
    print("\n".join(printed), flush=True)
    decided = set_right(first, dataset, theme, kind)
    at_random = np.random.default_rng(0).choice(len(kind), len(theme.images), replace=False)
    checks = {
        "the theme": what_if(first, key, WhatIf.of(theme.images)),
        "as many at random": what_if(first, key, WhatIf.of(at_random)),
    }
    name = corrected.make(dataset, decided.labels, decided.excluded)
    rows: dict[str, list[dict]] = {"before": [], "after": []}
    for seed in range(seeds):
        for when, data, title in (("before", dataset.name, "As labelled"), ("after", name, "Corrected")):
            settings = config.replace(dataset=data, targets=(target,), **{"recipe.seed": seed})
            there = when == "before" and seed == 0
            run = first if there else trained(root, settings, f"{when}-{seed}", title)
            rows[when].append(seed_row(run, dataset, mistake["image"], test_kind))
            print(when, rows[when][-1], flush=True)
    return {
        "device": device.describe(),
        "load": os.getloadavg(),
        "data": {"training": dataset.sizes.n_train, "test": dataset.sizes.n_test, "classes": list(dataset.classes)},
        "recipe": config.to_dict(),
        "mistake": mistake,
        "wrong": int(kind.sum()),
        "theme": {
            "name": themes.name_of(theme, dataset.classes),
            "place": place,
            "images": len(theme.images),
            "wrong": int(kind[theme.images].sum()),
            "effect": theme.effect,
            "share": theme.share,
            "doubted": None if theme.doubted is None else len(theme.doubted),
        },
        "corrected": len(decided.labels),
        "checks": checks,
        "seeds": rows,
    }


# -- what is printed


def print_story(told: dict) -> None:
    mistake, theme = told["mistake"], told["theme"]
    print(f"{told['device']}; {told['data']['training']:,} training images, {told['data']['test']:,} test images\n")
    print(
        f"{mistake['file']}: test image {mistake['image']}, {RIGHT} taken for {WRONG} ({mistake['confidence']:.1%}), "
        f"mistake {mistake['place']} of {mistake['mistakes']} by confidence; {mistake['of_the_kind']} of the "
        f"{mistake['of_the_pair']} of this pair are of the kind"
    )
    print(
        f"harmful theme {theme['place']}, the first of one label: {theme['name']}; {theme['images']} images, "
        f"{theme['wrong']} of them among the "
        f"{told['wrong']} wrong labels; sum of scores {theme['effect']:+.3f} nats, {theme['share']:.1%} of all harm; "
        f"{theme['doubted']} labels doubted. Corrected: {told['corrected']}\n"
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


def said(row: dict) -> str:
    return f"{row['answer']}, {row['confidence']:.0%}"


# -- the pictures


def pictures(root: Path, told: dict, to: Path) -> None:
    from tools.serve import chromium, server

    target = f"test:{told['mistake']['image']}.loss"
    shots = {
        "story-mistake": "Test_images?run=before-0&wrong=1&true={right}&predicted={wrong}",
        "story-influence": f"Influence?run=before-0&target={target}&k=12",
        "story-themes": f"Themes?run=before-0&target={target}&themes={THEMES}",
        "story-triage": "Triage?run=before-0",
        "story-compare": "Compare_runs?run=after-0&view=many",
        "story-after": f"Influence?run=after-0&target={target}&k=12",
    }
    from urllib.parse import quote

    to.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(120_000)
        with server(root, page) as (url, _):
            for name, address in shots.items():
                page.goto(f"{url}/{address.format(right=quote(RIGHT), wrong=quote(WRONG))}")
                page.locator("h1").first.wait_for()
                page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
                page.wait_for_load_state("networkidle")
                page.screenshot(path=to / f"{name}.png")
                Image.open(to / f"{name}.png").convert("RGB").quantize(COLORS).save(to / f"{name}.png", optimize=True)


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
    parser.add_argument("--keep", metavar="DIR", help="where folder, data and runs stay; pictures alone are made again")
    call = parser.parse_args()
    with place(call.keep) as folder:
        os.environ["REPLAY_DATA_DIR"] = str(folder / "data")
        os.environ["REPLAY_OUTPUTS_DIR"] = str(folder / "outputs")
        known = folder / "told.json"
        if known.is_file():
            told = json.loads(known.read_text(encoding="utf-8"))
        else:
            told = story(runs.outputs_root(), folder / "emoji", call.seeds)
            known.write_text(json.dumps(told, indent=1), encoding="utf-8")
        print_story(told)
        table = io.StringIO()
        with contextlib.redirect_stdout(table):
            command(["compare"])
        print(f"\n$ python -m engine compare\n{table.getvalue()}")
        if call.pictures:
            pictures(runs.outputs_root(), told, call.pictures)
        if call.json:
            call.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
