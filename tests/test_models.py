"""Models by name, from files and from libraries; what they may be made of; fine-tuning.

Each is trained in float64, and its scores are compared with central differences over every example weight; or it is
refused before training, by name and with the way out.
"""

import copy
import dataclasses
import functools
import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import engine
from engine import config as configs
from engine import datasets
from engine.config import MODELS, Recipe, RunConfig
from engine.core import stream as streams
from engine.core import targets
from engine.core.replay import replay
from engine.core.step import step
from engine.core.stream import Examples, Stream
from engine.core.training import advance, initial_state, optimizer_for, train
from engine.core.trunk import split
from engine.errors import ConfigError, IntegrityError, ModelError
from engine.jobs import estimate, predict
from engine.jobs import execute as work
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.models import dropout, finetune, registry
from engine.models.functional import FunctionalModel
from engine.models.timm_models import builder
from engine.models.torchvision_models import resnet18, resnet50
from engine.runs.run import Run
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.stores import MemoryStore
from tests import all_at_once
from tests.helpers import ROOT, differences
from tests.test_user_models import RECIPE, data, error_of, head, norms, refusal_of
from tools.exactness import NETWORKS, OF_TIMM

H = 1e-6
HAS_TIMM = importlib.util.find_spec("timm") is not None
NET = """
from torch import nn

def net(channels, height, width, classes, hidden=4, smooth=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden),
                         nn.GELU() if smooth else nn.ReLU(), nn.Linear(hidden, classes))
"""


def small_error(model: nn.Module, n: int = 6, side: int = 8, channels: int = 3, h: float = H) -> float:
    """As `error_of`, with fewer and larger examples."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % 3
    trained = engine.train(
        model.double(), inputs, labels, Recipe(epochs=1, batch_size=n // 2, peak_lr=0.02, seed=3), device="cpu"
    )
    scores = engine.attribute(trained, inputs[:2] * 0.9, labels[:2])
    expected = differences(trained, n, h, inputs[:2] * 0.9, labels[:2])
    assert np.abs(scores).max() > 1e-4
    return float(np.linalg.norm(scores - expected) / np.linalg.norm(expected))


# -- names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of models, which the app offers."""
    models = tmp_path / "own models"
    models.mkdir()
    monkeypatch.setenv("REPLAY_MODELS_DIR", str(models))
    (models / "net.py").write_text(NET)
    return models


def config_of(model: str, **changes) -> RunConfig:
    return RunConfig(
        preset="models",
        model=model,
        recipe=Recipe(epochs=1, batch_size=1500, peak_lr=0.02),
        targets=("test:0",),
        device="cpu",
        replay_mode="disk",
        **changes,
    )


def run_of(config: RunConfig, root) -> Run:
    root.mkdir(exist_ok=True)
    run = Run.create(root, configs.check(config))
    with run.lock():
        work.execute(run)
    return run


def build_of(text: str, tmp_path, **changes) -> nn.Module:
    """What the registry builds of a file with this text and a function `net`."""
    path = tmp_path / "own.py"
    path.write_text(text)
    return registry.module(config_of(f"{path}:net", **changes), datasets.load("fashion-mnist-sample"))


def test_names_are_judged_without_importing_torch_or_the_file(folder):
    (folder / "bad.py").write_text("def (")
    (folder / "loud.py").write_text(
        "raise SystemExit\ndef build(channels, height, width, classes): ...\ndef _own(): ..."
    )
    (folder / "other.py").write_text("def helper(x): ...\ndef more(a, b, c, d, e): ...\nclass Net: ...")
    code = (
        "import sys; from engine import config as c; from engine.config import *;"
        "print(*CHOICES['model'].names[len(MODELS.names()):]);"
        "print(*('model' in c.problems(RunConfig(model=m)) for m in "
        "('net.py:net', 'a/b.py:f', 'pkg.mod:f', 'timm:resnet18', 'torchvision:resnet18',"
        " 'nothing', 'net.py', 'os', ':f', 'x.py:f()', 'pkg:f;g', 7, None)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    listed, judged = done.stdout.splitlines()
    assert listed == "loud.py:build net.py:net"
    assert judged.split() == ["False"] * 5 + ["True"] * 8 + ["False"]


def test_the_app_starts_only_what_is_listed(folder, tmp_path):
    """A browser can send any text: the queue, which is the app's way in, looks again."""
    outside = tmp_path / "outside.py"
    outside.write_text("raise RuntimeError('it was run')\n" + NET)
    (folder / "sub").mkdir()
    for name in (f"{outside}:net", "../outside.py:net", "sub/net.py:net", "os:system", "timm:resnet18", "net.py:other"):
        with pytest.raises(ConfigError) as error:
            JobQueue(tmp_path).start(config_of(name))
        assert "model" in error.value.problems
    with pytest.raises(ConfigError) as error:
        JobQueue(tmp_path).start(config_of("net.py:net", initial_weights="/etc/passwd"))
    assert "initial_weights" in error.value.problems
    assert configs.check_offered(config_of("net.py:net")) == config_of("net.py:net")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("models")]


