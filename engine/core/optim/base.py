"""What an optimizer is: pure functions of the parameters and of what it remembers.

To add one, write a file beside this one with a class that fulfils `Optimizer`, and name its builder, a function of
the recipe and of each parameter's weight decay [P], in `engine.config.OPTIMIZERS`. Clipping (`clip.py`) and parameter
groups (`groups.py`) then go with it. The shared tests (tests/test_optimizers.py) compare its update with
`torch.optim`, and its pullback with finite differences.
"""

from typing import Protocol

from torch import Tensor

from engine.core.state import Opt
from engine.core.stream import StepInputs


class Optimizer(Protocol):
    """(θ, o)' = update(θ, o, g), and the same backwards.

    `slots` names the parts of `opt` in order, in files and digests too: ("momentum",) for SGD.

    `replay_needs` are the positions in `opt` that `pullback` reads. A trajectory that is only
    replayed keeps these and no others: () for SGD, (0, 1) for Adam.

    `needs_grad`: whether `pullback` reads the gradient g. Where it does, a step backwards takes one
    gradient more; where it does not, `pullback` gets None.
    """

    @property
    def slots(self) -> tuple[str, ...]: ...

    @property
    def replay_needs(self) -> tuple[int, ...]: ...

    @property
    def needs_grad(self) -> bool: ...

    def init(self, theta: Tensor) -> Opt:
        """The slots before the first step.

        `theta` [P]: the initial parameters. Returns one tensor [P] a slot.
        """
        ...

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        """One step.

        `theta` [P] and `opt` ([P] each): before the step. `grad` [P]: the loss's gradient at `theta`.
        `inputs`: the learning rate `lr` (a number, or [P] where parameter groups have their own) and the
        number `t` (from 0) of the step; the batch is not for the optimizer. Returns theta' [P] and opt',
        as new tensors: `vmap` runs through here.
        """
        ...

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        """The transpose of `update`'s derivative at (theta, opt, grad).

        `theta` [P], `opt`: before the step; slots that are not in `replay_needs` are empty. `grad` [P]:
        the gradient at `theta`, None unless `needs_grad`. `inputs`: those of `update`. `adj_theta` [K, P]
        and `adj_opt` ([K, P] each): dφ/d(θ', o') of K targets.

        Returns dφ/dθ [K, P] without the part that goes through g, dφ/do ([K, P] each), and
        dφ/dg [K, P].
        """
        ...
