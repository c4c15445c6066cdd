"""What a run is: what decides a training, and what is asked of it.

A configuration is a value. It is validated whole, before anything is started, against `RANGES`, `CHOICES`, `FLAGS` and
`LISTS`, which the forms and the command line read too. The training digest covers what decides the trajectory
(`TRAINING`), and nothing else, so that a run can be replayed in another mode or for other targets without training
again.

A configuration grows by fields with defaults: a file that lacks one is read as before the field existed. A field of
`TRAINING` or of the recipe that comes is declared by `added`, with the neutral value that it had before it existed;
the digest leaves it out where it has that value, so that digests of older runs stay valid bit for bit. Where the
meaning of a field changes instead, `SCHEMA` goes up and `MIGRATIONS` gets a function.

Names of data sets, models and optimizers come from registries. `MODELS` and `OPTIMIZERS` stand here, below what they
name, because a name must be judged where torch is not loaded; they hold import paths (`engine.registry`).
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import augmentation, model_names, spelling
from engine.datasets.base import Dataset
from engine.datasets.registry import DATASETS
from engine.datasets.registry import problem as dataset_problem
from engine.errors import ConfigError
from engine.registry import Registry
from engine.targets import Target, UploadedImage, read_function, read_targets
from engine.targets.functions import examples, function_problem
from engine.targets.names import canonical, problem_of

SCHEMA = 3

TRAINING_SCHEMA = 2  # of what `training_digest` covers, and of how a step computes

SCHEDULES = ("one-cycle", "cosine", "constant", "step", "polynomial")

ANNEALS = ("cosine", "linear")

REPLAY_MODES = ("memory", "disk", "recompute")

PRECISIONS = ("float32", "float64", "tf32", "bfloat16")  # `engine.core.precision` says what each is

REPLAY_PRECISIONS = ("same", "fast", *PRECISIONS)

COMPILE = ("auto", "on", "off")

DEVICES = ("auto", "cpu", "cuda")

# Functions of (channels, height, width, classes, **options) that return an `nn.Module`; `engine.model_names` has the
# names beyond these. A width factor other than 1 comes as the option `factor`.
MODELS: Registry[Callable] = Registry(
    "model",
    "model",
    {
        "small-cnn": "engine.models.small_cnn:small_cnn",
        "resnet9": "engine.models.resnet9:resnet9",
        "vit-tiny": "engine.models.vit_tiny:vit_tiny",
        "convnext-tiny": "engine.models.convnext_tiny:convnext_tiny",
        "torchvision:resnet18": "engine.models.torchvision_models:resnet18",
        "torchvision:resnet34": "engine.models.torchvision_models:resnet34",
        "torchvision:resnet50": "engine.models.torchvision_models:resnet50",
    },
)

# Functions of (recipe, weight decay of each parameter, tensor [P]) that return an `Optimizer`.
OPTIMIZERS: Registry[Callable] = Registry(
    "optimizer",
    "recipe.optimizer",
    {
        "sgd": "engine.core.optim.sgd:sgd",
        "adam": "engine.core.optim.adam:adam",
        "adamw": "engine.core.optim.adam:adamw",
    },
)

MODEL_FIELDS = ("model_options", "initial_weights", "frozen", "frozen_eval")  # that came later, and decide a training

# Fields of `RunConfig` that decide a training.
TRAINING = ("dataset", "model", "width", "recipe", "precision", *MODEL_FIELDS)

PRESET = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")  # part of a run's id, which has 64 characters at most


def added(neutral: Any) -> Any:
    """A field that came after the first runs were written: its default is the value that all of them had."""
    return field(default=neutral, metadata={"neutral": neutral})


def _plain(values: Any) -> None:
    """NumPy's numbers become Python's, so that a configuration can be written, hashed and compared."""
    for each in dataclasses.fields(values):
        value = getattr(values, each.name)
        if isinstance(value, np.generic):
            object.__setattr__(values, each.name, value.item())


def _frozen(value: Any) -> Any:
    """Lists, such as JSON has, and arrays as tuples of Python's own numbers: floats, for 1 and 1.0 are one recipe, and
    would have two digests."""
    if hasattr(value, "tolist"):  # NumPy's and torch's, neither of which needs to be loaded here
        value = value.tolist()
    if type(value) is int and abs(value) < 2**53:
        return float(value)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


Group = tuple[str, float, float | None]
"""Pattern of names, factor on the learning rate, weight decay (None: as elsewhere)."""


RECIPE_HINTS = {
    **dict.fromkeys(("lr", "learning_rate", "max_lr"), "The highest learning rate is peak_lr."),
    **dict.fromkeys(("betas",), "Adam's two are beta1 and beta2."),
    **dict.fromkeys(("max_norm", "grad_clip", "gradient_clip"), "The largest norm of a gradient is clip_norm."),
    **dict.fromkeys(
        ("transform", "transforms", "augmentation", "augmentations"),
        f'Training images are varied by augment, such as augment="{augmentation.EXAMPLE}" (docs/augmentation.md).',
    ),
    **dict.fromkeys(("steps", "max_steps"), "A training is as long as its epochs."),
    **dict.fromkeys(("loss", "criterion"), "The loss is cross-entropy, with label_smoothing and class_weights."),
}
"""By names that other libraries use: what has another name here, a sentence each."""


@dataclass(frozen=True)
class Recipe:
    """How to train. The learning rate is per step; one step is one batch. docs/recipes.md has every equation.

    `epochs` passes over the data; `batch_size` examples a step, the last incomplete batch of
    an epoch dropped, so that every step divides by the same number. `seed` decides the initial weights and the order
    of the examples.

    Schedule (`engine.core.schedule`): `peak_lr` is the highest learning rate, `warmup` the fraction of all steps
    before it, or `warmup_steps` their number where that is above 0. A one-cycle goes from `peak_lr / div_factor` up,
    and down to `1 / final_div_factor` of where it began, along `anneal` legs; step multiplies by `gamma` at each of
    `milestones`, fractions of all steps; polynomial falls to 0 with `power`.

    Optimizer: one of `OPTIMIZERS`. SGD reads `momentum` and `nesterov`, Adam and AdamW read `beta1`, `beta2`, `eps`
    and `eps_root` (inside the root). `weight_decay` is added to the gradient (L2, as in `torch.optim.SGD`) or, in
    AdamW, shrinks the parameters; on weight matrices and kernels alone unless `decay_norm_bias`. `clip_norm` limits
    the gradient's norm; 0 does not. `groups` are (pattern of parameters' names, factor on the learning rate, weight
    decay or None for the one above), the first that matches counting.

    Augmentation (`engine.augmentation`): `augment` lists what is done to each training image in each epoch, such as
    flip,crop:4, decided by the seed, the epoch and the image's number; nothing where it is empty.

    Loss (`engine.core.loss`): cross-entropy with `label_smoothing`, each class times its weight: `class_weights` is
    "none", "balanced" or one number a class.
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
    optimizer: str = added("sgd")
    beta1: float = added(0.9)
    beta2: float = added(0.999)
    eps: float = added(1e-8)
    eps_root: float = added(0.0)
    clip_norm: float = added(0.0)
    groups: tuple[Group, ...] = added(())
    label_smoothing: float = added(0.0)
    class_weights: str | tuple[float, ...] = added("none")
    warmup_steps: int = added(0)
    anneal: str = added("cosine")
    div_factor: float = added(25.0)
    final_div_factor: float = added(1e4)
    milestones: tuple[float, ...] = added((0.5, 0.75))
    gamma: float = added(0.1)
    power: float = added(1.0)
    augment: str = added("")

    def __new__(cls, *args: Any, **fields: Any) -> "Recipe":
        """Raises `ConfigError` for a field that there is not, with the nearest one."""
        known = [each.name for each in dataclasses.fields(cls)]
        if unknown := [name for name in fields if name not in known]:
            raise spelling.refusal("Recipe", unknown, known, RECIPE_HINTS)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        _plain(self)
        object.__setattr__(self, "augment", augmentation.canonical(self.augment))
        for name in LISTS_OF_RECIPE:
            object.__setattr__(self, name, _frozen(getattr(self, name)))


