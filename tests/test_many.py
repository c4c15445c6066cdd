"""Many runs in a table without their scores, groups of seeds, filters; and lists that overlap, against chance."""

import csv
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from engine import files
from engine.__main__ import main
from engine.analysis import compare, many, overlap, trust, wording
from engine.analysis.many import Entry, Filter, Group
from engine.config import preset
from engine.datasets import registry as datasets
from engine.errors import ConfigError
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run, summaries
from engine.runs.scores import TargetRef
from tests.made_up import SAMPLE, run_of

N = 6000


def over(*rows: np.ndarray, function: str = "loss") -> overlap.OverRuns:
    names = tuple(f"run-{s}" for s in range(len(rows)))
    return overlap.OverRuns(TargetRef("test:0", function, "set", 0), names, tuple(map(np.float32, rows)))


# -- lists and chance


def test_images_on_all_lists_on_most_and_on_one_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=400) * scale for scale in (1, 30, 0.01, 5)]  # runs whose scores have other sizes
    for place, row in enumerate(rows):
        row[[3, 7]] *= 0
        row[3], row[10 + place] = -90 * np.abs(row).max(), 80 * np.abs(row).max()
    for side, sign in (("helpful", -1), ("harmful", 1)):
        found = overlap.overlap(over(*rows), side, 25)
        by_hand = [set(sorted(range(400), key=lambda i, row=row: -sign * row[i])[:25]) for row in rows]
        counts = [sum(i in listed for listed in by_hand) for i in range(400)]
        assert found.counts_N.tolist() == counts and found.sizes == (25,) * 4
        for band, wanted in (("all", {4}), ("most", {3}), ("some", {2}), ("one", {1})):
            images = found.images(band).tolist()
            assert sorted(images) == [i for i in range(400) if counts[i] in wanted], band
            assert len(images) == len({*images})
        assert all(image in by_hand[found.only_on(image)] for image in found.images("one").tolist())
    assert overlap.overlap(over(*rows), "helpful", 25).images("all")[0] == 3
    assert sorted(overlap.overlap(over(*rows), "harmful", 25).images("one")[:4].tolist()) == [10, 11, 12, 13]
    margins = overlap.overlap(over(*rows, function="margin"), "harmful", 25)  # a margin is to be high
    assert (margins.on_SN == overlap.overlap(over(*rows), "helpful", 25).on_SN).all()


def test_a_list_is_shorter_where_fewer_images_have_an_effect_on_its_side():
    rows = np.zeros((2, 50))
    rows[0, :4], rows[1, 2:9] = -1, -1
    found = overlap.overlap(over(*rows), "helpful", 25)
    assert found.sizes == (4, 7) and sorted(found.images("all").tolist()) == [2, 3]
    assert found.expected("all") == pytest.approx(4 * 7 / 50)
    nothing = overlap.overlap(over(*rows), "harmful", 25)
    assert nothing.sizes == (0, 0) and not len(nothing.images("all")) and nothing.expected("one") == 0
    assert nothing.chance == 1.0


@pytest.mark.parametrize(
    "s, most, some", [(2, [], []), (3, [2], []), (4, [3], [2]), (5, [3, 4], [2]), (7, [4, 5, 6], [2, 3])]
)
def test_bands_share_out_every_count_once(s, most, some):
    found = overlap.overlap(over(*np.random.default_rng(1).normal(size=(s, 30))), "helpful", 5)
    assert [list(found.counts(band)) for band in overlap.BANDS] == [[s], most, some, [1]]
    assert sum(found.expected(band) for band in overlap.BANDS) == pytest.approx(
        30 - overlap.by_chance(30, found.sizes)[0]
    )