def test_the_form_runs_nothing_that_it_does_not_offer(folder, tmp_path, monkeypatch):
    """Its estimate builds the model: what a browser sends in place of a choice is refused before."""
    show, said = pages_of_a_test()
    monkeypatch.chdir(ROOT)
    outside = tmp_path / "outside.py"
    outside.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'was run')!r}).touch()\n" + NET)
    problems = configs.offered_problems
    app = show("pages/Set_up_a_run.py")
    assert "net.py:net" in app.selectbox(key="set-model").options
    monkeypatch.setattr(configs, "offered_problems", lambda config: problems(config.replace(model=f"{outside}:net")))
    app.run()
    assert "must be one of those listed" in said(app) and not app.exception
    assert not any("steps of" in c.value for c in app.caption) and not (tmp_path / "was run").exists()


def pages_of_a_test():
    pytest.importorskip("streamlit")
    from tests.helpers import show

    return show, lambda app: " ".join(error.value for error in app.error)


def test_a_file_gets_the_sizes_and_the_options(tmp_path, folder):
    images = np.zeros((4, 6, 10, 3), np.uint8)
    labels = np.arange(4)
    dataset = datasets.Dataset("wide", "Wide", "made by a test", ("a", "b", "c", "d"), images, labels, images, labels)
    made = registry.module(config_of("net.py:net", model_options="hidden=7,smooth=false"), dataset)
    assert (made[1].in_features, made[1].out_features, made[3].out_features) == (6 * 10 * 3, 7, 4)
    assert isinstance(made[2], nn.ReLU)
    for name in ("small-cnn", "vit-tiny"):
        assert registry.build(config_of(name), dataset).parameters > 0
        model = registry.module(config_of(name, width=0.5), dataset)
        assert model(torch.zeros(2, 3, 6, 10)).shape == (2, 4)
    with pytest.raises(ModelError, match="no option «depth»") as error:
        registry.module(config_of("net.py:net", model_options="depth=3"), dataset)
    assert "hidden" in error.value.remedy
    with pytest.raises(ModelError, match="no width factor"):
        registry.module(config_of("net.py:net", width=2.0), dataset)
    with pytest.raises(ModelError, match="There is no norm «1». Choose one of batch, group, none"):
        registry.module(config_of("small-cnn", model_options="norm=1"), dataset)
    with pytest.raises(ModelError, match="cannot be made with"):
        registry.module(config_of("vit-tiny", model_options="dropout=much"), dataset)
    for text in ("hidden", "hidden=1,hidden=2", "a=b=c", "=1"):
        assert "model_options" in configs.problems(config_of("net.py:net", model_options=text))


@pytest.mark.slow
def test_rectangular_images_are_learned_by_every_model_that_ships():
    for name in MODELS:
        factor = {} if name.startswith("torchvision") else {"factor": 0.25}
        model = MODELS.get(name)(2, 16, 24, 5, **factor)
        assert model(torch.randn(2, 2, 16, 24)).shape == (2, 5), name


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("import torch\n\nraise ValueError('no')\n", 3, "ValueError: no"),
        ("x = 1\ndef net(:\n", 2, "SyntaxError"),
        ("import sys\nsys.exit('bye')\n", 2, "SystemExit: bye"),
        ("def net(c, h, w, k):\n    return nn.Linear(1, 1)\n", 2, "NameError"),
        ("def net(c, h, w, k):\n    import sys\n    sys.exit()\n", 3, "ends the process"),
        ("def net(c):\n    pass\n", None, "TypeError"),
        ("import no_such_module_here\n", 1, "no_such_module_here"),
        ("def net(c, h, w, k):\n    return 3\n", None, "gives a int, not an nn.Module"),
        ("def net(c, h, w, k):\n    pass\n", None, "gives nothing"),
        ("def other(c, h, w, k):\n    pass\n", None, "no function «net»"),
        ("\0", None, "SyntaxError"),
        ("net = 3\n", None, "no function «net»"),
    ],
)
def test_what_a_file_does_wrong_is_said_with_the_line(text, line, words, tmp_path):
    with pytest.raises(ModelError) as error:
        build_of(text, tmp_path)
    assert words in error.value.what and "own.py" in error.value.what and error.value.remedy
    assert line is None or f"line {line}," in error.value.what


