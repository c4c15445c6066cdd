"""Models by name: one builder a file. The table of names is `engine.config.MODELS`, which is free of torch
and open for registration; names beyond it are in `engine.model_names`."""

import inspect
from collections.abc import Callable
from importlib import metadata

import torch
from torch import nn

from engine import model_names
from engine.config import MODELS, RunConfig
from engine.datasets.base import Dataset
from engine.errors import ModelError
from engine.models import finetune, user_files
from engine.models.functional import FunctionalModel
from engine.models.generators import OwnGenerator


def module(config: RunConfig, dataset: Dataset) -> nn.Module:
    """What the function that `config.model` names makes of (channels, height, width, classes, **options), with the
    configuration's first weights and frozen parts.

    Its initial weights are decided by the recipe's seed alone, in any thread: they must come from torch's
    random operations. Raises `ConfigError` where there is no model of this name, `ModelError` where its function
    fails or gives no module, and what its builder raises.
    """
    return prepared(config, dataset)[0]


def prepared(config: RunConfig, dataset: Dataset) -> tuple[nn.Module, list[str]]:
    """`module`, and what a person should know of how its weights came about, a sentence each."""
    height, width, channels = dataset.image_shape
    options = model_names.options(config.model_options)
    if config.width != 1:
        options["factor"] = config.width
    function, where = _function(config.model)
    _check_options(function, options, config.model)
    arguments = channels, height, width, len(dataset.classes)
    with OwnGenerator(config.recipe.seed):
        if where is None:
            made = _made(config, function, arguments, options)
        else:
            with user_files.failures(where):
                made = function(*arguments, **options)
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"The function of the model «{config.model}»{f', in {where},' if where else ''} gives "
            f"{'nothing' if made is None else f'a {type(made).__name__}'}, not an nn.Module.",
            "Return the network.",
        )
    notes = finetune.load_initial(made, model_names.file_of(config.initial_weights)) if config.initial_weights else []
    if config.frozen:
        notes += finetune.freeze(made, config.frozen, evaluation=config.frozen_eval)
    return made, notes


def _made(config: RunConfig, function: Callable[..., nn.Module], arguments: tuple, options: dict) -> nn.Module:
    """What a function that ships makes; `ModelError` for options of values that it cannot take."""
    try:
        return function(*arguments, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        if not options:
            raise
        raise ModelError(
            f"The model «{config.model}» cannot be made with {options}: {type(error).__name__}: {error}",
            "Correct model_options (docs/models.md).",
        ) from error


def build(config: RunConfig, dataset: Dataset, device: torch.device | str = "cpu") -> FunctionalModel:
    """The model that a configuration asks for, on the device, in the configuration's precision. Its `notes` say how its
    weights came about, and what was replaced."""
    made, notes = prepared(config, dataset)
    model = FunctionalModel(made, device, getattr(torch, config.state_precision))
    model.notes[:0] = notes
    return model


def sources(config: RunConfig) -> dict[str, str]:
    """SHA-256, by name, of the files that decide the model beside this project's own: its code and its first weights.
    A run records them, and compares them when it is reopened. Raises `ModelError` for one that cannot be read."""
    files = {} if config.model in MODELS else user_files.source_of(config.model)
    if config.initial_weights:
        files[config.initial_weights] = finetune.sha256_of(model_names.file_of(config.initial_weights))
    return files


def libraries(config: RunConfig) -> dict[str, str]:
    """Versions of the libraries that the model comes from."""
    library = config.model.partition(":")[0]
    return {library: metadata.version(library)} if library in ("torchvision", "timm") else {}


def _function(name: str) -> tuple[Callable[..., nn.Module], str | None]:
    """The function, and the file that it is in where that is a person's own."""
    if model_names.is_from_python(name):
        raise ModelError(
            f"The model «{name.partition(':')[2]}» was given from Python, and cannot be built by its name.",
            "Ask from Python, where it is: engine.load(folder, model).",
        )
    if method := model_names.method_of(name):
        raise ModelError(
            f"«{name}» stands for the model behind imported scores of {method}, which is not here.",
            "Choose a model to train; the scores can be compared with the run's.",
        )
    if name not in MODELS:
        if match := model_names.TIMM.fullmatch(name):
            from engine.models.timm_models import builder

            return builder(match["name"]), None
        if model_names.is_name(name):
            return user_files.function_of(name)
    return MODELS.get(name), None


def _check_options(function: Callable[..., nn.Module], options: dict, name: str) -> None:
    """Raises `ModelError` for options that the function does not take."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][4:]
    # What can be written as text: a layer's class, which a builder may take too, cannot.
    known = [p.name for p in named if p.default in (None, p.empty) or isinstance(p.default, bool | int | float | str)]
    for option in options:
        if option not in known:
            what = "has no width factor: width must be 1" if option == "factor" else f"has no option «{option}»"
            raise ModelError(
                f"The model «{name}» {what}.",
                f"Its options are {', '.join(k for k in known if k != 'factor')}." if known else "It has no options.",
            )
