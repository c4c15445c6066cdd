"""Runs with an attribution window: what they keep, how they are validated and resumed, and what they are called."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import config as configs
from engine import files
from engine.__main__ import main
from engine.analysis import compare, lds, trust
from engine.datasets import registry as datasets
from engine.errors import IntegrityError
from engine.jobs import estimate, shards
from engine.jobs.execute import execute
from engine.jobs.merge import merge
from engine.jobs.parts import Shard
from engine.jobs.rebuild import Rebuild
from engine.jobs.replay import Replay
from engine.jobs.session import WINDOW
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import run as runs
from engine.runs.events import EventLog
from engine.trajectory.state_files import read_with_header, save_state
from tests import quick as quick_data
from tests.helpers import ROOT, said, show
from tools import window as tool
from tools.hold import Hold
from ui import run_names

pytestmark = pytest.mark.slow  # they train

START, STEPS = 5, 10
PHRASE = "effect of the last 50 % of training"


def do(run: runs.Run, job=None) -> str | None:
    with run.lock():
        return execute(run, job).scores


def made(config: configs.RunConfig, root, run_id: str) -> runs.Run:
    run = runs.Run.create(root, config, run_id)
    do(run)
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a prepared data set, and a configuration with a window on it."""
    folder = tmp_path_factory.mktemp("window")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLAY_DATA_DIR", str(folder / "data"))
        dataset = datasets.load(datasets.canonical(quick_data.arrays(folder / "images.npz"))).name
        yield folder, quick_data.CONFIG.replace(dataset=dataset, window=0.5, compile="off")


@pytest.fixture(scope="module")
def both(data) -> dict[str, runs.Run]:
    """The same training twice: with a window, and without."""
    folder, config = data
    root = runs.outputs_root(folder / "outputs")
    return {"windowed": made(config, root, "windowed"), "whole": made(config.replace(window=0.0), root, "whole")}


@pytest.fixture
def windowed(both, root) -> runs.Run:
    """A copy, for a test to change."""
    shutil.copytree(both["windowed"].path, root / "windowed")
    return runs.Run.open(root, "windowed")


@pytest.fixture
def whole(both, root) -> runs.Run:
    shutil.copytree(both["whole"].path, root / "whole")
    return runs.Run.open(root, "whole")


@pytest.fixture(scope="module")
def training(data) -> tool.Training:
    """The same once more, by the tool that docs/window.md names: its scores are what the replay of a whole training
    has summed up on its way, its retrainings those of another function."""
    return tool.Training(data[1], 60)


def notes(run: runs.Run) -> list[str]:
    return [e["text"] for e in run.events()[0] if e["kind"] == "note"]


def phases(run: runs.Run, name: str) -> list[dict]:
    return [e for e in run.events()[0] if e["kind"] == "phase" and e["phase"] == name]


def scores(run: runs.Run, name: str = "loss-000") -> np.ndarray:
    return np.array(run.scores().matrix(name))


# -- what a run has


def test_a_run_scores_keeps_and_records_its_window(both, training):
    run, record = both["windowed"], both["windowed"].manifest()
    expected = training.scores()[START][:2]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(scores(run), expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())
    whole = scores(both["whole"])
    np.testing.assert_allclose(whole, training.scores()[0][:2], rtol=1e-3, atol=1e-6 * np.abs(whole).max())
    assert np.abs(scores(run) - whole).max() > 0.05 * np.abs(whole).max()
    steps = sorted(path.name for path in (run.path / "trajectory").iterdir())
    assert steps == [f"step-{t:07d}.safetensors" for t in range(START, STEPS)]
    assert files.sha256_of(run.path / WINDOW) == record.files[WINDOW]
    assert record.training_digest == both["whole"].manifest().training_digest
    (sidecar,) = record.score_sets.sidecars()
    assert sidecar["window_start"] == START and sidecar["norm_steps"][-1] == START
    assert [phase["steps"] for phase in phases(run, "replay")] == [STEPS - START]
    assert record.window_phrase == PHRASE and both["whole"].manifest().window_phrase == ""
    assert any(PHRASE in note for note in notes(run))
    assert not (both["whole"].path / WINDOW).exists()


