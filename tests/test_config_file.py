"""Configurations as TOML: writing and reading are inverse, and what is no configuration is named and refused."""

import dataclasses
import random
import tomllib

import pytest

from engine import config as configs
from engine import config_file
from engine.__main__ import main
from engine.config import CHOICES, FLAGS, PRESETS, RANGES, Recipe, RunConfig
from engine.config_file import dumps, loads
from engine.errors import ConfigError


def random_config(rng: random.Random) -> RunConfig:
    """Any configuration that `check` allows: numbers of any size, most of them not round."""
    changes: dict[str, object] = {}
    for name, allowed in RANGES.items():
        low, high = max(allowed.low, 1e-9), allowed.high
        drawn = min(max(low * (high / low) ** rng.random(), allowed.low), high)
        changes[name] = max(int(drawn), int(allowed.low)) if allowed.kind is int else float(drawn)
    changes |= {name: rng.choice(choice.names) for name, choice in CHOICES.items()}
    changes |= {name: rng.random() < 0.5 for name in FLAGS}
    changes |= rng.choice([{"segment": 0}, {"checkpoint_mb": 0.0}])
    changes["targets"] = tuple(f"test:{i}" for i in rng.sample(range(10**6), rng.randint(1, 30)))
    changes["recipe.milestones"] = tuple(sorted(rng.random() for _ in range(rng.randint(0, 4))))
    changes["recipe.class_weights"] = rng.choice(["none", "balanced", tuple(rng.random() for _ in range(10))])
    decays = [(None, None), (0.0, rng.random()), (None, 0.1)]
    changes["recipe.groups"] = tuple((f"*.{i}'é", 10 * rng.random(), d) for i, d in enumerate(rng.choice(decays)))
    changes["target_function"] = rng.choice(["loss", "margin", "logit", "logit:3", "difference:6>4"])
    changes["model_options"] = rng.choice(["", "depth=3,smooth=true"])
    changes["frozen"] = rng.choice(["", "conv1*,layer1.*"])
    changes["preset"] = rng.choice(["own", "a-1"])
    changes["window"] = rng.choice([0.0, rng.random(), float(rng.randrange(1, 10**7))])
    return configs.check(RunConfig().replace(**changes))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_after_writing_and_reading(name):
    assert loads(dumps(PRESETS[name])) == PRESETS[name]


@pytest.mark.slow
def test_a_random_configuration_is_the_same_after_writing_and_reading():
    rng, seen = random.Random(0), set()
    for _ in range(200):
        config = random_config(rng)
        again = loads(dumps(config).encode())
        assert again == config and again.training_digest("ab") == config.training_digest("ab")
        assert dumps(again) == dumps(config)
        seen.add(config)
    assert len(seen) == 200


@pytest.mark.parametrize("place", ['a"b\\c', "a\nb\tc", "ü«»😀", "\x7f\x01", "#=[]'''", "", '"""'])
def test_names_of_any_signs_are_written_as_toml_has_them(place):
    config = RunConfig(dataset=f"folder:/{place}/x")
    assert tomllib.loads(dumps(config))["data"]["dataset"] == config.dataset


def test_a_name_that_is_no_text_is_refused_and_not_written():
    with pytest.raises(ConfigError, match="not UTF-8"):
        dumps(RunConfig(dataset="folder:/a\udcff"))


def test_every_field_is_written_with_what_it_is_and_with_its_default():
    text = dumps(PRESETS["sample"])
    written = {name for table in tomllib.loads(text).values() if isinstance(table, dict) for name in table}
    fields = {f.name for c in (RunConfig, Recipe) for f in dataclasses.fields(c)} - {"recipe"}
    assert written | {"preset"} == fields
    paragraphs = [p for p in text.split("\n\n") if " = " in p]
    assert len(paragraphs) == len(fields)
    assert all(p.strip().startswith("# ") and "Default: " in p.replace("\n# ", " ") for p in paragraphs)
    for name, allowed in RANGES.items():
        assert allowed.what[:40] in text, name
    assert "a whole number from 1 to 10,000. default: 8.\nepochs = 6" in text.lower()
    assert "Default: 0.05, as here.\npeak_lr = 0.05" in text


