"""Scores against retraining, beside what people use today: `make bench-trust`. Prints Markdown.

Every method gets the same trained model (the preset `sample`), the same 16 random test images as targets (their
loss, in evaluation mode) and the same subsets of the training images, and says how each loss will change
without each subset. Retraining without it says how it did. Measured of each method:

    LDS          Spearman's correlation of the two over the subsets, mean of the targets, with the 95 % interval
                 of the bootstrap over subsets and targets (`engine.lds`)
    best for     how many of the targets have their highest LDS by this method
    slope        of actual on predicted change; only of methods whose scores have a unit
    seconds      from the trained model (REPLAY and TracIn: and its trajectory on disk) to the scores, of the
                 wall clock and of all cores together; models that are trained for the method alone are counted
    peak memory  resident set of a process that does nothing else, torch and the library included

A retraining has the initial weights and the order of batches of the run: what is asked is what this very training
would have become. Scores are brought to one sign and, where the method has one, to one unit: dφ/dw in nats per unit
of example weight, positive where training on the image raises the target's loss. With T steps, N images, momentum μ,
the C checkpoints' learning rates η_c, and ∇φ·∇ℓ the product of the gradients of target and training image:

    TracIn       −T / (C N (1 − μ)) Σ_c η_c ∇φ·∇ℓ at checkpoint c       arXiv 2002.08484, eq. 3
    grad-dot     −∇φ·∇ℓ                                                 no unit
    EK-FAC       −(1/N) ∇φᵀ (H + damping)⁻¹ ∇ℓ                          arXiv 2308.03296
    TRAK         −(score of the margin, which falls where the loss rises)    arXiv 2303.14186; no unit

BatchNorm's statistics are constants to all but REPLAY, which is how these methods are used; EK-FAC covers the
convolutions and the linear layer. Before any figure counts, each method is held against a computation of its
own kind with the engine's model and `torch.func` (see the checks), so that a sign, a label or a preprocessing
mistaken in passing would stop the benchmark.

TracIn and the gradient dot product go through dattri, whose gradients of many images at once took a ninth of the
time of captum's loop over them.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.utils.data import DataLoader, TensorDataset

from engine import config as configs
from engine import device
from engine.analysis import lds, trust
from engine.core.schedule import learning_rate
from engine.core.state import State
from engine.core.stream import Stream, examples
from engine.core.training import optimizer_for, train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.models import functional as functional_models
from engine.models import registry as model_registry
from engine.runs import run as runs
from engine.targets import Target, TestImage
from engine.trajectory.state_files import read_state, state_of
from engine.trajectory.stores import DiskStore
from engine.trajectory.writer import Writer

SEED, TARGETS, SUBSETS, DROP = 0, 16, 64, 0.01
CHECKPOINTS = 10  # of TracIn: the middles of as many equal parts of the training
MODELS = 10  # of the larger TRAK: the run's own, and nine of other seeds
PROJECTED = 1024  # dimensions of TRAK's random projection: LDS 0.30 with 512 or 1024, 0.27 with 2048, 0.14 with 4096
BATCH = 500  # images of which the gradients are held at once
CHECKED = 4  # targets and training images of the checks


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
    job = Replay(m.run.manifest().config.targets, m.run.manifest().config.target_function, "disk")
    before = m.run.scores().matrix(m.run.scores().sidecars()[0]["name"])
    scores = m.run.scores().matrix(work.execute(m.run, job).scores)

    def check() -> None:
        assert np.array_equal(scores, before), "the replay gave other scores than the run's own"

    return torch.from_numpy(np.array(scores)), check


def tracin(m: Material):
    config, manifest = m.run.manifest().config, m.run.manifest()
    store = DiskStore(
        m.run.path / "trajectory",
        manifest.training_digest,
        torch.device("cpu"),
        Writer(),
        optimizer_for(m.model, config.recipe),
    )
    steps = manifest.steps
    at = [int((c + 0.5) * steps / CHECKPOINTS) for c in range(CHECKPOINTS)]
    states, rates = [store.get(t) for t in at], [learning_rate(config.recipe, t, steps) for t in at]
    store.close()
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


def ek_fac(m: Material, heuristic_damping: bool = False):
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
    task = Classification()
    arguments = ScoreArguments(damping_factor=None) if heuristic_damping else ScoreArguments()
    analyzer = Analyzer(
        "bench", prepare_model(m.module, task), task, cpu=True, disable_tqdm=True, output_dir=str(m.scratch)
    )

    def products(strategy: str, targets: TensorDataset, train_set: TensorDataset) -> Tensor:
        analyzer.fit_all_factors(
            strategy, m.train, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy=strategy)
        )
        analyzer.compute_pairwise_scores(
            strategy,
            strategy,
            targets,
            train_set,
            len(targets),
            per_device_train_batch_size=BATCH,
            score_args=arguments,
        )
        return analyzer.load_pairwise_scores(strategy)["all_modules"]

    scores = -products("ekfac", m.targets, m.train) / len(m.train)

    def check() -> None:
        covered = {
            f"{name}.{p}"
            for name, module in m.module.named_modules()
            if "kronfluence" in type(module).__module__
            for p in ("weight", "bias")
        }
        few = [TensorDataset(*of[:CHECKED]) for of in (m.targets, m.train)]
        _compare(products("identity", *few), _direct(m, m.state, covered))

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
    "trak": Row("TRAK, the run's model", "traker", trak, False),
    "trak-many": Row(f"TRAK, {MODELS} models", "traker", lambda m: trak(m, MODELS), False),
}


# -- checks


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
    np.savez(out, scores=scores.numpy(), wall=wall, cpu=cpu, held=held, before=before)


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--quick", action="store_true", help="one epoch, few targets and subsets: to try the tool")
    given.add_argument("--measure", nargs=3, metavar=("METHOD", "RUN", "OUT"), help=argparse.SUPPRESS)
    given = given.parse_args()
    if given.measure:
        name, folder, out = given.measure
        return measure(name, Path(folder), Path(out))

    config = configs.preset("sample")
    dataset = dataset_registry.load(config.dataset)
    targets, subsets = (CHECKED, 8) if given.quick else (TARGETS, SUBSETS)
    names = np.sort(np.random.default_rng(SEED).choice(len(dataset.test_labels), targets, replace=False))
    config = config.replace(
        targets=tuple(f"test:{i}" for i in names),
        target_function="loss",
        replay_mode="disk",
        device="cpu",
        **({"recipe.epochs": 1} if given.quick else {}),
    )
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run = runs.Run.create(runs.outputs_root(folder), config)
        with run.lock():
            work.execute(run)
            work.execute(run, Validate(subsets, (DROP,), SEED))
        manifest, (report,) = run.manifest(), trust.reports(run.manifest())
        actual = np.array([t["actual"] for t in report["targets"]])  # [K, M]
        left_out = [lds.subset(len(dataset.train_labels), DROP, SEED, m) for m in range(subsets)]
        for name in ROWS:
            out = Path(folder) / f"{name}.npz"
            command = [sys.executable, "-m", "tools.bench_trust", "--measure", name, str(run.path), str(out)]
            # Libraries tell of their progress: not among the Markdown.
            subprocess.run(command, check=True, stdout=sys.stderr)
            with np.load(out) as file:
                each, mean = lds.agreement(lds.predicted(file["scores"], left_out), actual)
                found[name] = [a.lds for a in each], mean, *(float(file[k]) for k in ("wall", "cpu", "held"))
                before = float(file["before"])
    assert found["replay"][1].lds == report["lds_mean"], "the report of the run says otherwise"
    best = np.argmax([lds_K for lds_K, *_ in found.values()], axis=0)

    libraries = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "dattri", "kronfluence", "traker"))
    recipe, timings = config.recipe, manifest.timings
    print(f"`make bench-trust`{' --quick' * given.quick}: {device.describe()}; {libraries}\n")
    print(
        f"Preset `sample` ({recipe.epochs} epochs of batch {recipe.batch_size}, peak learning rate "
        f"{recipe.peak_lr:g}, {manifest.steps} steps, {manifest.parameters:,} parameters, test accuracy "
        f"{manifest.test_accuracy:.1%}); {len(names)} random test images; {subsets} subsets of {DROP:.0%} of "
        f"{len(dataset.train_labels):,} images left out. Training took {timings['train_seconds']:.1f} s, the "
        f"retrainings {timings['validate_seconds']:.0f} s. A process holds {before / 1e6:.0f} MB before it begins.\n"
    )
    print(
        "| method | library | LDS (95 % interval) | best for | slope | seconds | CPU seconds | peak memory, MB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for i, (name, (_, mean, wall, cpu, held)) in enumerate(found.items()):
        row = ROWS[name]
        print(
            f"| {row.title} | {row.library} | {mean.lds:.3f} ({mean.low:.3f} to {mean.high:.3f}) | "
            f"{(best == i).sum()} of {len(names)} | {f'{mean.slope:.2f}' if row.unit else 'no unit'} | {wall:.1f} | "
            f"{cpu:.1f} | {held / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
