"""The form of *Set up a run*, without a browser: what it proposes, offers, hides, keeps, says and starts."""

import base64
import dataclasses
import re
import shutil
import threading

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import config as configs
from engine import config_file, files, proposal, space
from engine.config import PRESETS, RunConfig
from engine.config_file import dumps, loads
from engine.core import schedule
from engine.datasets import registry
from engine.jobs import probe
from engine.jobs.queue import JobQueue
from engine.runs import run as runs
from tests.helpers import button, said, show, sound, until
from tests.images import folder
from ui import setup_draft, setup_recipe, shell

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]
SET_UP = "pages/Set_up_a_run.py"
KINDS = ("number_input", "selectbox", "checkbox", "text_input", "multiselect", "radio")


def widgets(app: AppTest) -> dict:
    """Those of settings, by the setting's name."""
    found = [widget for kind in KINDS for widget in getattr(app, kind)]
    return {w.key.removeprefix("set-"): w for w in found if w.key and w.key.startswith("set-")}


def settings(app: AppTest) -> RunConfig:
    """What the form holds."""
    return app.session_state[setup_draft.KEY].config


def captions(app: AppTest) -> str:
    return "\n".join(c.value for c in app.caption).replace("\\", "")


def upload(app: AppTest, text: str) -> AppTest:
    app.segmented_control(key="start").set_value("file").run()
    app.file_uploader[0].upload("mine.toml", text.encode(), "application/toml")
    return app.run()


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """What *TOML* gives to the browser, one text for each drawing."""
    texts = []

    def recorded(config: RunConfig) -> str:
        texts.append(dumps(config))
        return texts[-1]

    monkeypatch.setattr(config_file, "dumps", recorded)
    return texts


