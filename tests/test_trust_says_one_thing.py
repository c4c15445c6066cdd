"""*Trust* says one true thing of every combination of what may be known, and *Compare* says what its figures mean."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import files
from engine.analysis import compare, lds, trust
from engine.analysis.trust import CHAOTIC_GROWTH, DECISIVE, FEWEST, LEVELS, Evidence, Step
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.jobs.queue import JobQueue
from engine.jobs.validation import Validate
from engine.runs.run import Run
from tests.app import server
from tests.helpers import at_rest, button, idle, said, settled, show, sound, tiles, turn
from tests.made_up import SAMPLE, run_of
from tests.test_browser import violations
from ui.glossary import TERMS

GOOD, CHECK, POOR = LEVELS
LOSS = frozenset({"test:0.loss", "test:1.loss"})
DAMAGE = (IntegrityError("lds-loss-0.01-0.json has changed since it was written.", "Validate again."),)


def report(
    subsets: int,
    value: float | None,
    drop: float = 0.01,
    seed: int = 0,
    half: float | None = 0.05,
    vary: int = 2,
    **more,
) -> dict:
    """As a validation writes it, of two targets of which `vary` have an LDS."""
    low, high = (None, None) if half is None or value is None else (value - half, value + half)
    targets = [
        {"key": key, "lds": value if i < vary and value is not None else None} for i, key in enumerate(sorted(LOSS))
    ]
    figures = {"lds_mean": value, "lds_mean_low": low, "lds_mean_high": high, "targets": targets}
    return {"function": "loss", "subsets": subsets, "drop": drop, "seed": seed, **figures, **more}


def kept(*reports: dict) -> frozenset[str]:
    return frozenset(lds.key(r["drop"], r["seed"], m) for r in reports for m in range(r["subsets"]))


def known(*reports: dict, **more) -> Evidence:
    return Evidence(**{"targets": LOSS, "growth": 1.72, "reports": reports, "retrained": kept(*reports), **more})


def sentence(facts: Evidence) -> tuple[str, str]:
    """The level and the whole of what the page says at its top, with a retraining's time in seconds."""
    verdict = trust.judge(facts)
    step = verdict.step
    more = "" if step is None else step.in_words("" if step.seconds is None else f"{step.seconds:g} s")
    return verdict.level, f"{verdict.reason} {more}".strip()


