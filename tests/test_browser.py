"""The app as people use it: a fresh server, a real browser, the sample run from start to clean-up."""

import re
import shutil
import signal
import time
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import axe_playwright_python
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from engine import config_file, proposal
from engine.analysis import trust
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.job import JobRecord
from tests.app import server
from tests.helpers import (
    PAGES,
    Held,
    Timers,
    at_rest,
    choose,
    download,
    go,
    idle,
    pick,
    settled,
    shown,
    steps_done,
    turn,
    wait_until,
)
from tests.images import folder
from tests.made_up import SAMPLE, SMALL
from tools.hold import Hold
from tools.serve import NOT_RUNNING

HEADINGS = {"" if path == "app.py" else Path(path).stem: heading for path, heading in PAGES.items()}
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"


@pytest.mark.parametrize("path", ["", "Influence"])
def test_a_page_may_be_the_first_request_of_a_fresh_server(path, page, tmp_path):
    with server(tmp_path, page, own=True) as (url, _):
        page.goto(f"{url}/{path}")
        settled(page, HEADINGS[path])
        links = page.locator('[data-testid="stSidebar"] [data-testid="stPageLink"]')
        names = ["Overview", *(heading for path, heading in HEADINGS.items() if path)]
        expect(links).to_have_text([re.compile(f"{name}$") for name in names])  # after the icon's name


def test_the_sample_from_the_button_to_the_clean_up(page, tmp_path, finished_sample):
    outputs, hold = runs.outputs_root(tmp_path / "runs"), Hold("replay", 4, tmp_path / "gate")
    page.emulate_media(reduced_motion="no-preference")  # once as most see it
    with server(outputs, page, hold=hold) as (url, _):
        page.goto(url)
        settled(page, "Replay Explorer")
        page.get_by_role("button", name="Run the sample").click()
        settled(page, "Live")
        (run,) = runs.list_runs(outputs)
        assert run.id in page.url
        page.goto("about:blank")  # a page that is looked at takes its share of two cores
        wait_until(lambda: run.status == "replaying", page)
        page.go_back()
        settled(page, "Live")

        # The server answers other pages in the middle of a replay, and the steps go on.
        wait_until(lambda: steps_done(page) == ("Replay", 4), page)
        other = page.context.new_page()
        began = time.monotonic()
        other.goto(f"{url}/Runs_and_storage")
        settled(other, "Runs and storage")
        expect(other.locator('[data-testid="stSidebar"]').get_by_text("In progress")).to_be_visible()
        assert run.status == "replaying"
        print(f"second tab drawn in {time.monotonic() - began:.1f} s during the replay")
        other.close()
        hold.open()
        wait_until(lambda: steps_done(page) != ("Replay", 4), page)

        page.reload()
        settled(page, "Live")
        assert run.id in page.url
        page.goto("about:blank")
        wait_until(lambda: run.status == "finished", page)
        shutil.copytree(run.path, copy := finished_sample / f".{run.id}")
        copy.rename(finished_sample / run.id)  # whole, for whoever looks for it
        page.go_back()
        expect(page.get_by_text("Finished: the scores are ready.")).to_be_visible()
        assert run.status == "finished" and len(runs.list_runs(outputs)) == 1
        expect(page.locator(".js-plotly-plot")).to_have_count(5)  # drawn once their code is fetched

        go(page, page.get_by_role("link", name="Look at the influence"), "Influence")
        tiles = page.locator(".st-key-gallery-helpful .grid img, .st-key-gallery-harmful .grid img")
        expect(tiles).to_have_count(24)  # 2 × k, k = 12
        assert all(width > 0 for width in tiles.evaluate_all("images => images.map(i => i.naturalWidth)"))
        alt = tiles.first.get_attribute("alt")
        assert alt.startswith("Training image ") and "label" in alt
        shown = page.locator(".st-key-gallery-harmful li").evaluate_all(
            "tiles => tiles.map(t => Number(t.dataset.index))"
        )
        assert shown == np.argsort(-run.scores().matrix("loss-000")[0])[:12].tolist()
        expect(page).to_have_url(re.compile("target=test"))

        surest, another = (run.manifest().config.targets[i].removeprefix("test:") for i in (0, 5))
        assert surest in page.url
        link = page.url.replace(f"test%3A{surest}", f"test%3A{another}").replace(f"test:{surest}", f"test:{another}")
        turn(page, link)
        settled(page, "Influence")
        expect(page.get_by_text(f"Test image {another}", exact=False).first).to_be_visible()

        page.locator('[data-testid="stSidebar"]').get_by_role("link", name="Runs and storage").click()
        settled(page, "Runs and storage")
        before = run.storage().sizes()["trajectory"]
        assert before > 10_000_000
        idle(page)
        box = page.get_by_role("combobox", name="Runs to clean")
        choose(page, box, page.get_by_role("option").filter(has_text="Sample, seed 0"))
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Delete checkpoints").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text(f"{before:,} bytes")).to_be_visible()
        with run.lock():
            dialog.get_by_role("button", name="Delete checkpoints").click()
            expect(dialog.get_by_text("is in use by a job in progress")).to_be_visible()
        assert run.storage().sizes()["trajectory"] == before
        dialog.get_by_role("button", name="Delete checkpoints").click()
        expect(page.get_by_text(f"freed ({before:,} bytes)")).to_be_visible()
        assert run.storage().sizes()["trajectory"] == 0 and run.scores().targets()
        # Its page still works, for the scores are kept.
        turn(page, link)
        settled(page, "Influence")
        expect(tiles).to_have_count(24)


