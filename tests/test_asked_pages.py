"""Training images, confusions and functions of classes as the pages show them, and as the forms take them."""

import numpy as np
import pytest

from engine import config
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.jobs.queue import JobQueue
from engine.runs import run as runs
from tests.helpers import button, said, show, sound, tiles
from tests.made_up import run_of
from ui import pictures

pytestmark = pytest.mark.slow  # whole pages are drawn, again and again

INFLUENCE, SET_UP = "pages/Influence.py", "pages/Set_up_a_run.py"
DATASET = dataset_registry.load("fashion-mnist-sample")
N = len(DATASET.train_labels)
SCORES = np.random.default_rng(4).normal(size=(3, N)).astype(np.float32)
GIVEN = DATASET.classes[DATASET.train_labels[5]]


@pytest.fixture
def run(root) -> runs.Run:
    """With made-up logits: each class is confused with some other."""
    logits = run_of(root, "try", {}).manifest().test_logits().argmax(1)
    label = next(c for c in range(10) if ((DATASET.test_labels == c) & (logits != c)).any())
    predicted = int(logits[(DATASET.test_labels == label) & (logits != label)][0])
    names = ("train:5", f"confusion:{label}>{predicted}")
    return run_of(root, "one", {names: ("difference:6>4", SCORES[:2]), ("train:5",): ("loss", SCORES[2:])})


def sidebar(app) -> str:
    return "\n".join(element.value for element in (*app.sidebar.markdown, *app.sidebar.get("html")))


def texts(app) -> str:
    return "\n".join(element.value for element in (*app.markdown, *app.caption))


def test_a_training_image_is_shown_with_its_self_influence(run):
    app = show(INFLUENCE, run=run.id, target="train:5.loss")
    assert f"Training image 5 · {GIVEN}" in sidebar(app) and f"Given label: **{GIVEN}**" in sidebar(app)
    assert "the score of train:5 itself is its self-influence" in texts(app)
    assert "True label" not in sidebar(app)
    assert pictures.image_url(DATASET, "train", 5) in sidebar(app)


def test_a_function_of_classes_is_named_in_words(run):
    app = show(INFLUENCE, run=run.id, target="train:5.difference:6>4")
    words = "logit of Shirt minus that of Coat"
    assert app.query_params["target"] == "train:5.difference:6>4"
    assert f"an image that *raises* it, the model would have a lower {words} on the target" in texts(app)
    assert any(f"raised the {words} (helpful)" in caption.help for caption in app.caption)
    logits = run.manifest().train_logits()[5].astype(float)
    assert f"{words} **{logits[6] - logits[4]:.4f}**" in sidebar(app).replace("−", "-")
    app.multiselect(key=f"pins-{run.id}").set_value(["train:5.loss"]).run()
    sound(app)
    assert tiles(app, "pinned")
    button(app, "Tick the most harmful").click().run()
    assert words in "\n".join(app.table[0].value.iloc[:, 0]).lower().replace("shirt", "Shirt").replace("coat", "Coat")


def test_a_confusion_shows_its_images(run):
    ref = next(ref for ref in run.scores().targets() if ref.name.startswith("confusion"))
    app = show(INFLUENCE, run=run.id, target=ref.key)
    assert "predicted as" in sidebar(app) and "Classified right: **0.0 %**" in sidebar(app)


def test_training_images_and_trust_pages_take_them(run):
    outwards = show("pages/Training_images.py", run=run.id, image="5")
    assert set(outwards.dataframe[0].value["Function"]) == {"loss", "logit of Shirt minus that of Coat"}
    matrix = show("pages/Training_images.py", run=run.id, view="matrix", function="difference:6>4")
    assert any("Training images of" in str(option) for box in matrix.selectbox for option in box.options)
    for page in ("pages/Trust.py", "pages/Test_images.py", "pages/Find_bad_labels.py", "pages/Compare_runs.py"):
        sound(show(page, run=run.id))


def settings(app):
    return app.session_state["draft"].config


def test_targets_are_typed_in_the_form(root):
    app = show(SET_UP)
    app.text_input(key="typed_targets").set_value("test:900-901, confusion:coat>SHIRT, train:5, test:0").run()
    sound(app)
    chosen = list(settings(app).targets)
    assert chosen == [*config.preset("sample").targets, "test:900", "test:901", "confusion:4>6", "train:5"]
    assert app.text_input(key="typed_targets").value == ""
    app.text_input(key="typed_targets").set_value("class:Caot").run()
    assert "There is no class «Caot»" in said(app) and "Did you mean Coat?" in said(app)
    assert (
        list(app.session_state["draft"].config.targets) == chosen
        and app.text_input(key="typed_targets").value == "class:Caot"
    )
    app.button(key="drop-train:5").click().run()
    assert "train:5" not in settings(app).targets


def test_a_function_of_classes_is_chosen_in_the_form(root, monkeypatch):
    asked = []

    def start(self, config):
        asked.append(config)
        raise ConfigError("Not now.", "Later.")

    monkeypatch.setattr(JobQueue, "start", start)
    app = show(SET_UP)
    app.radio(key="function-set-new").set_value("difference:CLASS>CLASS").run()
    app.selectbox(key="function-set-new-difference-0").set_value(6).run()
    app.selectbox(key="function-set-new-difference-1").set_value(4).run()
    sound(app)
    assert not app.error
    button(app, "Start the run").click().run()
    assert [config.target_function for config in asked] == ["difference:6>4"] and "Not now." in said(app)