LISTS_OF_RECIPE = ("groups", "class_weights", "milestones")  # fields that may be tuples, which JSON gives as lists


@dataclass(frozen=True)
class RunConfig:
    """One run of the app or the command line.

    `targets` are the texts of targets, such as test:3, class:2 or test:all (`engine.targets.Target`).
    `replay_mode` says where the states before the steps are kept: all in memory, all on disk, or
    every `segment`-th on disk and the rest recomputed. `segment` 0 takes √T steps, or more where
    the checkpoints would take more than `checkpoint_mb` megabytes (0: any number).
    `clean_when_done` deletes the trajectory once the run's own targets have their scores.
    `model_options` go to the model's function, as NAME=VALUE,NAME=VALUE. `initial_weights` is a file, `frozen` a list
    of patterns of names such as layer1.*,conv1*, and `frozen_eval` puts what is frozen into evaluation mode
    (`engine.models.finetune`). `precision` is that of the training, `replay_precision` that of the steps backwards
    (`engine.core.precision`). `compile` says whether steps are compiled (`engine.core.compiled`).
    `window` says from where example weights count: below 1 a fraction of all steps, from 1 on a number of steps
    (`window_start`). It decides what the scores mean, and nothing of the training.
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
    model_options: str = added("")
    initial_weights: str = added("")
    frozen: str = added("")
    frozen_eval: bool = added(False)
    replay_precision: str = added("same")
    compile: str = added("auto")
    window: float = added(0.0)

    def __post_init__(self) -> None:
        _plain(self)

    @property
    def state_precision(self) -> str:
        """Of states, adjoints and scores: tf32 and bfloat16 are of what a step computes between them."""
        return "float64" if self.precision == "float64" else "float32"

    def replays_in(self, device: str) -> str:
        """The precision of a step backwards on a kind of device, "cpu" or "cuda"."""
        if self.replay_precision == "fast":  # docs/performance.md has what it does to scores
            return "bfloat16" if device == "cuda" and self.precision != "float64" else self.precision
        return self.precision if self.replay_precision == "same" else self.replay_precision

    def replace(self, **changes) -> "RunConfig":
        """A copy with some fields changed; a recipe's fields are named `recipe.peak_lr`."""
        inner = {k.partition(".")[2]: v for k, v in changes.items() if k.startswith("recipe.")}
        outer = {k: v for k, v in changes.items() if not k.startswith("recipe.")}
        if inner:
            outer["recipe"] = dataclasses.replace(outer.get("recipe", self.recipe), **inner)
        return dataclasses.replace(self, **outer)

    def to_dict(self) -> dict:
        """For config.json; `from_dict` reads it."""
        return {
            "schema": SCHEMA,
            "version": engine.__version__,
            **dataclasses.asdict(self),
            "targets": list(self.targets),
        }

    def training_digest(self, data_fingerprint: str) -> str:
        """Hex digest of all that decides the trajectory: recipe, model, data and precision."""
        decides = [
            TRAINING_SCHEMA,
            _not_neutral(self.recipe),
            self.model,
            self.width,
            self.precision,
            data_fingerprint,
        ]
        later = _not_neutral(self)
        if model := {name: later[name] for name in MODEL_FIELDS if name in later}:
            decides.append(model)
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _not_neutral(recipe: "Recipe | RunConfig") -> dict:
    """The fields, less those that came later and have the value that they had before."""
    values = dataclasses.asdict(recipe)
    neutral = {f.name: f.metadata["neutral"] for f in dataclasses.fields(recipe) if "neutral" in f.metadata}
    return {name: value for name, value in values.items() if name not in neutral or value != neutral[name]}


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, both ends included, with what it is and its unit."""

    low: float
    high: float
    what: str
    kind: type = float

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, as the end of a sentence; None where it is allowed."""
        if isinstance(value, np.generic):
            value = value.item()
        wanted = (int,) if self.kind is int else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"must be {'a whole number' if self.kind is int else 'a number'}, not {_shown(value)}"
        # Whole numbers of any size compare; only a float can be no number at all.
        if (isinstance(value, float) and not math.isfinite(value)) or not self.low <= value <= self.high:
            return f"must be from {self.low:g} to {self.high:g}, not {_shown(value)}"
        return None