EIGHT, TWENTY = report(8, 0.94, half=0.06), report(20, 0.94, half=0.06)
MEASURED_20 = "Validated with 20 subsets, each without 1 % of the images: LDS 0.94 (0.88 to 1.00)."
SO_FAR = "Validated with 8 subsets, each without 1 % of the images: LDS 0.94 (0.88 to 1.00)"
SENTENCES = {
    "no scores": (Evidence(scored=False), CHECK, "There are no scores yet."),
    "no scores, and a damaged file": (
        Evidence(scored=False, damage=DAMAGE),
        CHECK,
        "There are no scores yet. One file of its validation is damaged, and does not count.",
    ),
    "nothing": (
        known(seconds=5.0),
        CHECK,
        "Neither validated, nor is its smoothness measured. A verdict needs 20 subsets: 20 retrainings take about 100 "
        "s.",
    ),
    "nothing, no time measured": (
        known(),
        CHECK,
        "Neither validated, nor is its smoothness measured. A verdict needs 20 subsets: 20 retrainings, each about as "
        "long as the training.",
    ),
    "an old run, without growth": (
        known(growth=None, smoothness=0.99),
        CHECK,
        "Not validated; its training is smooth as far as is recorded (smoothness 0.99). A verdict needs 20 subsets: 20 "
        "retrainings, each about as long as the training.",
    ),
    "chaos by growth alone": (
        known(growth=47.8),
        POOR,
        "Not validated; its training is chaotic (early changes grow × 47.8 at most), so that its scores foretell "
        "little. A verdict needs 20 subsets: 20 retrainings, each about as long as the training.",
    ),
    "smoothness only, smooth": (
        known(smoothness=0.99),
        GOOD,
        "Not validated; its training is as smooth (smoothness 0.99, early changes grow × 1.72 at most) as those whose "
        "scores agreed with retraining. A verdict needs 20 subsets: 20 retrainings, each about as long as the "
        "training.",
    ),
    "smoothness only, not quite": (
        known(smoothness=0.8),
        CHECK,
        "Not validated; its training is not quite smooth (smoothness 0.80, early changes grow × 1.72 at most). A "
        "verdict needs 20 subsets: 20 retrainings, each about as long as the training.",
    ),
    "smoothness only, chaotic": (
        known(smoothness=-0.2),
        POOR,
        "Not validated; its training is chaotic (smoothness −0.20, early changes grow × 1.72 at most), so that its "
        "scores foretell little. A verdict needs 20 subsets: 20 retrainings, each about as long as the training.",
    ),
    "few subsets": (
        known(EIGHT, seconds=8.0),
        CHECK,
        f"{SO_FAR}. A verdict needs 20 subsets: 12 more take about 96 s.",
    ),
    "few subsets, one is lacking": (
        known(report(19, 0.94, half=0.06), seconds=8.0),
        CHECK,
        f"{SO_FAR.replace('8 subsets', '19 subsets')}. A verdict needs 20 subsets: 1 more takes about 8 s.",
    ),
    "few subsets, more retrained since": (
        known(EIGHT, retrained=kept(report(14, 0.9)), seconds=8.0),
        CHECK,
        f"{SO_FAR}. A verdict needs 20 subsets: 6 more take about 48 s.",
    ),
    "few subsets, all retrained since": (
        known(EIGHT, retrained=kept(TWENTY)),
        CHECK,
        f"{SO_FAR}. A verdict needs 20 subsets: all of its retrainings are there, so it takes a moment.",
    ),
    "few subsets that agree, and smooth": (
        known(EIGHT, smoothness=0.99),
        GOOD,
        f"{SO_FAR}; its training is as smooth (smoothness 0.99, early changes grow × 1.72 at most) as those whose "
        "scores agreed with retraining. A verdict needs 20 subsets: 12 more, each about as long as the training.",
    ),
    "few subsets that disagree with smoothness": (
        known(report(8, 0.3), smoothness=0.99),
        CHECK,
        "Validated with 8 subsets, each without 1 % of the images: LDS 0.30 (0.25 to 0.35); its training is as smooth "
        "(smoothness 0.99, early changes grow × 1.72 at most) as those whose scores agreed with retraining. A verdict "
        "needs 20 subsets: 12 more, each about as long as the training.",
    ),
    "few subsets, of which a target did not vary": (
        known(report(8, 0.94, half=None, vary=1)),
        CHECK,
        "Validated with 8 subsets, each without 1 % of the images: LDS 0.94 (no interval), of the 1 of 2 targets that "
        "vary. A verdict needs 20 subsets: 12 more, each about as long as the training.",
    ),
    "few subsets, nothing varied": (
        known(report(8, None)),
        CHECK,
        "Validated with 8 subsets, each without 1 % of the images: no target changed in a way that could be ranked, so "
        "that there is no LDS. A verdict needs 20 subsets: 12 more, each about as long as the training.",
    ),
    "enough subsets": (known(TWENTY), GOOD, MEASURED_20),
    "enough subsets, chaotic all the same": (known(TWENTY, smoothness=-0.2, growth=100.0), GOOD, MEASURED_20),
    "enough subsets, middling": (
        known(report(20, 0.7)),
        CHECK,
        "Validated with 20 subsets, each without 1 % of the images: LDS 0.70 (0.65 to 0.75).",
    ),
    "enough subsets, poor": (
        known(report(20, -0.1), smoothness=0.99),
        POOR,
        "Validated with 20 subsets, each without 1 % of the images: LDS −0.10 (−0.15 to −0.05).",
    ),
    "enough subsets, nothing varied": (
        known(report(20, None), smoothness=0.99),
        CHECK,
        "Validated with 20 subsets, each without 1 % of the images: no target changed in a way that could be ranked, "
        "so that there is no LDS; its training is as smooth (smoothness 0.99, early changes grow × 1.72 at most) as "
        "those whose scores agreed with retraining. Subsets of 5 % may say more: 20 retrainings, each "
        "about as long as the training.",
    ),
    "enough of the largest subsets, nothing varied": (
        known(report(20, None, drop=0.1)),
        CHECK,
        "Validated with 20 subsets, each without 10 % of the images: no target changed in a way that could be ranked, "
        "so that there is no LDS.",
    ),
    "two drops, both enough": (known(TWENTY, report(50, 0.4, drop=0.1)), GOOD, MEASURED_20),
    "two drops, the smaller with too few": (
        known(EIGHT, report(32, 0.7, drop=0.1), seconds=8.0),
        CHECK,
        "Validated with 32 subsets, each without 10 % of the images: LDS 0.70 (0.65 to 0.75). Without 1 % of them "
        "there are 8 of 20 subsets so far: 12 more take about 96 s.",
    ),
    "two drops, the larger with too few": (known(TWENTY, report(8, 0.4, drop=0.1)), GOOD, MEASURED_20),
    "two drops, both too few": (
        known(report(5, 0.5), report(19, 0.9, drop=0.1)),
        CHECK,
        "Validated with 5 subsets, each without 1 % of the images: LDS 0.50 (0.45 to 0.55). A verdict needs 20 "
        "subsets: 15 more, each about as long as the training.",
    ),
    "two seeds, too few of each": (
        known(report(8, 0.5), report(12, 0.9, seed=3)),
        CHECK,
        "Validated with 12 subsets, each without 1 % of the images: LDS 0.90 (0.85 to 0.95). A verdict needs 20 "
        "subsets: 8 more, each about as long as the training.",
    ),
    "targets explained since": (
        known(TWENTY, targets=LOSS | {"test:9.loss", "test:9.margin"}, seconds=8.0),
        GOOD,
        f"{MEASURED_20[:-1]}. One target was explained since. Validated again, it takes them in: all of its "
        "retrainings are there, so it takes a moment.",
    ),
    "only uploaded targets": (
        known(targets=frozenset()),
        CHECK,
        "Neither validated, nor is its smoothness measured. A validation asks about images of the data set; all "
        "targets are uploaded ones.",
    ),
    "a damaged file alone": (
        known(damage=DAMAGE, retrained=kept(EIGHT), seconds=8.0),
        CHECK,
        "Neither validated, nor is its smoothness measured. One file of its validation is damaged, and does not count. "
        "A verdict needs 20 subsets: 12 more take about 96 s.",
    ),
    "damaged files beside a sound one": (
        known(TWENTY, damage=DAMAGE * 2),
        GOOD,
        f"{MEASURED_20} 2 files of its validation are damaged, and do not count.",
    ),
    "hardly any images": (
        known(images=4),
        CHECK,
        "Neither validated, nor is its smoothness measured. There are too few training images to leave out a share of "
        "them.",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_one_sentence_of_what_is_known(case):
    facts, level, said = SENTENCES[case]
    assert sentence(facts) == (level, said)


def test_every_combination_has_one_sentence_that_is_true():
    """What the sentence may say is looked up in the facts, one by one."""
    choices = [None, *(report(m, v, drop=d) for m in (8, 20) for v in (0.95, 0.3, None) for d in (0.01, 0.05))]
    for first, second, smooth, growth, damage, targets in itertools.product(
        choices, choices, (None, 0.99, 0.1), (None, 1.5, 99.0), ((), DAMAGE), (LOSS, frozenset())
    ):
        reports = [r for r in (first, second) if r is not None]
        facts = known(*reports, smoothness=smooth, growth=growth, damage=damage, targets=targets, seconds=2.0)
        verdict = trust.judge(facts)
        level, said = sentence(facts)
        assert said.endswith(".") and ".." not in said and "None" not in said and "nan" not in said
        assert said.count("Validated with") + said.count("Not validated") + said.count("Neither validated") == 1
        decisive = [r for r in reports if r["subsets"] >= DECISIVE and r["lds_mean"] is not None]
        assert (verdict.lds is not None) == bool(decisive)
        if decisive:
            assert verdict.lds in [r["lds_mean"] for r in decisive if r["drop"] == min(d["drop"] for d in decisive)]
            assert level == (GOOD if verdict.lds == 0.95 else POOR)
        elif smooth == 0.1 or growth == 99.0:
            assert level == POOR and "chaotic" in said
        elif level == GOOD:  # nothing that was measured speaks against it
            assert (
                smooth == 0.99 and growth == 1.5 and all(r["lds_mean"] == 0.95 for r in reports if r is verdict.report)
            )
        for subsets, percent in re.findall(r"Validated with (\d+) subsets, each without (\d+) %", said):
            assert any(r["subsets"] == int(subsets) and r["drop"] == int(percent) / 100 for r in reports)
        assert ("damaged" in said) == bool(damage)
        step = verdict.step
        assert not (step is None and targets and not reports), "where nothing is known there is something to do"
        if step is not None:
            there = {lds.key(step.drop, step.seed, m) for m in range(step.subsets)} & facts.retrained
            assert targets and step.subsets >= DECISIVE and step.missing == step.subsets - len(there)
            assert step.seconds == 2 * step.missing


def test_a_validation_that_is_proposed_can_be_done():
    for images in (6000, 120, 60, 30, 12, 6):
        step = trust.judge(known(images=images)).step
        assert step is not None
        trust.check_plan(step.subsets, (step.drop,), step.seed, images)
    assert trust.judge(known(images=60)).step.drop == 0.01 and trust.judge(known(images=40)).step.drop == 0.05


def test_the_number_of_subsets_stands_in_one_place():
    assert FEWEST < DECISIVE <= trust.PROPOSED < trust.NARROW < trust.MOST
    document = " ".join(Path("docs/trust.md").read_text().split())
    assert f"Once {DECISIVE} or more subsets have been retrained" in document
    assert f"at least {FEWEST} subsets" in document and f"{trust.NARROW} give a useful interval" in document
    assert f"above a growth of {CHAOTIC_GROWTH:g}" in document
    assert f"A verdict needs {DECISIVE} subsets" in TERMS["validation"].more
    for path in ("pages/Trust.py", "engine/arguments.py", "engine/analysis/lds.py", "engine/jobs/validation.py"):
        literal = re.findall(
            rf"\b({FEWEST}|{DECISIVE}|{trust.PROPOSED}|{trust.NARROW}) subsets", Path(path).read_text()
        )
        assert not literal, path


def test_a_steps_sentence_counts_in_singular_and_plural():
    assert Step("More", 20, 0.01, 0, 1, 5.0).in_words("5 s") == "More: 1 more takes about 5 s."
    assert Step("More", 2000, 0.01, 0, 1200, 5.0).in_words("1 h") == "More: 1,200 more take about 1 h."


# -- the page


N = 6000


@pytest.fixture
def submitted(monkeypatch) -> list:
    """What the pages ask the queue for, which does nothing here."""
    asked = []
    monkeypatch.setattr(JobQueue, "submit", lambda self, *given: asked.append(given))
    return asked


@pytest.fixture
def scored(root) -> Run:
    scores = np.random.default_rng(0).normal(size=(2, N))
    return run_of(root, "one", {("test:0", "class:2"): ("loss", scores)})


def write(run: Run, written: dict) -> str:
    """A validation of that run with these figures, as the job writes it; its name."""
    rng = np.random.default_rng(1)
    changes = rng.normal(size=(2, written["subsets"])).tolist()
    figures = dict.fromkeys(("slope", "r2", "noise_share", "low", "high"), 0.5)
    targets = [
        {**figures, "key": ref.key, "name": ref.name, "title": ref.name, "lds": written["lds_mean"]}
        | dict(zip(trust.CHANGES, changes, strict=True))
        for ref in run.scores().targets()
    ]
    whole = {"unit": "nats", "left_out": 60, "repeats": 1, "device_name": None}
    means = dict.fromkeys(("slope_mean", "r2_mean", "noise_share"), 0.5)
    name = f"lds-loss-{written['drop']:g}-{written['seed']}"
    content = {**written, **whole, **means, "targets": targets, "training_digest": "made up"}
    run.add_files({f"validation/{name}.json": files.write_json(run.path / "validation" / f"{name}.json", content)})
    folder = run.path / "validation" / "retrained"
    folder.mkdir(exist_ok=True)
    for m in range(written["subsets"]):
        (folder / f"{lds.key(written['drop'], written['seed'], m)}.safetensors").touch()
    return name


@pytest.mark.slow
def test_the_page_says_what_is_known_and_its_button_adds_what_is_missing(scored, submitted):
    write(scored, EIGHT)
    scored.update_manifest(timings={"train_seconds": 60.0, "retrain_seconds": 100.0, "retrainings": 12})
    app = show("pages/Trust.py", run=scored.id)
    top = app.warning[0].value.replace("\\", "")
    assert "LDS 0.94 (0.88 to 1.00). A verdict needs 20 subsets: 12 more take about 1 min 40 s." in top
    assert {m.label: m.value for m in app.metric}["Agreement with retraining (LDS)"] == "0.94"
    sound(button(app, "Add 12 retrainings").click().run())
    ((run_id, job, *_),) = submitted
    assert (run_id, job) == (scored.id, Validate(20, (0.01,), 0))


@pytest.mark.slow
def test_the_link_says_validation_and_target_and_back_restores_them(scored):
    write(scored, TWENTY)
    other = write(scored, report(8, 0.5, drop=0.05))
    app = show("pages/Trust.py", run=scored.id, validation=other, target="class:2.loss")
    shown = {"run": scored.id, "validation": other, "target": "class:2.loss"}
    assert app.query_params == shown
    assert next(m.value for m in app.metric if m.label == "LDS, mean") == "0.500"
    app.query_params.pop("validation")  # as the browser's «back» does
    app.query_params["target"] = "test:0.loss"
    sound(app.run())
    assert app.query_params == {"run": scored.id, "target": "test:0.loss"}
    assert next(m.value for m in app.metric if m.label == "LDS, mean") == "0.940"
    assert "validation «gone»" in said(show("pages/Trust.py", run=scored.id, validation="gone"))


# -- two runs


def summed(rank: float | None, linear: float = 0.58, overlap: float = 0.43, identical: bool = False) -> compare.Summed:
    return compare.Summed(8, rank, linear, overlap, identical)


SEED, WIDTH = ("recipe.seed", 0, 1), ("width", 1.0, 2.0)
FIGURES = (
    "The order of the scores agrees with a rank correlation of {} (median of 8 targets), their sizes with a linear "
    "correlation of 0.58, and 43 % of the 50 strongest images are the same (by chance 0, 0 and 0.8 %). "
)
SEEDS = "0.17 to 0.20 between seeds of the sample, for single test images"


@pytest.mark.parametrize(
    "differ, found, said",
    [
        ([], summed(1.0, 1.0, 1.0, True), "Identical: every score is the same, bit for bit."),
        (
            [("recipe.beta1", 0.9, 0.8)],
            summed(1.0, 1.0, 1.0, True),
            "Identical: every score is the same, bit for bit. The settings that differ play no part in this training.",
        ),
        (
            [],
            summed(0.99998),
            "Recipe, seed and data are the same, and the scores are so to rounding only: another kind of device, or "
            "another number of threads, sums in another order. Rank correlation 1.0000.",
        ),
        (
            [SEED],
            summed(0.18),
            f"{FIGURES.format('0.18')}This is expected of trainings that differ in their seed alone: it was {SEEDS}.",
        ),
        (
            [SEED],
            summed(0.02),
            f"{FIGURES.format('0.02')}That is less than was measured ({SEEDS}): look at the smoothness of both on "
            "Trust.",
        ),
        (
            [SEED],
            summed(0.5),
            f"{FIGURES.format('0.50')}Trainings that differ in their seed alone need not agree so well: it was "
            f"{SEEDS}.",
        ),
        (
            [SEED, WIDTH],
            summed(0.18),
            f"{FIGURES.format('0.18')}Trainings that differ in their seed alone agree no better: it was {SEEDS}.",
        ),
        (
            [WIDTH],
            summed(-0.05),
            f"{FIGURES.format('−0.05')}Trainings that differ in their seed alone agree better ({SEEDS}): the recipes "
            "matter, too.",
        ),
        (
            [WIDTH],
            summed(None),
            "The scores of one of the runs are all the same, so that there is no order to compare.",
        ),
    ],
)
def test_what_the_agreement_of_two_runs_means(differ, found, said):
    assert compare.meaning(differ, found, 6000) == said


def test_what_is_expected_between_seeds_is_what_was_measured():
    """The constants are those of the table in docs/trust.md, which `make seeds` prints."""
    document = Path("docs/trust.md").read_text()
    rows = [
        tuple(float(cell) for cell in row)
        for row in re.findall(
            r"^\| seed . and seed . \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| ([\d.]+) \| (\d+) %", document, re.MULTILINE
        )
    ]
    assert len(rows) == 6
    ranks, lows, highs, linear, top = zip(*rows, strict=True)
    assert compare.SEEDS_RANK == (min(ranks), max(ranks)) and compare.ONE_TARGET == (min(lows), max(highs))
    assert compare.SEEDS_LINEAR == (min(linear), max(linear))
    assert compare.SEEDS_TOP == (min(top) / 100, max(top) / 100)
    means = re.findall(r"^\| the mean of ., . and the mean of ., . \| ([\d.]+) .*?\| ([\d.]+) ", document, re.MULTILINE)
    assert (compare.MEANS_RANK, compare.MEANS_LINEAR) == tuple(
        float(np.median([float(each) for each in column])) for column in zip(*means, strict=True)
    )


def test_the_sample_and_the_noisy_sample_share_their_images():
    clean, noisy = (datasets.load(name) for name in ("fashion-mnist-sample", "fashion-mnist-sample-noisy"))
    shared = compare.shared_images(clean, noisy)
    assert shared.indices is not None and len(shared) == 6000 and shared.tests.all()
    assert shared.relabelled.tolist() == np.flatnonzero(noisy.train_labels != clean.train_labels).tolist()
    assert len(compare.shared_images(clean, clean)) == 6000 and compare.shared_images(clean, clean).indices is None


def test_only_the_same_pixels_under_the_same_number_are_shared(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 2, 3, 1), np.uint8), np.arange(20) % 2
    a = Dataset("a", "", "", ("x", "y"), images, labels, images[:6], labels[:6])
    other = images[:15].copy()
    other[4, 0, 0, 0] ^= 1
    other[[7, 8]] = other[[8, 7]]
    b = replace(
        a, name="b", train_images=other, train_labels=1 - labels[:15], test_images=other[:5], test_labels=labels[:5]
    )
    for piece in (1, 13, 1 << 20):  # bytes looked at together, some of which end inside an image
        monkeypatch.setattr(compare, "PIECE", piece)
        shared = compare.shared_images(a, b)
        assert shared.indices.tolist() == [0, 1, 2, 3, 5, 6, 9, 10, 11, 12, 13, 14] == shared.relabelled.tolist()
        assert shared.tests.tolist() == [True, True, True, True, False] and shared.of == (20, 15)
    for difference, why in (
        ({"classes": ("x", "z")}, "other classes"),
        ({"train_images": other[:, :1]}, "other sizes"),
        ({"train_images": 255 - images[:15]}, "no two of the same number"),
    ):
        with pytest.raises(ConfigError, match=why):
            compare.shared_images(a, replace(b, **difference))


def test_runs_of_different_data_have_targets_in_common_where_both_ask_the_same(tmp_path):
    names = ("test:0", "test:all", "train:3", "train:5")
    noisy = datasets.load("fashion-mnist-sample-noisy")
    clean = datasets.load("fashion-mnist-sample")
    wrong = int(np.flatnonzero(noisy.train_labels != clean.train_labels)[0])
    names += (f"train:{wrong}",)
    scores = np.random.default_rng(0).normal(size=(2, len(names), N)).astype(np.float32)
    a = run_of(tmp_path, "a", {names: ("loss", scores[0])})
    b = run_of(tmp_path, "b", {names: ("loss", scores[1])}, SAMPLE.replace(dataset=noisy.name))
    shared = compare.shared_images(clean, noisy)
    keys = [both.target.key for both in compare.common(a.manifest(), b.manifest(), shared)]
    assert keys == [f"{name}.loss" for name in names[:-1]], "the last has another label in b"
    some = replace(shared, indices=np.array([2, 3, 9]), tests=np.arange(2000) != 7)
    first, *rest = compare.common(a.manifest(), b.manifest(), some)
    assert first.target.name == "test:0" and [both.target.name for both in rest] == ["train:3"]  # test:all holds 7
    assert first.a_N.tolist() == scores[0][0, [2, 3, 9]].tolist() and first.numbers([2, 0]).tolist() == [9, 2]
    assert [first.place_of(image) for image in (0, 2, 3, 4, 9, 10)] == [None, 0, 1, None, 2, None]


def test_linear_correlation_sees_what_ranks_do_not():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 5000)) * 1e-3
    strong = rng.normal(size=20)
    a[:20], b[:20] = strong, strong * 1.1
    found = compare.agreement(a, b)
    assert abs(found.spearman) < 0.1 and found.pearson > 0.99 and not found.identical
    assert found.pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert compare.agreement(a, a.copy()).identical and np.isnan(compare.agreement(a, np.ones(5000)).pearson)


