"""The methods that `tools.bench_trust` compares, each through its own library, and each held against a check.

All get the same trained model, targets and training images (`Material`), and give scores [K, N] of one sign and, where
the method has one, of one unit: dφ/dw in nats per unit of example weight, positive where training on the image raises
the target's loss φ. With T steps of B images, N images, momentum μ, the C checkpoints' learning rates η_c, and ∇φ·∇ℓ
the product of the gradients of target and training image:

    TracIn         −T / (C N (1 − μ)) Σ_c η_c ∇φ·∇ℓ at checkpoint c       arXiv 2002.08484, eq. 3
    grad-dot       −∇φ·∇ℓ                                                 no unit
    EK-FAC         −(1/N) ∇φᵀ (H + δ)⁻¹ ∇ℓ                                arXiv 2308.03296
    EK-FAC and CG  the same with the Gauss-Newton matrix itself for H, which EK-FAC preconditions (`tools.baselines`);
                   δ = 1 / Σ_t η_t/(1 − μ): directions that the training had no time for count as little as they moved
    TRAK           −(score of the margin, which falls where the loss rises)    arXiv 2303.14186; no unit
    DVEmb, SOURCE  `tools.baselines`

BatchNorm's statistics are constants to all but REPLAY, which is how these methods are used; EK-FAC covers the
convolutions and the linear layer; for BatchNorm's own 112 parameters, SOURCE and the preconditioner take the diagonal
of the Fisher matrix. Before any figure counts, each method is held against a computation of its own kind with the
engine's model and `torch.func`, or another library's (see the checks), so that a sign, a label or a preprocessing
mistaken in passing would stop the benchmark.

TracIn and the gradient dot product go through dattri, whose gradients of many images at once took a ninth of the time
of captum's loop over them. What is in `tools.baselines` no library has for this: dattri 0.3 has conjugate gradients
without EK-FAC and kronfluence 1.0 EK-FAC without them; dattri's DVEmb wants a matrix [P, P] and all gradients of the
training at once, 9 GB here, or a random projection of them; SOURCE is in neither (bergson 2.5 has it for language
models).
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.utils.data import DataLoader, TensorDataset

from engine import config as configs
from engine import device
from engine.core.schedule import learning_rate
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import optimizer_for, train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.models import functional as functional_models
from engine.models import registry as model_registry
from engine.runs import run as runs
from engine.targets import Target, TestImage
from engine.trajectory.state_files import read_state, state_of
from engine.trajectory.stores import DiskStore
from engine.trajectory.writer import Writer
from tools import baselines

SEED = 0
CHECKPOINTS = 10  # of TracIn: the middles of as many equal parts of the training
MODELS = 10  # of the larger TRAK: the run's own, and nine of other seeds
PROJECTED = 1024  # dimensions of TRAK's random projection: LDS 0.30 with 512 or 1024, 0.27 with 2048, 0.14 with 4096
BATCH = 500  # images of which the gradients are held at once
SOME = 1000  # images of which the diagonal of the Fisher matrix is taken, for the parameters that EK-FAC leaves out
LAST = 500  # of the parameters, for which dattri's DVEmb is run
CHECKED = 4  # targets and training images of the checks
SEGMENTS = 6  # of SOURCE, each with the checkpoint in its middle (its paper: 3 segments of 2 checkpoints)
TOLERANCE, ITERATIONS = 0.01, 200  # of the conjugate gradients


class Material(NamedTuple):
    """What every method starts from. `module` is plain torch, in evaluation mode, with the run's parameters."""

    run: runs.Run
    model: functional_models.FunctionalModel
    module: nn.Module
    state: State
    train: TensorDataset  # inputs as the model takes them, labels
    targets: TensorDataset
    scratch: Path  # an empty folder


Method = Callable[[Material], tuple[Tensor, Callable[[], None]]]  # to scores [K, N], and a check of them