@dataclass(frozen=True)
class Choice:
    """Allowed names of a setting, asked for at each use, for they may grow; and what it is. `also` judges names that
    are allowed and not listed: those that only the command line may give."""

    names_now: Callable[[], Iterable[str]]
    what: str
    other: Callable[[str], str | None] | None = None  # judges names that are not listed, where there may be such

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.names_now())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, as the end of a sentence; None where it is allowed."""
        if value in self.names:
            return None
        if self.other is not None and isinstance(value, str):
            return self.other(value)
        return f"must be one of {', '.join(self.names)}, not {_shown(value)}"


def _shown(value: object) -> str:
    """A value in an error, however long it is."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a whole number of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


@dataclass(frozen=True)
class Notation:
    """A setting that is more than one number or name: how a person writes it, and what it may be."""

    read: Callable[[str], Any]  # the value that a text says; what is not so written stays a text, for `problem`
    write: Callable[[Any], str]  # its inverse
    problem: Callable[[Any], str | None]  # what is wrong with a value, as the end of a sentence
    form: str  # how it is written
    what: str


def _numbers(text: str) -> tuple[float, ...] | str:
    """Numbers separated by commas; none where the text is empty. The text where one is no number."""
    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        return text


def _written_numbers(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(map(_shortest, value))


def _shortest(number: float) -> str:
    """The shortest text that reads as the same number."""
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def _problem_of_numbers(values: Any, allowed: Range, what: str) -> str | None:
    if not isinstance(values, tuple):
        return f"must be {what}, not {_shown(values)}"
    return next((f"{problem} ({what})" for value in values if (problem := allowed.problem(value))), None)


def _problem_of_milestones(values: Any) -> str | None:
    problem = _problem_of_numbers(values, Range(0.0, 1.0, ""), "fractions of all steps, such as 0.5,0.75")
    if problem is None and list(values) != sorted(set(values)):
        return "must rise from each to the next"
    return problem


def _problem_of_class_weights(values: Any) -> str | None:
    if values in ("none", "balanced"):
        return None
    what = "none, balanced, or one number a class, such as 1,2,0.5"
    problem = _problem_of_numbers(values, Range(0.0, 1e6, ""), what)
    if problem is None and not any(values):
        return "must be above 0 for some class"
    return problem


def _class_weights(text: str) -> tuple[float, ...] | str:
    return text if text in ("none", "balanced") else _numbers(text)


def _groups(text: str) -> tuple[Group, ...] | str:
    """Groups separated by commas, PATTERN:FACTOR or PATTERN:FACTOR:DECAY each. The text where one is not so written."""
    groups = []
    for part in text.split(",") if text.strip() else ():
        pattern, *numbers = part.strip().split(":")
        try:
            factor, *decay = map(float, numbers)
        except ValueError:
            return text
        if len(decay) > 1:
            return text
        groups.append((pattern, factor, decay[0] if decay else None))
    return tuple(groups)


def _written_groups(value: Any) -> str:
    if isinstance(value, str):
        return value
    return ",".join(":".join([g[0], *(_shortest(number) for number in g[1:] if number is not None)]) for g in value)


def _problem_of_groups(values: Any) -> str | None:
    form = "groups such as head.*:10 or *.bias:1:0 (names, factor on the learning rate, weight decay)"
    if not isinstance(values, tuple):
        return f"must be {form}, not {_shown(values)}"
    for group in values:
        if not isinstance(group, tuple) or len(group) != 3 or not isinstance(group[0], str) or not group[0]:
            return f"must be {form}, not {_shown(group)}"
        pattern, factor, decay = group
        if set(pattern) & set(",: ") or len(pattern) > 200:
            return f"must name parameters without commas, colons or blanks, not {_shown(pattern)}"
        if problem := Range(0.0, 1e4, "").problem(factor):
            return f"must have factors that are so: the one of {_shown(pattern)} {problem}"
        if decay is not None and (problem := Range(0.0, 10.0, "").problem(decay)):
            return f"must have weight decays that are so: the one of {_shown(pattern)} {problem}"
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
    "recipe.warmup_steps": Range(0, 10_000_000, "Steps before the peak learning rate; 0 takes the fraction.", int),
    "recipe.div_factor": Range(1.0, 1e12, "One-cycle begins at the peak learning rate divided by this."),
    "recipe.final_div_factor": Range(1e-6, 1e12, "One-cycle ends at its beginning's rate divided by this."),
    "recipe.gamma": Range(0.0, 1.0, "Factor on the learning rate at each milestone of the step schedule."),
    "recipe.power": Range(0.01, 10.0, "Exponent of the polynomial schedule; 1 falls in a straight line."),
    "recipe.momentum": Range(0.0, 0.9999, "Momentum of SGD; 0 is plain SGD."),
    "recipe.weight_decay": Range(
        0.0, 10.0, "Added to the gradient (L2), as in torch.optim; AdamW shrinks the parameters instead."
    ),
    "recipe.beta1": Range(0.0, 0.9999, "Adam's memory of the gradients: part of their mean that stays a step."),
    "recipe.beta2": Range(0.0, 0.99999, "Adam's memory of their squares: part of the mean that stays a step."),
    "recipe.eps": Range(0.0, 1.0, "Added to Adam's root."),
    "recipe.eps_root": Range(
        0.0, 1.0, "Added inside Adam's root. From 1e-8 on, training is smooth where gradients are small; give it."
    ),
    "recipe.clip_norm": Range(0.0, 1e6, "Largest norm of the gradient over all parameters; 0 sets no limit."),
    "recipe.label_smoothing": Range(0.0, 0.99, "Part of each label that is spread evenly over all classes."),
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
    "window": Range(
        0.0,
        10_000_000,
        "Where example weights begin to count: a fraction of all steps, or from 1 on a number of steps; 0 is the whole "
        "training. Scores then say what the images did from there on (docs/window.md).",
    ),
}