@pytest.fixture
def pets(tmp_path, monkeypatch) -> str:
    """A prepared folder of colour images of another size than the sample's."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    dataset = registry.load(f"folder:{folder(tmp_path / 'pets', {'cat': 30, 'dog': 30, 'eel': 30})}")
    yield dataset.name
    registry.clear()


# -- where settings come from


def test_the_form_opens_with_the_sample_and_its_steps_in_order():
    app = show(SET_UP)
    assert [h.value for h in app.header] == ["1 Data", "2 Model", "3 Recipe", "4 Targets", "5 Mode and cost"]
    assert settings(app) == PRESETS["sample"] and not app.error
    assert not button(app, "Start the run").disabled


def test_data_of_ones_own_are_proposed_for_and_nothing_of_a_persons_is_lost(pets):
    app = show(SET_UP)
    app.number_input(key="set-recipe.epochs").set_value(3).run()
    app.text_input(key="typed_targets").set_value("test:9").run()
    sound(app.selectbox(key="set-dataset").set_value(pets).run())
    made = proposal.for_dataset(registry.load(pets))
    assert settings(app).dataset == pets and "12 × 10 pixels, in colour, 3 classes" in captions(app)
    assert settings(app).recipe == dataclasses.replace(made.config.recipe, epochs=3)
    assert settings(app).recipe.batch_size != PRESETS["sample"].recipe.batch_size
    assert "test:9" in settings(app).targets and "here the same numbers are other images" in said(app)
    assert all(any(reason in m.value.replace("\\", "") for m in app.markdown) for reason in made.reasons)
    sound(button(app, "Take the proposed targets").click().run())
    assert settings(app).targets == made.config.targets and settings(app).recipe.epochs == 3
    assert "other images" not in said(app)
    sound(app.button(key="back-recipe.epochs").click().run())
    assert settings(app) == made.config


def test_what_was_changed_is_shown_with_what_was_proposed_and_can_be_put_back():
    app = show(SET_UP)
    app.number_input(key="set-recipe.epochs").set_value(9).run()
    app.number_input(key="set-width").set_value(0.5).run()
    assert "Yours; proposed: 6" in captions(app) and "Yours; proposed: 1" in captions(app)
    assert any(e.label == "Changed by you: Epochs, Width (× channels)" for e in app.expander)
    assert settings(app).preset == "own", "it is no longer what was measured for the preset"
    sound(button(app, "Put all back").click().run())
    assert settings(app) == PRESETS["sample"] and "Yours" not in captions(app)


def test_a_link_chooses_the_data_and_the_address_follows_the_choice(pets):
    app = show(SET_UP, dataset=pets)
    assert settings(app) == proposal.for_dataset(registry.load(pets)).config
    app.selectbox(key="set-dataset").set_value("fashion-mnist-sample").run()
    assert app.query_params["dataset"] == "fashion-mnist-sample" and settings(app).dataset == "fashion-mnist-sample"
    app.query_params["dataset"] = pets
    assert settings(sound(app.run())).dataset == pets, "the browser's «back»"


# -- files


def test_a_file_fills_the_form_which_gives_the_very_file_back(downloads):
    config = PRESETS["sample"].replace(
        preset="mine",
        targets=("test:9", "class:1"),
        target_function="difference:6>4",
        replay_mode="recompute",
        segment=7,
        **{"recipe.epochs": 2, "recipe.optimizer": "adamw", "recipe.augment": "flip,crop:2", "recipe.momentum": 0.5},
    )
    app = show(SET_UP)
    app.text_input(key="typed_targets").set_value("test:10").run()  # a choice that the file's replaces
    app.segmented_control(key="start").set_value("file").run()
    assert all(b.label != "Start the run" for b in app.button), "nothing to start without a file"
    sound(upload(app, dumps(config)))
    shown = widgets(app)
    assert shown["recipe.epochs"].value == 2 and shown["recipe.optimizer"].value == "adamw"
    assert shown["recipe.augment"].value == ["flip", "crop"] and shown["recipe.augment-crop"].value == 2
    assert shown["replay_mode"].value == "recompute" and shown["segment"].value == 7
    assert app.selectbox(key="function-set-new-difference-0").value == 6
    assert settings(app) == config and loads(downloads[-1]) == config
    assert loads(downloads[-1]).training_digest("x") == config.training_digest("x")
    app.number_input(key="set-recipe.epochs").set_value(5).run()
    assert loads(downloads[-1]) == config.replace(**{"recipe.epochs": 5}), "hidden settings, too, stay the file's"


@pytest.mark.parametrize(
    "text, message",
    [
        ("[data]\ndataset = 'folder:/etc'", "does not offer"),
        ("[model]\nmodel = '/tmp/x.py:build'", "one of those listed"),
        ("[model]\nmodel = 'os:system'", "one of those listed"),
        ("[model]\ninitial_weights = '/etc/passwd'", "file of the folder of models"),
        ("[recipe]\nepoch = 3", "did you mean epochs"),
        ("[recipe]\nepochs = 0", "recipe.epochs must be from 1"),
        ("[targets]\ntargets = ['test:123456']", "123456"),
        ("[recipe]\n'<b>**x**' = 3", "is not known"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_file_that_the_form_could_not_have_written_is_refused(text, message, monkeypatch):
    app = show(SET_UP)  # the sample is loaded; from here on nothing is
    monkeypatch.setattr("engine.datasets.registry._load", lambda *_: pytest.fail("a path from a browser was opened"))
    app = upload(app, text)
    assert message in said(app).replace("\\", "") and not app.exception
    assert "<b>" not in said(app).replace("\\<b", "")
    assert all(b.label != "Start the run" for b in app.button)


def test_another_data_set_keeps_what_a_file_said(pets):
    rate = proposal.for_dataset(registry.load(pets)).config.recipe.peak_lr  # as proposed for SGD, but not for Adam
    changes = {"recipe.epochs": 2, "recipe.optimizer": "adam", "recipe.peak_lr": rate, "recipe.batch_size": 20}
    config = PRESETS["sample"].replace(preset="mine", **changes)
    app = sound(upload(show(SET_UP), dumps(config)))
    sound(app.selectbox(key="set-dataset").set_value(pets).run())
    assert settings(app).dataset == pets and settings(app).recipe == config.recipe
    words = next(e.label for e in app.expander if e.label.startswith("Changed by you"))
    assert "Optimizer" in words and "Peak learning rate" in words


def test_a_run_is_started_with_exactly_what_the_file_says(downloads, monkeypatch, root):
    monkeypatch.setattr(JobQueue, "_enqueue", lambda self, run, job: run.update_manifest(status_said="cancelled"))
    app = show(SET_UP)
    app.number_input(key="set-recipe.epochs").set_value(2).run()
    app.text_input(key="typed_targets").set_value("confusion:coat>shirt").run()
    app.multiselect(key="set-recipe.augment").set_value(["flip"]).run()
    text = downloads[-1]
    button(app, "Start the run").click().run()
    (run,) = runs.list_runs(root)
    stored = files.read_json(run.path / "config.json", "")
    assert configs.from_dict(stored) == loads(text) and loads(text).recipe.augment == "flip"
    assert "confusion:4>6" in loads(text).targets


# -- what is offered


def test_every_setting_is_offered_but_for_those_that_the_choices_do_not_read():
    app = show(SET_UP)
    every = {name for _, _, name in config_file.settings()} - {"targets", "target_function", "recipe.class_weights"}

    def check() -> set[str]:
        hidden = configs.unread(settings(app))
        assert every - widgets(sound(app)).keys() == hidden
        return hidden

    assert {"recipe.beta1", "recipe.eps_root", "recipe.gamma", "segment", "frozen_eval"} <= check()
    app.selectbox(key="set-recipe.optimizer").set_value("adamw").run()
    hidden = check()
    assert {"recipe.momentum", "recipe.nesterov"} <= hidden and not {"recipe.beta1", "recipe.beta2"} & hidden
    app.selectbox(key="set-recipe.schedule").set_value("step").run()
    assert {"recipe.div_factor", "recipe.power"} <= check() and "recipe.gamma" in widgets(app)
    app.number_input(key="set-recipe.warmup_steps").set_value(3).run()
    assert "recipe.warmup" in check()
    app.radio(key="set-replay_mode").set_value("recompute").run()
    assert not {"segment", "checkpoint_mb"} & check()
    app.text_input(key="set-frozen").set_value("conv*").run()
    assert "frozen_eval" not in check()
    assert "class_weights-kind" in " ".join(widgets(app)), "class weights have a choice and a text"


def test_what_goes_with_adam_is_proposed_with_it_and_leaves_with_it():
    app = show(SET_UP)
    app.selectbox(key="set-recipe.optimizer").set_value("adam").run()
    assert settings(app).recipe.eps_root == 1e-4 and settings(app).recipe.peak_lr == 0.002
    assert "Yours; proposed: sgd" in captions(app) and "Goes with adam; without it: 0.05" in captions(app)
    app.number_input(key="set-recipe.peak_lr").set_value(0.003).run()
    sound(app.selectbox(key="set-recipe.optimizer").set_value("sgd").run())
    recipe = settings(app).recipe
    assert recipe == dataclasses.replace(PRESETS["sample"].recipe, peak_lr=0.003), "a person's own rate stays"


def test_a_bad_setting_is_named_beside_its_field_and_nothing_starts():
    app = show(SET_UP)
    app.number_input(key="set-recipe.batch_size").set_value(6001).run()
    assert "larger than the data set's 6,000 training images" in said(app)
    assert button(app, "Start the run").disabled
    assert any("To be corrected: Batch size" in m.value for m in app.markdown)
    app.number_input(key="set-recipe.batch_size").set_value(500).run()
    assert not button(app, "Start the run").disabled and "72 steps of" in captions(app)


def test_groups_that_are_none_and_class_weights_of_ones_own():
    app = show(SET_UP)
    for text, problem in (("head", "must be groups such as"), ("*heads*:2", "No parameter of the model belongs")):
        app.text_input(key="set-recipe.groups").set_value(text).run()
        assert problem in said(app) and button(app, "Start the run").disabled
    app.text_input(key="set-recipe.groups").set_value("*.bias:0.5:0").run()
    app.selectbox(key="set-recipe.class_weights-kind").set_value("own").run()
    assert settings(app).recipe.class_weights == (1.0,) * 10
    app.text_input(key="set-recipe.class_weights").set_value("1,2").run()
    assert "has 2 numbers, and the data set 10 classes" in said(app)
    app.selectbox(key="set-recipe.class_weights-kind").set_value("balanced").run()
    assert settings(app).recipe.class_weights == "balanced"
    assert not button(sound(app), "Start the run").disabled and not app.error


def test_pictures_of_the_rates_and_of_what_the_model_sees():
    recipe, steps = PRESETS["sample"].recipe, 144
    drawn = setup_recipe.picture_of_rates(recipe, steps).partition("base64,")[2].partition('"')[0]
    points = re.search('points="(.*?)"', base64.b64decode(drawn).decode())[1].split()
    heights = np.array([setup_recipe.HEIGHT - 6 - float(point.partition(",")[2]) for point in points])
    rates = np.array([schedule.learning_rate(recipe, t, steps) for t in range(steps)])
    assert heights / heights.max() == pytest.approx(rates / rates.max(), abs=0.001)
    app = show(SET_UP)

    def bodies() -> str:
        return "".join(html.body for html in sound(app).get("html"))

    assert "schedule one-cycle: its highest is 0.05" in bodies() and "as epoch 1 shows it" not in bodies()
    before = bodies()
    app.selectbox(key="set-recipe.schedule").set_value("polynomial").run()
    assert "schedule polynomial" in bodies() and bodies() != before
    app.multiselect(key="set-recipe.augment").set_value(["flip", "crop"]).run()
    assert settings(app).recipe.augment == "flip,crop:4"
    assert "Training image 0, label" in bodies() and ", as epoch 6 shows it to the model" in bodies()
    app.number_input(key="set-recipe.augment-crop").set_value(28).run()
    assert "leaves nothing of some images of 28 × 28 pixels" in said(app) and "as epoch 1" not in bodies()
    assert button(app, "Start the run").disabled
    assert "Saturation" not in app.multiselect(key="set-recipe.augment").options, "grey images have none"


def test_weights_of_the_folder_of_models_are_offered_and_no_others(tmp_path, monkeypatch):
    import torch

    from engine import model_names
    from engine.jobs import preview

    monkeypatch.setenv("REPLAY_MODELS_DIR", str(tmp_path))
    dataset = registry.load("fashion-mnist-sample")
    names = preview.parameter_names(PRESETS["sample"], dataset)
    assert len(names) > 3 and any(name.endswith(".weight") for name in names)
    (tmp_path / "net.py").write_text("def net(channels, height, width, classes): ...")
    torch.save({}, tmp_path / "first.pt")
    (tmp_path / "notes.txt").touch()
    assert model_names.listed() == ("net.py:net",)
    app = show(SET_UP)
    assert app.selectbox(key="set-initial_weights").options == ["none: drawn by the seed", "first.pt"]
    assert "net.py:net" in app.selectbox(key="set-model").options


# -- targets


def test_of_thousands_of_classes_no_list_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    labels = np.arange(1200) % 600
    images = np.random.default_rng(0).integers(0, 256, (1200, 8, 8), np.uint8)
    split = {"images": images, "labels": labels, "test_images": images[:600], "test_labels": labels[:600]}
    np.savez(tmp_path / "many.npz", **split)
    app = show(SET_UP, dataset=registry.load(f"arrays:{tmp_path / 'many.npz'}").name)
    assert app.multiselect(key="sets").options == ["All test images"] and "600 classes" in captions(app)
    sound(app.text_input(key="typed_targets").set_value("class:599").run())
    assert "class:599" in settings(app).targets and not app.error
    registry.clear()


def test_targets_are_cleared_taken_by_class_by_set_and_by_name():
    app = show(SET_UP)
    app.button(key="clear-targets").click().run()
    assert settings(app).targets == () and "name at least one target" in said(app)
    app.button(key="one-of-each-class").click().run()
    assert len(settings(app).targets) == 10 and not app.error
    app.multiselect(key="sets").set_value(["class:2", "class:2"]).run()  # as a browser may tell it
    app.text_input(key="typed_targets").set_value("test:900-901").run()
    assert settings(app).targets[10:] == ("class:2", "test:900", "test:901")
    app.button(key="drop-class:2").click().run()
    assert app.multiselect(key="sets").value == [] and "class:2" not in settings(app).targets
    sound(app.segmented_control(key="start").set_value("resnet9").run())
    assert "test:900" in settings(app).targets, "what a person chose stays"


# -- modes and cost


def table(app: AppTest):
    return app.table[0].value


def test_the_three_modes_are_compared_and_measured_where_asked():
    app = show(SET_UP)
    shown = table(app)
    assert shown["Replay mode"].tolist() == list(configs.REPLAY_MODES)
    assert shown["Fits"].tolist() == ["yes"] * 3 and shown["Time"].tolist() == ["not measured"] * 3
    assert "RAM at the peak, beside the engine's own" in shown
    assert any("Recommended here: **disk** mode" in m.value for m in app.markdown)
    assert any("Time **not measured**" in m.value for m in app.markdown)

    sound(button(app, "Measure on this machine").click().run())
    shown = table(app)
    assert "RAM at the peak" in shown and "(training × " in shown["Time"][0]
    assert not any("Time **not measured**" in m.value for m in app.markdown)
    app.radio(key="set-replay_mode").set_value("recompute").run()
    assert table(sound(app))["Time"].equals(shown["Time"]), "the measurement holds for every mode"
    before = shown["Disk that stays"].tolist()
    app.checkbox(key="set-clean_when_done").check().run()
    assert table(app)["Disk that stays"].tolist() == [before[0]] * 3 != before
    app.number_input(key="set-segment").set_value(5).run()
    assert table(sound(app))["Time"].tolist() == ["not measured"] * 3
    assert "A segment has 5 steps" in captions(app)
    app.number_input(key="set-checkpoint_mb").set_value(1.0).run()
    assert "cannot be set together" in said(app) and button(app, "Start the run").disabled
    app.number_input(key="set-segment").set_value(0).run()
    assert not button(sound(app), "Start the run").disabled
    app.number_input(key="set-checkpoint_mb").set_value(0.01).run()
    assert "Not one checkpoint of" in said(sound(app)) and button(app, "Start the run").disabled


def finish(probing) -> None:
    """Until the worker is done with it."""
    until(lambda: probing.ends)


def held_probes(monkeypatch) -> threading.Event:
    """Probes measure once it is set."""
    begin, measure = threading.Event(), probe.measure

    def held(*arguments):
        assert begin.wait(60)
        return measure(*arguments)

    monkeypatch.setattr(probe, "measure", held)
    return begin


def test_the_recipe_is_probed_its_cost_said_before_and_its_verdict_kept(monkeypatch):
    app = show(SET_UP)
    app.number_input(key="set-recipe.epochs").set_value(1).run()
    app.number_input(key="set-recipe.batch_size").set_value(1000).run()
    assert not [b for b in app.button if b.key == "probe"], "the cost comes first"
    sound(app.button(key="cost-of-probe").click().run())
    assert "4 trainings, 12 steps in all: about" in captions(app)
    begin = held_probes(monkeypatch)
    sound(app.button(key="probe").click().run())
    probing = app.session_state["probing"]
    assert len(app.get("progress")) == 1 and not [b for b in app.button if b.key == "probe"]
    other = show(SET_UP)
    other.number_input(key="set-recipe.epochs").set_value(1).run()
    other.number_input(key="set-recipe.batch_size").set_value(1000).run()
    assert len(sound(other).get("progress")) == 1, "another tab sees the same one"
    begin.set()
    finish(probing)
    app = sound(app.run())
    report = probe.known(shell.root(), settings(app))
    assert report is not None and f"{report.mean:.2f} over the first 3 of 6 steps" in (
        "\n".join([said(app), *(e.value for e in app.success)]).replace("\\", "")
    )
    app.number_input(key="set-recipe.seed").set_value(1).run()
    assert "over the first 3 of 6 steps" not in said(app).replace("\\", ""), "it is of another training"
    app.text_input(key="typed_targets").set_value("test:50").run()
    app.number_input(key="set-recipe.seed").set_value(0).run()
    assert "over the first 3 of 6 steps" in said(app).replace("\\", ""), "targets decide no training"


def test_a_probe_is_cancelled_and_told(monkeypatch):
    app = show(SET_UP)
    sound(app.button(key="cost-of-probe").click().run())
    begin = held_probes(monkeypatch)
    sound(app.button(key="probe").click().run())
    probing = app.session_state["probing"]
    until(lambda: probing.state == "working")  # one that is queued ends at once, and that page says so
    app.button(key="cancel-probe").click().run()
    begin.set()
    finish(probing)
    app = sound(app.run())
    assert "was cancelled" in said(app) and probe.known(shell.root(), settings(app)) is None
    assert "was cancelled" not in said(sound(app.run())) and not app.button(key="probe").disabled


def test_a_probe_that_is_cancelled_before_it_begins_is_told_too():
    probing = probe.Probing(shell.root(), configs.preset("sample"))
    probing.cancel()
    probing.work()
    assert probing.state == "cancelled" and "was cancelled" in probing.error.what


def test_a_mode_that_does_not_fit_is_refused_with_its_numbers(monkeypatch):
    monkeypatch.setattr(space, "disk_free", lambda path: space.RESERVE + 10_000_000)
    app = show(SET_UP)
    assert "Disk mode does not fit: disk: 35 MB needed, 27 MB free. Choose memory mode." in said(app)
    assert button(app, "Start the run").disabled
    app.radio(key="set-replay_mode").set_value("memory").run()
    assert not button(sound(app), "Start the run").disabled


def test_a_busy_machine_measures_too_long_times(monkeypatch):
    monkeypatch.setattr("engine.jobs.queue.JobQueue.active", lambda self: ["a-run"])
    assert "times measured now will be too long" in said(show(SET_UP))


def test_a_missing_data_set_says_where_it_comes_from(monkeypatch, tmp_path):
    from engine.datasets import fashion_mnist

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    app = show(SET_UP)
    app.segmented_control(key="start").set_value("resnet9").run()
    assert not app.exception and "dataset-fashion-mnist" in said(app)
    assert button(app, "Start the run").disabled


def test_read_only_the_form_is_shown_and_nothing_can_be_changed(monkeypatch, made, root):
    shutil.copytree(made, root / made.name)
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    app = show(SET_UP)
    assert "This app shows runs and starts none" in said(app)
    assert [w.key for kind in KINDS for w in getattr(app, kind) if not w.disabled and w.key] == []
    assert {b.help for b in app.button if b.label == "Start the run"} == {shell.READ_ONLY}
    assert app.number_input(key="set-recipe.epochs").value == 6


# -- what comes later appears by itself

OWN_FIELD = "    power: float = added(1.0)\n"
GROWN = """
import sys
sys.path.insert(0, ".")
from engine import config as configs
from streamlit.testing.v1 import AppTest
import os
def keys(app):
    return {w.key for kind in ("number_input", "selectbox") for w in getattr(app, kind)}