def test_a_file_that_is_not_there_and_modules_that_are_not(tmp_path):
    dataset = datasets.load("fashion-mnist-sample")
    for name, words in (
        (f"{tmp_path}/none.py:net", "cannot be read"),
        (f"{tmp_path}:net", "names no model|no model"),
        ("no_such_package.net:build", "There is no module no_such_package"),
        ("torch.nn:no_such_function", "no function «no_such_function»"),
    ):
        with pytest.raises((ModelError, ConfigError), match=words):
            registry.module(config_of(name), dataset)
    assert registry.module(config_of("tests.extensions.model:dummy_net"), dataset)[1].in_features == 784
    configs.MODELS._things.pop("dummy-net")
    del sys.modules["tests.extensions.model"]


def test_the_wrong_shape_is_refused_before_training(tmp_path):
    text = (
        "from torch import nn\ndef net(c, h, w, k):\n    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 3))\n"
    )
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ModelError, match=r"gives \(8, 3\)"):
        run_of(config_of(f"{tmp_path}/own.py:net"), tmp_path)


def test_what_a_file_prints_spoils_no_output(tmp_path, capsys):
    done, elsewhere = [], tmp_path / "elsewhere"  # `build_of` writes the file that it builds from
    elsewhere.mkdir()

    def builds():
        done.append(build_of("print('hello')\n" + NET + "    print('there')\n", elsewhere))

    before = sys.stdout
    thread = threading.Thread(target=builds)
    thread.start()
    build_of("print('hello')\n" + NET, tmp_path)
    thread.join()
    assert capsys.readouterr().out == "" and sys.stdout is before and len(done) == 1


@pytest.mark.slow
def test_a_run_of_a_file_and_the_file_that_changed(folder, tmp_path):
    run = run_of(config_of("net.py:net", model_options="hidden=3"), tmp_path)
    assert run.manifest().model_sources == {"net.py": finetune.sha256_of(folder / "net.py")}
    with run.lock():
        work.execute(run, Replay(("test:1",), "loss", "disk"))
    (folder / "net.py").write_text(NET + "# a comment\n")
    with pytest.raises(IntegrityError, match="net.py.*has changed"), run.lock():
        work.execute(run, Replay(("test:2",), "loss", "disk"))
    (folder / "net.py").unlink()
    with pytest.raises(ModelError, match="net.py cannot be read"), run.lock():
        work.execute(run, Replay(("test:2",), "loss", "disk"))


def test_a_file_is_run_anew_when_it_has_changed(tmp_path):
    """Also within one second, which Python's own cache of compiled files does not see."""
    for hidden in (3, 5, 3):
        assert build_of(NET.replace("hidden=4", f"hidden={hidden}"), tmp_path)[1].out_features == hidden


def test_digests_of_older_runs_stay_and_each_new_field_counts():
    old = RunConfig()
    others = [
        old.replace(**change)
        for change in (
            {"model_options": "a=1"},
            {"initial_weights": "a.safetensors"},
            {"frozen": "a"},
            {"frozen_eval": True},
        )
    ]
    assert old.training_digest("x") == "3f3a662adaeec1271ae1d48b9af7022200382807d58967a1e7216f9bf787749e"
    assert len({config.training_digest("x") for config in [old, *others]}) == 5
    assert all(configs.from_dict(config.to_dict()) == config for config in others)


# -- libraries and the models that ship


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_models_that_ship_are_exact_after_a_training_that_matters(name):
    """Of all example weights at once, in random directions; narrow, so that it takes seconds."""
    error, learned = NETWORKS[name].error(directions=2)
    assert error <= 1e-6 and learned >= 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TIMM)
def test_common_models_of_timm_are_exact(name):
    if not HAS_TIMM:
        pytest.skip("timm is not installed")
    error, learned = OF_TIMM[name].error(directions=2)
    assert error <= 1e-6 and learned >= 0.1