CHOICES = {
    "recipe.optimizer": Choice(lambda: OPTIMIZERS, "How a gradient becomes a step."),
    "recipe.schedule": Choice(lambda: SCHEDULES, "How the learning rate goes over the steps."),
    "recipe.anneal": Choice(lambda: ANNEALS, "Legs of the one-cycle schedule."),
    "dataset": Choice(
        lambda: DATASETS,
        "The images to train on and to explain: one of these, or folder:DIR, table:FILE, arrays:FILE.npz, "
        "torchvision:NAME, hf:NAME_OR_DIR (docs/data.md).",
        dataset_problem,
    ),
    "model": Choice(
        lambda: (*MODELS, *model_names.listed()),
        "The network: one of these, timm:NAME, FILE.py:FUNCTION or package.module:FUNCTION (docs/models.md).",
        lambda name: model_names.problem(name, MODELS),
    ),
    "target_function": Choice(examples, "What is measured of a target.", function_problem),
    "replay_mode": Choice(
        lambda: REPLAY_MODES,
        "Where the states before the steps are kept: in memory, on disk, or some and the rest anew.",
    ),
    "device": Choice(lambda: DEVICES, "Where to compute; auto takes a GPU where there is one."),
    "precision": Choice(
        lambda: PRECISIONS,
        "Of the training. float64 takes twice the memory, and more time; tf32 and bfloat16 are fast on a GPU.",
    ),
    "replay_precision": Choice(
        lambda: REPLAY_PRECISIONS,
        "Of the steps backwards: that of the training (same), bfloat16 on a GPU and the training's on a CPU (fast), or "
        "another one. Scores stay float32 in all but float64.",
    ),
    "compile": Choice(
        lambda: COMPILE,
        "Whether steps are compiled: faster once some time has gone into compiling; auto decides by measuring.",
    ),
}


