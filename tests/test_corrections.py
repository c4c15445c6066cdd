"""What a person decides on labels: kept with the run, undone to the first step, and made into a data set."""

import csv
import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.__main__ import main
from engine.analysis import labels_file
from engine.datasets import corrected, corrected_folder
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.datasets.names import printable
from engine.errors import ConfigError, DataError, IntegrityError, ReadOnlyError, StorageError
from engine.runs import corrections, corrections_file, notes
from engine.runs import run as runs
from engine.runs.corrections import EXCLUDED, Corrections
from tests import quick as quick_data
from tests.images import picture
from tests.made_up import SMALL, run_of

SIZES = 6000, 10  # training images and classes


@pytest.fixture
def empty(root) -> runs.Run:
    return runs.Run.create(root, SMALL, "one")


def history(run: runs.Run) -> int:
    return len(corrections.read_record(run).history)


# -- the file


def test_decisions_are_kept_and_undone_to_the_first(empty):
    assert corrections.read(empty) == Corrections() and corrections.undo(empty, *SIZES[:1]) is None
    states = [corrections.read_record(empty)]
    for do in (
        lambda: corrections.decide(empty, {17: 3}, *SIZES, looked_at=("17",)),
        lambda: corrections.decide(empty, {17: EXCLUDED, 5: 2}, *SIZES),
        lambda: corrections.decide(empty, {17: None}, *SIZES, looked_at=("17", "5")),
        lambda: corrections.write(empty, Corrections({1: 1}, frozenset({2})), images=SIZES[0], classes=SIZES[1]),
    ):
        do()
        states.append(corrections.read_record(empty))
    assert [each.corrections for each in states] == [
        Corrections(),
        Corrections({17: 3}),
        Corrections({5: 2}, frozenset({17})),
        Corrections({5: 2}),
        Corrections({1: 1}, frozenset({2})),
    ]
    assert states[-1].looked_at == {"17", "5"}
    for before in states[-2::-1]:
        assert corrections.undo(empty, SIZES[0]) is not None
        assert corrections.read_record(empty) == before
    assert corrections.undo(empty, SIZES[0]) is None


def test_what_changes_nothing_is_no_step(empty):
    corrections.decide(empty, {17: 3}, *SIZES, looked_at=("17",))
    corrections.decide(empty, {17: 3}, *SIZES, looked_at=("17",))
    corrections.tick(empty, {4: False}, SIZES[0])
    assert history(empty) == 1


def test_a_tick_is_that_of_the_runs_one_selection_and_is_undone_by_the_same_key(empty):
    notes.tick(empty, {4: True}, SIZES[0])
    corrections.tick(empty, {4: True, 9: True}, SIZES[0])
    corrections.decide(empty, {9: 1}, *SIZES)
    assert notes.read(empty).ticked == (4, 9)
    assert corrections.undo(empty, SIZES[0]).decided == ((9, None, 1),)
    assert corrections.undo(empty, SIZES[0]).ticked == ((9, False, True),)
    assert notes.read(empty).ticked == (4,)


def test_a_mark_leaves_a_new_label_that_another_writes_at_the_same_time(empty):
    corrections.decide(empty, {0: 1}, *SIZES)
    corrections.mark(empty, {0: True, 1: True, 2: False}, *SIZES)
    assert corrections.read(empty) == Corrections({0: 1}, frozenset({1}))
    corrections.mark(empty, {0: False, 1: False}, *SIZES)
    assert corrections.read(empty) == Corrections() and history(empty) == 3

    images = range(200)
    marks = threading.Thread(target=lambda: [corrections.mark(empty, {i: True}, *SIZES) for i in images])
    marks.start()
    for index in images:
        corrections.decide(empty, {index: index % 10}, *SIZES)
    marks.join()
    assert corrections.read(empty) == Corrections({i: i % 10 for i in images})