def test_what_is_left_out_has_its_default():
    assert loads("") == RunConfig()
    assert loads("[recipe]\nepochs = 3") == RunConfig(recipe=Recipe(epochs=3))
    assert loads("\ufeffrecipe.epochs = 3\r\n".encode()) == RunConfig(recipe=Recipe(epochs=3))


def test_a_whole_number_for_a_fraction_is_that_number():
    config = loads("[model]\nwidth = 2")
    assert type(config.width) is float and config.width == 2


def test_a_list_is_an_array_or_the_text_of_the_command_line():
    arrays = loads('[recipe]\nmilestones = [0.25, 1]\nclass_weights = [1, 2.5]\ngroups = [["head.*", 10, 0]]')
    texts = loads('[recipe]\nmilestones = "0.25,1"\nclass_weights = "1,2.5"\ngroups = "head.*:10:0"')
    recipe = Recipe(milestones=(0.25, 1.0), class_weights=(1.0, 2.5), groups=(("head.*", 10.0, 0.0),))
    assert arrays == texts == RunConfig(recipe=recipe)
    assert arrays.training_digest("ab") == texts.training_digest("ab")
    assert 'groups = "head.*:10"' in dumps(RunConfig(recipe=Recipe(groups=(("head.*", 10.0, None),))))


@pytest.mark.parametrize(
    "text, said",
    {
        "[recipe]\nepoch = 3": "did you mean epochs?",
        "[recipe]\nwidth = 3": r"stands in \[model\]",
        "epochs = 3": r"stands in \[recipe\]",
        "[data]\npreset = 'x'": "stands at the top",
        "[recpie]\nepochs = 3": r"did you mean \[recipe\]",
        "[replay]\ntarget = 'test:0'": r"did you mean targets in \[targets\]",
        "[schnurz]\nx = 1": "'schnurz' is not known",
        "recipe = 3": "must be a section",
        "[[recipe]]\nepochs = 3": "must be a section",
        "[recipe]\nepochs = '3'": "whole number",
        "[recipe]\nepochs = 3.0": "whole number",
        "[recipe]\nepochs = true": "whole number",
        "[recipe]\nepochs = 2024-01-01": "must be a number, a text",
        "[recipe]\nepochs = 0": "from 1 to 10000",
        "[recipe]\nepochs = [3]": "must be one value",
        "[recipe.epochs]\nx = 1": "must be a number, a text",
        "[recipe]\npeak_lr = nan": "from 1e-08",
        "[recipe]\npeak_lr = inf": "from 1e-08",
        f"[recipe]\nseed = {9**40}": "must be a number",
        "[recipe]\nnesterov = 1": "true or false",
        "[recipe]\nschedule = 'none'": "one of",
        "[data]\ndataset = 'nothing'": "dataset",
        "[data]\ndataset = 3": "dataset",
        "[model]\nmodel = ['resnet9']": "must be one value",
        "[recipe]\nmilestones = 0.5": "must be fractions",
        "[recipe]\nmilestones = [0.5, 'x']": "must be",
        "[recipe]\nmilestones = [0.5, 0.25]": "must rise",
        "[recipe]\nclass_weights = true": "none, balanced",
        "[recipe]\nclass_weights = [[1]]": "must be a number",
        "[recipe]\ngroups = [['head', 1]]": "must be groups",
        "[recipe]\ngroups = [[[[['head', 1]]]]]": "list of such",
        "[targets]\ntargets = 'test:0'": "list of texts",
        "[targets]\ntargets = [1]": "list of texts",
        "[targets]\ntargets = [['test:0']]": "list of texts",
        "[targets]\ntargets = []": None,  # judged with the data set
        "preset = 3": "must be a text",
        "preset = '../x'": "small letters",
        "[recipe]\nmomentum = 0.0": "needs a momentum",
        "[recipe]\nepochs = 3\nepochs = 4": "is not TOML",
        "<script>": "is not TOML",
        "x = " + "[" * 10_000: "is not TOML",
        "[recipe]\nepochs = " + "9" * 5_000: "is not TOML",
        "a" + ".a" * 5_000 + " = 1": "is not known",
        "[recipe]\nepochs" + ".a" * 5_000 + " = 1": "must be a number",
        "#" * (config_file.LARGEST + 1): "too many",
        "x" * 10_000 + " = 1": "is not known",
    }.items(),
    ids=lambda text: str(text)[:30],
)
def test_what_is_no_configuration_is_named(text, said):
    if said is None:
        assert loads(text).targets == ()
        return
    with pytest.raises(ConfigError, match=said) as error:
        loads(text, "mine.toml")
    assert "mine.toml" in error.value.what and error.value.remedy and len(str(error.value)) < 800


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        loads("[recipe]\nepoch = 3\nbatch_size = [1]\n[modle]\n")
    assert len(error.value.problems) == 3
    assert all(name in str(error.value) for name in ("recipe.epoch", "recipe.batch_size", "modle"))