@pytest.mark.slow
def test_a_width_scales_the_channels_of_a_residual_network_and_nothing_else():
    torch.manual_seed(0)
    for build in (resnet18, resnet50):
        whole, half = build(3, 16, 16, 5), build(3, 16, 16, 5, factor=0.5)
        shapes = {name: list(tensor.shape) for name, tensor in whole.state_dict().items()}
        for name, tensor in half.state_dict().items():
            expected = [n // 2 if n >= 64 else n for n in shapes[name]]
            assert list(tensor.shape) == expected, name
        assert half(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    weight = half.layer3[0].conv2.weight.detach()
    spread = weight.std() * (weight[:, 0].numel() / 2) ** 0.5
    assert 0.97 < float(spread) < 1.03  # He's, of the narrow layer's own outputs


def test_the_smooth_variant_has_no_kink_and_the_large_stem_is_torchvisions():
    kinks = (nn.ReLU, nn.MaxPool2d)
    for side in (32, 96):
        assert not any(isinstance(part, kinks) for part in resnet18(3, side, side, 10).modules())
    plain = resnet18(3, 96, 96, 10, smooth=False)
    assert isinstance(plain.maxpool, nn.MaxPool2d) and plain.conv1.kernel_size == (7, 7)
    assert resnet18(1, 28, 28, 10).conv1.weight.shape == (64, 1, 3, 3)
    with pytest.raises(ModelError, match="halves its images"):
        resnet18(3, 4, 4, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {}),
        ("test_vit", {"drop_path_rate": 0.2, "attn_drop_rate": 0.2, "proj_drop_rate": 0.1}),
        ("test_efficientnet", {"drop_path_rate": 0.3}),
    ],
)
def test_models_of_timm_are_exact(name, options):
    if not HAS_TIMM:
        pytest.skip("timm is not installed")
    torch.manual_seed(0)
    model = builder(name)(3, 32, 32, 3, **options)
    assert small_error(model, n=8, side=32) <= 1e-6


def test_timm_says_what_it_does_not_have():
    if not HAS_TIMM:
        pytest.skip("timm is not installed")
    with pytest.raises(ModelError, match="no model «resnet18000»"):
        registry.module(config_of("timm:resnet18000"), datasets.load("fashion-mnist-sample"))


# -- what modules are made of


@pytest.mark.slow
def test_synchronised_batch_norm_on_one_device():
    assert error_of(nn.SyncBatchNorm.convert_sync_batchnorm(norms())) <= 1e-6


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 3)
        self.b.weight = self.a.weight
        self.double()

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1))))))


@pytest.mark.slow
def test_tied_weights_are_one_parameter():
    assert FunctionalModel(Tied(), dtype=torch.float64).parameters == 192 * 192 + 2 * 192 + 3 * 193
    assert error_of(Tied()) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "part", "in place"])
def test_compiled_modules_are_unwrapped_and_it_is_said(kind):
    def made():
        model = norms()
        if kind == "whole":
            return torch.compile(model)
        if kind == "part":
            model[1] = torch.compile(model[1])
        else:
            model[1].compile()
        return model

    assert error_of(made()) <= 1e-6
    model, functional = made(), FunctionalModel(made(), dtype=torch.float64)
    assert any("torch.compile" in note for note in functional.notes)
    state = functional.load(functional.theta0 + 1, functional.buffers0)
    assert state.keys() <= dict([*model.named_parameters(), *model.named_buffers()]).keys()
    assert FunctionalModel(norms()).notes == []


# -- dropout


def with_dropout(layer: nn.Module, convolution: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if convolution:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), layer, head(144)).double()
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.SELU(), layer, nn.Linear(6, 3)).double()


