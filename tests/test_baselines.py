"""The benchmark's own pieces: of other people's methods (`tools.baselines`), each against a direct computation, and of
targeted removal (`tools.bench_trust`)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import jacrev

from tools import baselines, bench_trust

P, N = 8, 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(n: int, seed: int) -> torch.Tensor:
    """Orthogonal, and far from its transpose, which the factors of a QR decomposition need not be."""
    skew = random(n, n, seed=seed)
    return torch.matrix_exp(skew - skew.T)


def curvature(seed: int = 0) -> baselines.Curvature:
    """Positive definite; one layer of 2 × 3, whose parameters stand apart in θ, and two that no layer has."""
    at = torch.tensor([[0, 2, 4], [5, 6, 1]])
    left, right = (rotation(n, seed + n) for n in at.shape)
    return baselines.Curvature(
        [baselines.Layer(at, left, right, random(2, 3, seed=seed) ** 2 + 0.1)], torch.ones(P) * 2
    )


def dense(of: baselines.Curvature) -> torch.Tensor:
    matrix = torch.diag(of.diagonal_P.double())
    for at, left, right, eigenvalues in of.layers:
        rows = at.flatten()
        vectors = torch.kron(left, right)
        matrix[rows[:, None], rows] = vectors @ torch.diag(eigenvalues.flatten()) @ vectors.T
    return matrix


def logits(theta_P: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Of a network of 2 inputs, 2 hidden units and 3 classes."""
    hidden = torch.tanh(inputs @ theta_P[:4].view(2, 2))
    return hidden @ torch.cat([theta_P[4:], theta_P[:2]]).view(2, 3)


def test_functions_of_a_curvature_are_those_of_the_dense_matrix():
    of = curvature()
    v_KP, matrix = random(3, P), dense(of)
    assert torch.linalg.matrix_rank(matrix - torch.diag(matrix.diagonal())) > 2
    torch.testing.assert_close(of.function(lambda e: e, v_KP), v_KP @ matrix)
    torch.testing.assert_close(
        of.function(lambda e: 1 / (e + 0.3), v_KP), v_KP @ torch.inverse(matrix + 0.3 * torch.eye(P))
    )
    torch.testing.assert_close(of.function(lambda e: torch.exp(-e), v_KP), v_KP @ torch.matrix_exp(-matrix))


def test_conjugate_gradients_solve_as_a_dense_solver_does_and_preconditioning_is_quicker():
    n = 60
    vectors = torch.linalg.qr(random(n, n)).Q
    matrix = vectors @ torch.diag(torch.logspace(-3, 2, n, dtype=torch.float64)) @ vectors.T
    near = matrix + 1e-4 * torch.diag(random(n) ** 2)  # about the matrix, as EK-FAC is
    b_KP = random(4, n)
    b_KP[1] = near[3]  # the first step all but solves this one
    exact = torch.linalg.solve(matrix, b_KP.T).T

    def product(v_KP: torch.Tensor) -> torch.Tensor:
        return v_KP @ matrix

    plain, many = baselines.conjugate_gradients(product, b_KP, lambda v: v, 1e-10, 1000)
    quick, few = baselines.conjugate_gradients(product, b_KP, lambda v: torch.linalg.solve(near, v.T).T, 1e-10, 1000)
    torch.testing.assert_close(plain, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quick, exact, rtol=1e-5, atol=1e-5)
    assert few < many / 3


def test_conjugate_gradients_say_that_they_are_not_done():
    matrix = torch.diag(torch.tensor([1.0, 100.0, 10_000.0]))
    with pytest.raises(ValueError, match="After 2 iterations"):
        baselines.conjugate_gradients(lambda v: v @ matrix, torch.ones(1, 3), lambda v: v, 1e-6, 2)
    with pytest.raises(ValueError, match="curvature -"):
        baselines.conjugate_gradients(lambda v: -v, torch.ones(1, 3), lambda v: v, 1e-6, 9)