def material(run: runs.Run, scratch: Path) -> Material:
    dataset, config = dataset_registry.load(run.manifest().config.dataset), run.manifest().config
    model = model_registry.build(config, dataset)
    saved = read_state(run.path / "model" / "state.safetensors", {}, "Run the benchmark again.")
    state = state_of(saved, optimizer_for(model, config.recipe))
    names = [t.index for t in map(Target.parse, config.targets) if isinstance(t, TestImage)]
    sets = [
        TensorDataset(*examples(dataset, split, torch.device("cpu"), torch.float32).batch(index))
        for split, index in (("train", np.arange(len(dataset.train_labels))), ("test", np.array(names)))
    ]
    module = plain(config, dataset, model.load(state.theta, state.buffers))
    with torch.no_grad():
        logits = module(sets[1].tensors[0])
    torch.testing.assert_close(logits, torch.from_numpy(run.manifest().test_logits()[names]), rtol=1e-4, atol=1e-4)
    return Material(run, model, module, state, *sets, scratch)


def plain(config: configs.RunConfig, dataset: datasets_base.Dataset, tensors: dict[str, Tensor]) -> nn.Module:
    """The model as its author wrote it, with native BatchNorm, in evaluation mode."""
    module = model_registry.module(config, dataset)
    wrong = module.load_state_dict(tensors, strict=False)
    assert not wrong.unexpected_keys and all(k.endswith("num_batches_tracked") for k in wrong.missing_keys), wrong
    return module.eval()


# -- the methods. Each imports its library itself, so that a process holds the one that it measures


def replay(m: Material):
    shutil.copytree(m.run.path, m.scratch / m.run.path.name)  # whose scores may be added to
    run = runs.Run.open(m.scratch, m.run.path.name)
    job = Replay(run.manifest().config.targets, run.manifest().config.target_function, "disk")
    before = run.scores().matrix(run.scores().sidecars()[0]["name"])
    made = work.execute(run, job).scores
    scores = run.scores().matrix(made)

    def check() -> None:
        assert np.array_equal(scores, before), "the replay gave other scores than the run's own"

    return torch.from_numpy(np.array(scores)), check


@contextlib.contextmanager
def _trajectory(m: Material) -> Iterator[DiskStore]:
    """The states before the run's steps."""
    optimizer = optimizer_for(m.model, m.run.manifest().config.recipe)
    digest, folder = m.run.manifest().training_digest, m.run.path / "trajectory"
    store = DiskStore(folder, digest, torch.device("cpu"), Writer(), optimizer)
    try:
        yield store
    finally:
        store.close()


def _middles(parts: int, steps: int) -> list[int]:
    """The steps in the middle of as many equal parts of a training."""
    return [int((c + 0.5) * steps / parts) for c in range(parts)]


def _rates(m: Material) -> np.ndarray:
    """η/(1 − μ) of each step: how far it goes in the long run, in a direction that stays."""
    recipe, steps = m.run.manifest().config.recipe, m.run.manifest().steps
    return np.array([learning_rate(recipe, t, steps) for t in range(steps)]) / (1 - recipe.momentum)


def tracin(m: Material):
    config, steps = m.run.manifest().config, m.run.manifest().steps
    at = _middles(CHECKPOINTS, steps)
    with _trajectory(m) as store:
        states, rates = [store.get(t) for t in at], [learning_rate(config.recipe, t, steps) for t in at]
    factor = -steps / (CHECKPOINTS * len(m.train) * (1 - config.recipe.momentum))
    scores = factor * _gradient_products(m, states, rates)

    def check() -> None:
        direct = sum(rate * _direct(m, state) for state, rate in zip(states, rates, strict=True))
        _compare(scores, factor * direct)

    return scores, check


def grad_dot(m: Material):
    scores = -_gradient_products(m, [m.state], [1.0])
    return scores, lambda: _compare(scores, -_direct(m, m.state))