def test_cancel_and_a_run_deleted_elsewhere(page, tmp_path):
    outputs, hold = runs.outputs_root(tmp_path / "runs"), Hold("train", 1, tmp_path / "never")
    timers = Timers(page)
    with server(outputs, page, hold=hold) as (url, _):
        page.goto(url)
        settled(page, "Replay Explorer")
        timers.ask_after_a_click(page.get_by_role("button", name="Run the sample"))  # begins one run
        settled(page, "Live")
        wait_until(lambda: steps_done(page)[1] > 0, page)
        page.get_by_role("button", name="Cancel the run").click()
        expect(page.locator('[data-testid="stAlert"]').get_by_text("Cancelled")).to_be_visible()
        (cancelled,) = runs.list_runs(outputs)
        assert cancelled.status == "cancelled"

        cancelled.storage().delete()
        page.reload()
        settled(page, "Live")
        expect(page.get_by_text(f"There is no run {cancelled.id}")).to_be_visible()


def test_a_run_of_a_killed_server_is_resumed_on_live_and_finishes(page, tmp_path):
    config = SAMPLE.replace(width=0.125, targets=("test:0", "class:2"))
    outputs, hold = runs.outputs_root(tmp_path / "runs"), Hold("replay", 13, tmp_path / "never")
    run = runs.Run.create(outputs, config)  # queued, and its process is gone: to be resumed too

    def resume(url: str) -> None:
        page.goto(f"{url}/Live?run={run.id}")
        settled(page, "Live")
        expect(page.get_by_text("Interrupted: the process")).to_be_visible()
        page.get_by_role("button", name="Resume the run").click()
        expect(page.get_by_text("Interrupted: the process")).to_have_count(0)

    with server(outputs, page, hold=hold) as (url, process):
        resume(url)
        wait_until(lambda: steps_done(page) == ("Replay", 13), page)
        page.goto("about:blank")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run.status == "interrupted"
    with server(outputs, page) as (url, _):
        resume(url)
        expect(page.get_by_text("Finished: the scores are ready.")).to_be_visible()
        expect(page.get_by_text(re.compile(r"Resumes the replay after \d+ of 24 steps"))).to_be_visible()
    phases = [e["phase"] for e in run.events()[0] if e["kind"] == "phase"]
    assert phases.count("train") == 1 and run.status == "finished" and len(run.scores().targets()) == 2


def test_a_late_browser_changes_no_setting_but_the_one_that_a_person_does(page, tmp_path):
    """It shows the form as it is after the first edit, and nothing of how it was drawn before."""
    held = Held(page, b"Sets, which are averaged over")
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Set_up_a_run")
        wait_until(lambda: held.has(b"Start the run"), page)
        size = page.get_by_role("spinbutton", name="Batch size")
        size.fill("1000")
        size.press("Enter")
        wait_until(lambda: held.has(b"36 steps of"), page)
        held.end()
        idle(page)
        epochs = page.get_by_role("spinbutton", name="Epochs")
        epochs.fill("1")
        epochs.press("Enter")
        expect(page.get_by_text(re.compile(r"\b6 steps of"))).to_be_visible()
        expect(page.get_by_text("Yours; proposed:")).to_have_count(2)
        expect(page.get_by_role("radio", name="Disk")).to_be_checked()
        expect(page.get_by_text("8 targets chosen")).to_be_visible()