@dataclass(frozen=True)
class Text:
    """A setting that is a text: what it is, and what is wrong with a value, as the end of a sentence."""

    what: str
    problem: Callable[[object], str | None]


def _text_problem(value: object) -> str | None:
    return (
        None if isinstance(value, str) and value.isprintable() else f"must be a text in one line, not {_shown(value)}"
    )


TEXTS = {
    "model_options": Text(
        "Options of the model's function, such as smooth=true,dropout=0.1.", model_names.options_problem
    ),
    "initial_weights": Text("File of the first weights: safetensors, or what torch.save wrote.", _text_problem),
    "frozen": Text("What is not trained: patterns of parameters' names, such as conv1*,layer1.*.", _text_problem),
}

FLAGS = {
    "frozen_eval": "Frozen parts in evaluation mode: their norms and their dropout rest.",
    "recipe.nesterov": "Nesterov's momentum, which looks ahead.",
    "recipe.decay_norm_bias": "Weight decay on biases and normalisation too.",
    "clean_when_done": "Delete the checkpoints once the run's own targets have their scores.",
}

LISTS = {
    "recipe.milestones": Notation(
        _numbers, _written_numbers, _problem_of_milestones, "F,F,…", "Fractions of all steps at which the rate steps."
    ),
    "recipe.class_weights": Notation(
        _class_weights,
        _written_numbers,
        _problem_of_class_weights,
        "none, balanced or W,W,…",
        "Factor on the loss of each class; balanced: the rarer the class, the larger.",
    ),
    "recipe.groups": Notation(
        _groups,
        _written_groups,
        _problem_of_groups,
        "PATTERN:FACTOR[:DECAY],…",
        "Parameters by name, with a factor on the learning rate and a weight decay of their own.",
    ),
    "recipe.augment": Notation(
        str,
        str,
        augmentation.problem_of,
        "NAME[:AMOUNT],…",
        f"What is done to each training image in each epoch, in this order, such as {augmentation.EXAMPLE}; of "
        f"{', '.join(augmentation.KINDS)}. Nothing where it is empty.",
    ),
}

ADAM = ("recipe.beta1", "recipe.beta2", "recipe.eps", "recipe.eps_root")

READS: dict[str, dict[str, tuple[str, ...]]] = {
    "recipe.optimizer": {"sgd": ("recipe.momentum", "recipe.nesterov"), "adam": ADAM, "adamw": ADAM},
    "recipe.schedule": {
        "one-cycle": ("recipe.anneal", "recipe.div_factor", "recipe.final_div_factor"),
        "cosine": (),
        "constant": (),
        "step": ("recipe.milestones", "recipe.gamma"),
        "polynomial": ("recipe.power",),
    },
    "replay_mode": {
        "memory": (),
        "disk": ("clean_when_done",),
        "recompute": ("segment", "checkpoint_mb", "clean_when_done"),
    },
}
"""By setting and choice: the settings that this choice reads and not all of its others do. A choice that comes adds
what it reads; one that is not entered is taken to read them all."""

GOES_WITH: dict[str, dict[str, dict[str, Any]]] = {
    "recipe.optimizer": {
        "adam": {"recipe.peak_lr": 0.002, "recipe.eps_root": 1e-4},
        "adamw": {"recipe.peak_lr": 0.002, "recipe.eps_root": 1e-4, "recipe.weight_decay": 0.01},
    },
}
"""By setting and choice: values that suit the choice better than the defaults, for a form to begin with (measured in
docs/recipes.md and docs/trust.md). A configuration never takes them by itself."""


def unread(config: RunConfig) -> set[str]:
    """Settings that this configuration's training and replay do not look at, whatever they say."""
    unread = set()
    for setting, choices in READS.items():
        chosen: Any = get(config, setting)
        if chosen in choices:
            unread |= {name for names in choices.values() for name in names} - set(choices[chosen])
    if config.recipe.warmup_steps:
        unread.add("recipe.warmup")
    if not config.frozen:
        unread.add("frozen_eval")
    return unread


# Chosen by measured agreement with retraining (docs/trust.md): LDS 0.99 at accuracy 0.855. The
# same without the logits' scale of 1/2 has 0.82 at 0.849.
# What is asked is what there is to explain: five mistakes, the surest first, a close call, a right answer, and all test
# images together, which Find bad labels looks at. `python -m tools.sample_targets` found them, and finds them again.
_SAMPLE = RunConfig(
    preset="sample",
    recipe=Recipe(epochs=6, batch_size=250),
    targets=("test:605", "test:119", "test:913", "test:443", "test:752", "test:674", "test:0", "test:all"),
    replay_mode="disk",
    compile="off",  # over before compiling would pay, and the same bits on every machine, whatever it measures
)