def _gradient_products(m: Material, states: list[State], factors: list[float]) -> Tensor:
    """Σ_c factor_c ∇φ·∇ℓ, [K, N], by dattri."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    def loss(parameters, example):
        image, label = example
        logits = functional_call(m.module, parameters, image[None])
        return F.cross_entropy(logits, label[None])

    # With the counters of BatchNorm, which dattri's own loading asks for.
    checkpoints = [{**m.module.state_dict(), **m.model.load(s.theta, s.buffers)} for s in states]
    task = AttributionTask(loss, m.module, checkpoints)
    attributor = TracInAttributor(task, torch.tensor(factors), normalized_grad=False)
    attributor.projector_kwargs = None  # the constructor takes None for its random projection, not for none
    return attributor.attribute(DataLoader(m.train, BATCH), DataLoader(m.targets, len(m.targets))).T


class EkFac:
    """kronfluence's factors of a model with the parameters of one state, fitted to all training images."""

    def __init__(self, m: Material, state: State, name: str):
        from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model

        class Classification(Task):
            def compute_train_loss(self, batch, model, sample=False):
                inputs, labels = batch
                logits = model(inputs)
                if sample:  # the true Fisher's labels, from the model itself
                    labels = torch.multinomial(logits.detach().softmax(1), 1)[:, 0]
                return F.cross_entropy(logits, labels, reduction="sum")

            def compute_measurement(self, batch, model):
                return self.compute_train_loss(batch, model)

        torch.manual_seed(SEED)
        self._m, self._factor_arguments, self._score_arguments = m, FactorArguments, ScoreArguments
        config = m.run.manifest().config
        module = plain(config, dataset_registry.load(config.dataset), m.model.load(state.theta, state.buffers))
        self._module, task = prepare_model(module, Classification()), Classification()
        self._analyzer = Analyzer(name, self._module, task, cpu=True, disable_tqdm=True, output_dir=str(m.scratch))
        self._fit("ekfac")

    def _fit(self, strategy: str) -> None:
        arguments = self._factor_arguments(strategy=strategy)
        self._analyzer.fit_all_factors(strategy, self._m.train, per_device_batch_size=BATCH, factor_args=arguments)

    def products(self, strategy: str, targets: TensorDataset, train_set: TensorDataset, **arguments) -> Tensor:
        """∇φᵀ (H + δ)⁻¹ ∇ℓ, [K, N], over the layers that it covers; `arguments` of kronfluence's scores."""
        self._analyzer.compute_pairwise_scores(
            strategy,
            strategy,
            targets,
            train_set,
            len(targets),
            per_device_train_batch_size=BATCH,
            score_args=self._score_arguments(**arguments),
            overwrite_output_dir=True,
        )
        return self._analyzer.load_pairwise_scores(strategy)["all_modules"]

    def covered(self) -> set[str]:
        """The parameters of which it knows, by name."""
        return {
            f"{name}.{p}"
            for name, module in self._module.named_modules()
            if "kronfluence" in type(module).__module__
            for p in ("weight", "bias")
        }

    def identity(self, targets: TensorDataset, train_set: TensorDataset) -> Tensor:
        """∇φ·∇ℓ by the same code."""
        self._fit("identity")
        return self.products("identity", targets, train_set)

    def curvature(self, state: State) -> baselines.Curvature:
        """The factors as `tools.baselines` applies them; the diagonal is that of the gradients of `SOME` images."""
        m, layers = self._m, []
        vectors, values = (
            self._analyzer.load_eigendecomposition("ekfac"),
            self._analyzer.load_lambda_matrices("ekfac"),
        )
        places, _ = m.model.named(torch.arange(m.model.parameters), state.buffers)
        for layer, sums in values["lambda_matrix"].items():
            at = places[f"{layer}.weight"].flatten(1)
            if f"{layer}.bias" in places:
                at = torch.cat([at, places[f"{layer}.bias"][:, None]], 1)
            left, right = (vectors[f"{side}_eigenvectors"][layer].float() for side in ("gradient", "activation"))
            layers.append(baselines.Layer(at, left, right, (sums / values["num_lambda_processed"][layer]).float()))
        some = baselines.gradients(_logits(m, state), state.theta, *m.train[:SOME])
        return baselines.Curvature(layers, (some**2).mean(0))