def test_own_settings_with_targets_picked_by_looking(page, tmp_path):
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Set_up_a_run")
        settled(page, "Set up a run")
        size = page.get_by_role("spinbutton", name="Batch size")
        size.fill("1000")
        size.press("Enter")
        idle(page)
        page.locator("summary", has_text="Advanced").first.click()  # of the model
        width = page.get_by_role("spinbutton", name="Width (× channels)")
        width.fill("0.125")
        width.press("Enter")
        idle(page)
        epochs = page.get_by_role("spinbutton", name="Epochs")
        epochs.fill("0")
        epochs.press("Enter")
        expect(
            page.get_by_text("must be from 1 to 10,000").or_(page.get_by_text("must be from 1 to 10000")).first
        ).to_be_visible()
        expect(page.get_by_role("button", name="Start the run")).to_be_disabled()
        epochs.fill("1")
        epochs.press("Enter")
        expect(page.get_by_text("must be from 1 to")).to_have_count(0)
        idle(page)
        page.get_by_text("Choose by looking").click()
        tile = page.locator(".st-key-gallery-set-tests li[data-index='10'] input")
        tile.click()
        expect(page.get_by_text("9 targets chosen")).to_be_visible()
        table = page.locator('[data-testid="stTable"]')
        expect(table.get_by_role("row")).to_have_count(4)
        expect(table.get_by_text("not measured")).to_have_count(3)
        idle(page)
        page.get_by_role("button", name="Measure on this machine").click()
        expect(table.get_by_text("training ×")).to_have_count(3)
        expect(page.get_by_text("Recommended here: disk mode")).to_be_visible()
        idle(page)
        expect(page.get_by_text("4 trainings, 12 steps in all: about")).to_be_visible()  # of what was measured
        page.get_by_role("button", name="Measure the smoothness").click()
        expect(page.get_by_text("over the first 3 of 6 steps")).to_be_visible(timeout=60_000)
        expect(page.locator(".st-key-setup-bar")).to_contain_text(re.compile(r"Time (\d+ min )?\d+ s"))
        page.get_by_role("button", name="Start the run").click()
        settled(page, "Live")
        expect(page.get_by_text("Finished: the scores are ready.")).to_be_visible()
        (run,) = runs.list_runs(tmp_path)
        assert run.manifest().config.recipe.epochs == 1 and "test:10" in run.manifest().config.targets
        assert [t.name for t in run.scores().targets()] == list(run.manifest().config.targets)

        # Misclassified images of that run are offered, and further targets need no training.
        turn(page, f"{url}/Influence?run={run.id}")
        settled(page, "Influence")
        idle(page)
        expect(page.locator('[data-testid="stMain"] .js-plotly-plot')).to_be_visible()  # what moves the page is drawn
        page.get_by_text("Explain further targets of this run").click()
        box = page.get_by_role("combobox", name="Targets", exact=True)
        expect(box).to_be_visible()
        at_rest(page)  # the expander opens with an animation
        chosen = choose(page, box, page.get_by_role("option", name="misclassified").first).split(" · ")[0]
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Replay for these targets").click()
        settled(page, "Live")
        wait_until(lambda: any(t.name == chosen for t in run.scores().targets()), page)