@pytest.fixture
def pair(root) -> tuple[Run, Run]:
    """Two runs that differ in their seed, the first with few subsets; and a twin of the second."""
    scores = np.random.default_rng(0).normal(size=(4, N)).astype(np.float32)
    one = run_of(root, "one", {("test:0", "class:2"): ("loss", scores[:2])})
    settings = SAMPLE.replace(**{"recipe.seed": 1})
    mixed = (0.5 * scores[:2] + scores[2:]).astype(np.float32)
    two, _ = (run_of(root, name, {("test:0", "class:2"): ("loss", mixed)}, settings) for name in ("two", "twin"))
    return one, two


@pytest.mark.slow
def test_identical_runs_are_called_so_and_show_no_image_that_moved(pair):
    app = show("pages/Compare_runs.py", run="two", other="twin")
    assert "Identical: every score is the same" in said(app) and not tiles(app, "moved")
    assert "**What differs, A and B:** nothing." in [m.value for m in app.markdown]
    app = show("pages/Compare_runs.py", run="one", other="two")
    assert "differ in their seed alone" in said(app) and len(tiles(app, "moved")) == 24
    assert "**What differs, A and B:** Seed 0 and 1." in [m.value for m in app.markdown]


@pytest.mark.slow
def test_a_run_of_other_labels_is_compared_and_says_the_label_there(pair, root):
    wrong = np.flatnonzero(
        datasets.load("fashion-mnist-sample-noisy").train_labels != datasets.load("fashion-mnist-sample").train_labels
    )
    scores = np.zeros((1, N), np.float32)
    scores[0, wrong[0]] = 9
    run_of(root, "noisy", {("test:0",): ("loss", scores)}, SAMPLE.replace(dataset="fashion-mnist-sample-noisy"))
    app = show("pages/Compare_runs.py", run="one", other="noisy", image=str(wrong[0]))
    assert "of which 300 have another label" in "".join(c.value for c in app.caption)
    (tile,) = tiles(app, "point")
    noisy = datasets.load("fashion-mnist-sample-noisy")
    assert tile["index"] == wrong[0] and tile["lines"][-1] == f"in B: {noisy.classes[noisy.train_labels[wrong[0]]]}"