def ek_fac(m: Material, heuristic_damping: bool = False):
    factors = EkFac(m, m.state, "bench")
    arguments = {"damping_factor": None} if heuristic_damping else {}
    scores = -factors.products("ekfac", m.targets, m.train, **arguments) / len(m.train)

    def check() -> None:
        _compare(factors.identity(*_few(m)), _direct(m, m.state, factors.covered()))

    return scores, check


def conjugate_gradients(m: Material):
    damping = 1 / float(_rates(m).sum())
    factors, logits = EkFac(m, m.state, "bench"), _logits(m, m.state)
    curvature = factors.curvature(m.state)
    inputs, labels = m.train.tensors
    gauss_newton = baselines.gauss_newton(logits, m.state.theta, inputs, BATCH)
    targets = baselines.gradients(logits, m.state.theta, *m.targets.tensors)

    def damped(v_KP: Tensor) -> Tensor:
        return gauss_newton(v_KP) + damping * v_KP

    def inverse(v_KP: Tensor) -> Tensor:
        return curvature.function(lambda e: 1 / (e + damping), v_KP)

    solved, iterations = baselines.conjugate_gradients(damped, targets, inverse, TOLERANCE, ITERATIONS)
    print(f"{iterations} iterations of conjugate gradients at damping {damping:g}")
    scores = -baselines.products(logits, m.state.theta, solved, inputs, labels, BATCH) / len(m.train)

    def check() -> None:
        _check_curvature(m, factors, curvature)
        few = m.train.tensors[0][:CHECKED]
        expected = torch.zeros_like(solved)
        for image in few:  # explicitly: Jᵀ (diag p − p pᵀ) J

            def at(theta: Tensor, image: Tensor = image) -> Tensor:
                return logits(theta, image[None])[0]

            jacobian_CP, p_C = jacrev(at)(m.state.theta), at(m.state.theta).softmax(0)
            expected += solved @ jacobian_CP.T @ (p_C.diag() - p_C.outer(p_C)) @ jacobian_CP / CHECKED
        product = baselines.gauss_newton(logits, m.state.theta, few, CHECKED - 1)(solved)
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        residual = (damped(solved) - targets).norm(dim=1) / targets.norm(dim=1)
        assert residual.max() < 1.1 * TOLERANCE, f"the residuals are {residual}"

    return scores, check


def dvemb(m: Material):
    recipe, steps = m.run.manifest().config.recipe, m.run.manifest().steps
    dataset = dataset_registry.load(m.run.manifest().config.dataset)
    stream = Stream(examples(dataset, "train", torch.device("cpu"), torch.float32), recipe)
    v_KP = baselines.gradients(_logits(m, m.state), m.state.theta, *m.targets.tensors)

    def backwards(first: int) -> Iterator[baselines.Step]:
        with _trajectory(m) as store:
            for t in reversed(range(first, steps)):
                inputs, state = stream.at(t), store.get(t)
                gradients = baselines.gradients(_logits(m, state), state.theta, *inputs.batch)
                yield baselines.Step(inputs.index_B, gradients, float(inputs.lr))

    scores = baselines.dvemb(backwards(0), v_KP, len(m.train), recipe.momentum, recipe.nesterov)

    def check() -> None:
        _check_gradients(m, m.state)
        last, columns = list(backwards(steps - 3)), slice(-LAST, None)
        few = [step._replace(gradients_BP=step.gradients_BP[:, columns]) for step in last]
        ours = baselines.dvemb(few, v_KP[:, columns], len(m.train))  # dattri knows no momentum
        theirs = -_dattri_embeddings(m, few[::-1]) @ v_KP[:, columns].T  # [N', K], N' the highest index
        assert ours.any()
        torch.testing.assert_close(ours[:, : len(theirs)], theirs.T, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))

    return scores, check