@pytest.mark.parametrize("mode", configs.REPLAY_MODES)
def test_every_mode_has_the_same_bits_and_none_keeps_or_rebuilds_a_state_before(mode, windowed):
    windowed.storage().clean(("trajectory",))
    again = do(windowed, Replay(("test:0", "test:1"), "loss", mode))
    assert np.array_equal(scores(windowed, again), scores(windowed))
    kept = {"memory": [], "disk": range(START, STEPS), "recompute": (5, 8)}[mode]
    name = {"memory": "", "disk": "step", "recompute": "full"}[mode]
    there = sorted(path.name for path in (windowed.path / "trajectory").iterdir())
    assert there == [f"{name}-{t:07d}.safetensors" for t in kept]
    if mode != "recompute":  # whose segments are part of its replay
        assert f"Training steps {START} to {STEPS - 1} again" in "\n".join(notes(windowed))
    # Recompute mode lacks its second checkpoint too, and reaches it from the window's first step.
    assert windowed.manifest().steps_recomputed == STEPS - START + (3 if mode == "recompute" else 0)


def other_state(path) -> None:
    """Whole and with the right header, as another hand may write it."""
    tensors, header = read_with_header(path, {}, "")
    tensors["theta"][0] += 1
    save_state(path, tensors, header)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\0" * 900), other_state])
def test_a_state_of_the_window_that_was_lost_is_trained_again(harm, windowed):
    harm(windowed.path / WINDOW)
    windowed.storage().clean(("trajectory",))
    again = do(windowed, Replay(("test:0", "test:1"), "loss", "memory"))
    assert np.array_equal(scores(windowed, again), scores(windowed))
    assert f"Training steps 0 to {STEPS - 1} again" in "\n".join(notes(windowed))
    do(windowed, WhatIf.of([3, 4]))  # begins at that state, and leaves it where it was
    assert [phase["steps"] for phase in phases(windowed, "retrain")] == [STEPS - START]
    assert files.sha256_of(windowed.path / WINDOW) == windowed.manifest().files[WINDOW]
    do(windowed, Rebuild("disk"))
    assert len(list((windowed.path / "trajectory").iterdir())) == STEPS - START


@pytest.mark.parametrize("mode", ["disk", "recompute"])
def test_the_estimate_is_what_a_windowed_run_takes(mode, data, root):
    """Bytes within 5 %, of enough steps for the states to outweigh small files; and less than without a window."""
    config = data[1].replace(replay_mode=mode, width=1.0, **{"recipe.epochs": 10})
    told, without = (estimate.estimate(each, root) for each in (config, config.replace(window=0.0)))
    assert (told.steps, told.counted, without.counted) == (50, 25, 50)
    run = made(config, root, "estimated")
    assert files.size_of(run.path) == pytest.approx(told.modes[mode].disk, rel=0.05)
    assert told.modes[mode].disk < without.modes[mode].disk
    assert told.modes["memory"].ram < without.modes["memory"].ram


# -- retrainings


def test_a_validation_retrains_from_the_window(windowed, training):
    """Against the tool's own retrainings, and its scores' predictions."""
    do(windowed, Validate(5, (0.1,)))
    (report,) = trust.reports(windowed.manifest())
    assert report["window_start"] == START and report["noise_share"] == 0
    for m in range(5):
        left_out = lds.subset(120, 0.1, 0, m)
        actual = training.without(left_out, START)[:2]
        assert [t["actual"][m] for t in report["targets"]] == pytest.approx(actual.tolist(), abs=1e-5)
        assert np.abs(actual - training.without(left_out, 0)[:2]).max() > 1e-3
        predicted = -scores(windowed)[:, left_out].sum(1)
        assert [t["predicted"][m] for t in report["targets"]] == pytest.approx(predicted.tolist(), rel=1e-4)
    assert [phase["steps"] for phase in phases(windowed, "retrain")] == [6 * (STEPS - START)]
    do(windowed, Smoothness(1))
    assert phases(windowed, "retrain")[-1]["steps"] == 2 * (STEPS - START)


