"""Trust, what-ifs and bad labels as pages: each state, and bad input."""

import re
import shutil
from pathlib import Path

import pytest

from engine.analysis import trust
from engine.analysis import what_if as what_ifs
from engine.jobs import execute as work
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import notes
from engine.runs import run as runs
from tests.helpers import button, said, show, sound, tiles
from tests.made_up import SMALL
from ui import formats

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]

CONFIG = SMALL.replace(dataset="fashion-mnist-sample-noisy", targets=("test:0", "test:all"))


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> Path:
    """A run with a validation and a what-if."""
    run = runs.Run.create(runs.outputs_root(tmp_path_factory.mktemp("checked")), CONFIG)
    with run.lock():
        work.execute(run)
        work.execute(run, Validate(5, (0.01,), 0))
        work.execute(run, WhatIf.of([3, 7]))
    return run.path


@pytest.fixture
def run(checked, root) -> runs.Run:
    shutil.copytree(checked, root / checked.name)
    return runs.Run.open(root, checked.name)


@pytest.fixture
def submitted(monkeypatch) -> list:
    """What the pages ask the job manager for, which does nothing here."""
    asked = []
    monkeypatch.setattr(JobQueue, "submit", lambda self, *given: asked.append(given[:2]))
    return asked


def test_trust_shows_the_verdict_the_figures_and_what_was_tried(run):
    app = show("pages/Trust.py", run=run.id)
    (report,) = trust.reports(run.manifest())
    assert trust.verdict(run.manifest()).reason in said(app).replace("\\", "")
    metrics = {m.label: m.value for m in app.metric}
    assert metrics["LDS, mean"] == f"{report['lds_mean']:.3f}" and metrics["Noise (of the variance)"] == "0.0 %"
    rows = app.dataframe[0].value
    assert list(rows["LDS"]) == [formats.figure(t["lds"], 3) for t in report["targets"]]
    assert "2 images left out: test accuracy" in "".join(e.label for e in app.expander)
    (tried,) = trust.what_ifs(run.manifest())
    # Behind a row, which draws nothing while it is closed.
    assert not [table for table in app.table if "Retrained" in table.value]
    app.session_state[f"tried-{run.id}-{tried['name']}"] = True
    tables = [table for table in sound(app.run()).table if "Retrained" in table.value]
    assert len(tables) == len(tried["targets"]) > 1


def shares(app):
    return next(t for t in app.text_input if t.label == "Other shares, with ; between them")


def test_trust_starts_a_validation_with_what_was_typed(run, submitted):
    app = show("pages/Trust.py", run=run.id)
    next(n for n in app.number_input if n.label == "Subsets").set_value(12)
    shares(app).set_value("5 %; 0,02")
    sound(app.run())
    assert re.search("This takes about .*: 31 retrainings of .*5 of 36 were done before", noted(app))
    sound(next(b for b in app.button if b.label == "Validate").click().run())
    assert submitted == [(run.id, Validate(12, (0.01, 0.05, 0.02), 0))]


@pytest.mark.parametrize(
    "typed, message",
    [
        ("a few", "«a few» is no fraction"),
        ("nan", "«nan» is no fraction"),
        ("inf %", "«inf %» is no fraction"),
        ("1e999", "«1e999» is no fraction"),
        ("1.5", "Leaving out 1.5 of 6,000"),
        ("0", "Leaving out 0 of 6,000"),
    ],
)
def test_trust_names_a_fraction_that_makes_no_sense(run, typed, message):
    app = show("pages/Trust.py", run=run.id)
    shares(app).set_value(typed)
    sound(app.run())
    sound(next(b for b in app.button if b.label == "Validate").click().run())
    assert message in said(app) and "Predicted and actual change" in [h.value for h in app.header]
    assert run.status == "finished"


