"""The penultimate features of images: what the last layer, the one that makes the logits, is given.

    logits [B, C]  =  g(W h),    h [B, D],      in evaluation mode, without augmentation

W is the last matrix of the network and h its input; what follows it (a bias, a scale) is g. The last layer is found by
watching a pass, not by the names of modules, so that it is there in a network of anybody's: the last product, such as
a linear layer, a convolution or a matrix product, of an activation with weights. Weights are the parameters, buffers
and constants of the model, and whatever is computed from these alone, such as a weight-normed or a transposed matrix.

An h of more than one position an image (a convolution's, or a token's) is the mean over them. Do not use features to
tell how near two images are in the eyes of a layer before the last: it is the last one's input alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engine.core.state import State
from engine.core.stream import Examples
from engine.core.targets import CHUNK
from engine.errors import ModelError
from engine.models.functional import FunctionalModel

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")

PRODUCTS = (*CONVOLUTIONS, "linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot")
"""torch's products of an activation with weights, by name; the activation comes before the weights."""

MOST = 4096  # numbers an image that are kept as they are: 60,000 images of so many take a gigabyte

SKETCH = 2048  # numbers an image that more than that become

REMEDY = (
    "End the model with a layer of torch's own (nn.Linear, a convolution, or x @ W) that is given one row an image; "
    "a map can also be made of pixels or of scores."
)


class LastProduct(TorchFunctionMode):
    """While it is on, remembers the activation that went last into a product with weights: `activation`, and the
    product's name, `by`.

    `weights`: the tensors that all weights of the model come from. Activations are what is not computed from these
    alone. `activation` is None before any product, and where the last one has its weights first.
    """

    def __init__(self, weights: list[Tensor]):
        super().__init__()
        # By id; the tensors are kept, so that no other one gets the same.
        self._weights = {id(tensor): tensor for tensor in weights}
        self.activation: Tensor | None = None
        self.by = ""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = list(_tensors((args, kwargs or {})))
        name = getattr(func, "__name__", "")
        if given and all(id(tensor) in self._weights for tensor in given):
            self._weights.update((id(tensor), tensor) for tensor in _tensors(made))
        elif name in PRODUCTS:
            self._look(name, given)
        return made

    def _look(self, name: str, given: list[Tensor]) -> None:
        matrices = [tensor for tensor in given if id(tensor) in self._weights and tensor.dim() >= 2]
        activations = [tensor for tensor in given if id(tensor) not in self._weights]
        if matrices and len(activations) == 1:
            order = [id(tensor) for tensor in given]
            leads = order.index(id(activations[0])) < order.index(id(matrices[-1]))
            self.activation, self.by = activations[0] if leads else None, name


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


@torch.no_grad()
def penultimate(
    model: FunctionalModel, state: State, data: Examples, before: Callable[[int], None] = lambda done: None
) -> Iterator[Tensor]:
    """h of all examples in their order, [b, D] at a time, on the model's device and in its precision. `before` is told
    before each pass how many examples are done.

    Raises `ModelError` where the model has no such last layer, or one whose input is no row an image.
    """
    roots = [state.theta, state.buffers, *model.constants.values()]
    for rows in torch.arange(data.n).split(CHUNK):  # as the logits are computed: sums of other sizes round otherwise
        before(int(rows[0]))
        inputs, _ = data.batch(rows)
        with LastProduct(roots) as watched:
            model(state.theta, state.buffers, inputs, training=False)
        yield _an_image(watched, len(rows))


def _an_image(watched: LastProduct, images: int) -> Tensor:
    """One row an image, [B, D], of what the last layer was given."""
    activation = watched.activation
    if activation is None:
        raise ModelError("The model has no last layer whose input could be its features.", REMEDY)
    if activation.dim() < 2 or activation.shape[0] != images:
        raise ModelError(
            f"The last layer of the model is given {tuple(activation.shape)} for {images} images: not a row an image.",
            REMEDY,
        )
    if watched.by in CONVOLUTIONS:  # [B, D, positions ...]
        return activation.flatten(2).mean(2) if activation.dim() > 2 else activation
    return activation.flatten(1, -2).mean(1) if activation.dim() > 2 else activation  # [B, positions ..., D]


def reduced(features_BD: Tensor) -> Tensor:
    """As they are up to `MOST` numbers an image; more become `SKETCH` (`sketched`)."""
    return sketched(features_BD) if features_BD.shape[1] > MOST else features_BD


def sketched(features_BD: Tensor) -> Tensor:
    """[B, `SKETCH`]: each of the D numbers is added to one of `SKETCH`, or taken from it, drawn at random but the same
    for all images and on all devices. Distances are kept to a few percent: their squares are right on average, with a
    relative deviation of about √(2 / `SKETCH`), 3 % (count sketch; Charikar, Chen and Farach-Colton, 2002)."""
    numbers = features_BD.shape[1]
    draw = torch.Generator().manual_seed(numbers)
    to = torch.randint(SKETCH, (numbers,), generator=draw).to(features_BD.device)
    sign = (torch.randint(2, (numbers,), generator=draw) * 2 - 1).to(features_BD)
    return features_BD.new_zeros(len(features_BD), SKETCH).index_add_(1, to, features_BD * sign)