def test_chance_is_what_exact_counting_and_random_lists_give():
    """Of all pairs and triples of lists of few images, every one is counted; of many, lists are drawn."""
    for n, sizes in ((6, (2, 3)), (5, (2, 2, 3))):
        lists = itertools.product(*(list(itertools.combinations(range(n), size)) for size in sizes))
        counts, in_all = np.zeros(len(sizes) + 1), []
        for some in lists:
            on = [sum(image in listed for listed in some) for image in range(n)]
            counts += np.bincount(on, minlength=len(sizes) + 1)
            in_all.append(on.count(len(sizes)))
        assert overlap.by_chance(n, sizes).tolist() == pytest.approx((counts / len(in_all)).tolist())
        for least in range(4):
            exact = Fraction(sum(count >= least for count in in_all), len(in_all))
            assert overlap.chance_of_all(n, sizes, least) == pytest.approx(float(exact))
    rng, n, sizes, draws = np.random.default_rng(2), 80, (20, 25, 15), 4000
    on = sum((rng.random((draws, n)).argsort(1) < size).astype(int) for size in sizes)
    expected = overlap.by_chance(n, sizes)
    for count in range(4):
        per_draw = (on == count).sum(1)
        assert abs(per_draw.mean() - expected[count]) < 4 * per_draw.std() / math.sqrt(draws)
    share = ((on == 3).sum(1) >= 2).mean()
    assert abs(share - overlap.chance_of_all(n, sizes, 2)) < 4 * math.sqrt(share * (1 - share) / draws)


def test_chance_of_two_long_lists_is_the_hypergeometric_tail_of_integers():
    n, k, least = 60_000, 50, 2
    exact = 1 - sum(Fraction(math.comb(k, j) * math.comb(n - k, k - j), math.comb(n, k)) for j in range(least))
    assert overlap.chance_of_all(n, (k, k), least) == pytest.approx(float(exact), rel=1e-6)
    assert overlap.chance_of_all(10, (10, 10), 10) == pytest.approx(1)  # every image is on every list
    assert overlap._hypergeometric(10, 8, 9).tolist() == pytest.approx([0] * 7 + [0.8, 0.2])  # 7 at least must be met


# -- groups, filters, words


def made(seed: int, name: str = "", **changes) -> Entry:
    """As `many.entry` makes it, of a configuration alone."""
    config = SAMPLE.replace(**{"recipe.seed": seed, **changes})
    record = Manifest("run", "finished")
    record.__dict__["config"] = config
    return Entry(
        name or f"s{seed}",
        "finished",
        dataset=config.dataset,
        fingerprint=f"of {config.dataset}",
        settings=compare.settings(record),
        accuracy=0.8 + seed / 100,
        scored=True,
        level=trust.LEVELS[seed % 3],
    )


def test_seeds_fold_into_one_group_and_nothing_else_does():
    runs = [
        made(2),
        made(0, "wide", width=2.0),
        made(0),
        made(0, "other-data", dataset="fashion-mnist-sample-noisy"),
        made(0, "twin"),
        replace(made(3), model_sources=(("net.py", "a" * 64),)),
        Entry("broken", "damaged", "It has changed."),
        Entry("gone", "damaged", "It has changed."),
        made(1),
    ]
    groups = [[member.id for member in group.members] for group in many.grouped(runs)]
    assert groups == [["s0", "s1", "s2"], ["wide"], ["other-data"], ["twin"], ["s3"], ["broken"], ["gone"]]
    group = many.grouped(runs)[0]
    assert group.mean("accuracy") == pytest.approx(0.81) and group.spread("accuracy") == pytest.approx(0.01)
    assert group.mean("lds") is None and group.spread("lds") is None and group.total("bytes") is None
    assert Group((runs[0],)).spread("accuracy") is None
    own = [replace(made(0, "late"), group=""), replace(made(0, "member"), group="g"), replace(made(1), group="g")]
    assert [[m.id for m in g.members] for g in many.grouped([own[2], own[0], own[1]])] == [["member", "s1"], ["late"]]


def test_what_differs_has_columns_and_what_is_equal_is_said_once():
    runs = [made(0), made(1, **{"recipe.epochs": 9}), made(2, width=2.0), Entry("broken", "damaged", "Why.")]
    assert many.differing(runs) == ["recipe.epochs", "width"] and many.differing([]) == []
    equal = many.equal(runs)
    assert "recipe.seed" not in equal and "recipe.epochs" not in equal and equal["recipe.batch_size"] == 500
    assert "epochs" not in many.in_words(equal) and "batches of 500" in many.in_words(equal)
    assert many.equal([runs[3]]) == {} and many.in_words({}) == ""
    table = many.table(runs)
    assert table["recipe.epochs"].tolist()[:3] == ["2", "9", "2"] and table["remark"][3] == "Why."
    assert len(many.table([])) == 0