def test_retrainings_of_another_window_are_not_taken(windowed, whole):
    """Neither those of the whole training in a run with a window, nor the other way round."""
    for run in (windowed, whole):
        do(run, Validate(5, (0.1,)))
    reports = {run.id: trust.reports(run.manifest())[0] for run in (windowed, whole)}
    assert reports["windowed"]["targets"] != reports["whole"]["targets"]
    for run, other in ((windowed, whole), (whole, windowed)):
        folder = run.path / "validation" / "retrained"
        shutil.copy(other.path / "validation" / "retrained" / "0.1-0-2.safetensors", folder)
        do(run, Validate(5, (0.1,)))
        assert trust.reports(run.manifest())[0]["targets"] == reports[run.id]["targets"]
    assert any("is of another window: None instead of 5" in note for note in notes(windowed))
    assert any("is of another window: 5 instead of 0" in note for note in notes(whole))


def test_reports_of_another_window_are_refused(windowed, whole):
    do(whole, Validate(5, (0.1,)))
    (name,) = (f for f in whole.manifest().files if f.startswith("validation/lds-"))
    shutil.copy(whole.path / name, windowed.path / name)
    windowed.add_files({name: whole.manifest().files[name]})
    with pytest.raises(IntegrityError, match="of another window: of retrainings from step 1 on, .* from step 6"):
        trust.reports(windowed.manifest())


def test_scores_of_another_window_are_not_validated(windowed, whole):
    shutil.copytree(whole.path / "scores", windowed.path / "scores", dirs_exist_ok=True)
    recorded = {f: sha for f, sha in whole.manifest().files.items() if f.startswith("scores/")}
    windowed.update_manifest(files={**windowed.manifest().files, **recorded})
    with pytest.raises(IntegrityError, match="weights that count from step 1 on, and those of the run .* from step 6"):
        do(windowed, Validate(5, (0.1,)))


# -- several processes, and kills


def test_shards_have_the_bits_of_one_process_and_refuse_parts_of_another_window(windowed, whole):
    six = tuple(f"test:{i}" for i in range(10, 16))
    alone = do(windowed, Replay(six))
    for run in (windowed, whole):
        shards.do(run, Replay(six), Shard(1, 2), lambda event: None)
    foreign = [path for path in (whole.path / "scores").iterdir() if path.name.startswith(("part-", "plan-"))]
    for path in foreign:
        shutil.copy(path, windowed.path / "scores")
    shards.do(windowed, Replay(six), Shard(2, 2), lambda event: None)
    with pytest.raises(IntegrityError, match="foreign: it is of another training, window or set"):
        merge(windowed)
    (together,) = (name for name in windowed.scores().names() if name not in ("loss-000", alone))
    assert np.array_equal(scores(windowed, together), scores(windowed, alone))


@pytest.mark.parametrize(("mode", "phase", "step"), [("disk", "train", 7), ("recompute", "replay", 3)])
def test_a_killed_run_is_resumed_to_the_same_bits(mode, phase, step, data, both, root, tmp_path):
    """A real process, killed behind the window's first step, or within its replay."""
    config = data[1].replace(replay_mode=mode)
    file = tmp_path / "run.toml"
    from engine import config_file

    file.write_text(config_file.dumps(config))
    hold = Hold(phase, step, tmp_path / "gate")
    call = [sys.executable, *hold.words, "engine", "run", "--config", str(file), "--outputs", str(root)]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (found := runs.list_runs(root)) or not _is_at(found[0], phase, step):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    (run,) = found
    assert run.status == "interrupted"
    do(run)
    assert np.array_equal(scores(run), scores(both["windowed"]))
    assert any(note.startswith("Resumes the") for note in notes(run))
    states = [read_with_header(each.path / WINDOW, {"step": str(START)}, "")[0] for each in (run, both["windowed"])]
    assert states[0].keys() == states[1].keys() == {"theta", "momentum", "buffers"}
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


def _is_at(run: runs.Run, phase: str, step: int) -> bool:
    events = EventLog(run.path / "events.jsonl", run.id).read()[0]
    return any(e["kind"] == "progress" and e["phase"] == phase and e["step"] >= step for e in events)


# -- what people read


def text_of(app: AppTest) -> str:
    return "\n".join(each.value for kind in (app.caption, app.markdown) for each in kind)


@pytest.mark.parametrize(
    "page",
    ["Influence", "Training_images", "Test_images", "Find_bad_labels", "Trust", "Compare_runs", "Live"],
)
def test_every_page_of_a_run_names_its_window(page, windowed, whole):
    assert PHRASE in text_of(show(f"pages/{page}.py", run="windowed"))
    if page == "Influence":
        assert "effect of" not in text_of(show(f"pages/{page}.py", run="whole"))