PRESETS = {
    "sample": _SAMPLE,
    # The same with wrong labels among the training images, known ones, to be found.
    "sample-noisy": _SAMPLE.replace(
        preset="sample-noisy",
        dataset="fashion-mnist-sample-noisy",
        targets=("test:119", "test:913", "test:781", "test:475", "test:614", "test:464", "test:0", "test:all"),
    ),
    # All 60,000 images. The highest rate that stays smooth with these initial weights: metasmoothness
    # 0.99 at a peak of 0.03 (accuracy 0.871), 0.77 at 0.045 (0.898). docs/trust.md has the frontier.
    # Accuracy 0.927, LDS 0.974 with 1 % left out (docs/trust.md).
    "resnet9": RunConfig(
        preset="resnet9",
        dataset="fashion-mnist",
        model="resnet9",
        width=0.5,
        model_options="pool=before",
        recipe=Recipe(
            epochs=20, batch_size=500, peak_lr=0.0125, weight_decay=0.0015, groups=(("18.weight", 2.0, None),)
        ),
        targets=tuple(f"test:{i}" for i in range(16)),
        replay_mode="disk",
        precision="tf32",
    ),
    # Accuracy 0.871, LDS 0.996, in a fifth of the steps: what docs/performance.md measures.
    "resnet9-short": RunConfig(
        preset="resnet9-short",
        dataset="fashion-mnist",
        model="resnet9",
        width=0.5,
        recipe=Recipe(epochs=8, batch_size=1000, peak_lr=0.03),
        targets=tuple(f"test:{i}" for i in range(16)),
        replay_mode="disk",
        replay_precision="tf32",
    ),
    # At an accuracy of 0.9355, the effect of the last fifth of training: LDS 0.996 with 1 % left out, 0.993 with 5 %.
    # From half of training on its metasmoothness is 0.94, from 0.6 on 0.975 (docs/trust.md).
    "resnet9-window": RunConfig(
        preset="resnet9-window",
        dataset="fashion-mnist",
        model="resnet9",
        width=0.5,
        model_options="gain=0.8,pool=before",
        recipe=Recipe(
            epochs=14, batch_size=500, peak_lr=0.06, augment="flip,crop:1", groups=(("18.weight", 2.0, None),)
        ),
        targets=tuple(f"test:{i}" for i in range(16)),
        replay_mode="disk",
        precision="tf32",
        window=0.8,
    ),
}