def test_a_recipe_in_words_says_what_is_not_as_it_always_was():
    assert many.in_words({"recipe.epochs": 1, "recipe.batch_size": 1000}) == "1 epoch, batches of 1,000"
    assert [wording.count(1, words) for words in ("entries", "other classes", "runs")] == [
        "1 entry",
        "1 other class",
        "1 run",
    ]
    record = Manifest("run", "finished")
    record.__dict__["config"] = preset("resnet9-window")
    words = many.in_words(compare.settings(record))
    assert words.startswith("resnet9, width 0.5, sgd, 14 epochs, batches of 500, one-cycle, rate 0.06")
    assert "augment flip+crop:1" in words.replace(",", "+") and "tf32" in words and "beta1" not in words


def test_runs_are_chosen_by_filter():
    runs = [made(0), made(1, "second", **{"recipe.epochs": 9}), made(4, dataset="fashion-mnist-sample-noisy")]
    runs.append(Entry("broken", "damaged", "Why."))

    def kept(**asked) -> list[str]:
        return [run.id for run in runs if Filter(**asked).keeps(run)]

    assert kept() == ["s0", "second", "s4", "broken"]
    assert kept(text='"9 EPOCHS"') == ["second"] and kept(text='"seed 4" noisy') == ["s4"] and kept(text="nobody") == []
    assert kept(text='"seed"') == ["s0", "second", "s4"] and kept(text='"epoch"') == [] and kept(text='""') == kept()
    assert kept(data=frozenset({runs[0].data})) == ["s0", "second"]
    assert kept(levels=frozenset({trust.LEVELS[1]})) == ["second", "s4"]
    assert kept(statuses=frozenset({"damaged"})) == ["broken"] and kept(accuracy=0.81) == ["second", "s4"]
    assert kept(models=frozenset({"small-cnn"}), ids=frozenset({"s4", "broken"})) == ["s4"]


# -- from the disk


def scores_of(seed: int, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, N)).astype(np.float32)


def three(root) -> list[Run]:
    """Seeds 0, 1 and 2; image 7 helps test:0 in all."""
    runs = []
    for seed in range(3):
        scores = scores_of(seed)
        scores[0, 7] = -20
        settings = SAMPLE.replace(**{"recipe.seed": seed})
        runs.append(run_of(root, f"seed-{seed}", {("test:0", "class:2"): ("loss", scores)}, settings))
    return runs


@pytest.mark.slow
def test_the_table_opens_no_scores_and_reads_nothing_twice(root, monkeypatch):
    runs = three(root)
    notes.write_name(runs[1], "Second")
    report = {
        **{name: 0.5 for name in ("lds_mean_low", "slope_mean", "r2_mean", "noise_share")},
        "function": "loss",
        "unit": "nats",
        "left_out": 60,
        "subsets": 20,
        "seed": 0,
        "repeats": 0,
        "drop": 0.01,
        "lds_mean": 0.75,
        "lds_mean_high": 0.875,
        "device_name": None,
        "targets": [],
        "training_digest": "made up",
    }
    name = "validation/lds-loss-0.01-0.json"
    checksum = files.write_json(runs[0].path / name, report)
    runs[0].update_manifest(files={**runs[0].manifest().files, name: checksum}, sizes={"scores": 5, "logs": 7})
    opened, read = [], files.read_json

    def watched(path, *args, **kwargs):
        opened.append(path)
        return read(path, *args, **kwargs)

    def never(path, *args, **kwargs):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(files, "read_npy", never)
    monkeypatch.setattr(files, "read_json", watched)
    last, second, first = many.entries(root, summaries(root))
    assert (first.lds, first.low, first.high, first.bytes) == (0.75, 0.5, 0.875, 12) and first.targets == 2
    assert first.level == trust.LEVELS[1] and second.name == "Second" and last.lds is None and last.seed == 2
    assert sum(path.name == "lds-loss-0.01-0.json" for path in opened) == 1
    before = [path for path in opened if path.name not in ("manifest.json", "notes.json")]
    assert many.entries(root, summaries(root))[2] == first
    assert [path for path in opened if path.name not in ("manifest.json", "notes.json")] == before
    files.write_json(runs[0].path / name, {**report, "lds_mean": 0.25})  # another content, under the old checksum
    assert many.entries(root, summaries(root))[2] == first  # known by what the manifest says
    checksum = files.write_json(runs[0].path / name, {**report, "lds_mean": 0.25})
    runs[0].update_manifest(files={**runs[0].manifest().files, name: checksum})
    assert many.entries(root, summaries(root))[2].lds == 0.25


