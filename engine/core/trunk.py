"""The frozen trunk of a network: what says the same of an example at every step is computed once.

Of a network of stages in a row, the first that train nothing and rest in evaluation mode give each example the same
features in every step, whatever the batch. They are computed once, and the rest of the network is trained and replayed
on them: the same mathematics, without the trunk's share of every pass. Sums are rounded as in one pass of `CHUNK`
examples, so that scores equal those without this to rounding, and are the same bit for bit in every mode.

Not where images change from step to step (augmentation), nor where the features do not fit: `split` gives none then.
"""

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.config import Recipe
from engine.core.stream import Examples
from engine.device import exact_arithmetic, memory_total
from engine.models.functional import FunctionalModel

CHUNK = 500  # examples a pass

SHARE = 4  # features may take a part of this number of the device's memory


@dataclass(frozen=True, eq=False)
class Trunk:
    """`stages` give the features; `rest` has the parameters and the buffers of the `whole` model, in the same order."""

    whole: FunctionalModel
    stages: nn.Sequential
    rest: FunctionalModel
    shape: tuple[int, ...]  # of one example's features

    def features(self, data: Examples) -> Examples:
        """The examples with their features, floats [N, ...], for inputs."""
        return self._of_rows(data, data.n)

    def like_features(self, data: Examples) -> Examples:
        """As `features`, for a measurement: those of the first `CHUNK` examples, over and over."""
        first = self._of_rows(data, min(CHUNK, data.n))
        return dataclasses.replace(first, inputs=first.inputs[torch.arange(data.n, device=data.device) % CHUNK])

    @torch.no_grad()
    def _of_rows(self, data: Examples, count: int) -> Examples:
        with exact_arithmetic():
            pieces = [self.stages(data.batch(rows)[0]) for rows in torch.arange(count).split(CHUNK)]
        return dataclasses.replace(data, inputs=torch.cat(pieces), mean=None, std=None)


def split(model: FunctionalModel, data: Examples, recipe: Recipe) -> Trunk | None:
    """The trunk of a model; None where it has none, where the recipe augments, or where its features of the data would
    not fit.

    Stages are the children of an `nn.Sequential`, or of a torchvision ResNet, from the first on, until one has a
    parameter that is trained, a part in training mode that is more than a plain function, or a state of its own.
    """
    if recipe.augment:
        return None
    stages = _stages(model.module)
    trains = model.modes(training=True)
    count = 0
    while count < len(stages) and _rests(list(stages.values())[count], trains):
        count += 1
    prefix = OrderedDict(list(stages.items())[:count])
    if not any(True for stage in prefix.values() for _ in stage.parameters()) or count == len(stages):
        return None
    trunk = nn.Sequential(prefix)
    rest = model.part(nn.Sequential(OrderedDict(list(stages.items())[count:])))
    if not torch.equal(rest.theta0, model.theta0) or not torch.equal(rest.buffers0, model.buffers0):
        return None  # parameters that both share, or in another order
    with torch.no_grad(), exact_arithmetic():
        one = trunk(data.batch(range(1))[0])
    if not isinstance(one, Tensor):
        return None
    fits = one.numel() * one.element_size() * data.n <= memory_total(data.device) // SHARE
    return Trunk(model, trunk, rest, tuple(one.shape[1:])) if fits else None


def _stages(module: nn.Module) -> "OrderedDict[str, nn.Module]":
    """The modules that run one after the other and are all of the network, by name; none where it is not so."""
    if type(module) is nn.Sequential:
        return OrderedDict(module.named_children())
    if f"{type(module).__module__}.{type(module).__name__}" == "torchvision.models.resnet.ResNet":
        children = OrderedDict(module.named_children())
        head = children.popitem()
        return OrderedDict([*children.items(), ("flatten", nn.Flatten()), head])
    return OrderedDict()


def _rests(stage: nn.Module, trains: dict[nn.Module, bool]) -> bool:
    """Whether it is a function of its input alone, the same in every step."""
    if any(parameter.requires_grad for parameter in stage.parameters()):
        return False
    return all(not trains.get(part, True) or _is_plain(part) for part in stage.modules())


def _is_plain(part: nn.Module) -> bool:
    """Whether training mode means nothing to it: a function of torch's own without buffers, chance or parts."""
    own = type(part).__module__.startswith("torch.nn.modules.")
    return own and not list(part.buffers()) and not list(part.children())