DROPOUTS = {
    "dropout": lambda: with_dropout(nn.Dropout(0.5)),
    "1d": lambda: with_dropout(nn.Sequential(nn.Flatten(2), nn.Dropout1d(0.4)), True),
    "2d": lambda: with_dropout(nn.Dropout2d(0.4), True),
    "alpha": lambda: with_dropout(nn.AlphaDropout(0.3)),
    "feature alpha": lambda: with_dropout(nn.FeatureAlphaDropout(0.3), True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_is_replayed(kind):
    assert error_of(DROPOUTS[kind]()) <= 1e-6


class Encoder(nn.Module):
    def __init__(self, batch_first: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=batch_first)
        self.batch_first = batch_first
        self.double()

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.layer(x if self.batch_first else x.transpose(0, 1))
        return self.out(x.mean(1 if self.batch_first else 0))


@pytest.mark.slow
def test_dropout_of_attention_is_replayed():
    assert error_of(Encoder()) <= 1e-6
    assert "rows, in a batch of" in refusal_of(Encoder(batch_first=False))  # of the modules beside the attention
    biased = nn.MultiheadAttention(8, 2, dropout=0.1, add_bias_kv=True)
    with pytest.raises(ModelError, match="add_bias_kv"):
        dropout.make_replayable(biased, dropout.Noise())


@pytest.mark.parametrize("own_sizes", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_without_a_dropped_weight_is_torchs(own_sizes, batch_first, monkeypatch):
    sizes = {"kdim": 6, "vdim": 4} if own_sizes else {}
    theirs = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=batch_first, **sizes).double()
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 7, sizes.get("kdim", 8)), torch.randn(3, 7, sizes.get("vdim", 8))
    q, k, v = ((x if batch_first else x.transpose(0, 1)).double() for x in (q, k, v))
    masks = {"key_padding_mask": torch.zeros(3, 7).bool().index_fill(1, torch.tensor([6]), True)}
    masks["attn_mask"] = torch.randn(5, 7).double() if own_sizes else torch.ones(5, 7).bool().triu(3)
    theirs.eval()
    expected = theirs(q, k, v, **masks, average_attn_weights=own_sizes)
    theirs.train()
    monkeypatch.setattr(dropout.Noise, "keep", lambda self, layer, p, shape, like, whole=False: torch.full(shape, 0.9))
    dropout.make_replayable(theirs, dropout.Noise())
    for ours, other in zip(theirs(q, k, v, **masks, average_attn_weights=own_sizes), expected, strict=True):
        assert torch.allclose(ours, other, atol=1e-7)


@pytest.mark.slow
def test_masks_are_a_function_of_step_example_and_layer():
    noise, like = dropout.Noise(), torch.zeros(1)

    def masks(key, index, layer=0, calls=1):
        noise.begin(key, torch.tensor(index))
        return [noise.keep(layer, 0.4, (len(index), 3, 1000), like) for _ in range(calls)][-1]

    base = masks(7, [3, 11, 2**40])
    assert torch.equal(base, masks(7, [3, 11, 2**40]))
    assert torch.equal(base[[1, 0]], masks(7, [11, 3]))  # whatever is beside it in the batch
    for other in (
        masks(8, [3, 11, 5]),
        masks(7 + 2**40, [3, 11, 5]),
        masks(7, [3, 11, 5], 1),
        masks(7, [3, 11, 5], 0, 2),
    ):
        assert abs(float((base[0] == other[0]).float().mean()) - 0.52) < 0.05  # as independent masks agree
    assert abs(float((base[0] == base[1]).float().mean()) - 0.52) < 0.05
    assert abs(float(base.mean()) - 0.6) < 0.03
    means = masks(9, list(range(3000)))
    spread = means.mean((1, 2)).std() / (0.24 / 3000) ** 0.5
    assert abs(float(means.mean()) - 0.6) < 0.001 and 0.93 < float(spread) < 1.07
    neighbours = torch.stack([means[:, 0, :-1].flatten(), means[:, 0, 1:].flatten()])
    examples = torch.stack([means[:-1].flatten(), means[1:].flatten()])
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.003 and abs(float(torch.corrcoef(examples)[0, 1])) < 0.002


def test_masks_are_these_numbers_on_every_machine():
    noise = dropout.Noise()
    noise.begin(2**62 + 5, torch.tensor([0, 1, 49_999]))
    bits = noise.keep(2, 0.5, (3, 16), torch.zeros(1))
    assert ["".join(str(int(b)) for b in row) for row in bits] == [
        "1110101100111110",
        "1101111011010101",
        "0110001110100010",
    ]


def test_dropout_acts_in_training_alone_and_scales():
    model = FunctionalModel(nn.Sequential(nn.Linear(1000, 1000), nn.Dropout(0.25)))
    theta = torch.cat([torch.eye(1000).flatten(), torch.zeros(1000)])
    ones = torch.ones(4, 1000)
    trained, _ = model(theta, model.buffers0, ones, True, 3)
    assert trained.unique().tolist() == [0.0, pytest.approx(4 / 3)] and abs(float(trained.mean()) - 1) < 0.05
    assert not torch.equal(trained, model(theta, model.buffers0, ones, True, 4)[0])
    assert torch.equal(model(theta, model.buffers0, ones, False, 3)[0], ones)


def test_each_step_draws_for_its_own_examples():
    """The step's key and the examples' numbers reach the masks; the order within the batch does not matter."""
    model = FunctionalModel(with_dropout(nn.Dropout(0.5)), dtype=torch.float64)
    stream = Stream(Examples(*data(), torch.float64), Recipe(epochs=1, batch_size=8))
    optimizer = optimizer_for(model, stream.recipe)
    state, inputs = initial_state(model, optimizer), stream.at(0)

    def after(inputs):
        return step(model, optimizer, state, inputs)[0].theta

    turned = dataclasses.replace(
        inputs, index_B=inputs.index_B.flip(0), batch=tuple(part.flip(0) for part in inputs.batch)
    )
    assert torch.allclose(after(turned), after(inputs), atol=1e-12)
    assert not torch.allclose(after(dataclasses.replace(inputs, key=inputs.key + 1)), after(inputs), atol=1e-6)
    assert not torch.allclose(after(dataclasses.replace(inputs, index_B=inputs.index_B + 1)), after(inputs), atol=1e-6)


@pytest.mark.parametrize("kind", ["timm", "synchronised", "encoder"])
def test_replacements_compute_what_they_replace(kind):
    torch.manual_seed(0)
    if kind == "timm" and not HAS_TIMM:
        pytest.skip("timm is not installed")
    model = {
        "timm": lambda: builder("test_efficientnet")(3, 32, 32, 3).double(),
        "synchronised": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(norms()),
        "encoder": Encoder,
    }[kind]()
    side = 32 if kind == "timm" else 8
    inputs = torch.randn(4, 3, side, side, dtype=torch.float64)
    functional = FunctionalModel(model, dtype=torch.float64)
    for part in model.modules():
        if isinstance(part, nn.SyncBatchNorm):  # torch's own runs on a GPU alone in training
            part.__class__ = nn.BatchNorm2d
    for training in (True, False):
        if kind != "encoder" or not training:
            expected = model.train(training)(inputs)
            logits, _ = functional(functional.theta0, functional.buffers0, inputs, training)
            assert torch.allclose(logits, expected, atol=1e-9)
            model = copy.deepcopy(model)
            functional = FunctionalModel(model, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.usefixtures("own_data")
def test_all_that_is_drawn_has_the_same_scores_in_every_mode_and_when_resumed(root, tmp_path):
    """Dropout, stochastic depth and augmentation, under a clipped Adam: bit for bit."""
    scores = all_at_once.scores_by_mode(root, tmp_path)
    assert np.abs(scores["memory"]).max(1).min() > 0
    assert all(np.array_equal(scores["memory"], other) for other in scores.values()), list(scores)


@pytest.mark.slow
@pytest.mark.usefixtures("own_data")
@pytest.mark.parametrize("part", ["nn.Dropout(0.3)", "nn.Dropout2d(0.2)", 'StochasticDepth(0.4, "row")'])
def test_each_of_them_is_part_of_the_training(part, root, tmp_path, monkeypatch):
    """So that the test before does not pass for want of what it is about."""
    scores = all_at_once.finished(root, all_at_once.config(tmp_path, "memory")).scores().matrix("loss-000")
    monkeypatch.setattr(all_at_once, "NET", all_at_once.NET.replace(part, "nn.Identity()"))
    without = all_at_once.finished(root, all_at_once.config(tmp_path, "memory")).scores().matrix("loss-000")
    assert not np.allclose(without, scores, rtol=0.1)


def test_functional_dropout_is_refused_with_the_way_out():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = head()

        def forward(self, x):
            return self.out(F.dropout(x, 0.1, self.training))

    with pytest.raises(ModelError) as error:
        refused = engine.train(Functional().double(), *data(), Recipe(epochs=1, batch_size=8), device="cpu")
        assert refused is None
    assert "random" in error.value.what and "nn.Dropout" in error.value.remedy


# -- fine-tuning


def three_layers(classes: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(144, 5),
        nn.GELU(),
        nn.Linear(5, classes),
    ).double()


@pytest.mark.parametrize("form", ["safetensors", "torch", "wrapped"])
def test_first_weights_are_read_and_a_head_of_another_size_begins_anew(form, tmp_path):
    other, path = three_layers(7), tmp_path / "weights"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    state = other.state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if form == "wrapped" else state, path)
    model = three_layers()
    begins = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    notes = finetune.load_initial(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (begins if name.startswith("6.") else state)[name]), name
    assert "6.bias, 6.weight" in " ".join(notes)
    assert len(finetune.load_initial(three_layers(7), path)) == 1


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    state = three_layers().state_dict()
    wrong = {
        "other shapes: 0.weight": {**state, "0.weight": torch.zeros(4, 3, 5, 5)},
        "missing: 4.weight": {k: v for k, v in state.items() if k != "4.weight"},
        "no name is the same|missing": {"x": torch.zeros(3)},
        "«4.bias».*not finite": {**state, "4.bias": torch.full((5,), torch.nan)},
        "no state dict": {"a": "b"},
        "no state dict: list": [1, 2],
    }
    for words, value in wrong.items():
        torch.save(value, path)
        model = three_layers()
        with pytest.raises(ModelError, match=words):
            finetune.load_initial(model, path)
        assert all(torch.equal(v, three_layers().state_dict()[k]) for k, v in model.state_dict().items())
    for content in (b"", b"\x80", b"PK\x03\x04 nothing", b"{}" * 20, b"\xff" * 8):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="weights.pt"):
            finetune.load_initial(three_layers(), path)
    with pytest.raises(ModelError, match="cannot be read"):
        finetune.load_initial(three_layers(), tmp_path / "none.pt")


