"""Pages of a run on more classes than a matrix or a chart can show: lists in their place."""

from collections import Counter

import numpy as np
import pytest

from engine import config as configs
from engine.analysis import logits as logit_maths
from engine.analysis import test_images as test_lists
from engine.datasets import registry
from engine.jobs import execute as work
from engine.runs import run as runs
from tests.helpers import PAGES, show, tiles
from ui import formats, pictures

CLASSES = 101  # one more than a matrix has


def test_the_most_frequent_mistakes_are_those_of_a_count():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    pairs = Counter((int(a), int(b)) for a, b in zip(labels, predicted, strict=True) if a != b)
    found = test_lists.confusions(predicted, labels, 10)
    assert [n for *_, n in found] == sorted(pairs.values(), reverse=True)[:10]
    assert all(pairs[true, taken_for] == n for true, taken_for, n in found)
    assert test_lists.confusions(labels, labels, 10) == []


def test_what_a_model_says_is_the_same_in_pieces(monkeypatch):
    logits, labels = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32), np.arange(50) % 7
    logp = logit_maths.log_probabilities(logits)
    monkeypatch.setattr(logit_maths, "PIECE", 30)  # four rows
    given, predicted, best = logit_maths.judged(logits, labels)
    assert np.array_equal(given, logp[np.arange(50), labels]) and np.array_equal(best, logp.max(1))
    assert np.array_equal(predicted, logp.argmax(1))


def test_probabilities_are_those_of_the_likeliest():
    shares = np.random.default_rng(0).dirichlet(np.ones(CLASSES))
    names, values = formats.likeliest([f"c{i}" for i in range(CLASSES)], shares)
    assert len(names) == formats.CLASSES and values.tolist() == sorted(shares.tolist(), reverse=True)[: len(values)]
    assert all(shares[int(name[1:])] == value for name, value in zip(names, values, strict=True))
    few = formats.likeliest(["a", "b"], shares[:2])
    assert few[0] == ("a", "b") and few[1].tolist() == shares[:2].tolist()


@pytest.mark.slow
def test_every_page_of_a_run_on_many_classes(root, tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    images = np.random.default_rng(0).integers(0, 256, (3 * CLASSES, 8, 8), np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=np.arange(3 * CLASSES) % CLASSES)
    data = registry.load(f"arrays:{tmp_path / 'many.npz'}").name
    small = {"recipe.epochs": 1, "recipe.batch_size": 50, "targets": ("test:0", "class:1")}
    run = runs.Run.create(root, configs.preset("sample").replace(dataset=data, **small))
    work.execute(run)
    for page in PAGES:
        show(page, run=run.id, data=data, dataset=data)
    app = show("pages/Test_images.py", run=run.id)
    assert tiles(app, "tests") and not app.get("plotly_chart")
    assert "Most frequent mistakes" in [expander.label for expander in app.expander]
    app = show("pages/Training_images.py", run=run.id, view="matrix")
    assert not app.get("plotly_chart") and len(app.dataframe[0].value) == CLASSES > pictures.MOST_CLASSES
