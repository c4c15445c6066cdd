"""Images that are the same, or nearly: against oracles that look at every pair, as a job, and on the command line."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from engine.__main__ import main
from engine.analysis import duplicates as kept
from engine.core import near
from engine.core.near import Directions, Hashes
from engine.datasets import duplicates as exact
from engine.datasets import perceptual
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.errors import CancelledError, ConfigError, IntegrityError
from engine.jobs import execute as work
from engine.jobs.cancel import Cancel
from engine.jobs.duplicates import FindDuplicates
from engine.runs import run as runs
from tests.images import picture

CPU = torch.device("cpu")


# -- the perceptual hash


def hash_by_its_definition(image: np.ndarray) -> list[bool]:
    """pHash of uint8 [H, W, 3], each coefficient as the sum that it is."""
    pixels = np.asarray(Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    cosines = [[math.cos(math.pi * k * (2 * x + 1) / 64) for x in range(32)] for k in range(8)]
    low = [[4 * sum(row[y] * column[x] * pixels[y, x] for y in range(32) for x in range(32)) for column in cosines]
           for row in cosines]  # fmt: skip
    middle = float(np.median(low))
    return [value > middle for row in low for value in row]


def test_the_hash_is_what_its_definition_says():
    images = [np.asarray(picture(seed, size)) for seed, size in enumerate([(32, 32), (28, 28), (90, 70)])]
    for image in images:
        found = perceptual.bits(perceptual.coefficients(image[None]))
        assert found.shape == (1, 64) and found[0].tolist() == hash_by_its_definition(image)
    grey = images[0].mean(-1, keepdims=True).astype(np.uint8)
    assert (perceptual.coefficients(grey[None]) == perceptual.coefficients(np.repeat(grey, 3, -1)[None])).all()


def test_the_eight_turns_are_those_of_the_image():
    image = np.asarray(picture(3, (32, 32)))  # not scaled, so that turning and scaling change places exactly
    of_coefficients = perceptual.bits(perceptual.turned(perceptual.coefficients(image[None]))[:, 0])
    ways = [np.rot90(one, quarter) for one in (image, image[:, ::-1]) for quarter in range(4)]
    of_pixels = perceptual.bits(perceptual.coefficients(np.stack(ways)))
    assert {tuple(one) for one in of_coefficients.tolist()} == {tuple(one) for one in of_pixels.tolist()}
    assert len({tuple(one) for one in of_pixels.tolist()}) == 8
    assert of_coefficients[0].tolist() == of_pixels[0].tolist()
    assert len({exact.digest_of_turns(way) for way in ways}) == 1 and len({exact.digest(way) for way in ways}) == 8


def test_images_of_one_colour_have_no_hash():
    flat = np.full((2, 20, 20, 3), 7, np.uint8)
    flat[1, :, :, 1:] = 200, 30
    assert perceptual.is_flat(perceptual.coefficients(flat)).all()
    flat[0, 3, 4] = 99
    assert not perceptual.is_flat(perceptual.coefficients(flat))[0]


def test_the_hash_is_that_of_the_package_imagehash():
    """Installed beside, for this test alone: pip install ImageHash."""
    imagehash = pytest.importorskip("imagehash", reason="the package ImageHash is not installed")
    rng = np.random.default_rng(0)
    for size in ((28, 28), (32, 32), (64, 48), (200, 131)):
        for seed in range(20):
            waves = np.add.outer(np.sin(np.arange(size[1]) / rng.uniform(2, 20)), np.arange(size[0]) / size[0])
            image = np.asarray(picture(seed, size)) // 3 + (60 * (waves[..., None] + 1)).astype(np.uint8)
            theirs = imagehash.phash(Image.fromarray(image)).hash.ravel().tolist()
            assert perceptual.bits(perceptual.coefficients(image[None]))[0].tolist() == theirs


# -- pairs and groups, against all pairs at once


def oracle(similarity: np.ndarray, training: int, least: float):
    """Degrees, twins and groups from the whole matrix [U, U], by loops."""
    assert np.abs(similarity - least).min() > 1e-5, "no pair is so near the limit that rounding decides it"
    close = similarity >= least
    np.fill_diagonal(close, False)
    twins = {
        t: max((s for s in range(training) if close[t, s]), key=lambda s: (similarity[t, s], -s))
        for t in range(training, len(close))
        if close[t, :training].any()
    }
    free, groups = {u for u in range(len(close)) if close[u].any()}, {}
    for middle in sorted(free, key=lambda u: (u >= training, -close[u].sum(), u)):
        if middle in free:
            free.remove(middle)
            members = {u for u in free if close[middle, u]}
            free -= members
            if members:
                groups[middle] = members
    return close.sum(1), twins, groups


def check_all(similar: near.Similar, similarity: np.ndarray, training: int, least: float) -> None:
    degree, twins, groups = oracle(similarity, training, least)
    heard = []
    found = near.neighbours(similar, training, least, heard.append)
    assert heard == list(range(near.blocks(similar.n)))
    assert found.degree.tolist() == degree.tolist() and found.pairs == degree.sum() // 2 > 100
    assert dict(enumerate(found.twin.tolist())) == {u: twins.get(u, -1) for u in range(similar.n)}
    assert len(twins) > 20
    stars = near.stars(similar, found, least)
    assert {star.middle: set(star.members.tolist()) for star in stars} == groups
    assert max(map(len, groups.values())) > 2
    for star in stars:
        np.testing.assert_allclose(star.similarity, similarity[star.middle, star.members], atol=1e-5)
        assert (np.diff(star.similarity) <= 0).all()


def planted(n: int, width: int, noise: float) -> np.ndarray:
    """float32 [n, width]: some rows by themselves, some near others, some in chains."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, width)) * np.geomspace(3, 0.1, width) + 2
    for i in rng.permutation(n)[: n // 3]:
        rows[i] = rows[rng.integers(n)] + noise * rng.normal(size=width)
    return rows.astype(np.float32)


def cosines(rows: np.ndarray) -> np.ndarray:
    away = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return away @ away.T


@pytest.mark.slow
@pytest.mark.parametrize("width", [20, 150], ids=["all of the row is the sketch", "most pairs are told by a sketch"])
def test_2000_rows_are_grouped_as_all_their_pairs_say(width, monkeypatch):
    monkeypatch.setattr(near, "COLUMNS", 700)  # blocks that are no squares, and cut groups in two
    rows = planted(2000, width, 0.12)
    looked, units = [], Directions._units

    def counted(self, index):
        looked.append(len(index))
        return units(self, index)

    monkeypatch.setattr(Directions, "_units", counted)
    similar = Directions.of(lambda index: rows[index], len(rows), CPU)
    assert similar.whole == (width == 20)
    looked.clear()
    check_all(similar, cosines(rows), 1500, 0.95)
    assert sum(looked) < 2000 * 4, "few rows are looked at whole"


def test_where_nearly_all_pairs_are_near_the_answer_is_the_same(monkeypatch):
    """Where the sketch tells nothing a block is looked at whole, a piece at a time."""
    monkeypatch.setattr(near, "PIECE", 100 * 97)
    rows = planted(700, 100, 0.4) + np.linspace(0, 40, 700, dtype=np.float32)[:, None]
    similar = Directions.of(lambda index: rows[index], len(rows), CPU)
    similarity = cosines(rows)
    least = float(np.quantile(similarity, 0.6))
    least = next(each for each in np.arange(least, 1, 1e-4) if np.abs(similarity - each).min() > 1e-5)
    check_all(similar, similarity, 500, least)


@pytest.mark.slow
def test_2000_hashes_are_grouped_as_all_their_pairs_say():
    rng = np.random.default_rng(1)
    bits = rng.random((1, 2000, 64)) < 0.5
    for i in rng.permutation(2000)[:700]:
        bits[0, i] = bits[0, rng.integers(2000)] ^ (rng.random(64) < 0.04)
    none = np.zeros(2000, bool)
    none[[3, 1700]] = True
    signs = np.where(none[:, None], 0, np.where(bits[0], 1, -1)).astype(np.int64)
    check_all(Hashes.of(bits, none, CPU), signs @ signs.T / 64, 1500, 1 - 5.5 / 32)


def test_the_nearest_of_the_turns_decides():
    rng = np.random.default_rng(2)
    bits = rng.random((3, 400, 64)) < 0.5
    for i in range(200):
        bits[0, i] = bits[rng.integers(3), 201 if i < 20 else i + 200] ^ (rng.random(64) < 0.03)
    signs = np.where(bits, 1, -1).astype(np.int64)
    one_way = np.max([turn @ signs[0].T for turn in signs], axis=0)
    check_all(Hashes.of(bits, np.zeros(400, bool), CPU), np.maximum(one_way, one_way.T) / 64, 250, 1 - 5.5 / 32)


def test_no_block_is_larger_than_it_may_be_though_all_images_are_near(monkeypatch):
    """The pairs of one large group are never all in memory."""
    monkeypatch.setattr(near, "ROWS", 64)
    monkeypatch.setattr(near, "COLUMNS", 256)
    monkeypatch.setattr(near, "HITS", 5000)
    sizes, at_least = [], near._at_least

    def seen(similarities, least):
        sizes.append(similarities.numel())
        return at_least(similarities, least)

    monkeypatch.setattr(near, "_at_least", seen)
    similar = Hashes.of(np.ones((1, 3000, 64), bool), np.zeros(3000, bool), CPU)
    found = near.neighbours(similar, 2000, 0.9)
    (star,) = near.stars(similar, found, 0.9)
    assert star.middle == 0 and star.members.tolist() == list(range(1, 3000)) and found.pairs == 3000 * 2999 // 2
    assert (found.twin[2000:] == 0).all() and max(sizes) <= 64 * 256


# -- the job


def trained_on(run: runs.Run, dataset: Dataset) -> runs.Run:
    """The same run with another data set: no job of this module looks at its model."""
    from engine import files

    config = run.manifest().config.replace(dataset=dataset.name).to_dict()
    sha = files.write_json(run.path / "config.json", config)
    known = {name: each for name, each in run.manifest().files.items() if not name.startswith(("scores/", "model/"))}
    run.update_manifest(files=known | {"config.json": sha}, data_fingerprint=dataset.fingerprint)
    return run


def do(run: runs.Run, job: FindDuplicates, cancel: Cancel | None = None) -> kept.Duplicates:
    with run.lock():
        work.execute(run, job, cancel)
    found = kept.known(run.manifest(), job.by)
    assert found is not None
    return found


def groups_of(found: kept.Duplicates) -> list[list[int]]:
    return [found.members(group)[0].tolist() for group in range(len(found.starts))]


@pytest.mark.slow
def test_the_job_finds_copies_near_copies_and_twins(copied):
    by_pixels = do(copied, FindDuplicates(kept.EXACT))
    assert groups_of(by_pixels) == [[0, 3, 4, 30], [32, 33]] and not by_pixels.distances.any()
    assert by_pixels.distinct == 36 and by_pixels.twin_of(0) == (0, 0.0) and by_pixels.twin_of(1) is None
    turned = do(copied, FindDuplicates(kept.EXACT, turned=True))
    assert groups_of(turned) == [[0, 3, 4, 30], [8, 9], [32, 33]] and turned.turned

    alike = do(copied, FindDuplicates(kept.HASH, 3))
    assert sorted(groups_of(alike)) == [[0, 3, 4, 30], [6, 7, 31], [32, 33]]
    twin = alike.twin_of(1)
    assert twin is not None and twin[0] in (6, 7) and twin[1] <= 3 and alike.twin_of(2) is None
    with_turns = do(copied, FindDuplicates(kept.HASH, 3, turned=True))
    assert sorted(groups_of(with_turns)) == [[0, 3, 4, 30], [6, 7, 31], [8, 9], [32, 33]]
    near_pixels = do(copied, FindDuplicates(kept.PIXELS))
    assert sorted(groups_of(near_pixels))[1] == [6, 7, 31]

    # The surest way that found one says who the twin is.
    record = copied.manifest()
    assert kept.ways(record) == [kept.EXACT, kept.HASH, kept.PIXELS]
    assert kept.twin_of(record, 0) == kept.Twin(0, kept.EXACT, 0.0)
    other = kept.twin_of(record, 1)
    assert other is not None and other.by == kept.HASH and kept.twin_of(record, 5) is None
    assert record.sizes is not None and record.sizes["duplicates"] > 0 and record.status == "finished"
    copied.storage().clean(("duplicates",))
    assert kept.ways(copied.manifest()) == [] and not list((copied.path / "duplicates").iterdir())


@pytest.mark.slow
def test_what_was_found_is_told_and_written_by_the_command(copied, capsys, tmp_path):
    out = tmp_path / "groups.csv"
    assert main(["duplicates", copied.id, "--by", "exact", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 groups of 6 images" in said and "1 of 10 test images have a twin in training" in said
    table = pd.read_csv(out)
    assert table["index"].tolist() == [0, 3, 4, 0, 2, 3] and table["group"].tolist() == [0, 0, 0, 0, 1, 1]
    assert table["split"].tolist() == ["train"] * 3 + ["test"] * 3 and table["keep"].tolist() == [
        True,
        *[False] * 3,
        True,
        False,
    ]
    assert main(["duplicates", copied.id, "--at-most", "40"]) == 2
    assert "a whole number of bits from 0 to 16" in capsys.readouterr().err
    assert main(["duplicates", copied.id, "--by", "features"]) == 2
    assert "features" in capsys.readouterr().err
    assert main(["duplicates", copied.id, "--by", "pixels", "--turned"]) == 2


@pytest.mark.slow
def test_a_job_that_is_cancelled_leaves_what_was_there(copied):
    before = do(copied, FindDuplicates(kept.EXACT))
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError, match="while the images were looked at"):
        do(copied, FindDuplicates(kept.EXACT, turned=True), cancel)
    after = kept.known(copied.manifest(), kept.EXACT)
    assert after is not None and after.sha256 == before.sha256 and not after.turned
    with copied.lock():
        work.execute(copied)  # what was cancelled is still to be done
    again = kept.known(copied.manifest(), kept.EXACT)
    assert again is not None and again.turned


@pytest.mark.slow
def test_a_file_of_another_hand_is_refused(copied):
    do(copied, FindDuplicates(kept.HASH))
    path = copied.path / kept.path_of(kept.HASH)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(IntegrityError, match="has changed since it was written"):
        kept.known(copied.manifest(), kept.HASH)
    value = json.loads(whole)
    for change in (
        {"by": "smell"},
        {"at_most": 99},
        {"images": [30]},
        {"images": [3, 1]},
        {"groups": value["groups"] | {"sizes": [1]}},
        {"groups": value["groups"] | {"images": [0] * len(value["groups"]["images"])}},
        {"groups": value["groups"] | {"distances": []}},
        {"twins": value["twins"] | {"train": [10**6] * len(value["twins"]["train"])}},
        {"twins": value["twins"] | {"test": value["twins"]["test"][::-1]}},
    ):
        with pytest.raises(IntegrityError, match="does not describe duplicates"):
            kept.Duplicates.from_json(value | change, path)
    assert kept.Duplicates.from_json(value, path).to_json() == value


@pytest.mark.slow
def test_one_image_many_times_over_is_one_group(quick, tmp_path, monkeypatch):
    """60,000 times the same takes no memory for its pairs: one of them is compared."""
    train, test = np.zeros((60_000, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)
    train[:, 1], test[:, 1] = 9, 9
    path = tmp_path / "same.npz"
    labels = {"labels": np.arange(60_000) % 2, "test_labels": np.arange(2)}
    np.savez(path, images=train, test_images=test, **labels)
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    run = trained_on(quick, datasets.load(datasets.canonical(f"arrays:{path}")))
    found = do(run, FindDuplicates(kept.HASH))
    assert found.distinct == 1 and found.sizes.tolist() == [60_002] and found.twins.tolist() == [0, 0]
    dataset = datasets.load(run.manifest().config.dataset)
    rows = kept.table(found, dataset)
    assert rows.to_dict("list") == {
        "group": [0],
        "images": [60_002],
        "training": [60_000],
        "test": [2],
        "labels": [2],
        "farthest": [0.0],
    }
    assert len(kept.all_but_one(found, [0])) == 59_999 and len(kept.in_test_too(found, [0])) == 60_000


# -- groups as rows


FOUND = kept.Duplicates(
    by=kept.HASH,
    at_most=4.0,
    turned=False,
    of="hashes",
    n_train=10,
    n_test=6,
    distinct=9,
    pairs=7,
    left_over=1,
    without_hash=2,
    seconds=0.5,
    starts=np.array([0, 4, 6]),
    images=np.array([2, 0, 11, 7, 13, 12, 5, 4]),
    distances=np.array([0, 1, 2, 3, 0, 2, 0, 4.0]),
    twin_tests=np.array([1]),
    twins=np.array([2]),
    twin_distances=np.array([2.0]),
)
SCORES = np.arange(10.0) ** 2
DATA = Dataset(
    "made",
    "Made",
    "here",
    ("a", "=b"),
    np.zeros((10, 2, 2, 1), np.uint8),
    np.array([0, 0, 0, 0, 1, 0, 0, 1, 0, 0]),
    np.zeros((6, 2, 2, 1), np.uint8),
    np.zeros(6, np.int64),
)


def test_a_group_is_a_row_with_what_its_images_are_and_do():
    rows = kept.table(FOUND, DATA, SCORES)
    assert rows.to_dict("list") == {
        "group": [0, 1, 2],
        "images": [4, 2, 2],
        "training": [3, 0, 2],
        "test": [1, 2, 0],
        "labels": [2, 1, 2],
        "farthest": [3.0, 2.0, 4.0],
        "influence": [4.0 + 0 + 49, 0.0, 25.0 + 16],
    }
    chosen = {
        (where, differ): kept.filtered(rows, where, differ)["group"].tolist()
        for where in kept.WHERE
        for differ in (False, True)
    }
    assert chosen == {
        ("all", False): [0, 1, 2],
        ("all", True): [0, 2],
        ("training", False): [0, 2],
        ("training", True): [0, 2],
        ("test", False): [1],
        ("test", True): [],
        ("across", False): [0],
        ("across", True): [0],
    }
    orders = {order: kept.in_order(rows, order)["group"].tolist() for order in kept.ORDERS}
    assert orders == {
        "size": [0, 1, 2],
        "nearest": [1, 0, 2],
        "farthest": [2, 0, 1],
        "harmful": [0, 2, 1],
        "helpful": [1, 2, 0],
    }
    assert kept.in_order(rows, "harmful", -1)["group"].tolist() == [1, 2, 0]
    assert kept.classes_in_words(FOUND, DATA, FOUND.members(0)[0]) == [("a", 3), ("=b", 1)]


def test_a_row_of_few_images_has_one_of_each_label():
    shown = {most: [part.tolist() for part in kept.some_of(FOUND, DATA, 0, most)] for most in (1, 2, 3, 9)}
    assert shown[1] == [[2], [0]] and shown[2] == [[2, 7], [0, 3]] and shown[3] == [[2, 0, 7], [0, 1, 3]]
    assert shown[9] == [part.tolist() for part in FOUND.members(0)]


def test_one_of_each_group_is_kept_and_what_is_tested_on_can_go():
    assert kept.all_but_one(FOUND, [0, 1, 2]).tolist() == [0, 4, 7] and kept.all_but_one(FOUND, [2]).tolist() == [4]
    assert kept.in_test_too(FOUND, [0, 1, 2]).tolist() == [0, 2, 7] and kept.in_test_too(FOUND, [1, 2]).tolist() == []
    table = kept.listed(FOUND, DATA, SCORES, [2, 0])
    assert table["index"].tolist() == [5, 4, 2, 0, 1, 7] and table["keep"].tolist() == [True, False, True, *[False] * 3]
    assert table["influence"].tolist()[:4] == [25, 16, 4, 0] and np.isnan(table["influence"].iloc[4])
    assert table["label"].tolist() == ["a", "=b", "a", "a", "a", "=b"] and "file" not in table
    assert kept.listed(FOUND, DATA, groups=[]).empty
    assert FOUND.twin_of(1) == (2, 2.0) and FOUND.twin_of(0) is FOUND.twin_of(5) is None


def test_what_was_found_in_words():
    assert kept.in_words(FOUND) == [
        "Compared by hashes, at most 4 of 64 bits apart: 3 groups of 8 images.",
        "Of 10 training images 3 are more than the one that each group needs.",
        "1 of 6 test images have a twin in training.",
        "1 image is near one that stands in another's group, and is in none: groups are no chains.",
        "2 images are of one colour alone, and have no hash.",
    ]
    assert kept.distance_in_words(kept.FEATURES, 0.0123) == "cosine 0.988"


@pytest.mark.parametrize(
    ("by", "at_most"),
    [(kept.HASH, 2.5), (kept.HASH, 17), (kept.HASH, -2), (kept.HASH, math.nan), (kept.FEATURES, 0.7), (kept.EXACT, 1)]
    + [("smell", 1), (kept.PIXELS, math.inf)],
)
def test_a_distance_that_there_is_not_is_refused(by, at_most):
    with pytest.raises(ConfigError, match="by"):
        kept.check_distance(by, at_most)


def test_few_images_and_none_to_test_on():
    """Three images, of which two are alike; no test image."""
    rows = np.array([[1, 2, 3], [1, 2, 3.001], [9, -4, 0]], np.float32)
    similar = Directions.of(lambda index: rows[index], 3, CPU)
    (star,) = near.stars(similar, near.neighbours(similar, 3, 0.9), 0.9)
    assert star.middle == 0 and star.members.tolist() == [1]
    one = Directions.of(lambda index: rows[index][:1], 1, CPU)
    assert near.stars(one, near.neighbours(one, 1, 0.9), 0.9) == []


def test_a_digest_is_of_the_pixels_alone():
    train = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    view = np.ascontiguousarray(train.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    assert not view.flags["C_CONTIGUOUS"]
    assert exact.digest(view[0]) == exact.digest(train[0]) != exact.digest(train[1])