class Runs:
    def __reduce__(self):
        return print, ("code of a file of weights was run",)


def test_a_file_of_weights_runs_no_code(tmp_path, capsys):
    torch.save({"0.weight": Runs()}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="safely"):
        finetune.load_initial(three_layers(), tmp_path / "weights.pt")
    assert "was run" not in capsys.readouterr().out


@pytest.mark.slow
def test_frozen_parts_cost_nothing_and_keep_their_mode():
    whole = FunctionalModel(three_layers(), dtype=torch.float64)
    model = three_layers()
    notes = finetune.freeze(model, "0,1")
    functional = FunctionalModel(model, dtype=torch.float64)
    assert whole.parameters - functional.parameters == 4 * 27 + 4 + 8 and "120 of" in notes[0]
    assert functional.buffers == whole.buffers == 8  # its norm goes on counting: it keeps its mode
    assert error_of(model) <= 1e-6
    finetune.freeze(model, "0.*, 1.*", evaluation=True)
    functional = FunctionalModel(model, dtype=torch.float64)
    assert functional.buffers == 0
    state = functional.load(functional.theta0, functional.buffers0)
    assert torch.equal(state["1.running_var"], torch.ones(4, dtype=torch.float64))
    assert error_of(model) <= 1e-6
    with pytest.raises(ModelError, match="called like «9.*»") as error:
        finetune.freeze(three_layers(), "0,9.*")
    assert "0.weight" in error.value.remedy
    with pytest.raises(ModelError, match="every parameter"):
        finetune.freeze(three_layers(), "*")