@pytest.mark.slow
def test_what_cannot_be_read_says_why_in_its_row_and_stops_no_other(root):
    runs = three(root)
    (runs[0].path / "config.json").write_text("{}")
    (runs[1].path / "manifest.json").write_text("{}")
    (runs[2].path / "scores" / "loss-000.json").unlink()
    listed = summaries(root)
    new = Run.create(root, SAMPLE, "waiting")  # after the list was made
    found = {entry.id: entry for entry in many.entries(root, [*listed, *summaries(root)[:1]])}
    assert "config.json" in found["seed-0"].remark and not found["seed-0"].settings
    assert found["seed-1"].status == "damaged" and "manifest.json" in found["seed-1"].remark
    assert "loss-000.json" in found["seed-2"].remark and found["seed-2"].accuracy == 0.8
    waiting = found[new.id]
    assert waiting.status == "interrupted" and not waiting.remark and waiting.level is None and not waiting.scored
    assert len(many.grouped(list(found.values()))) == 4
    new.storage().delete()
    assert "no run waiting" in many.entries(root, [replace(listed[0], id="waiting", remark="")])[0].remark


@pytest.mark.slow
def test_lists_are_held_against_each_other_on_the_same_data_alone(root):
    runs = three(root)
    noisy = SAMPLE.replace(dataset="fashion-mnist-sample-noisy")
    other = run_of(root, "noisy", {("test:0",): ("loss", scores_of(5, 1))}, noisy)
    apart = run_of(root, "apart", {("test:9",): ("loss", scores_of(6, 1))})
    first, _ = overlap.over_runs([run.manifest() for run in (*runs, apart)])
    assert first.runs == ("seed-0", "seed-1", "seed-2") and overlap.overlap(first, "helpful", 12).images("all")[0] == 7
    assert overlap.over_runs([runs[0].manifest(), apart.manifest()]) == []
    with pytest.raises(ConfigError, match="other data"):
        overlap.over_runs([runs[0].manifest(), other.manifest()])
    with pytest.raises(ConfigError, match="two runs or more"):
        overlap.over_runs([runs[0].manifest()])


@pytest.mark.slow
def test_the_command_prints_and_writes_any_number_of_runs(root, tmp_path, capsys):
    assert main(["compare"]) == 2 and "None of the 0 runs" in capsys.readouterr().err
    runs = three(root)
    wide = run_of(root, "wide", {("test:0",): ("loss", scores_of(9, 1))}, SAMPLE.replace(width=2.0))
    assert main(["compare", "--csv", str(tmp_path / "runs.csv")]) == 0
    said = capsys.readouterr().out
    assert "the same in all 4 runs: fashion-mnist-sample; small-cnn" in said and "seed-0 and 2 more" in said
    assert len([line for line in said.splitlines() if "finished" in line]) == 2
    with (tmp_path / "runs.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"seed-0", "seed-1", "seed-2", "wide"} and rows["wide"]["width"] == "2"
    assert main(["compare", "--single", "--find", '"seed 1"', "wide", *(run.id for run in runs)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["seed-1"]
    target = ["--target", "test:0.loss", "--top", "12", "--images-csv", str(tmp_path / "images.csv")]
    assert main(["compare", *target]) == 0
    assert "of the 12 most helpful images of each of 4 runs:" in capsys.readouterr().out
    with (tmp_path / "images.csv").open() as file:
        images = {int(row["image"]): row for row in csv.DictReader(file)}
    assert len(images) == N and int(images[7]["on_helpful_lists"]) in (3, 4) and images[7]["of_runs"] == "4"
    assert float(images[7]["score_wide"]) == pytest.approx(float(wide.scores().matrix("loss-000")[0, 7]))
    assert main(["compare", "--target", "test:5.loss"]) == 2 and "there are 0" in capsys.readouterr().err
    assert main(["compare", "seed-0", "--target", "test:0.loss"]) == 2
    assert main(["compare", "nobody"]) == 3 and main(["compare", "--images-csv", "x.csv"]) == 2
    assert main(["compare", "--csv", str(tmp_path / "no" / "where.csv")]) == 2
    assert datasets.load(SAMPLE.dataset).train_labels.shape == (N,)