def _dattri_embeddings(m: Material, steps: list[baselines.Step]) -> Tensor:
    """DVEmb's embeddings [N', P'] by dattri, of steps with gradients [B, P']."""
    from dattri.algorithm.dvemb import DVEmbAttributor
    from dattri.task import AttributionTask

    task = AttributionTask(lambda parameters, example: torch.zeros(()), m.module, [m.module.state_dict()])
    attributor = DVEmbAttributor(task)
    attributor.data_indices = {0: [step.index_B for step in steps]}
    rates = {0: [step.rate / len(step.index_B) for step in steps]}
    attributor.cache({0: [step.gradients_BP for step in steps]}, rates)
    return attributor.embeddings[0]


def source(m: Material):
    rates = _rates(m)
    with _trajectory(m) as store:
        states = [store.get(t) for t in _middles(SEGMENTS, len(rates))]
    fitted, segments = [], []
    for number, (state, rate) in enumerate(zip(states, np.array_split(rates, SEGMENTS), strict=True)):
        fitted.append(EkFac(m, state, f"segment-{number}"))

        def products(v_KP: Tensor, state: State = state) -> Tensor:
            return baselines.products(_logits(m, state), state.theta, v_KP, *m.train.tensors, BATCH)

        segments.append(baselines.Segment(fitted[-1].curvature(state), float(rate.sum()), products))
    targets = baselines.gradients(_logits(m, m.state), m.state.theta, *m.targets.tensors)
    scores = baselines.source(segments, targets)

    def check() -> None:
        for state, factors, segment in zip(states, fitted, segments, strict=True):
            _check_gradients(m, state)
            _check_curvature(m, factors, segment.curvature, state)

    return scores, check