app = AppTest.from_file("app.py", default_timeout=60)
app.switch_page("pages/Set_up_a_run.py")
app.run()
assert "lookahead" in app.selectbox(key="set-recipe.optimizer").options
assert "set-recipe.pull" not in keys(app)
app.selectbox(key="set-recipe.optimizer").set_value("lookahead").run()
assert not app.exception
assert {"set-recipe.pull"} == {key for key in keys(app) if "pull" in key} and "set-recipe.momentum" not in keys(app)
field = app.number_input(key="set-recipe.pull")
assert field.label == "Pull" and field.value == 0.5 and "How far it is pulled back" in field.help
field.set_value(7.0).run()
assert any("Pull must be from 0 to 1, not 7" in e.value for e in app.error)
app.number_input(key="set-recipe.pull").set_value(0.25).run()
config = app.session_state["draft"].config
from engine import config_file
assert "pull = 0.25" in config_file.dumps(config) and config_file.loads(config_file.dumps(config)) == config
print("grown")
"""


def test_an_optimizer_with_a_field_of_its_own_appears_by_itself(tmp_path):
    """A copy of the project in which a person registered an optimizer, and gave the recipe its one field."""
    import subprocess
    import sys

    from tests.helpers import ROOT

    for name in ("engine", "ui", "pages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", tmp_path)
    path = tmp_path / "engine" / "config.py"
    text = path.read_text()
    assert text.count(OWN_FIELD) == 1 and text.count("RANGES = {\n") == 1
    text = text.replace(OWN_FIELD, OWN_FIELD + "    pull: float = added(0.5)\n")
    text = text.replace(
        "RANGES = {\n", 'RANGES = {\n    "recipe.pull": Range(0.0, 1.0, "How far it is pulled back."),\n'
    )
    text += """