@pytest.mark.slow
def test_gradients_and_gauss_newton_products_are_those_of_explicit_jacobians():
    theta, inputs, labels = random(P), random(N, 2, seed=1), torch.arange(N) % 3
    v_KP = random(2, P, seed=2)
    each = [
        jacrev(lambda t, i=i: F.cross_entropy(logits(t, inputs[i : i + 1]), labels[i : i + 1]))(theta) for i in range(N)
    ]
    torch.testing.assert_close(baselines.gradients(logits, theta, inputs, labels), torch.stack(each))
    torch.testing.assert_close(baselines.products(logits, theta, v_KP, inputs, labels, 4), v_KP @ torch.stack(each).T)
    matrix = torch.zeros(P, P, dtype=torch.float64)
    for image in inputs:
        jacobian = jacrev(lambda t, image=image: logits(t, image[None])[0])(theta)
        p = logits(theta, image[None])[0].softmax(0)
        matrix += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / N
    product = baselines.gauss_newton(logits, theta, inputs, 4)  # of which six are no multiple
    torch.testing.assert_close(product(v_KP), v_KP @ matrix)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_dvemb_is_exact_where_the_hessian_is_the_sum_that_it_takes_for_it(momentum, nesterov):
    """The loss −log(xᵀθ) has the Hessian g gᵀ: differentiating SGD itself must give what DVEmb says."""
    images, theta0, rate = random(N, 3).abs() + 0.2, torch.ones(3, dtype=torch.float64), 0.3
    batches = [torch.tensor(b) for b in ([0, 1, 2], [3, 4, 5], [2, 0, 4], [1, 5, 3])]
    asked = random(2, 3, seed=5).abs()

    def losses(theta: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return -torch.log(of @ theta)

    def end(w_N: torch.Tensor, states: list | None = None) -> torch.Tensor:
        theta, m = theta0, torch.zeros(3, dtype=torch.float64)
        for t, batch in enumerate(batches):
            if states is not None:
                states.append(theta)
            g = w_N[batch] @ (-images[batch] / (images[batch] @ theta)[:, None]) / len(batch)
            m = momentum * m + g
            theta = theta - rate / (t + 1) * (g + momentum * m if nesterov else m)
        return theta

    direct = jacrev(lambda w_N: losses(end(w_N), asked))(torch.ones(N, dtype=torch.float64))
    states: list = []
    v_KP = jacrev(lambda theta: losses(theta, asked))(end(torch.ones(N, dtype=torch.float64), states))
    steps = [
        baselines.Step(b, jacrev(lambda theta, b=b: losses(theta, images[b]))(state), rate / (t + 1))
        for t, (b, state) in enumerate(zip(batches, states))
    ]
    scores = baselines.dvemb(reversed(steps), v_KP, N, momentum, nesterov)
    torch.testing.assert_close(scores, direct)
    assert (scores < 0).any() and (
        scores - baselines.dvemb(steps, v_KP, N, momentum, nesterov)
    ).abs().max() > 1e-3  # the order counts


def test_source_is_gradient_descent_on_losses_that_are_quadratic_in_each_segment():
    """Losses ½ θᵀHθ − cᵀθ, whose c add up to 0, from θ = 0, where training stays and gradients are constant."""
    curvatures, rate, steps = [curvature(0), curvature(7)], 1e-3, 800
    linear = [random(N, P, seed=s) for s in (3, 4)]
    linear = [c - c.mean(0) for c in linear]
    asked = random(2, P, seed=5)

    def end(w_N: torch.Tensor) -> torch.Tensor:
        theta = torch.zeros(P, dtype=torch.float64)
        for hessian, c in zip(map(dense, curvatures), linear):
            pull, push = torch.eye(P) - rate * w_N.mean() * hessian, rate / N * w_N @ c
            for _ in range(steps):
                theta = pull @ theta + push
        return theta

    direct = jacrev(lambda w_N: asked @ end(w_N))(torch.ones(N, dtype=torch.float64))
    segments = [baselines.Segment(of, rate * steps, lambda v_KP, c=c: v_KP @ -c.T) for of, c in zip(curvatures, linear)]
    scores = baselines.source(segments, asked)
    torch.testing.assert_close(scores, direct, rtol=0, atol=2e-3 * float(direct.abs().max()))
    backwards = baselines.source(segments[::-1], asked)
    assert (scores - backwards).abs().max() > 0.05 * direct.abs().max()


def test_source_of_a_long_segment_is_the_influence_function():
    of, c, asked = curvature(), random(N, P, seed=3), random(2, P, seed=5)
    segment = baselines.Segment(of, 1e6, lambda v_KP: v_KP @ c.T)
    torch.testing.assert_close(
        baselines.source([segment], asked), -asked @ torch.inverse(dense(of)) @ c.T / N, rtol=1e-6, atol=1e-9
    )


def test_targeted_removal_takes_the_lowest_scores_and_says_what_became_of_each_target():
    scores_KN = np.arange(40.0).reshape(2, 20)
    scores_KN[0, [3, 7]], scores_KN[1, [11, 5]] = [-2, -3], [-1, -5]
    assert [index.tolist() for index in bench_trust.helpful(scores_KN, 0.1)] == [[7, 3], [5, 11]]

    logits = np.zeros((3, 4, 2), np.float32)  # of three models, four test images, two classes
    logits[0, :, 0], logits[1, 2, 1], logits[2, 1, 0] = 1, 2, 2
    run = SimpleNamespace(manifest=lambda: SimpleNamespace(test_logits=lambda: logits[0]))
    dataset = SimpleNamespace(test_labels=np.array([1, 0, 0, 1]))
    change, flipped = bench_trust.outcomes(bench_trust.Bench(run, dataset, np.array([1, 2]), {}, Path()), logits)
    loss = -F.log_softmax(torch.from_numpy(logits[:, [1, 2]]), -1)[..., 0].numpy()
    np.testing.assert_allclose(change, loss - loss[0], rtol=1e-5)
    assert flipped.tolist() == [[False, False], [False, True], [False, False]] and change[1, 1] > 1 > 0 > change[2, 0]