def trak(m: Material, count: int = 1):
    from trak import TRAKer

    config, dataset = m.run.manifest().config, dataset_registry.load(m.run.manifest().config.dataset)
    tensors = [m.model.load(m.state.theta, m.state.buffers)]
    for i in range(1, count):
        other = config.replace(**{"recipe.seed": config.recipe.seed + i})
        model = model_registry.build(other, dataset)
        state = train(model, Stream(examples(dataset, "train", torch.device("cpu"), torch.float32), other.recipe))
        tensors.append(model.load(state.theta, state.buffers))
    checkpoints = [plain(config, dataset, each).state_dict() for each in tensors]
    traker = TRAKer(
        m.module,
        "image_classification",
        len(m.train),
        str(m.scratch),
        device="cpu",
        use_half_precision=False,
        proj_dim=PROJECTED,
        logging_level="ERROR",
    )
    for number, checkpoint in enumerate(checkpoints):
        traker.load_checkpoint(checkpoint, number)
        for batch in DataLoader(m.train, BATCH):
            traker.featurize(batch, num_samples=len(batch[1]))
    traker.finalize_features()

    def scored(name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        for number, checkpoint in enumerate(checkpoints):
            traker.start_scoring_checkpoint(name, checkpoint, number, len(batch[1]))
            traker.score(batch, num_samples=len(batch[1]))
        return torch.from_numpy(np.array(traker.finalize_scores(name))).T

    # d loss = −(1 − p) d margin, and a factor of a target's own changes no rank.
    scores = -scored("targets", m.targets[:])

    def check() -> None:
        own = -scored("own", m.train[:CHECKED]).diagonal()
        assert (own < 0).all(), f"training on an image must help that image, not {own}"

    return scores, check


class Row(NamedTuple):
    title: str
    library: str
    act: Method
    unit: bool  # whether the scores are in nats per unit of example weight


ROWS = {
    "replay": Row("REPLAY, the scores of the run itself", "Replay Explorer", replay, True),
    "tracin": Row(f"TracIn, {CHECKPOINTS} checkpoints", "dattri", tracin, True),
    "grad-dot": Row("gradient dot product at the end", "dattri", grad_dot, False),
    "ek-fac": Row("EK-FAC influence, default damping", "kronfluence", ek_fac, True),
    "ek-fac-damped": Row(
        "EK-FAC influence, damping 0.1 × mean eigenvalue",
        "kronfluence",
        lambda m: ek_fac(m, heuristic_damping=True),
        True,
    ),
    "cg": Row(
        "Gauss-Newton influence, EK-FAC-preconditioned conjugate gradients, damping 1 / Σ η/(1 − μ)",
        "kronfluence and own",
        conjugate_gradients,
        True,
    ),
    "source": Row(f"SOURCE, {SEGMENTS} segments", "kronfluence and own", source, True),
    "dvemb": Row("DVEmb, every step", "own", dvemb, True),
    "trak": Row("TRAK, the run's model", "traker", trak, False),
    "trak-many": Row(f"TRAK, {MODELS} models", "traker", lambda m: trak(m, MODELS), False),
}


# -- checks


def _logits(m: Material, state: State) -> baselines.Logits:
    return lambda theta, inputs: m.model(theta, state.buffers, inputs, training=False)[0]


def _few(m: Material) -> tuple[TensorDataset, TensorDataset]:
    """The first targets and training images."""
    targets, train_set = (TensorDataset(*of[:CHECKED]) for of in (m.targets, m.train))
    return targets, train_set


def _check_gradients(m: Material, state: State) -> None:
    """Gradients of many images at once against those of one after the other."""
    targets, train_set = (baselines.gradients(_logits(m, state), state.theta, *of.tensors) for of in _few(m))
    _compare(targets @ train_set.T, _direct(m, state))


def _check_curvature(m: Material, factors: EkFac, curvature: baselines.Curvature, state: State | None = None) -> None:
    """The factors as applied here against kronfluence's own influence function, over the layers that it covers."""
    state = state or m.state
    covered = torch.zeros(m.model.parameters)
    for layer in curvature.layers:
        covered[layer.at.flatten()] = 1
    targets, train_set = (baselines.gradients(_logits(m, state), state.theta, *of.tensors) for of in _few(m))
    solved = covered * curvature.function(lambda e: 1 / (e + 1e-3), targets)
    _compare(factors.products("ekfac", *_few(m), damping_factor=1e-3), solved @ train_set.T)


def _direct(m: Material, state: State, only: set[str] | None = None) -> Tensor:
    """∇φ·∇ℓ of the first targets and training images, [CHECKED, CHECKED], by the engine's model and torch.func;
    over all parameters, or those named."""

    def loss(theta, image, label):
        logits, _ = m.model(theta, state.buffers, image[None], training=False)
        return F.cross_entropy(logits, label[None])

    def gradients(of: TensorDataset) -> Tensor:
        rows = [m.model.load(grad(loss)(state.theta, *of[i]), state.buffers) for i in range(CHECKED)]
        names = [n for n, _ in m.module.named_parameters()] if only is None else sorted(only & rows[0].keys())
        return torch.stack([torch.cat([row[n].flatten() for n in names]) for row in rows])

    return gradients(m.targets) @ gradients(m.train).T


def _compare(scores_KN: Tensor, direct: Tensor) -> None:
    scale = float(direct.abs().max())
    assert scale > 0
    torch.testing.assert_close(scores_KN[:CHECKED, :CHECKED], direct, rtol=1e-3, atol=1e-4 * scale)


# -- measuring


def measure(name: str, folder: Path, out: Path) -> None:
    """One method, in a process of its own; scores [K, N], seconds and bytes into `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        m = material(runs.Run.open(folder.parent, folder.name), Path(scratch))
        before = device.usage(torch.device("cpu"))["rss"]
        peak, wall, cpu = device.Peak(torch.device("cpu"), reset=True), time.perf_counter(), time.process_time()
        scores, check = ROWS[name].act(m)
        wall, cpu, held = time.perf_counter() - wall, time.process_time() - cpu, peak.bytes()["rss"]
        check()
    assert scores.shape == (len(m.targets), len(m.train)) and torch.isfinite(scores).all() and scores.any()
    part = out.with_suffix(".part.npz")  # whole or absent
    np.savez(part, scores=scores.numpy(), wall=wall, cpu=cpu, held=held, before=before)
    part.replace(out)


if __name__ == "__main__":
    given = argparse.ArgumentParser()
    given.add_argument("method", choices=ROWS)
    given.add_argument("run", type=Path)
    given.add_argument("out", type=Path)
    given = given.parse_args()
    measure(given.method, given.run, given.out)