def test_a_name_tells_a_run_from_the_same_training_without_a_window(windowed, whole):
    names = {run.id: run_names.made_of(runs.summary(run)) for run in (windowed, whole)}
    assert ", seed 0, last 50 % · " in names["windowed"] and ", seed 0 · " in names["whole"]


def test_runs_of_two_windows_are_said_to_answer_other_questions(windowed, whole):
    a, b = windowed.manifest(), whole.manifest()
    assert compare.differences(a, b) == [("window", PHRASE, "effect of the whole training")]
    assert compare.differences(a, a) == []
    app = show("pages/Compare_runs.py", run="windowed", other="whole")
    assert (
        f"They answer other questions: the scores of A are the {PHRASE}, those of B the effect of the whole training."
        in said(app)
    )


def test_the_form_says_what_a_window_is_and_refuses_one_that_leaves_nothing(root):
    app = show("pages/Set_up_a_run.py")
    assert "effect of" not in text_of(app)
    app.number_input(key="set-window").set_value(0.5).run()
    assert f"Scores will be the **{PHRASE}**: what the images do from step 73 of 144 on." in text_of(app)
    app.number_input(key="set-window").set_value(144).run()
    assert "leaves none of the training's 144 steps" in said(app)
    app.number_input(key="set-window").set_value(1.5).run()
    assert "must be a fraction below 1" in said(app)


def test_commands_take_and_say_the_window(windowed, root, capsys):
    assert main(["config", "--preset", "sample", "--window", "0.5"]) == 0
    assert "window = 0.5\n" in capsys.readouterr().out
    assert main(["info", "windowed"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] == PHRASE
    assert main(["attribute", "windowed", "--targets", "test:4"]) == 0
    assert f"(1, 120); {PHRASE}" in capsys.readouterr().out
    for window, what in (("-1", "must be from 0"), ("nan", "not nan"), ("half", "no number"), ("2.5", "a fraction")):
        with pytest.raises(SystemExit) as left:
            main(["run", f"--window={window}"])
        assert left.value.code == 2 and what in capsys.readouterr().err
    assert main(["run", "--preset", "sample", "--window", "144"]) == 2
    assert "leaves none of the training's 144 steps" in capsys.readouterr().err


# -- the tool


def test_the_tool_prints_a_row_a_window(data):
    rows = tool.measure(data[1], 6, 5)
    assert [row["start"] for row in rows] == [0, 2, 5, 8]
    assert rows[0]["own"] == rows[0]["whole"] and rows[0]["rank"] == 1 and rows[3]["zero"] > rows[1]["zero"] == 0
    assert all(row["own"]["r2"] > 0.99 for row in rows[:3])  # the last one ends where the rate has gone to 0
    assert len(tool.markdown(rows).splitlines()) == 6


# -- saved from Python


def test_scores_that_were_saved_from_python_are_called_what_they_are(root):
    import torch

    import engine
    from engine.errors import ConfigError
    from tests.helpers import RECIPE, images, net

    inputs, labels = images(26)
    pictures = inputs.sub(inputs.min()).div(inputs.max() - inputs.min())
    trained = engine.train(net(), pictures, labels, RECIPE, check=False, progress=False)  # 9 steps
    found = engine.attribute(trained, pictures[:2], labels[:2], window=6, progress=False)
    given = {"test_images": pictures[:4], "test_labels": labels[:4], "scores": found, "targets": [0, 1]}
    with pytest.raises(ConfigError, match="leaves none of the training's 9 steps"):
        trained.save("mine", **given, window=9)
    run = runs.Run.open(root, trained.save("mine", **given, window=6).name)
    assert run.manifest().window_phrase == "effect of the last 33.3 % of training"
    assert run.scores().sidecars()[0]["window_start"] == 6 and np.array_equal(scores(run), found)
    assert "effect of the last 33.3 % of training" in text_of(show("pages/Influence.py", run="mine"))
    loaded = engine.load(run.path, net())
    again = engine.attribute(loaded, pictures[:2], labels[:2], window=6, progress=False)
    assert np.array_equal(again, found)
    assert torch.equal(loaded.state.theta, trained.state.theta)