def test_points_lead_on_and_back_and_axe_finds_nothing_serious(pair, root, page):
    write(pair[0], EIGHT)
    with server(root, page) as (url, _):
        page.goto(f"{url}/Compare_runs?run=one&other=two")
        settled(page, "Compare runs")
        idle(page)
        points = page.locator(".js-plotly-plot .scatterlayer .point")
        expect(points.nth(2000)).to_be_attached()
        at_rest(page)
        drawn = compare.drawn(*(run.scores().matrix("loss-000")[0] for run in pair))
        strongest = int(np.abs(pair[0].scores().matrix("loss-000")[0][drawn]).argmax())
        page.mouse.move(0, 0)
        points.nth(strongest).scroll_into_view_if_needed()
        points.nth(strongest).click(force=True)
        expect(page.locator(f".st-key-gallery-point li[data-index='{drawn[strongest]}']")).to_be_visible()
        expect(page).to_have_url(re.compile(f"image={drawn[strongest]}"))
        serious = violations(page, "light") + violations(page, "dark")
        page.go_back()
        expect(page.get_by_text("Click a point to see its image here")).to_be_visible()

        turn(page, f"{url}/Trust?run=one&target=class:2.loss")
        settled(page, "Trust")
        expect(page.get_by_role("button", name="Add 12 retrainings")).to_be_visible()
        idle(page)
        serious += violations(page, "dark") + violations(page, "light")
        assert not serious, "\n\n".join(serious)