OPTIMIZERS.register("lookahead", lambda recipe, decay_P: OPTIMIZERS.get("sgd")(recipe, decay_P))
READS["recipe.optimizer"]["lookahead"] = ("recipe.pull",)
"""
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", GROWN], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and "grown" in done.stdout, done.stderr[-3000:]


READ_BY = {
    "recipe.optimizer": {
        "recipe.momentum": 0.5,
        "recipe.nesterov": False,
        "recipe.beta1": 0.5,
        "recipe.beta2": 0.9,
        "recipe.eps": 0.1,
        "recipe.eps_root": 0.1,
    },
    "recipe.schedule": {
        "recipe.anneal": "linear",
        "recipe.div_factor": 5.0,
        "recipe.final_div_factor": 10.0,
        "recipe.milestones": (0.3,),
        "recipe.gamma": 0.5,
        "recipe.power": 2.0,
    },
}
"""Other values than the defaults, of the settings that some choice reads."""


@pytest.mark.parametrize("setting", READ_BY)
def test_what_a_choice_is_said_to_read_is_what_it_reads(setting):
    """Trained for some steps: the end moves with every setting that is read, and with none that is not."""
    import torch

    from engine import api
    from tests.helpers import RECIPE, images, net

    def end(**changes) -> torch.Tensor:
        recipe = RunConfig(recipe=RECIPE).replace(**changes).recipe
        return api.train(net(), *images(), recipe, device="cpu", check=False).state.theta

    for choice, reads in configs.READS[setting].items():
        before = end(**{setting: choice})
        moved = {
            name
            for name, value in READ_BY[setting].items()
            if not torch.equal(end(**{setting: choice, name: value}), before)
        }
        assert moved == set(reads), choice