def test_trust_of_a_run_without_scores_or_with_a_damaged_report_works(run):
    report = run.path / "validation" / "lds-loss-0.01-0.json"
    report.write_text(report.read_text().replace('"subsets": 5', '"subsets": 50'))
    app = show("pages/Trust.py", run=run.id)
    assert "has changed since it was written" in said(app)
    assert "Validate" in [b.label for b in app.button], "to validate again"
    assert "2 images left out: test accuracy" in "".join(e.label for e in app.expander)
    run.storage().clean(("validation",))
    assert "Not validated yet." in said(show("pages/Trust.py", run=run.id))
    run.storage().clean(("scores",))
    assert "scores of this run were deleted" in said(show("pages/Trust.py", run=run.id))


def noted(app) -> str:
    return "\n".join(c.value for c in app.caption)


def test_ticked_images_have_a_prediction_and_a_check(run, submitted):
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    assert "Tick training images above" in noted(app)
    indices = sorted(tile["index"] for tile in tiles(app, "harmful")[:2])
    notes.tick(run, dict.fromkeys(indices, True), 6000)
    sound(app.run())
    assert [t["index"] for t in tiles(app, "harmful") if t["ticked"]] == [t["index"] for t in tiles(app, "harmful")[:2]]
    from engine.datasets import registry as dataset_registry

    expected = next(
        w
        for w in what_ifs.predict(run.manifest(), dataset_registry.load(CONFIG.dataset), indices)
        if w.key == "test:0.loss"
    )
    (shown,) = [t.value for t in app.table if "Predicted" in t.value]  # the other target's is behind a row
    assert list(shown["Predicted"])[0] == formats.figure(expected.predicted["loss"], 4)
    assert list(shown["Now"])[0] == formats.figure(expected.before["loss"], 4) and list(shown["Retrained"]) == ["—"] * 4
    sound(button(app, "Check by retraining").click().run())
    assert submitted == [(run.id, WhatIf.of(indices))]


def test_a_relabelling_has_no_prediction_only_a_check(run, submitted):
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    sound(button(app, "Tick the most harmful").click().run())
    sound(app.selectbox(key="ticks-label-influence").set_value(6).run())
    assert "there is no prediction" in noted(app) and not [t for t in app.table if "Predicted" in t.value]
    sound(button(app, "Check by retraining").click().run())
    ((_, job),) = submitted
    assert job.left_out == () and len(job.relabelled) == 50 and {label for _, label in job.relabelled} == {6}


def test_ticks_can_be_cleared(run):
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    sound(button(app, "Tick the most helpful").click().run())
    assert len(notes.read(run).ticked) == 50
    sound(app.button(key="ticks-clear-influence").click().run())
    assert "Tick training images above" in noted(app) and not any(t["ticked"] for t in tiles(app, "helpful"))


def test_a_choice_that_was_retrained_shows_prediction_and_truth_side_by_side(run):
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    notes.tick(run, {3: True, 7: True}, 6000)
    sound(app.run())
    (what,) = trust.what_ifs(run.manifest())
    shown = next(t.value for t in app.table if "Retrained" in t.value)
    assert list(shown["Retrained"])[0] == formats.figure(what["targets"][0]["actual"]["loss"], 4)
    assert list(shown["Predicted"])[0] == formats.figure(what["targets"][0]["predicted"]["loss"], 4)
    assert "Check by retraining" not in [b.label for b in app.button]


def test_bad_labels_are_ranked_filtered_ticked_and_checked(run, submitted):
    app = show("pages/Find_bad_labels.py", run=run.id)
    assert "of the first 5 % have a wrong label; by chance it would be 5.0 %" in noted(app)
    assert len(tiles(app, "suspects")) == 24
    assert app.get("download_button")[0].proto.label == "All suspects as CSV"
    label = next(s for s in app.selectbox if s.label == "Given label")
    sound(label.set_value("Shirt").run())
    assert all(tile["title"].endswith(". Shirt") for tile in tiles(app, "suspects"))
    first = tiles(app, "suspects")[0]["index"]
    notes.tick(run, {first: True}, 6000, notes.LABELS)
    sound(app.run())
    sound(button(app, "Leave out: train again").click().run())
    assert submitted == [(run.id, WhatIf.of([first]))]