def trained_on(model: FunctionalModel, data: Examples) -> np.ndarray:
    """Scores of two targets, by the very functions that a run uses."""
    stream = Stream(data, Recipe(epochs=2, batch_size=6, peak_lr=0.1, seed=3))
    optimizer = optimizer_for(model, stream.recipe)
    initial = initial_state(model, optimizer)
    digests = Digests(optimizer, 2, stream.steps)
    trajectory = EveryState(MemoryStore(optimizer), initial, functools.partial(advance, model, stream), digests)
    state = train(model, stream, trajectory)
    adjoint = targets.adjoints(model, state, data, [[0], [1, 2]], "loss")
    return replay(model, stream, trajectory, adjoint).numpy()


def test_the_frozen_trunks_features_are_computed_once_and_mean_the_same():
    model = three_layers()
    finetune.freeze(model, "0,1", evaluation=True)
    with torch.no_grad():
        model[1].running_mean.add_(0.2)
    whole = FunctionalModel(model, dtype=torch.float64)
    examples = Examples(*data(), torch.float64)
    trunk = split(whole, examples, Recipe())
    assert trunk is not None and list(trunk.stages._modules) == ["0", "1", "2", "3"]
    features = trunk.features(examples)
    assert features.inputs.shape == (18, *trunk.shape) == (18, 144) and trunk.rest.parameters == whole.parameters
    assert torch.equal(trunk.rest.theta0, whole.theta0)
    assert trunk.rest.load(whole.theta0, whole.buffers0).keys() == {"4.weight", "4.bias", "6.weight", "6.bias"}
    on_features, on_images = trained_on(trunk.rest, features), trained_on(whole, examples)
    assert np.abs(on_images).max() > 1e-3
    assert np.linalg.norm(on_features - on_images) <= 1e-12 * np.linalg.norm(on_images)