def test_what_another_tab_decided_is_not_overwritten(empty):
    corrections.decide(empty, {17: EXCLUDED}, *SIZES)
    with pytest.raises(ConfigError, match="17 was decided on in another tab"):
        corrections.decide(empty, {17: 3}, *SIZES, seen={17: None})
    corrections.decide(empty, {18: 3}, *SIZES, seen={18: None})
    with pytest.raises(ConfigError, match="changed in another tab"):
        corrections.write(empty, Corrections(), expected=Corrections({18: 3}))
    both = Corrections({18: 3}, frozenset({17}))
    assert corrections.read(empty) == both
    corrections.write(empty, Corrections(), expected=both)
    assert corrections.read(empty) == Corrections()


def test_what_two_write_at_once_is_all_there(empty):
    def decide(images) -> None:
        for index in images:
            corrections.decide(empty, {index: index % 10}, *SIZES)

    threads = [threading.Thread(target=decide, args=(range(start, 40, 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert corrections.read(empty).labels == {i: i % 10 for i in range(40)} and history(empty) == 40


def test_decisions_of_earlier_versions_are_taken_from_the_notes(empty):
    notes.relabel(empty, {23: 6, 40: None}, *SIZES, notes.LABELS)
    assert corrections.read(empty) == Corrections({23: 6}, frozenset({40}))
    corrections.decide(empty, {40: None}, *SIZES)
    assert corrections.read(empty) == Corrections({23: 6})


def test_an_image_or_a_class_that_is_not_there_is_refused_and_nothing_written(empty, monkeypatch):
    for decisions, words in (({6000: 1}, "no training image 6000"), ({-1: 1}, "-1"), ({1: 10}, "label 10")):
        with pytest.raises(ConfigError, match=words):
            corrections.decide(empty, decisions, *SIZES)
    assert not (empty.path / corrections.NAME).exists()
    with pytest.raises(ConfigError, match="another label and is left out"):
        Corrections({1: 1}, frozenset({1}))
    corrections.decide(empty, {5999: 9}, *SIZES)
    with pytest.raises(IntegrityError, match="of other data"):
        corrections.read(empty, 100, 10)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    with pytest.raises(ReadOnlyError):
        corrections.decide(empty, {1: 1}, *SIZES)


SOUND = {"labels": {"17": 3}, "excluded": [5], "looked_at": ["17"], "history": []}


@pytest.mark.parametrize("name", [corrections.NAME, corrections_file.BEFORE])
def test_a_damaged_file_says_what_is_wrong(empty, name):
    for change in (
        {"labels": {"017": 3}},
        {"labels": {"17": "cat"}},
        {"labels": {"5": 3}},
        {"excluded": [-1]},
        {"excluded": [True]},
        {"looked_at": ["../x"]},
        {"history": [{"decided": [[1, 2]]}]},
        {"history": [{"decided": [[1, 2.5, None]]}]},
        {"history": [{"ticked": [[1, 0, 1]]}]},
        {"history": [{"deleted": []}]},
        {"more": 1},
    ):
        (empty.path / name).write_text(json.dumps(SOUND | change) + "\n")
        with pytest.raises(IntegrityError, match="does not hold corrections"):
            corrections.read(empty)
        with pytest.raises(IntegrityError):
            corrections.decide(empty, {1: 1}, *SIZES)
    (empty.path / name).write_text(json.dumps(SOUND) + "\n")
    assert corrections.read(empty) == Corrections({17: 3}, frozenset({5}))


def test_a_damaged_line_is_named_and_one_that_was_not_finished_counts_as_not_written(empty):
    path, step = empty.path / corrections.NAME, '{"decided": [[17, 3, 4]], "looked_at": ["5"]}\n'
    first = json.dumps(SOUND) + "\n"
    for line in ("{", "[]", '{"undone": true}', '{"passed": [17]}', '{"decided": [[1, 2]]}', '{"more": 1}'):
        path.write_text(f"{first}{line}\n{step}")
        with pytest.raises(IntegrityError, match=r"corrections\.jsonl, line 2"):
            corrections.read(empty)
    path.write_text(first[:-1])
    with pytest.raises(IntegrityError, match="has no first line"):
        corrections.read(empty)
    # What another process writes is seen, also what it has half written, and what it leaves half written is cut off.
    path.write_text(first)
    assert corrections.read(empty).labels == {17: 3}
    with path.open("a") as other:
        other.write(step[:-7])
        other.flush()
        assert corrections.read(empty).labels == {17: 3}
        other.write(step[-7:] + step[:9])
    assert corrections.read(empty).labels == {17: 4}
    corrections.decide(empty, {6: 1}, *SIZES)
    corrections_file._known.clear()
    assert corrections.read(empty).labels == {17: 4, 6: 1} and history(empty) == 2
    path.write_text(path.read_text().replace("[17, 3, 4]", "[17, 3, 5]"))  # by hand, of the same length
    assert corrections.read(empty).labels == {17: 5, 6: 1}


def test_the_file_of_earlier_versions_is_gone_on_with_and_undone_to_its_first_step(empty):
    steps = [{"decided": [[17, None, 3]], "looked_at": ["17"]}, {"decided": [[5, 2, "excluded"]]}]
    before = empty.path / corrections_file.BEFORE
    before.write_text(json.dumps(SOUND | {"history": steps}, indent=1))
    assert corrections.read(empty) == Corrections({17: 3}, frozenset({5})) and history(empty) == 2
    corrections.decide(empty, {8: 1}, *SIZES)
    assert not before.exists() and history(empty) == 3
    while corrections.undo(empty, SIZES[0]):
        pass
    assert corrections.read_record(empty) == corrections.Record(Corrections({5: 2}))


def test_a_save_costs_the_same_after_5000_steps_as_after_none(empty):
    """Bytes written and read by this process, as the system counts them."""
    path = empty.path / corrections.NAME

    def of_this_process() -> tuple[int, int]:
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["rchar"]), int(counts["wchar"])

    def cost(*, steps: int) -> list[tuple[int, int, int]]:
        first = {"labels": {}, "excluded": [], "looked_at": [], "history": []}
        lines = [first, *({"decided": [[i % 2, None, 1]], "looked_at": [str(100 + i)]} for i in range(steps))]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        corrections.read(empty)
        costs = []
        for do in (
            lambda: corrections.decide(empty, {50: 7}, *SIZES, looked_at=("50",)),
            lambda: corrections.look(empty, ["51"]),
            lambda: corrections.tick(empty, {52: True}, SIZES[0]),
            lambda: corrections.undo(empty, SIZES[0]),
        ):
            size, (read, written) = path.stat().st_size, of_this_process()
            do()
            costs.append((path.stat().st_size - size, *np.subtract(of_this_process(), (read, written)).tolist()))
        assert history(empty) == steps + 1 and corrections.read(empty).labels[50] == 7
        return costs

    few, many = cost(steps=3), cost(steps=5000)
    for (grown, read, written), (grown_of_few, read_of_few, written_of_few) in zip(many, few, strict=True):
        assert 0 < grown == grown_of_few < 100
        assert abs(read - read_of_few) < 2000 and abs(written - written_of_few) < 200


def test_a_file_that_grew_too_long_is_begun_again_with_the_last_steps(empty, monkeypatch):
    monkeypatch.setattr(corrections_file, "BEGUN_AGAIN", 1000)
    sizes, path = [], empty.path / corrections.NAME
    for number in range(60):
        corrections.decide(empty, {number: number % 10}, *SIZES)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2500 and any(np.diff(sizes) < 0)
    steps = corrections.read_record(empty).history
    assert 8 < len(steps) < 60 and [step.decided[0][0] for step in steps] == [*range(60 - len(steps), 60)]
    for stays in range(59, 59 - 8, -1):
        assert corrections.read(empty).labels == {i: i % 10 for i in range(stays + 1)}
        assert corrections.undo(empty, SIZES[0]).decided == ((stays, None, stays % 10),)


# -- the data set


@pytest.fixture
def base(own_data, tmp_path) -> Dataset:
    datasets.clear()
    return datasets.load(datasets.canonical(quick_data.arrays(tmp_path / "images.npz")))


def by_hand(base: Dataset, name: str, labels: dict[int, int], excluded: list[int]) -> Dataset:
    """The same data set in plain loops: the last image that stays moves into the first hole, and so on."""
    rows = list(range(len(base.train_labels)))
    holes = [i for i in sorted(excluded) if i < len(rows) - len(excluded)]
    movers = [i for i in reversed(rows) if i not in excluded][: len(holes)]
    for hole, mover in zip(holes, movers, strict=True):
        rows[hole] = mover
    rows = rows[: len(rows) - len(excluded)]
    return dataclasses.replace(
        base,
        name=name,
        train_images=np.stack([base.train_images[i] for i in rows]),
        train_labels=np.array([labels.get(i, int(base.train_labels[i])) for i in rows]),
        train_names=None,
    )


@pytest.mark.parametrize("excluded", [[], [0], [119], [3, 50, 117, 119], [118, 119]])
def test_a_corrected_data_set_is_the_one_that_is_made_by_hand(base, excluded):
    labels = {7: (int(base.train_labels[7]) + 1) % 3, 116: (int(base.train_labels[116]) + 1) % 3}
    name = corrected.make(base, labels, excluded)
    assert corrected.make(base, labels, excluded) == name
    hand = by_hand(base, "hand", labels, excluded)
    for dataset in (datasets.load(name), (datasets.clear(), datasets.load(name))[1]):
        assert np.array_equal(dataset.train_images, hand.train_images)
        assert np.array_equal(dataset.train_labels, hand.train_labels)
        assert np.array_equal(dataset.test_images, base.test_images)
        assert dataset.fingerprint == hand.fingerprint != base.fingerprint
        assert np.array_equal(dataset.mean, hand.mean) and np.array_equal(dataset.std, hand.std)
        assert not dataset.train_images.flags.writeable
    assert datasets.is_prepared(name) and name in [one.name for one in corrected.all_there()]


def test_other_corrections_have_another_name_and_the_first_keeps_its_meaning(base):
    seven, eight = ({i: (int(base.train_labels[i]) + 1) % 3} for i in (7, 8))
    others = {7: (int(base.train_labels[7]) + 2) % 3}
    asked = [(seven, []), (eight, []), (others, []), (seven, [3]), (seven, [4]), (seven | eight, [])]
    names = [corrected.make(base, labels, excluded) for labels, excluded in asked]
    assert len({*names}) == len(asked)
    datasets.clear()
    for name, (labels, excluded) in zip(names, asked, strict=True):
        recipe = corrected.read(name)
        assert (recipe.labels, recipe.excluded) == (labels, tuple(excluded)) and datasets.load(name).name == name


def test_its_images_are_mapped_and_the_bases_file_stays_as_it_is(base):
    before = {path: path.read_bytes() for path in base.mapped}
    labels = {0: (int(base.train_labels[0]) + 1) % 3}
    for excluded in ([], [3, 50]):
        images = datasets.load(corrected.make(base, labels, excluded)).train_images
        while not isinstance(images, np.memmap):
            assert images is not None, "a copy"
            images = images.base
        assert images.mode == ("c" if excluded else "r")
    assert {path: path.read_bytes() for path in base.mapped} == before


def test_corrections_of_a_corrected_data_set_are_of_its_base(base):
    flip = {i: (int(base.train_labels[i]) + 1) % 3 for i in range(120)}
    first = datasets.load(corrected.make(base, {7: flip[7], 8: flip[8]}, [3]))
    assert first.train_images[3].tolist() == base.train_images[119].tolist()
    again = datasets.load(corrected.make(first, {3: flip[119], 8: int(base.train_labels[8])}, [7]))
    recipe = corrected.read(again.name)
    assert recipe.base == base.name and recipe.labels == {119: flip[119]} and recipe.excluded == (3, 7)
    assert recipe.of == first.fingerprint and recipe.base_fingerprint == base.fingerprint


def test_what_cannot_be_corrected_is_refused(base):
    for labels, excluded, words in (
        ({}, [], "Nothing is corrected"),
        ({0: int(base.train_labels[0])}, [], "Nothing is corrected"),
        ({120: 0}, [], "no training image 120"),
        ({}, [-1], "no training image -1"),
        ({0: 3}, [], "no class 3"),
        ({}, np.flatnonzero(base.train_labels != 1).tolist(), "of one class"),
        ({}, list(range(120)), "of one class"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            corrected.make(base, labels, excluded)
    assert not list(corrected.all_there())
    for name in ("corrected:../../x", "corrected:nothing", "corrected:a/b", "corrected:x?side=32"):
        assert not datasets.is_prepared(name)
        with pytest.raises((ConfigError, DataError)):
            datasets.load(name)


def test_another_base_and_a_file_that_was_written_to_are_refused(base, own_data, tmp_path):
    name = corrected.make(base, {}, [3])
    path = own_data / "corrected" / f"{name.removeprefix('corrected:')}.json"
    whole = path.read_text()
    path.write_text(whole.replace('"excluded": [\n  3\n ]', '"excluded": [\n  4\n ]'))
    assert path.read_text() != whole
    datasets.clear()
    with pytest.raises(DataError, match="has changed since it was written"):
        datasets.load(name)
    path.write_text(whole)
    with np.load(tmp_path / "images.npz") as arrays:
        changed = {key: arrays[key] for key in arrays.files}
    changed["images"] = 255 - changed["images"]
    np.savez(tmp_path / "images.npz", **changed)
    datasets.clear()
    with pytest.raises(DataError, match="has changed since the corrections"):
        datasets.load(name)


@pytest.mark.slow
def test_a_run_trains_on_the_corrections_bit_for_bit_as_on_the_same_data_made_by_hand(base, root, tmp_path):
    from engine.jobs import execute as work

    labels, excluded = {i: (int(base.train_labels[i]) + 1) % 3 for i in range(10)}, [11, 12, 119]
    name = corrected.make(base, labels, excluded)
    hand = by_hand(base, "hand", labels, excluded)
    np.savez(
        tmp_path / "hand.npz",
        classes=np.array(base.classes),
        images=hand.train_images,
        labels=hand.train_labels,
        test_images=hand.test_images,
        test_labels=hand.test_labels,
    )
    results = []
    for dataset in (name, f"arrays:{tmp_path / 'hand.npz'}", base.name):
        run = runs.Run.create(root, quick_data.CONFIG.replace(dataset=dataset))
        with run.lock():
            work.execute(run)
        record = run.manifest()
        results.append((record.train_logits(), record.test_logits(), record.score_sets.matrix("loss-000")))
    for mine, theirs, before in zip(*results, strict=True):
        assert np.array_equal(mine, theirs) and not np.array_equal(mine, before)
    assert results[0][2].any() and np.array_equal(datasets.load(name).train_labels, hand.train_labels)


# -- labels.csv


@pytest.fixture
def odd(base) -> Dataset:
    """With names of classes and files that a spreadsheet would take for formulas."""
    names = [f"-{i}.png" for i in range(120)]
    return dataclasses.replace(base, classes=("=1+1", "two, words", "plain"), train_names=names)


def test_labels_csv_is_read_back_as_it_was_written(odd):
    given = odd.train_labels
    labels = {i: (int(given[i]) + 1 + i % 2) % 3 for i in range(20)}
    text = labels_file.text(odd, Corrections(labels, frozenset({30, 40})))
    assert text.splitlines()[0] == "index,file,old_label,new_label,excluded"
    assert not any(cell and cell[0] in "=-+@" for row in csv.reader(text.splitlines()) for cell in row)
    expected = {**labels, 30: EXCLUDED, 40: EXCLUDED}
    assert labels_file.read(text.encode(), odd) == expected
    # As spreadsheets write it: with a mark of its encoding, semicolons, other line ends, and columns of their own.
    table = labels_file.table(odd, Corrections(labels, frozenset({30, 40}))).assign(remark="x")
    shuffled = table[["remark", "new_label", "excluded", "index"]].to_csv(index=False, sep=";", lineterminator="\r\n")
    assert labels_file.read(b"\xef\xbb\xbf" + shuffled.encode(), odd) == expected
    one = f"index,new_label\n7,{odd.classes[given[7]]}\n8,\n".replace("two, words", '"two, words"')
    assert labels_file.read(one.encode(), odd) == {7: None, 8: None}


def test_a_labels_csv_that_does_not_fit_is_refused_line_by_line(odd):
    other = odd.classes[(int(odd.train_labels[7]) + 1) % 3].replace("two, words", '"two, words"')
    for rows, words in (
        ("", "no line with an image"),
        ("120,plain", "line 2: «120» is no training image"),
        ("-1,plain", "no training image"),
        ("1e3,plain", "no training image"),
        ("7,cat", "there is no class «cat»"),
        ("7,plain\n7,plain", "line 3: image 7 stands in line 2"),
        ("7,plain,more", "line 2: 3 columns"),
        ('7,"plain', "no CSV file"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels_file.read(f"index,new_label\n{rows}\n".encode(), odd)
    for row, words in (
        (f"7,0.png,,{other},no", "comes from -7.png"),
        (f"7,,{other},{other},no", "has the label"),
        (f"7,,,{other},yes", "excluded at once"),
        (f"7,,,{other},maybe", "neither yes nor no"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels_file.read(f"index,file,old_label,new_label,excluded\n{row}\n".encode(), odd)
    for content, words in (
        (b"index,label\n1,plain\n", "no column new_label"),
        (b"index,new_label,index\n1,plain,1\n", "a column twice"),
        (b"\xff\xfe\x00", "no text of UTF-8"),
        (b"", "no column index"),
        (b"index,new_label\n" + b"200,x\n" * 9, "and 4 lines more"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels_file.read(content, odd)


# -- the folder's files


BROKEN = "-rf/broken.png"
NAMES = ("--force.png", "new\nline.png", "sp ace.png", "3.png")


@pytest.fixture
def photos(own_data, tmp_path) -> Dataset:
    """Two classes of four files with odd names each, and one file that cannot be read."""
    for number, name in enumerate(("-rf", "b b")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, file in enumerate(NAMES):
            picture(10 * number + i).save(tmp_path / "photos" / name / file)
    (tmp_path / "photos" / BROKEN).write_bytes(b"no picture")
    datasets.clear()
    return datasets.load(datasets.canonical(f"folder:{tmp_path / 'photos'}?test=0.25"))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def of_name(dataset: Dataset, name: str) -> int:
    assert dataset.train_names is not None
    return list(dataset.train_names).index(name)


def test_a_corrected_copy_has_the_files_where_the_corrections_say(photos, tmp_path):
    root, to = tmp_path / "photos", tmp_path / "copy"
    before = tree(root)
    first, second = of_name(photos, photos.train_names[0]), of_name(photos, photos.train_names[-1])
    plan = corrected_folder.for_copy(photos, {first: 1}, {second})
    assert corrected_folder.copy(plan, to) == 7 and tree(root) == before
    again = datasets.load(datasets.canonical(f"folder:{to}?side=12x10"))
    assert again.classes == photos.classes and len(again.train_labels) == len(photos.train_labels) - 1
    pixels = {image.tobytes(): int(label) for image, label in zip(again.train_images, again.train_labels, strict=True)}
    for index, image in enumerate(photos.train_images):
        expected = 1 if index == first else int(photos.train_labels[index])
        assert pixels.get(image.tobytes()) == (None if index == second else expected)
    assert sorted(i.tobytes() for i in again.test_images) == sorted(i.tobytes() for i in photos.test_images)
    assert sorted(tree(to).values()) == sorted(
        content for name, content in before.items() if printable(name) not in (BROKEN, photos.train_names[-1])
    )
    (line,) = [change.line() for change in plan.changes if change.why == "relabelled"]
    assert "\n" not in line and line.startswith("relabel")
    with pytest.raises(ConfigError, match="holds something already"):
        corrected_folder.copy(plan, to)
    for place, words in (
        (root, "inside each other"),
        (root / "copy", "inside each other"),
        (tmp_path, "inside each other"),
        (tmp_path / "no" / "copy", "no folder .* to put"),
        (tmp_path / "images.npz", "is no folder"),
    ):
        (tmp_path / "images.npz").touch()
        with pytest.raises(ConfigError, match=words):
            corrected_folder.copy(plan, place)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is no folder|inside each other"):
        corrected_folder.copy(plan, tmp_path / "link")
    assert tree(root) == before


def test_a_copy_stops_at_a_file_that_changed_and_leaves_nothing(photos, tmp_path):
    plan = corrected_folder.for_copy(photos, {0: 1 - int(photos.train_labels[0])}, ())
    (tmp_path / "photos" / "b b" / "3.png").write_bytes(b"other")
    with pytest.raises(DataError):
        corrected_folder.copy(plan, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "photos"]
    with pytest.raises(DataError, match="has changed"):
        corrected_folder.for_copy(photos, {0: 1 - int(photos.train_labels[0])}, ())


def test_files_are_moved_inside_their_folder_and_over_none(photos, tmp_path):
    root = tmp_path / "photos"
    before = tree(root)
    index = of_name(photos, next(name for name in photos.train_names if name.startswith("-rf/")))
    path = next(name for name in before if printable(name) == photos.train_names[index])
    out = of_name(photos, next(name for name in photos.train_names if name.startswith("b b/")))
    plan = corrected_folder.for_moving(photos, {index: 1}, {out})
    assert tree(root) == before
    (relabelled, left_out) = plan.changes if plan.changes[0].why == "relabelled" else plan.changes[::-1]
    assert relabelled.to == f"b b/-rf-{path.removeprefix('-rf/')}", "every name there is taken"
    assert left_out.to is not None and left_out.to.startswith(".excluded/b b/")
    (root / relabelled.to).write_bytes(b"just now")
    with pytest.raises(StorageError):
        corrected_folder.move(plan)
    assert (root / relabelled.to).read_bytes() == b"just now" and tree(root)[path] == before[path]
    (root / relabelled.to).unlink()
    for change in plan.changes:  # what the first try had moved
        if not (root / change.stamp.path).exists():
            (root / change.to).rename(root / change.stamp.path)
    record = corrected_folder.move(plan)
    after = tree(root)
    assert sorted(content for name, content in after.items() if not name.startswith(".moved")) == sorted(
        before.values()
    )
    assert after[relabelled.to] == before[path] and after[left_out.to] and record.parent == root
    now = datasets.reload(photos.name)
    assert len(now.train_labels) + len(now.test_labels) == 7


# -- the command line


@pytest.fixture
def call(photos, root, capsys):
    """Calls `corrections` for the run `one` on these photos, which works or is `refused`, and returns what was said."""
    run_of(root, "one", {}, SMALL.replace(dataset=photos.name))

    def call(*words, refused: bool = False) -> str:
        capsys.readouterr()
        assert bool(main(["corrections", "one", *map(str, words)])) == refused
        said = capsys.readouterr()
        return said.err if refused else said.out

    return call


def decided(root: Path) -> Corrections:
    return corrections.read(runs.Run.open(root, "one"))


def test_the_command_line_tries_reads_copies_and_moves(photos, root, call, tmp_path):
    folder, to, table = (tmp_path / name for name in ("photos", "copy", "labels.csv"))
    before, run = tree(folder), runs.Run.open(root, "one")
    for words in (["--copy-to", to], ["--copy-to", to, "--dry-run"], ["--apply"], ["--dataset"], ["--train"]):
        assert "no corrections yet" in call(*words, refused=True)
    corrections.decide(run, {0: 1 - int(photos.train_labels[0]), 1: EXCLUDED}, len(photos.train_labels), 2)
    assert "2 corrections" in call("--csv", table) and "1 other label, 1 image left out" in call()
    expected = corrections.read(run)
    corrections.write(run, Corrections())
    assert "2 images would be decided on" in call("--read", table, "--dry-run") and not len(decided(root))
    assert "2 images decided on" in call("--read", table) and decided(root) == expected

    # To try is to change nothing, and what cannot be tried says so.
    for words in (["--train"], ["--dataset"], ["--csv", tmp_path / "other.csv"]):
        assert "nothing else can be tried" in call(*words, "--dry-run", refused=True)
    assert [each.id for each in runs.list_runs(root)] == ["one"] and not (tmp_path / "other.csv").exists()
    told = call("--copy-to", to, "--dry-run").splitlines()
    assert len(told) == 10 and "would copy 7 files" in told[-1] and "3 of all are" in told[-1]
    moved = call("--apply", "--dry-run").splitlines()
    assert len(moved) == 3 and "would move 2 files" in moved[-1]
    assert not to.exists() and tree(folder) == before

    assert "copied 7 files" in call("--copy-to", to) and len(tree(to)) == 7 and tree(folder) == before
    assert "holds something already" in call("--copy-to", to, refused=True)
    assert "inside each other" in call("--copy-to", folder / "copy", refused=True)
    assert call("--apply").splitlines()[:2] == moved[:2]
    after = {name: content for name, content in tree(folder).items() if not name.startswith(".moved")}
    assert sorted(after.values()) == sorted(before.values()) and after.keys() != before.keys()
    for words in (["--apply"], ["--copy-to", tmp_path / "again"], ["--read", table], []):
        assert "has changed since" in call(*words, refused=True)


def test_the_command_line_refuses_a_table_that_is_of_something_else(photos, root, call, tmp_path):
    table, given = tmp_path / "labels.csv", photos.classes[photos.train_labels[0]]
    for content, words in {
        f"index,file,new_label\n0,another.png,{given}": "the file is of other data",
        f"index,file,new_label\n0,../../secret,{given}": "the file is of other data",
        f"index,old_label,new_label\n0,cat,{given}": "has the label",
        "index,new_label\n0,../../b b": "there is no class",
        f"index,label\n0,{given}": "no column new_label",
        f"index,new_label\n{len(photos.train_labels)},{given}": "is no training image",
    }.items():
        table.write_text(content)
        assert words in call("--read", table, refused=True)
    for path in (tmp_path / "nothing.csv", tmp_path):
        assert "cannot be read" in call("--read", path, refused=True)
    for path in (tmp_path / "no" / "labels.csv", tmp_path):
        assert "cannot be written" in call("--csv", path, refused=True)
    assert not len(decided(root)) and not (runs.Run.open(root, "one").path / corrections.NAME).exists()


def test_nothing_is_copied_or_moved_through_a_link(photos, root, call, tmp_path):
    folder, secret, outside = tmp_path / "photos", tmp_path / "secret.png", tmp_path / "outside"
    outside.mkdir()
    image = of_name(photos, next(name for name in photos.train_names if name.endswith("3.png")))
    run, name = runs.Run.open(root, "one"), photos.train_names[image]
    relabelled = next(i for i in range(len(photos.train_labels)) if i != image)
    other = 1 - int(photos.train_labels[relabelled])
    corrections.decide(run, {image: EXCLUDED, relabelled: other}, len(photos.train_labels), 2)

    # What is left out would go through the link; what is relabelled, which would not, stays where it is, too.
    (folder / ".excluded").symlink_to(outside)
    before = tree(folder)
    assert "is reached through" in call("--apply", refused=True)
    assert tree(folder) == before and not any(outside.iterdir())
    (folder / ".excluded").unlink()

    # A file, and then a folder, that have become links since the run was made.
    secret.write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    whole = folder / "b b"
    for make in (lambda: None, lambda: (whole.rename(outside / "b b"), whole.symlink_to(outside / "b b"))):
        make()
        for words in (["--copy-to", tmp_path / "copy"], ["--apply"]):
            assert "has changed since" in call(*words, refused=True)
        assert not (tmp_path / "copy").exists() and secret.exists()
