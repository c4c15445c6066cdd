"""What a run is: a recipe for training, a model, a data set, targets and a replay mode.

A configuration is a value. It is validated whole, before anything is started, against
`RANGES`, which the forms and the command line read too. Two digests are taken of it: the
training digest covers what decides the trajectory, and nothing else, so that a run can be
replayed in another mode or for other targets without training again.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field

from engine.errors import ConfigError
from engine.targets import FUNCTIONS, Target, UploadedImage
from engine.targets.names import problem_of

SCHEMA = 2

TRAINING_SCHEMA = 2  # of what `training_digest` covers, and of how a step computes

SCHEDULES = ("one-cycle", "cosine", "constant")

REPLAY_MODES = ("memory", "disk", "recompute")

PRECISIONS = ("float32", "float64")

DEVICES = ("auto", "cpu", "cuda")

MODELS = ("small-cnn", "resnet9")

DATASETS = ("fashion-mnist-sample", "fashion-mnist-sample-noisy", "fashion-mnist")


@dataclass(frozen=True)
class Recipe:
    """How to train with SGD. The learning rate is per step; one step is one batch.

    `epochs` passes over the data; `batch_size` examples a step, the last incomplete batch of
    an epoch dropped, so that every step divides by the same number. `peak_lr` is the highest
    learning rate and `warmup` the fraction of all steps before it. `weight_decay` is added to
    the gradient (L2, as in `torch.optim.SGD`), on weight matrices and kernels alone unless
    `decay_norm_bias`. `seed` decides the initial weights and the order of the examples.
    """

    epochs: int = 8
    batch_size: int = 500
    peak_lr: float = 0.05
    schedule: str = "one-cycle"
    warmup: float = 0.3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_bias: bool = False
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """One run of the app or the command line.

    `targets` are names such as test:3, class:2 or test:all (`engine.influence.resolve`).
    `replay_mode` says where the states before the steps are kept: all in memory, all on disk, or
    every `segment`-th on disk and the rest recomputed. `segment` 0 takes √T steps, or more where
    the checkpoints would take more than `checkpoint_mb` megabytes (0: any number).
    `clean_when_done` deletes the trajectory once the run's own targets have their scores.
    """

    preset: str = "own"
    dataset: str = "fashion-mnist-sample"
    model: str = "small-cnn"
    width: float = 1.0
    recipe: Recipe = field(default_factory=Recipe)
    targets: tuple[str, ...] = ("test:0",)
    target_function: str = "loss"
    replay_mode: str = "memory"
    segment: int = 0
    checkpoint_mb: float = 0.0
    clean_when_done: bool = False
    targets_per_pass: int = 0
    device: str = "auto"
    precision: str = "float32"

    def replace(self, **changes) -> "RunConfig":
        """A copy with some fields changed; a recipe's fields are named `recipe.peak_lr`."""
        inner = {k.partition(".")[2]: v for k, v in changes.items() if k.startswith("recipe.")}
        outer = {k: v for k, v in changes.items() if not k.startswith("recipe.")}
        if inner:
            outer["recipe"] = dataclasses.replace(outer.get("recipe", self.recipe), **inner)
        return dataclasses.replace(self, **outer)

    def to_dict(self) -> dict:
        return {"schema": SCHEMA, **dataclasses.asdict(self), "targets": list(self.targets)}

    def training_digest(self, data_fingerprint: str) -> str:
        """Hex digest of all that decides the trajectory: recipe, model, data and precision."""
        decides = [
            TRAINING_SCHEMA,
            dataclasses.asdict(self.recipe),
            self.model,
            self.width,
            self.precision,
            data_fingerprint,
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, both ends included, with what it is and its unit."""

    low: float
    high: float
    what: str
    kind: type = float

    def problem(self, value) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (self.kind is int and not isinstance(value, int)):
            wanted = "a whole number" if self.kind is int else "a number"
            return f"must be {wanted}, not {value!r}"
        if not math.isfinite(value) or not self.low <= value <= self.high:
            return f"must be from {self.low:g} to {self.high:g}, not {value:g}"
        return None


RANGES = {
    "recipe.epochs": Range(1, 10_000, "Passes over the training images.", int),
    "recipe.batch_size": Range(
        2, 1_000_000, "Training images a step. Large batches give scores that agree better with retraining.", int
    ),
    "recipe.peak_lr": Range(
        1e-8, 100.0, "Highest learning rate, per step. High rates make training chaotic and the scores worthless."
    ),
    "recipe.warmup": Range(0.0, 0.9, "Fraction of all steps before the peak learning rate."),
    "recipe.momentum": Range(0.0, 0.9999, "Momentum of SGD; 0 is plain SGD."),
    "recipe.weight_decay": Range(0.0, 10.0, "L2 weight decay, as in torch.optim.SGD."),
    "recipe.seed": Range(0, 2**31 - 1, "Decides the initial weights and the order of the examples.", int),
    "width": Range(0.125, 16.0, "Factor on every channel count of the model."),
    "segment": Range(
        0,
        10_000_000,
        "Steps from one full checkpoint to the next: what recompute mode "
        "holds in memory, and what a kill may cost; 0 takes the square root of all "
        "steps.",
        int,
    ),
    "checkpoint_mb": Range(
        0.0,
        1e9,
        "Disk that the checkpoints of recompute mode may take, in MB "
        "(10⁶ bytes); 0 sets no limit. Less disk takes more memory.",
    ),
    "targets_per_pass": Range(0, 4096, "Targets carried through one backward pass; 0 chooses by the free memory.", int),
}

CHOICES = {
    "recipe.schedule": SCHEDULES,
    "dataset": DATASETS,
    "model": MODELS,
    "target_function": tuple(FUNCTIONS),
    "replay_mode": REPLAY_MODES,
    "device": DEVICES,
    "precision": PRECISIONS,
}

FLAGS = ("recipe.nesterov", "recipe.decay_norm_bias", "clean_when_done")

PRESETS = {
    # Chosen by measured agreement with retraining (docs/trust.md): LDS 0.99 at accuracy 0.855. The
    # same without the logits' scale of 1/2 has 0.82 at 0.849.
    "sample": RunConfig(
        preset="sample",
        recipe=Recipe(epochs=6, batch_size=250),
        targets=tuple(f"test:{i}" for i in range(8)),
        replay_mode="disk",
    ),
    # All 60,000 images. The highest rate that stays smooth with these initial weights: metasmoothness
    # 0.99 at a peak of 0.03 (accuracy 0.871), 0.77 at 0.045 (0.898). docs/trust.md has the frontier.
    "resnet9": RunConfig(
        preset="resnet9",
        dataset="fashion-mnist",
        model="resnet9",
        width=0.5,
        recipe=Recipe(epochs=8, batch_size=1000, peak_lr=0.03),
        targets=tuple(f"test:{i}" for i in range(16)),
        replay_mode="disk",
    ),
}

PRESET_TEXT = {
    "sample": "6,000 images, small convolutional network; about a minute on 2 CPU cores",
    "resnet9": "60,000 images, ResNet-9; made for a GPU, needs the full Fashion-MNIST files",
}


def preset(name: str) -> RunConfig:
    if name not in PRESETS:
        raise ConfigError(
            f"There is no preset «{name}».",
            f"Choose one of {', '.join(PRESETS)}.",
            {"preset": f"is not one of {', '.join(PRESETS)}"},
        )
    return PRESETS[name]


def get(config: RunConfig, name: str):
    """The value of a field by its dotted name, as in `RANGES`."""
    value = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def problems(
    config: RunConfig, n_train: int | None = None, n_test: int | None = None, n_classes: int | None = None
) -> dict[str, str]:
    """Every field that is out of range, with a message; empty where the run can start."""
    found = {}
    for name, allowed in RANGES.items():
        if (problem := allowed.problem(get(config, name))) is not None:
            found[name] = problem
    for name, choices in CHOICES.items():
        if get(config, name) not in choices:
            found[name] = f"must be one of {', '.join(choices)}, not {get(config, name)!r}"
    for name in FLAGS:
        if not isinstance(get(config, name), bool):
            found[name] = f"must be true or false, not {get(config, name)!r}"
    recipe = config.recipe
    if "recipe.momentum" not in found and recipe.nesterov is True and recipe.momentum == 0:
        found["recipe.nesterov"] = "needs a momentum above 0"
    if n_train is not None and "recipe.batch_size" not in found and recipe.batch_size > n_train:
        found["recipe.batch_size"] = f"is {recipe.batch_size:,}, larger than the data set's {n_train:,} training images"
    if not found.keys() & {"segment", "checkpoint_mb"} and config.segment and config.checkpoint_mb:
        found["segment"] = "cannot be set together with checkpoint_mb, which chooses it"
    if not config.targets:
        found["targets"] = "name at least one target, such as test:0"
    seen = set()
    for target in config.targets:
        problem = problem_of(target, n_test, n_classes)
        if problem is None and target in seen:
            problem = f"{target} is named twice"
        if problem is None and isinstance(Target.parse(target), UploadedImage):
            problem = f"{target} is an image that is kept with a trained run; explain it there"
        if problem is not None:
            found["targets"] = problem
            break
        seen.add(target)
    return found


def check(
    config: RunConfig, n_train: int | None = None, n_test: int | None = None, n_classes: int | None = None
) -> RunConfig:
    """The same configuration, or a `ConfigError` that names every field at fault."""
    found = problems(config, n_train, n_test, n_classes)
    if found:
        said = "; ".join(f"{name} {problem}" for name, problem in found.items())
        raise ConfigError(f"The run cannot start: {said}.", "Correct the settings named and start again.", found)
    return config


def from_dict(values: dict, where: str = "config.json") -> RunConfig:
    """The inverse of `to_dict`; unknown, missing or mistyped entries are errors."""
    remedy = f"Restore {where} from a copy, or delete the run and start it again."
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise ConfigError(f"{where} is not a configuration of schema {SCHEMA}.", remedy)
    values = {k: v for k, v in values.items() if k != "schema"}
    recipe = values.get("recipe")
    for cls, given in ((RunConfig, values), (Recipe, recipe)):
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(given, dict) or set(given) != names:
            odd = sorted(set(given) ^ names) if isinstance(given, dict) else ["recipe"]
            raise ConfigError(f"{where} has unknown or missing entries: {', '.join(odd)}.", remedy)
    targets = values["targets"]
    if not isinstance(targets, list):
        raise ConfigError(f"{where}: targets must be a list.", remedy)
    config = RunConfig(**{**values, "recipe": Recipe(**recipe), "targets": tuple(targets)})
    return check(config)