PRESET_TEXT = {
    "sample": "6,000 images, small convolutional network; 1 to 3 minutes on 2 CPU cores",
    "sample-noisy": "The sample with 300 wrong labels among its 6,000, to be found; 1 to 3 minutes on 2 CPU cores",
    "resnet9": "60,000 images, ResNet-9 at an accuracy of 0.927; made for a GPU, needs the full Fashion-MNIST files",
    "resnet9-short": "The same in a fifth of the steps, at an accuracy of 0.871; made for a GPU",
    "resnet9-window": "The same at an accuracy of 0.935, where scores are the effect of the last 20 % of training; "
    "made for a GPU",
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
    config: RunConfig,
    n_train: int | None = None,
    n_test: int | None = None,
    n_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> dict[str, str]:
    """Every field that is out of range, with a message; empty where the run can start. `image_shape` is [H, W, C]."""
    at_fault: dict[str, str] = {}
    if not isinstance(config.preset, str) or not PRESET.fullmatch(config.preset):
        at_fault["preset"] = f"must be small letters, digits and dashes, 40 at most, not {_shown(config.preset)}"
    for name, allowed in RANGES.items():
        if (problem := allowed.problem(get(config, name))) is not None:
            at_fault[name] = problem
    for name, choice in CHOICES.items():
        if (problem := choice.problem(get(config, name))) is not None:
            at_fault[name] = problem
    for name, text in TEXTS.items():
        if (problem := text.problem(get(config, name))) is not None:
            at_fault[name] = problem
    if "target_function" not in at_fault and (problem := function_problem(config.target_function, n_classes)):
        at_fault["target_function"] = problem
    for name in FLAGS:
        if not isinstance(get(config, name), bool):
            at_fault[name] = f"must be true or false, not {_shown(get(config, name))}"
    for name, notation in LISTS.items():
        if (problem := notation.problem(get(config, name))) is not None:
            at_fault[name] = problem
    at_fault |= _problems_of_recipe(config.recipe, at_fault.keys(), n_train, n_classes, image_shape)
    if not at_fault.keys() & {"segment", "checkpoint_mb"} and config.segment and config.checkpoint_mb:
        at_fault["segment"] = "cannot be set together with checkpoint_mb, which chooses it"
    at_fault |= _problems_of_window(config, at_fault.keys(), n_train)
    if not config.targets:
        at_fault["targets"] = "name at least one target, such as test:0"
    seen = set()
    for target in config.targets:
        problem = problem_of(target, n_train, n_test, n_classes)
        if problem is None and target in seen:
            problem = f"{target} is named twice"
        if problem is None and isinstance(Target.parse(target), UploadedImage):
            problem = f"{target} is an image that is kept with a trained run; explain it there"
        if problem is not None:
            at_fault["targets"] = problem
            break
        seen.add(target)
    return at_fault


def _problems_of_recipe(
    recipe: Recipe,
    known: Iterable[str],
    n_train: int | None,
    n_classes: int | None,
    image_shape: tuple[int, int, int] | None,
) -> dict[str, str]:
    """What is wrong with fields beside each other, or beside the data; `known` fields have problems of their own."""
    at_fault: dict[str, str] = {}

    def sound(*names: str) -> bool:
        return not any(f"recipe.{name}" in known for name in names)

    if sound("momentum") and recipe.nesterov is True and recipe.momentum == 0:
        at_fault["recipe.nesterov"] = "needs a momentum above 0"
    if sound("eps", "eps_root") and recipe.eps == recipe.eps_root == 0:
        at_fault["recipe.eps"] = "must be above 0 where eps_root is 0: Adam would divide by a gradient that is 0"
    if sound("class_weights") and n_classes is not None and isinstance(recipe.class_weights, tuple):
        if len(recipe.class_weights) != n_classes:
            at_fault["recipe.class_weights"] = (
                f"has {len(recipe.class_weights)} numbers, and the data set {n_classes} classes"
            )
    if sound("augment") and image_shape is not None:
        height, width, channels = image_shape
        if problem := augmentation.problem_with(augmentation.parse(recipe.augment), (channels, height, width)):
            at_fault["recipe.augment"] = problem
    if n_train is None or not sound("batch_size", "epochs"):
        return at_fault
    if recipe.batch_size > n_train:
        at_fault["recipe.batch_size"] = (
            f"is {recipe.batch_size:,}, larger than the data set's {n_train:,} training images"
        )
        return at_fault
    steps = recipe.epochs * (n_train // recipe.batch_size)
    if sound("warmup_steps") and recipe.warmup_steps >= steps:
        at_fault["recipe.warmup_steps"] = f"is {recipe.warmup_steps:,}, and the training has {steps:,} steps"
    return at_fault


def _problems_of_window(config: RunConfig, known: Iterable[str], n_train: int | None) -> dict[str, str]:
    """What is wrong with the window by itself, and beside the number of steps."""
    if "window" in known:
        return {}
    recipe, steps = config.recipe, None
    if n_train is not None and not {"recipe.batch_size", "recipe.epochs"} & set(known):
        steps = recipe.epochs * (n_train // recipe.batch_size)
    if problem := window_problem(config.window, steps):
        return {"window": problem}
    if not config.window or not steps or "segment" in known:
        return {}
    count = steps - window_start(config, steps)
    return {"segment": f"is {config.segment:,}, and the window has {count:,} steps"} if config.segment > count else {}


def window_problem(window: Any, steps: int | None = None) -> str | None:
    """What is wrong with a window, of a training of so many steps where they are known, as the end of a sentence."""
    if (problem := RANGES["window"].problem(window)) is not None:
        return problem
    if window >= 1 and not float(window).is_integer():
        return f"must be a fraction below 1, or from 1 on a whole number of steps, not {window!r}"
    if window and steps and first_step(window, steps) >= steps:
        return f"is {_shown(window)}, and leaves none of the training's {steps:,} steps for the images to count in"
    return None


def first_step(window: float, steps: int) -> int:
    """s, from 0: the first of `steps` steps at which example weights count. What comes before it is a fixed part of
    the training: no score, no replay and no retraining reaches behind the state before step s."""
    return round(window * steps) if window < 1 else int(window)


def window_start(config: RunConfig, steps: int) -> int:
    """`first_step` of a run's training."""
    return first_step(config.window, steps)


def window_phrase(start: int, steps: int) -> str:
    """What scores say whose weights count from step `start`, from 0, of `steps`, in the words in which every page,
    command and report names it; "" where they count in the whole training."""
    return f"effect of the {window_share(start, steps)} of training" if start else ""


def window_share(start: int, steps: int) -> str:
    """The part of `window_phrase` that tells windows apart, such as «last 50 %»; "" for the whole training."""
    if not start:
        return ""
    share = 100 * (steps - start) / steps
    shown = next(text for digits in range(3, 18) if (text := f"{share:.{digits}g}") != "100")  # it is not the whole
    return f"last {shown} %"


def check(
    config: RunConfig,
    n_train: int | None = None,
    n_test: int | None = None,
    n_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> RunConfig:
    """The same configuration, or a `ConfigError` that names every field at fault."""
    at_fault = problems(config, n_train, n_test, n_classes, image_shape)
    if at_fault:
        said = "; ".join(f"{name} {problem}" for name, problem in at_fault.items())
        raise ConfigError(f"The run cannot start: {said}.", "Correct the settings named and start again.", at_fault)
    return config


def offered_problems(config: RunConfig) -> dict[str, str]:
    """Every field, with a message, in which a browser asks for more than its form offers: the model must be one that is
    listed, and a file of weights one that lies in the folder of models."""
    at_fault: dict[str, str] = {}
    if config.model not in CHOICES["model"].names:
        at_fault["model"] = f"must be one of those listed, not {_shown(config.model)}"
    weights = config.initial_weights
    if weights and (Path(weights).name != weights or not (model_names.folder() / weights).is_file()):
        at_fault["initial_weights"] = f"must be a file of the folder of models, not {_shown(weights)}"
    return at_fault


def check_offered(config: RunConfig) -> RunConfig:
    """The same configuration, or a `ConfigError` of `offered_problems`."""
    if at_fault := offered_problems(config):
        said = "; ".join(f"{name} {problem}" for name, problem in at_fault.items())
        raise ConfigError(
            f"The app starts no such run: {said}.",
            "Choose from the list. Whoever runs the server fills the folder of models, and starts other models "
            "from the command line.",
            at_fault,
        )
    return config


def read_questions(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The configuration with its targets and its function as values have them: what people write for them, with lists,
    ranges and names of classes, is read here, once (`engine.targets.texts`).

    Raises `ConfigError` for other texts, which names every other field at fault too.
    """
    readers: dict[str, Callable[[], Any]] = {
        "targets": lambda: tuple(map(str, read_targets(config.targets, dataset))),
        "target_function": lambda: read_function(config.target_function, dataset).name,
    }
    values, at_fault, remedies = {}, {}, []
    for name, read in readers.items():
        try:
            values[name] = read()
        except ConfigError as error:
            at_fault[name] = next(iter(error.problems.values()), error.what)
            remedies.append(error.remedy)
    config = config.replace(**values)
    if at_fault:
        at_fault = {**problems(config, *dataset.sizes), **at_fault}
        said = "; ".join(f"{name} {problem}" for name, problem in at_fault.items())
        raise ConfigError(f"The run cannot start: {said}.", " ".join(dict.fromkeys(remedies)), at_fault)
    return config


def _migrate_2_to_3(values: dict) -> dict:
    """A target has one text: `test:007` was a second name of `test:7`."""
    targets = values.get("targets")
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        values = {**values, "targets": list(dict.fromkeys(map(canonical, targets)))}
    return values


MIGRATIONS: dict[int, Callable[[dict], dict]] = {2: _migrate_2_to_3}
"""From a schema to the next: functions of the entries of a config.json."""


def from_dict(values: dict, where: str = "config.json") -> RunConfig:
    """The inverse of `to_dict`, also for files of older schemas. Missing entries have their defaults.

    Raises `ConfigError` for entries that are not known, mistyped or out of range, naming the version that wrote them.
    """
    remedy = f"Restore {where} from a copy, or delete the run and start it again."
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int or schema < min(MIGRATIONS):
        raise ConfigError(f"{where} is not a configuration of schema {min(MIGRATIONS)} to {SCHEMA}.", remedy)
    version = values.get("version")
    writer = f"version {_shown(version)[:40]}" if isinstance(version, str) else "another version"
    if schema > SCHEMA:
        raise ConfigError(
            f"{where} is a configuration of schema {schema}, written by {writer} of Replay Explorer; this is "
            f"{engine.__version__}, which reads schema {min(MIGRATIONS)} to {SCHEMA}.",
            f"Open the run with {writer}, or update.",
        )
    for older in range(schema, SCHEMA):
        values = MIGRATIONS[older](values)
    entries = {name: value for name, value in values.items() if name not in ("schema", "version")}
    recipe = entries.get("recipe", {})
    if not isinstance(recipe, dict):
        raise ConfigError(f"{where}: recipe must hold the recipe's entries.", remedy)
    unknown = [
        *(name for name in entries if name not in _fields(RunConfig)),
        *(f"recipe.{name}" for name in recipe if name not in _fields(Recipe)),
    ]
    if unknown:
        raise ConfigError(
            f"{where} has entries that version {engine.__version__} does not know: "
            f"{', '.join(_shown(name) for name in unknown[:5])}. It was written by {writer}.",
            f"Open the run with {writer}. {remedy}",
        )
    targets = entries.get("targets", list(RunConfig().targets))
    if not isinstance(targets, list):
        raise ConfigError(f"{where}: targets must be a list.", remedy)
    config = RunConfig(**{**entries, "recipe": Recipe(**recipe), "targets": tuple(targets)})
    if at_fault := problems(config):
        listed = "; ".join(f"{name} {problem}" for name, problem in at_fault.items())
        raise ConfigError(f"{where}, written by {writer}, cannot be used: {listed}.", remedy, at_fault)
    return config


def _fields(cls: type) -> set[str]:
    return {each.name for each in dataclasses.fields(cls)}