def test_broken_toml_ends_in_a_configuration_or_in_a_config_error():
    rng, refused = random.Random(1), 0
    whole = dumps(PRESETS["sample"])
    plain = "\n".join(row for row in whole.splitlines() if not row.startswith("#")).encode()
    pieces = [
        b"[",
        b"]",
        b"'",
        b'"""',
        b"{",
        b"}",
        b"=",
        b"\n",
        b".",
        b"9" * 30,
        b"\xff",
        b"\x00",
        b"nan",
        b"1979-05-27",
    ]
    for _ in range(1500):
        content = bytearray(plain)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                content[at : at + rng.randint(1, 20)] = b""
            elif kind == 1:
                content[at:at] = rng.choice(pieces)
            elif kind == 2:
                content[at : at + 1] = bytes([rng.randrange(256)])
            else:
                content = content[: at + 1]
        try:
            assert isinstance(loads(bytes(content)), RunConfig)
        except ConfigError as error:
            refused += 1
            assert error.remedy
    assert 500 < refused < 1500, "some changes leave a configuration, and most do not"


# -- command line


def test_the_command_line_prints_what_it_would_run_and_runs_what_it_printed(tmp_path, capsys, root):
    assert main(["config", "--preset", "resnet9", "--set", "recipe.epochs=3", "--targets", "test:5,class:2"]) == 0
    text = capsys.readouterr().out
    config = PRESETS["resnet9"].replace(targets=("test:5", "class:2"), **{"recipe.epochs": 3})
    assert loads(text) == config
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == text
    options = ["--set", "recipe.epochs=4", "--data", "fashion-mnist-sample", "--mode", "memory", "--function", "margin"]
    assert main(["config", "--config", str(file), *options]) == 0
    assert loads(capsys.readouterr().out) == config.replace(
        dataset="fashion-mnist-sample", replay_mode="memory", target_function="margin", **{"recipe.epochs": 4}
    ), "options win over the file"
    assert not list(root.iterdir())


def test_a_run_takes_its_settings_from_a_file(tmp_path, monkeypatch, root):
    """Up to the run's folder; that such a folder trains is tested elsewhere."""
    from engine import commands
    from engine.runs import run as runs

    started = []
    monkeypatch.setattr(commands, "_execute", started.append)
    file = tmp_path / "mine.toml"
    file.write_text("preset = 'mine'\n[recipe]\nepochs = 2\nbatch_size = 100\n[targets]\ntargets = ['test:7']\n")
    assert main(["run", "--config", str(file), "--set", "recipe.batch_size=200"]) == 0
    config = RunConfig(preset="mine", recipe=Recipe(epochs=2, batch_size=200), targets=("test:7",))
    assert [run.manifest().config for run in started] == [config]
    assert "-mine-" in runs.list_runs(root)[0].id


def test_the_settings_of_a_run_are_printed(run, capsys):
    assert main(["config", "--run", run.id]) == 0
    assert loads(capsys.readouterr().out) == run.manifest().config
    assert main(["config", "--run", "nope"]) == 3


@pytest.mark.parametrize("command", ["run", "estimate", "config"])
def test_a_file_that_is_none_is_refused_before_anything_is_made(command, tmp_path, capsys, root):
    broken = tmp_path / "broken.toml"
    broken.write_text("[recipe]\nepoch = 3")
    for path in (broken, tmp_path, tmp_path / "nothing.toml", "a\0b"):
        assert main([command, "--config", str(path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not list(root.iterdir())


def test_a_start_is_from_one_thing(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "--config", "x.toml", "--preset", "sample"])
    assert end.value.code == 2 and "not allowed with" in capsys.readouterr().err