def test_bad_labels_ask_for_the_mean_test_loss_where_it_is_not_scored(root, submitted):
    run = runs.Run.create(root, CONFIG.replace(targets=("test:0",)))
    with run.lock():
        work.execute(run)
    app = show("pages/Find_bad_labels.py", run=run.id)
    assert "this run has no scores for it" in said(app)
    sound(button(app, "Score all test images").click().run())
    assert submitted == [(run.id, Replay(("test:all",), "loss", "disk"))]


def test_a_link_to_a_page_of_suspects_is_restored_and_a_wrong_one_ignored(run):
    def shown(**query) -> list[int]:
        return [tile["index"] for tile in tiles(show("pages/Find_bad_labels.py", run=run.id, **query), "suspects")]

    assert shown() == shown(**{"from": "x"}) != shown(**{"from": "24"})


@pytest.mark.parametrize("text, value", [("0.01", 0.01), ("1 %", 0.01), ("0,05", 0.05), (" 10% ", 0.1)])
def test_fractions_may_be_typed_as_people_write_them(text, value):
    assert formats.fraction(text) == pytest.approx(value)


def headings(app) -> list[str]:
    return [s.value for s in (*app.header, *app.subheader)]


def test_a_damaged_what_if_leaves_the_rest_of_influence(run):
    report = run.path / "validation" / "what-if-000.json"
    report.write_text(report.read_text() + " ")
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    sound(button(app, "Tick the most harmful").click().run())
    assert "has changed since it was written" in said(app) and "Most harmful" in headings(app)


def test_a_refused_check_leaves_the_rest_of_the_page(run):
    app = show("pages/Influence.py", run=run.id, target="test:0.loss")
    sound(button(app, "Tick the most harmful").click().run())
    with run.lock():
        sound(button(app, "Check by retraining").click().run())
    assert "is in use by a job in progress" in said(app) and "Most harmful" in headings(app)


def test_a_refused_scoring_leaves_the_suspects(root):
    run = runs.Run.create(root, CONFIG.replace(targets=("test:0",)))
    with run.lock():
        work.execute(run)
    app = show("pages/Find_bad_labels.py", run=run.id)
    with run.lock():
        sound(button(app, "Score all test images").click().run())
    assert "is in use by a job in progress" in said(app)
    assert len(tiles(app, "suspects")) == 24


def test_a_target_scored_since_a_check_is_predicted_and_may_be_checked_again(run, submitted):
    with run.lock():
        work.execute(run, Replay(("test:5",), "loss", "disk"))
    app = show("pages/Influence.py", run=run.id, target="test:5.loss")
    notes.tick(run, {3: True, 7: True}, 6000)
    sound(app.run())
    shown = next(t.value for t in app.table if "Predicted" in t.value)
    assert shown["Predicted"][0] != "—" and list(shown["Retrained"]) == ["—"] * 4
    sound(button(app, "Check by retraining").click().run())
    assert submitted == [(run.id, WhatIf.of([3, 7]))]


def test_bad_labels_by_the_margin_ask_for_nothing_more(root):
    run = runs.Run.create(root, CONFIG.replace(targets=("test:all",), target_function="margin"))
    with run.lock():
        work.execute(run)
    app = show("pages/Find_bad_labels.py", run=run.id, order="harm")
    assert "no scores for it" not in said(app)
    assert "harmed the target most" in noted(app)


def test_another_filter_begins_with_its_first_page(run):
    app = show("pages/Find_bad_labels.py", run=run.id, **{"from": "48"})
    sound(next(s for s in app.selectbox if s.label == "Given label").set_value("Shirt").run())
    assert app.query_params["page"] == "1"


def test_what_did_not_vary_says_so():
    assert formats.varied(None) == "did not vary" and formats.varied(0.5) == "0.50"
