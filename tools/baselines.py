"""Attribution methods that the benchmark's libraries do not have, or have in pieces: their mathematics, in torch.

For `tools.bench_methods`. φ is a target's loss, ℓ_i a training image's, g_i = ∇ℓ_i [P], and a score dφ/dw_i in nats per
unit of example weight, positive where training on the image raises φ. N images, T steps of B images with learning
rates η_t and momentum μ, whose long-run rate is r_t = η_t / (1 − μ). C logits z with probabilities p.

    influence    −(1/N) ∇φᵀ (G + δ)⁻¹ g_i                          arXiv 1703.04730; solved by conjugate gradients that
                 G = (1/N) Σ_i J_iᵀ (diag p_i − p_i p_iᵀ) J_i,      EK-FAC preconditions, as in arXiv 2507.14740
                 J_i = dz_i/dθ [C, P]
    DVEmb        −(η_t/B) g_i(θ_t)ᵀ v_{t+1} at each step that has i          arXiv 2412.09538
                 v_T = ∇φ,  v_t = v_{t+1} − (η_t/B) Σ_{i in batch t} g_i(θ_t) (g_i(θ_t)ᵀ v_{t+1})
    SOURCE       −(1/N) Σ_s ((1 − exp(−R_s H_s)) H_s⁻¹ u_s)ᵀ ḡ_is             arXiv 2405.12186, eq. 19
                 u_L = ∇φ,  u_{s−1} = exp(−R_s H_s) u_s

DVEmb is a replay with the sum of g_i g_iᵀ in place of each step's Hessian. Its paper, and dattri, carry a matrix M
[P, P] (or a random projection of it) through the training for targets to come; for K targets that are known,
v = (1 − M)ᵀ ∇φ is all that is asked of it. They have plain SGD. Momentum is carried here as SGD has it, beside v: with
r_t for η_t, as the other methods take momentum, v grew beyond all bounds in the sample's training.

SOURCE cuts the training into L segments s with a rate R_s = Σ r_t, and takes the curvature H_s and the gradients ḡ_is
for constant in each. Both factors are functions of H_s, and H_s is known by its eigenvectors (`Curvature`).

`Logits` is a model as a function of its parameters alone, so that BatchNorm's statistics are constants.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

Logits = Callable[[Tensor, Tensor], Tensor]
"""Of parameters [P] and inputs [B, ...]: logits [B, C]."""


def gradients(logits: Logits, theta_P: Tensor, inputs: Tensor, labels_B: Tensor) -> Tensor:
    """g_i of each image, [B, P]."""

    def loss(theta: Tensor, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits(theta, image[None]), label[None])

    return vmap(grad(loss), (None, 0, 0))(theta_P, inputs, labels_B)


def products(logits: Logits, theta_P: Tensor, v_KP: Tensor, inputs: Tensor, labels_N: Tensor, batch: int) -> Tensor:
    """v_kᵀ g_i, [K, N], without holding more than `batch` gradients."""
    pairs = zip(inputs.split(batch), labels_N.split(batch), strict=True)
    return torch.cat([v_KP @ gradients(logits, theta_P, *pair).T for pair in pairs], dim=1)


def gauss_newton(logits: Logits, theta_P: Tensor, inputs: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
    """The map from v [K, P] to G v [K, P]; `batch` images go through a pass."""

    def product(v_KP: Tensor) -> Tensor:
        total = torch.zeros_like(v_KP)
        for part in inputs.split(batch):

            def at(theta: Tensor, part: Tensor = part) -> Tensor:
                return logits(theta, part)

            z_BC, pullback = vjp(at, theta_P)
            p_BC = z_BC.softmax(1)
            jv_KBC = vmap(lambda v, at=at: jvp(at, (theta_P,), (v,))[1])(v_KP)
            total += vmap(pullback)(p_BC * (jv_KBC - (p_BC * jv_KBC).sum(-1, keepdim=True)))[0]
        return total / len(inputs)

    return product


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b_KP: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
    iterations: int,
) -> tuple[Tensor, int]:
    """x [K, P] with ‖A x_k − b_k‖ ≤ `tolerance` ‖b_k‖ for each row, and the iterations that took.

    `product` maps v [k, P] to A v, symmetric and positive definite; `precondition` to about A⁻¹ v, likewise. Rows are
    solved side by side, and one that is done takes no further part. Raises `ValueError` where `iterations` do not reach
    the tolerance, or A is seen not to be positive definite.
    """
    x, r = torch.zeros_like(b_KP), b_KP.clone()
    open_k = torch.arange(len(b_KP))  # rows that are not done
    p = z = precondition(r)
    rz = (r * z).sum(1)
    for iteration in range(1, iterations + 1):
        ap = product(p)
        curvature = (p * ap).sum(1)
        if not (curvature > 0).all():
            raise ValueError(f"Conjugate gradients met curvature {curvature.min():g}: the damping is too small.")
        alpha = (rz / curvature)[:, None]
        x[open_k] += alpha * p
        r = r - alpha * ap
        goes_on = r.norm(dim=1) > tolerance * b_KP[open_k].norm(dim=1)
        if not goes_on.any():
            return x, iteration
        open_k, r, p, before = open_k[goes_on], r[goes_on], p[goes_on], rz[goes_on]
        z = precondition(r)
        rz = (r * z).sum(1)
        p = z + (rz / before)[:, None] * p
    left = (r.norm(dim=1) / b_KP[open_k].norm(dim=1)).max()
    raise ValueError(f"After {iterations} iterations a residual is {left:g} of its target, not {tolerance:g}.")


class Layer(NamedTuple):
    """EK-FAC of one layer, whose parameters are a matrix W [O, I], biases in the last column."""

    at: Tensor  # int64 [O, I]: where they stand in θ
    left: Tensor  # [O, O], eigenvectors as columns, of the outputs' gradients
    right: Tensor  # [I, I], of the inputs
    eigenvalues: Tensor  # [O, I], of the mean over images


class Curvature(NamedTuple):
    """A symmetric matrix [P, P] by its eigenvectors: EK-FAC's (arXiv 1806.03884) in the layers that it covers, the unit
    vectors for the rest."""

    layers: list[Layer]
    diagonal_P: Tensor  # of which layers read nothing

    def function(self, f: Callable[[Tensor], Tensor], v_KP: Tensor) -> Tensor:
        """f(H) v, [K, P], with f of the eigenvalues."""
        result = f(self.diagonal_P) * v_KP
        for at, left, right, eigenvalues in self.layers:
            result[:, at] = left @ (f(eigenvalues) * (left.T @ v_KP[:, at] @ right)) @ right.T
        return result


class Step(NamedTuple):
    """One training step as DVEmb sees it."""

    index_B: Tensor  # int64: which training images
    gradients_BP: Tensor
    rate: float  # η_t


def dvemb(
    steps_backwards: Iterable[Step], v_KP: Tensor, n: int, momentum: float = 0.0, nesterov: bool = False
) -> Tensor:
    """Scores [K, n] of DVEmb; `steps_backwards` from the last to the first, `v_KP` the targets' final gradients.

    Of SGD as torch has it, m ← μ m + g, θ ← θ − η m, or θ − η (g + μ m) after Nesterov.
    """
    v_KP, scores = v_KP.clone(), v_KP.new_zeros(len(v_KP), n)
    of_m_KP = torch.zeros_like(v_KP)  # dφ/dm
    for index, g_BP, rate in steps_backwards:
        of_m_KP -= rate * (momentum if nesterov else 1) * v_KP
        of_g_KP = of_m_KP - rate * v_KP if nesterov else of_m_KP
        along_KB = of_g_KP @ g_BP.T / len(index)
        scores.index_add_(1, index, along_KB)
        v_KP += along_KB @ g_BP
        of_m_KP *= momentum
    return scores


class Segment(NamedTuple):
    """A part of the training as SOURCE sees it."""

    curvature: Curvature
    rate: float  # R_s
    products: Callable[[Tensor], Tensor]  # of v [K, P]: vᵀ ḡ_i [K, N]


def source(segments: list[Segment], v_KP: Tensor) -> Tensor:
    """Scores [K, N] of SOURCE; `segments` in their order, `v_KP` the targets' gradients at the end."""
    scores = torch.zeros(())
    for curvature, rate, products_of in reversed(segments):

        def reached(eigenvalues: Tensor, rate: float = rate) -> Tensor:
            """(1 − exp(−R λ)) / λ, R where λ is 0."""
            x = rate * eigenvalues.clamp(min=0)
            return rate * torch.where(x > 0, -torch.expm1(-x) / x.clamp(min=torch.finfo(x.dtype).tiny), 1)

        along_KN = products_of(curvature.function(reached, v_KP))
        scores = scores - along_KN / along_KN.shape[1]
        v_KP = curvature.function(lambda e, rate=rate: torch.exp(-rate * e.clamp(min=0)), v_KP)
    return scores