def test_a_file_fills_the_form_comes_back_the_same_and_is_what_runs(page, tmp_path):
    config = SMALL.replace(
        preset="mine",
        replay_mode="recompute",
        target_function="difference:6>4",
        **{"recipe.optimizer": "adamw", "recipe.eps_root": 1e-8, "recipe.peak_lr": 0.002, "recipe.augment": "flip"},
    )
    (tmp_path / "mine.toml").write_text(config_file.dumps(config))
    (tmp_path / "wrong.toml").write_text("[recipe]\nepoch = 3\n")
    root = runs.outputs_root(tmp_path / "runs")
    with server(root, page) as (url, _):
        page.goto(f"{url}/Set_up_a_run")
        settled(page, "Set up a run")
        page.get_by_role("button", name="Start the run").wait_for()
        page.get_by_text("TOML file", exact=True).click()
        files = page.locator('input[type="file"]')
        idle(page)
        files.set_input_files(tmp_path / "wrong.toml")
        expect(page.get_by_text("did you mean epochs?")).to_be_visible()
        expect(page.get_by_role("button", name="Start the run")).to_have_count(0)
        files.set_input_files(tmp_path / "mine.toml")
        expect(page.get_by_role("spinbutton", name="Batch size")).to_have_value("1000")
        expect(page.get_by_role("combobox", name="Optimizer")).to_have_value("adamw")
        expect(page.get_by_text("each of the first epochs makes of it")).to_be_visible()
        expect(page.locator(".st-key-setup-bar")).to_contain_text(re.compile(r"Disk [\d.]+ .?B"))
        file = download(page, page.get_by_role("button", name="TOML", exact=True))
        assert config_file.loads(file.path().read_text()) == config

        # By the keyboard alone: another number, and the start.
        epochs = page.get_by_role("spinbutton", name="Epochs")
        epochs.focus()
        page.keyboard.press("Control+a")
        page.keyboard.type("2")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Yours; proposed: 1")).to_be_visible()
        idle(page)
        page.get_by_role("button", name="Start the run").focus()
        page.keyboard.press("Enter")
        settled(page, "Live")
        (run,) = runs.list_runs(root)
        assert run.manifest().config == config.replace(**{"recipe.epochs": 2})