@pytest.mark.parametrize("frozen", ["0", "0,1", "4", "0,1,4,6.weight"])
def test_what_may_change_is_no_part_of_the_trunk(frozen):
    """Its norm counts in training mode; its first layer is trained; the last stage is trained in part."""
    model, examples = three_layers(), Examples(*data(), torch.float64)
    finetune.freeze(model, frozen)
    whole = FunctionalModel(model, dtype=torch.float64)
    trunk = split(whole, examples, Recipe())
    assert trunk is None if frozen == "4" else list(trunk.stages._modules) == ["0"]

    class Branches(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1

    model = Branches(*three_layers())
    finetune.freeze(model, "0,1", evaluation=True)
    assert split(FunctionalModel(model, dtype=torch.float64), examples, Recipe()) is None


@pytest.mark.slow
def test_a_trunk_is_used_in_python_too_and_the_scores_are_the_derivative(monkeypatch):
    def trained(recipe=RECIPE):
        model = nn.Sequential(*three_layers()[:5], nn.Dropout(0.3), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
        finetune.freeze(model, "0,1", evaluation=True)
        return model, engine.train(model, *data(), recipe, device="cpu")

    few = data()[0][:3] * 0.9, data()[1][:3]
    model, on_features = trained()
    assert on_features.trunk is not None and on_features.stream.data.shape == (144,)
    assert trained(dataclasses.replace(RECIPE, augment="flip"))[1].trunk is None
    scores = engine.attribute(on_features, *few)
    assert error_of(model) <= 1e-6
    with pytest.raises(ConfigError, match="trained on images of"):
        engine.attribute(on_features, torch.zeros(1, 144, dtype=torch.float64), few[1][:1])
    monkeypatch.setattr("engine.api.split", lambda *given: None)
    _, on_images = trained()
    assert on_images.trunk is None and np.abs(scores).max() > 1e-3
    np.testing.assert_allclose(scores, engine.attribute(on_images, *few), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(*(engine.evaluate(of, *few) for of in (on_features, on_images)), rtol=1e-12)
    states = [of.model_state for of in (on_features, on_images)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-12) for name in states[0])


@pytest.mark.slow
def test_the_estimate_counts_what_is_trained_and_measures_behind_the_trunk(root, monkeypatch):
    config = config_of("small-cnn", width=0.25).replace(targets=("test:0", "train:3"))
    parts = dict(frozen="0,1", frozen_eval=True)
    whole, tuned = (estimate.estimate(each, root) for each in (config, config.replace(**parts)))
    dataset = datasets.load("fashion-mnist-sample")
    trained = registry.build(config.replace(**parts), dataset)
    assert tuned.parameters == trained.parameters < whole.parameters
    assert tuned.bytes_per_step < whole.bytes_per_step
    passes = []
    exact = FunctionalModel.__call__

    def call(self, theta_P, buffers_Q, inputs, *given, **named):
        passes.append(tuple(inputs.shape[1:]))
        return exact(self, theta_P, buffers_Q, inputs, *given, **named)

    monkeypatch.setattr(FunctionalModel, "__call__", call)
    estimate.estimate(config.replace(**parts), root, measure=True)
    trunk = split(trained, streams.examples(dataset, "train", torch.device("cpu"), torch.float32), config.recipe)
    assert trunk is not None and set(passes) == {trunk.shape}


def test_dropout_in_the_rest_draws_what_it_drew_in_the_whole():
    model = nn.Sequential(*three_layers()[:5], nn.Dropout(0.4), nn.Linear(5, 3)).double()
    finetune.freeze(model, "0,1", evaluation=True)
    whole, examples = FunctionalModel(model, dtype=torch.float64), Examples(*data(), torch.float64)
    trunk = split(whole, examples, Recipe())
    assert np.allclose(
        trained_on(trunk.rest, trunk.features(examples)), trained_on(whole, examples), rtol=1e-10, atol=0
    )


@pytest.mark.slow
def test_a_fine_tuned_run_has_the_same_scores_in_every_mode(tmp_path):
    scores = []
    for mode in configs.REPLAY_MODES:
        config = config_of("small-cnn", width=0.25, frozen="0,1", frozen_eval=True)
        run = run_of(config.replace(replay_mode=mode, segment=2 if mode == "recompute" else 0), tmp_path)
        assert any("trunk's features were computed once" in str(event) for event in run.events()[0])
        scores.append(run.scores().matrix("loss-000"))
    assert np.abs(scores[0]).max() > 0 and all(np.array_equal(scores[0], other) for other in scores[1:])
    with run.lock():
        work.execute(run, Replay(("test:1",), "loss", "recompute"))
    dataset = datasets.load("fashion-mnist-sample")
    predicted = predict.logits(run, dataset.test_images[:5])
    assert np.allclose(predicted, run.manifest().test_logits()[:5], atol=1e-4)


@pytest.mark.slow
def test_a_run_is_fine_tuned(folder, tmp_path):
    first = run_of(config_of("net.py:net"), tmp_path / "a")
    dataset = datasets.load("fashion-mnist-sample")
    model = registry.build(first.manifest().config, dataset)
    save_file(model.load(model.theta0 + 1, model.buffers0), folder / "first.safetensors")
    config = config_of("net.py:net", initial_weights="first.safetensors", frozen="1")
    tuned = registry.build(config, dataset)
    assert tuned.parameters == 4 * 10 + 10 and torch.equal(tuned.theta0, model.theta0[-50:] + 1)
    run = run_of(config, tmp_path / "b")
    assert set(run.manifest().model_sources) == {"net.py", "first.safetensors"}
    assert any("Frozen: 3,140 of 3,190" in str(event) for event in run.events()[0])
    (folder / "first.safetensors").write_bytes((folder / "first.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(IntegrityError, match="first.safetensors"), run.lock():
        work.execute(run, Replay(("test:2",), "loss", "disk"))
