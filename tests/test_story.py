"""From a real folder to the gallery, in a real browser: a small part of what `tools/story.py` measures."""

import shutil

import pytest

from engine.datasets import registry, store
from engine.runs import run as runs
from tests.app import server
from tests.helpers import tab_is_sound
from tests.images import emoji
from tools import story
from tools.emoji import spoil

pytestmark = pytest.mark.slow


def test_a_folder_of_emoji_from_the_upload_to_the_mislabelled_files(page, tmp_path, monkeypatch):
    root = emoji(tmp_path / "emoji", 8)
    spoiled = spoil(root, 6)
    archive = shutil.make_archive(str(tmp_path / "emoji"), "zip", root)
    outputs = runs.outputs_root(tmp_path / "outputs")
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    with server(outputs, page) as (url, _):
        story.add_archive(page, url, archive, side="16")
        counts, problems = story.metrics(page), story.problems(page)
        expected = len(list(root.rglob("*.*"))) - len(spoiled["broken"])
        assert int(counts["Training images"]) + int(counts["Test images"]) == expected and counts["Pixels"] == "16 × 16"
        assert problems["Files that cannot be read"] == len(spoiled["broken"])
        assert problems["Images that are the same"] >= len(spoiled["same"])

        run = runs.Run.open(outputs, story.start_proposed(page))
        assert run.manifest().config.preset == "proposed"
        helpful = story.first_gallery(page)
        dataset = registry.load(run.manifest().config.dataset)
        target = run.scores().targets()[0]
        best = run.scores().matrix(target.score_set)[target.row].argsort()[: len(helpful)]
        assert helpful == [dataset.file_name("train", index) for index in best]

        suspected = story.suspects(page, url, run.id)
        moved = {name for name in spoiled["moved"] if name in dataset.train_names}
        found = [name for name in suspected if name in moved]
        assert len(found) > len(moved) * len(suspected) / len(dataset.train_names), (found, moved)

        story.add_folder(page, url, root, side="16")
        assert story.metrics(page) == counts and story.problems(page) == problems
        assert len({one.name for one in store.prepared_sets()}) == 2
        tab_is_sound(page)