def test_another_data_set_is_proposed_for_and_shown_augmented(page, tmp_path, monkeypatch):
    """From the page *Data* to the form, in a real browser: sizes, samples and previews are of the data chosen."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    dataset = dataset_registry.load(f"folder:{folder(tmp_path / 'pets', {'cat': 30, 'dog': 30})}")
    name, proposed = dataset.name, f"{proposal.for_dataset(dataset).config.recipe.batch_size}"
    seen = page.locator('img[alt*="as epoch"]')

    def drawn() -> None:
        expect(seen).to_have_count(36)  # six images, six epochs
        assert all(width == 12 for width in seen.evaluate_all("images => images.map(i => i.naturalWidth)"))
        assert len(set(seen.evaluate_all("images => images.map(i => i.src)"))) > 18

    with server(runs.outputs_root(tmp_path / "runs"), page) as (url, _):
        page.goto(f"{url}/Data?data={quote(name)}")
        settled(page, "Data")
        idle(page)
        page.get_by_text("Training images, augmented").click()
        pick(page, "Augmentation", "Rotate")
        page.keyboard.press("Escape")
        drawn()
        go(page, page.get_by_role("link", name="Set up a run with it"), "Set up a run")
        expect(page.get_by_text("12 × 10 pixels, in colour, 2 classes")).to_be_visible()
        size = page.get_by_role("spinbutton", name="Batch size")
        expect(size).to_have_value(proposed)
        size.fill("8")
        size.press("Enter")
        expect(page.get_by_text(f"Yours; proposed: {proposed}")).to_be_visible()
        idle(page)
        pick(page, "Augmentation", "Rotate")
        page.keyboard.press("Escape")
        drawn()
        rates = page.locator('img[alt^="Learning rate over"]')
        assert rates.evaluate("image => image.naturalWidth > 0")
        pick(page, "Data set", "fashion-mnist-sample")
        expect(page.get_by_text("28 × 28 pixels, grey, 10 classes")).to_be_visible()
        expect(size).to_have_value("8")  # a person's own
        wait_until(lambda: parse_qs(urlsplit(page.url).query)["dataset"] == ["fashion-mnist-sample"], page)


def test_deleted_checkpoints_are_rebuilt_from_the_storage_page(page, tmp_path):
    run = runs.Run.create(tmp_path, SMALL.replace(targets=("test:0",)))
    with run.lock():
        work.execute(run)
    before = run.storage().sizes()["trajectory"]
    run.storage().clean(("trajectory",))
    with server(tmp_path, page) as (url, _):
        for mode in ("disk", "recompute"):
            page.goto(f"{url}/Runs_and_storage")
            settled(page, "Runs and storage")
            idle(page)
            page.get_by_text(f"{mode} mode", exact=True).click()
            expect(page.get_by_text("This trains once more")).to_be_visible()
            idle(page)
            page.get_by_role("button", name="Rebuild checkpoints").click()
            settled(page, "Live")
            expect(page.get_by_text("Finished: the checkpoints are complete")).to_be_visible()
            assert run.manifest().kept_mode == mode and run.scores().targets()
            assert (run.storage().sizes()["trajectory"] == before) == (mode == "disk")
            expect(page.get_by_text(f"Checkpoints for {mode} mode are complete")).to_be_visible()


def test_scores_are_checked_by_retraining_from_the_pages(page, tmp_path):
    config = SMALL.replace(dataset="fashion-mnist-sample-noisy", targets=("test:0", "test:all"))
    run = runs.Run.create(runs.outputs_root(tmp_path), config)
    with run.lock():
        work.execute(run)

    def finishes(words: str) -> None:
        settled(page, "Live")
        expect(page.get_by_text(words)).to_be_visible()

    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Trust?run={run.id}")
        settled(page, "Trust")
        expect(page.get_by_text("Not validated yet.")).to_be_visible()
        idle(page)
        page.get_by_role("spinbutton", name="Subsets").fill("5")
        page.get_by_role("spinbutton", name="Subsets").press("Enter")
        idle(page)
        page.get_by_role("button", name="Validate", exact=True).click()
        finishes("Checked.")
        go(page, page.get_by_role("link", name="Look at the trust report"), "Trust")
        expect(page.locator('[data-testid="stMetric"]', has_text="LDS, mean")).to_be_visible()
        expect(page.locator(".js-plotly-plot")).to_have_count(2)
        (report,) = trust.reports(run.manifest())
        assert report["subsets"] == 5

        # Two ticks, by the keyboard; the prediction appears at once, and after the retraining the truth beside it.
        turn(page, f"{url}/Influence?run={run.id}&target=test:all.loss")
        settled(page, "Influence")
        for _ in range(2):
            idle(page)
            box = page.locator(".st-key-gallery-harmful input[type=checkbox]:not(:checked)").first
            box.focus()
            box.press("Space")
            idle(page)
        expect(page.get_by_text("2 images ticked")).to_be_visible()
        predicted = page.get_by_test_id("stMainBlockContainer").get_by_text("Predicted change of the loss")
        expect(predicted).to_have_count(1)  # the other target's is drawn where it is asked for
        page.get_by_text("The run's other targets").click()
        expect(predicted).to_have_count(2)
        idle(page)
        row = page.locator('[data-testid="stTable"] tr', has_text="Loss (nats)").last
        expect(row).to_contain_text(re.compile(r"\d\.\d{4}.*\d\.\d{4}.*—"))
        page.get_by_role("button", name="Check by retraining").click()
        finishes("Trained again: 2 images left out.")
        go(page, page.get_by_role("link", name="What if? on All test images"), "Influence")  # that was asked about
        expect(row).to_contain_text(re.compile(r"\d\.\d{4}.*\d\.\d{4}.*\d\.\d{4}"))
        assert len(trust.what_ifs(run.manifest())[0]["left_out"]) == 2

        go(page, page.get_by_role("link", name="Find bad labels"), "Find bad labels")
        expect(page.get_by_text("of the first 5 % have a wrong label")).to_be_visible()
        expect(page.locator(".st-key-gallery-suspects .grid img")).to_have_count(24)
        file = download(page, page.get_by_role("button", name="All suspects as CSV"))
        lines = file.path().read_text().splitlines()
        assert lines[0].startswith("rank,index,given_label,model_label") and len(lines) == 6001


def test_one_refused_deletion_does_not_hide_what_the_others_freed(page, explored, tmp_path):
    """One run is in use and one was deleted in another tab while the confirmation was open."""
    for name in ("made", "busy", "gone"):
        shutil.copytree(explored / "seed-0", tmp_path / name)
    made = runs.Run.open(tmp_path, "made")
    with server(tmp_path, page) as (url, _):
        page.goto(f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        idle(page)
        box = page.get_by_role("combobox", name="Runs to clean")
        for name in (made.id, "busy", "gone"):
            choose(page, box, page.get_by_role("option").filter(has_text=name))
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Delete checkpoints").click()
        confirm = page.get_by_role("dialog").get_by_role("button", name="Delete checkpoints")
        expect(confirm).to_be_visible()
        shutil.rmtree(tmp_path / "gone")
        before = made.storage().sizes()["trajectory"]
        with runs.Run(tmp_path, "busy").lock():
            confirm.click()
            expect(page.get_by_text(f"freed ({before:,} bytes)")).to_be_visible()
        expect(page.get_by_text("Run busy is in use")).to_be_visible()
        expect(page.get_by_text("There is no run gone")).to_be_visible()
        assert made.storage().sizes()["trajectory"] == 0 < runs.Run(tmp_path, "busy").storage().sizes()["trajectory"]

        # A run that is damaged goes as a whole, and takes nothing else along.
        (tmp_path / "busy" / "manifest.json").write_text("{")
        page.goto(f"{url}/Runs_and_storage")
        settled(page, "Runs and storage")
        idle(page)
        choose(page, page.get_by_role("combobox", name="Runs to clean"), page.get_by_role("option", name="busy"))
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Delete whole runs").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete whole runs").click()
        expect(page.get_by_text("Delete whole runs:").and_(page.get_by_text("freed"))).to_be_visible()
        assert not (tmp_path / "busy").exists() and made.status == "finished"


@pytest.fixture(scope="module")
def explored(tmp_path_factory) -> Path:
    """A small run with several targets, and a second one of another seed."""
    root = runs.outputs_root(tmp_path_factory.mktemp("explored"))
    for seed, targets in ((0, ("test:0", "test:1", "class:2")), (1, ("test:0",))):
        made = runs.Run.create(
            root,
            SMALL.replace(targets=targets, **{"recipe.seed": seed}),
            f"seed-{seed}",
        )
        with made.lock():
            work.execute(made)
    return root


@pytest.fixture
def root(explored, tmp_path) -> Path:
    return shutil.copytree(explored, tmp_path / "runs")


def test_influence_is_filtered_dragged_enlarged_ticked_pinned_and_linked(page, root):
    run = runs.Run.open(root, "seed-0")
    scores_N, labels_N = run.scores().matrix("loss-000")[0], dataset_registry.load("fashion-mnist-sample").train_labels
    with server(root, page) as (url, _):
        page.goto(f"{url}/Influence?run=seed-0&target=test:0.loss&k=6")
        settled(page, "Influence")
        assert shown(page, "harmful") == np.argsort(-scores_N)[:6].tolist()

        # Enlarged, on with the arrow keys, back to the tile; the keys lead through the grid too.
        tiles = page.locator(".st-key-gallery-harmful .open")
        tiles.nth(0).click()
        enlarged = page.locator(".st-key-gallery-harmful dialog")
        expect(enlarged.locator("h2")).to_have_text(re.compile(r"^1\. "))
        page.keyboard.press("ArrowRight")
        expect(enlarged.locator("h2")).to_have_text(re.compile(r"^2\. "))
        expect(enlarged).to_contain_text(f"train:{shown(page, 'harmful')[1]}")
        expect(enlarged).to_contain_text(re.compile(r"Used in steps\d of 6"))
        expect(enlarged.locator(".bars tr")).to_have_count(2)  # the run's other targets
        page.keyboard.press("Escape")
        expect(enlarged).not_to_be_visible()
        focused = "document.activeElement.shadowRoot.activeElement.closest('li').dataset.index"
        # The browser gives the focus back to where it was; the dialog's own event, which follows, to the tile shown.
        page.wait_for_function(f"Number({focused}) === {shown(page, 'harmful')[1]}")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"Number({focused}) === {shown(page, 'harmful')[2]}")

        # Two ticks in haste are both kept, and another tab sees them.
        boxes = page.locator(".st-key-gallery-harmful .grid input")
        boxes.nth(0).click()
        boxes.nth(1).click()
        wait_until(lambda: notes.read(run).ticked == tuple(sorted(shown(page, "harmful")[:2])), page)
        other = page.context.new_page()
        other.goto(f"{url}/Influence?run=seed-0&target=test:0.loss")
        expect(other.locator(".st-key-gallery-harmful .grid input:checked")).to_have_count(2)
        other.close()

        # Dragging over the histogram keeps a range of scores.
        chart = page.locator('[data-testid="stMain"] .js-plotly-plot .nsewdrag').first
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=5)
        page.mouse.up()
        expect(page.get_by_role("button", name="only: show all again")).to_be_visible()
        low, high = (float(parse_qs(urlsplit(page.url).query)[name][0]) for name in ("low", "high"))
        kept = [i for i in np.argsort(-scores_N) if low <= scores_N[i] <= high]
        assert (
            low < high and 0 < len(kept) < 6000 and shown(page, "harmful") == [i for i in kept if scores_N[i] > 0][:6]
        )

        # A class, pinned targets, and the second page: the link restores them all.
        page.get_by_role("button", name="only: show all again").click()
        wait_until(lambda: "low=" not in page.url, page)
        idle(page)
        page.get_by_text("Filters and view").click()
        at_rest(page)  # the row opens with an animation
        idle(page)
        page.get_by_text("Different", exact=True).click()
        wait_until(lambda: "relation=other" in page.url and "low=" not in page.url, page)
        idle(page)
        page.mouse.wheel(0, -5000)
        pins = page.get_by_role("combobox", name="Pin targets to compare")
        pullovers = page.get_by_role("option", name="All test images of class Pullover · loss")

        def offered() -> bool:  # a drawing of the page that comes in between closes the list again
            if not pullovers.is_visible():
                pins.fill("")
                pins.fill("Pullover")
            return pullovers.is_visible()

        wait_until(offered, page)
        pullovers.click()
        page.keyboard.press("Escape")
        expect(page.get_by_text("Pinned targets side by side")).to_be_visible()
        idle(page)
        page.get_by_role("button", name="Next page").click()
        wait_until(lambda: "page=2" in page.url, page)
        label = dataset_registry.load("fashion-mnist-sample").test_labels[0]
        expected = [i for i in np.argsort(-scores_N) if labels_N[i] != label][6:12]
        wait_until(lambda: shown(page, "harmful") == expected, page)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy link").click()
        expect(page.get_by_role("status").get_by_text("Copied")).to_be_attached()
        link = page.evaluate("navigator.clipboard.readText()")
        assert urlsplit(link).query == urlsplit(page.url).query
        state = [shown(page, which) for which in ("helpful", "harmful", "pinned")]
        other = page.context.new_page()
        other.goto(link)
        settled(other, "Influence")
        assert [shown(other, which) for which in ("helpful", "harmful", "pinned")] == state
        assert parse_qs(urlsplit(other.url).query) == parse_qs(urlsplit(link).query)
        other.close()


def test_an_image_of_ones_own_is_uploaded_explained_and_shown(page, root, tmp_path):
    Image.effect_noise((60, 40), 80).save(tmp_path / "own.png")
    (tmp_path / "no.png").write_bytes(b"not an image")
    with server(root, page) as (url, _):
        page.goto(f"{url}/Test_images?run=seed-0&wrong=1")
        settled(page, "Test images")
        assert len(shown(page, "tests")) == 24
        idle(page)
        page.locator('input[type="file"]').set_input_files(tmp_path / "no.png")
        expect(page.get_by_text("The file is no image that can be read.")).to_be_visible()
        page.locator('input[type="file"]').set_input_files(tmp_path / "own.png")
        expect(page.get_by_text("Resized from 60 × 40 to 28 × 28 pixels")).to_be_visible()
        idle(page)
        page.get_by_role("button", name="Explain this image").click()
        settled(page, "Live")
        expect(page.get_by_text("Finished: the scores are ready.")).to_be_visible()
        target = runs.Run.open(root, "seed-0").scores().targets()[-1]
        turn(page, f"{url}/Influence?run=seed-0&target={target.key}")
        settled(page, "Influence")
        expect(page.locator('[data-testid="stSidebar"]').get_by_text("Own image").first).to_be_visible()
        assert len(shown(page, "harmful")) == 12


# What axe-core finds; null where the page was drawn anew in the meantime, when parts of it are faded or gone.
LOOK_AT_REST = f"""async options => {{
  const still = () => {NOT_RUNNING} && !document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]');
  if (!still()) return null;
  let drawn = false;
  const watch = new MutationObserver(() => drawn = true);
  watch.observe(document.querySelector('[data-testid="stApp"]'), {{attributeFilter: ["data-test-script-state"]}});
  const {{violations}} = await axe.run(document, options);
  watch.disconnect();
  return drawn || !still() ? null : violations;
}}"""


def violations(tab: Page, theme: str) -> list[str]:
    """What axe-core finds of impact serious or critical: rule, node and why."""
    if not tab.evaluate("!!window.axe"):
        tab.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    # Colours as they end: none between two themes, and none of a part that is about to be drawn again.
    tab.add_style_tag(content="* { transition: none !important; } [data-stale] { opacity: 1 !important; }")
    tab.emulate_media(color_scheme=theme, reduced_motion="reduce")
    dark = "getComputedStyle(document.querySelector('.stApp')).backgroundColor.match(/\\d+/)[0] < 128"
    tab.wait_for_function(dark if theme == "dark" else f"!({dark})")
    found = []
    only = {"runOnly": ["color-contrast"]} if theme == "dark" else {}  # the one thing that a theme changes
    at_rest(tab)
    while (seen := tab.evaluate(LOOK_AT_REST, {"resultTypes": ["violations"], **only})) is None:
        idle(tab)  # what was opened or changed before is drawn again
        at_rest(tab)
    for violation in seen:
        for node in violation["nodes"] if violation["impact"] in ("serious", "critical") else []:
            found.append(f"{theme}: {violation['id']} {node['target']} {node['html'][:200]}\n{node['failureSummary']}")
    return found


def test_axe_finds_nothing_serious_on_any_page_in_either_theme(page, root):
    run = runs.Run.open(root, "seed-0")
    run.update_manifest(
        jobs=(JobRecord("replay", {"mode": "disk", "targets": ["test:5"], "function": "loss"}),)
    )  # to be resumed
    found = []
    with server(root, page) as (url, _):
        page.goto(url)
        themes = ["light", "dark"]
        for path, heading in HEADINGS.items():
            turn(page, f"{url}/{path}?run={run.id}")
            settled(page, heading)
            idle(page)
            closed = page.locator("details:not([open]) > summary")
            while closed.count():  # what was opened may have more
                closed.evaluate_all("summaries => summaries.forEach(summary => summary.click())")
                idle(page)
            found += [f"{heading}, {problem}" for theme in themes for problem in violations(page, theme)]
            themes.reverse()  # a change of theme draws all anew: one a page
    assert not found, "\n\n".join(found)


def test_behind_a_proxys_path_every_link_keeps_it(page, root):
    with server(root, page, "--server.baseUrlPath", "tool/replay") as (url, _):
        assert url.endswith("/tool/replay")
        for path, which in (("Influence?run=seed-0", "harmful"), ("Training_images?run=seed-0&image=0", "targets-")):
            page.goto(f"{url}/{path}")
            settled(page, path.partition("?")[0].replace("_", " "))
            page.locator(f"[class*=st-key-gallery-{which}] .open").first.click()
            link = page.locator(f"[class*=st-key-gallery-{which}] dialog a").first
            address = link.evaluate("link => link.href")
            assert address.startswith(f"{url}/"), address
            assert page.request.get(address).status == 200
            link.click()
            settled(page, "Training images" if which == "harmful" else "Influence")
        idle(page)
        links = page.locator('[data-testid="stSidebar"] [data-testid="stPageLink"] a')
        expect(links).to_have_count(len(HEADINGS))
        addresses = links.evaluate_all("links => links.map(link => link.href)")
        assert all(f"{address}/".startswith(f"{url}/") for address in addresses), addresses


def test_no_link_and_no_file_makes_the_browser_ask_a_foreign_host(page, root):
    """The fixture `page` fails for any foreign request; no link or picture is made of such a text either."""
    said = (
        "![x](http://evil.example/p.png) [x](http://evil.example) <img src=http://evil.example/q.png> www.evil.example"
    )
    run = runs.Run.open(root, "seed-0")
    notes.write_note(run, notes.RUN, said)
    notes.write_note(run, 0, said)
    run.events_log.append("failed", what=said, remedy=said)
    foreign = page.locator('a[href*="evil"], img[src*="evil"], image[href*="evil"]')
    queries = {
        "Influence": ("target pin label relation side k size low high page",),
        "Training_images": ("view image", "view=browse label page", "view=matrix group"),
        "Test_images": ("wrong true predicted from to order page",),
        "Compare_runs": ("other target image view", "view=many runs find data model"),
        "Trust": ("validation target",),
        "Find_bad_labels": ("from order target label",),
        "Triage": ("queue most target",),
        "Themes": ("target side top themes",),
        "Map": ("target near colour",),
        "Duplicates": ("by order where differ target",),
    }
    with server(root, page) as (url, _):
        page.goto(url)
        for path, heading in HEADINGS.items():
            for names in ("run", *(f"run=seed-0 {names}" for names in queries.get(path, ("page",)))):
                query = "&".join(name if "=" in name else f"{name}={quote(said)}" for name in names.split())
                turn(page, f"{url}/{path}?{query}")
                settled(page, heading)
                idle(page)
                assert foreign.evaluate_all("them => them.map(one => one.outerHTML)") == [], f"{path}?{query}"
