"""What a step costs, forwards and backwards, compiled and not, beside the origin's way: one process, model and batch.

    python -m tools.bench_replay --device cpu --json FILE         under five minutes on two cores
    python -m tools.bench_replay --device cuda --precisions float32,tf32,bfloat16 --json FILE

In each round everything is timed once, so that a machine's moods fall on all alike; a figure is the median over rounds.
A *target-step* is one step backwards for one target: the time of a pass with K targets, divided by K.

The origin's way (arXiv 2503.13751, 2504.16430): the step with its graph, reverse over reverse. `autograd.grad` of the
loss with `create_graph`, the optimizer's update on top, the product with the adjoint, and two `autograd.grad` calls
through the whole, one for the example weights and one for the state. One target at a time; state and batch are read
from a file at every step.

Keys of the JSON, times in seconds and sizes in bytes, of the fastest precision measured where none is named:

    train_eager, train_compiled                a training step
    target_eager_kN, target_compiled_kN        a target-step with N targets
    origin                                     a target-step in the origin's way
    origin_over_ours_k8                        how many of our target-steps one of the origin's takes, same precision
    steps_per_target_k8                        a target-step, in our fastest training steps, same precision
    eager_over_compiled_k8                     today's default (eager float32) over the compiled target-step
    peak_bytes_k8, peak_bytes_eager_k8         memory at the peak of a step backwards with 8 targets
    compile_seconds                            of both steps, from the folder as it was found
    end_to_end                                 seconds of a whole run, compiled, in the fastest precision: its training,
                                               all of it with 8 targets, 50 more, from the call to scores on disk
    trainings_for_50                           the last of these, in compiled trainings
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from engine import config, device
from engine.core.compiled import Compiled
from engine.core.optim.sgd import SGD
from engine.core.state import Adjoint
from engine.core.step import Eager, Passes, step, step_back
from engine.core.stream import Examples, StepInputs, Stream, examples
from engine.core.training import initial_state, optimizer_for
from engine.datasets import registry as dataset_registry
from engine.jobs.execute import execute
from engine.jobs.replay import Replay
from engine.models import registry as model_registry
from engine.models.functional import FunctionalModel
from engine.runs import run as runs

KS = (1, 4, 8, 32)
WIDTH = {"cpu": 4, "cuda": 1}  # targets that a compiled pass carries
EAGER_CHUNK = {"cpu": 4, "cuda": 8}  # as the engine's own choice on these devices
TRAINING_IMAGES, TEST_IMAGES = 60_000, 10_000  # of the random data set of a whole run
WARM = 5  # steps before the state that is measured: momentum and statistics are no longer those of the beginning


class Bench:
    """Model, state, batch and adjoints that everything is measured on."""

    def __init__(self, preset: config.RunConfig, where: torch.device, synthetic: bool, batch: int, targets: int):
        self.where, self.synthetic = where, synthetic
        self.preset = preset.replace(**{"recipe.batch_size": batch} if batch else {})
        self.model, data = _synthetic(self.preset, where) if synthetic else _real(self.preset, where)
        self.stream = Stream(data, self.preset.recipe)
        self.optimizer = optimizer_for(self.model, self.preset.recipe)
        self.state = initial_state(self.model, self.optimizer)
        for t in range(WARM):
            self.state, _ = step(self.model, self.optimizer, self.state, self.stream.at(t))
        self.inputs: StepInputs = self.stream.at(WARM)
        generator = torch.Generator().manual_seed(0)
        theta, *opt, buffers = (
            (torch.randn(targets, part.numel(), generator=generator) / part.numel() ** 0.5).to(part)
            for part in self.state.parts
        )
        self.adjoint = Adjoint(theta, tuple(opt), buffers)

    def first(self, k: int) -> Adjoint:
        theta, *opt, buffers = (part[:k] for part in self.adjoint.parts)
        return Adjoint(theta, tuple(opt), buffers)

    def train(self, passes: Passes, steps: int = 1) -> None:
        for _ in range(steps):
            step(passes, self.optimizer, self.state, self.inputs)

    def back(self, passes: Passes, k: int, steps: int = 1) -> None:
        """Steps backwards in a row, as a replay has them: the host is ahead of a GPU after the first."""
        for _ in range(steps):
            step_back(passes, self.optimizer, self.state, self.inputs, self.first(k))

    def compiled(self, precision: str, width: int) -> tuple[Compiled, float]:
        began = time.perf_counter()
        passes = Compiled(self.model, precision, (self.state, self.inputs))
        passes.compile_forwards()
        passes.compile_backwards(width, self.optimizer.needs_grad)
        return passes, time.perf_counter() - began

    def timed(self, act: Callable[[], object]) -> float:
        self.wait()
        began = time.perf_counter()
        act()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.where.type == "cuda":
            torch.cuda.synchronize()

    def peak(self, act: Callable[[], object]) -> int:
        """Bytes at the peak of the GPU; on a CPU, beyond what the process held before."""
        if self.where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            act()
            return torch.cuda.max_memory_allocated()
        Path("/proc/self/clear_refs").write_text("5")  # the mark below begins at what is held now
        before = _resident("VmRSS")
        act()
        return _resident("VmHWM") - before


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def _real(preset: config.RunConfig, where: torch.device) -> tuple[FunctionalModel, Examples]:
    dataset = dataset_registry.load(preset.dataset)
    return model_registry.build(preset, dataset, where), examples(dataset, "train", where, torch.float32)


def _synthetic(preset: config.RunConfig, where: torch.device) -> tuple[FunctionalModel, Examples]:
    """Random images of the preset's shape: for timing where its data set is not at hand."""
    pixels, labels = random_images(20 * preset.recipe.batch_size)
    mean, std = torch.tensor([0.5], device=where), torch.tensor([0.29], device=where)
    data = Examples(pixels.to(where), labels.to(where), torch.float32, mean, std)
    torch.manual_seed(preset.recipe.seed)
    made = config.MODELS.get(preset.model)(1, 28, 28, 10, factor=preset.width)
    return FunctionalModel(made, where), data


def random_images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 28, 28, 1), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, 10, (n,), generator=generator)


class Origin:
    """A step backwards in the origin's way; see the module's docstring. Recipes of SGD alone."""

    def __init__(self, bench: Bench, folder: Path):
        self.bench, self.folder = bench, folder
        assert isinstance(bench.optimizer, SGD)
        self.optimizer: SGD = bench.optimizer
        self.module = native(bench)
        self.shapes = {k: p.shape for k, p in self.module.named_parameters()}
        images, labels = bench.inputs.batch
        parameters, _ = bench.model.named(bench.state.theta, bench.state.buffers)
        (momentum,) = bench.state.opt
        save_file({k: p.contiguous().cpu() for k, p in parameters.items()}, folder / "model.safetensors")
        save_file({"momentum": momentum.cpu()}, folder / "optimizer.safetensors")
        np.savez(folder / "batch.npz", images=images.cpu().numpy(), labels=labels.cpu().numpy())

    def back(self, k: int) -> Tensor:
        """Scores [k, B] of the step."""
        return torch.stack([self._one_target(i) for i in range(k)])

    def _one_target(self, k: int) -> Tensor:
        where, inputs, optimizer = self.bench.where, self.bench.inputs, self.optimizer
        module = {n: t.to(where).requires_grad_() for n, t in load_file(self.folder / "model.safetensors").items()}
        momentum = load_file(self.folder / "optimizer.safetensors")["momentum"].to(where).requires_grad_()
        with np.load(self.folder / "batch.npz") as batch:
            images, labels = (torch.from_numpy(batch[name]).to(where) for name in ("images", "labels"))
        w_B = inputs.w_B.clone().requires_grad_()
        logits = functional_call(self.module, module, (images,))
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        gradients = torch.autograd.grad((w_B * losses).sum() / len(w_B), list(module.values()), create_graph=True)
        theta, g = (torch.cat([t.reshape(-1) for t in each]) for each in (list(module.values()), gradients))
        after, (slot,) = optimizer.update(theta, (momentum,), g, inputs)
        product = (after * self.bench.adjoint.theta[k]).sum() + (slot * self.bench.adjoint.opt[0][k]).sum()
        (score_B,) = torch.autograd.grad(product, w_B, retain_graph=True)
        torch.autograd.grad(product, [*module.values(), momentum])
        return score_B


def native(bench: Bench) -> nn.Module:
    """The model as a person would write it, with torch's own BatchNorm, in training mode."""
    kind = config.MODELS.get(bench.preset.model)
    channels, height, width = bench.inputs.batch[0].shape[1:]
    return kind(channels, height, width, 10, factor=bench.preset.width).to(bench.where).train()


def measure(bench: Bench, precisions: list[str], rounds: int, folder: Path) -> dict:
    """Times by name, with the precision behind a slash; sizes of memory; seconds of compiling."""
    origin, kind = Origin(bench, folder), bench.where.type
    acts: dict[str, tuple[Callable[[], object], int]] = {}  # what is timed, and how many steps it does
    peaks, compiling = {}, {}
    for precision in precisions:
        eager = Eager(bench.model, precision, chunk=EAGER_CHUNK[kind])
        compiled, compiling[precision] = bench.compiled(precision, WIDTH[kind])
        for name, passes in (("eager", eager), ("compiled", compiled)):
            acts[f"train_{name}/{precision}"] = (lambda p=passes: bench.train(p, 10)), 10
            for k in KS:
                steps = max(1, (8 if name == "eager" else 32) // k)
                act = (lambda p=passes, k=k, steps=steps: bench.back(p, k, steps)), k * steps
                acts[f"target_{name}_k{k}/{precision}"] = act
            peaks[f"{name}/{precision}"] = bench.peak(lambda p=passes: bench.back(p, 8))

        def in_the_origins_way(precision: str = precision) -> None:
            with device.products(bench.where, tf32=precision == "tf32"):
                origin.back(2)

        if precision != "bfloat16":
            acts[f"origin/{precision}"] = in_the_origins_way, 2
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds + 1):
        for name, (act, count) in acts.items():
            times[name].append(bench.timed(act) / count)
    return {
        "seconds": {name: statistics.median(each[1:]) for name, each in times.items()},
        "peak_bytes": peaks,
        "compile_seconds": compiling,
    }


def summary(measured: dict, precisions: list[str]) -> dict:
    """The keys that the module's docstring lists."""
    seconds, peaks = measured["seconds"], measured["peak_bytes"]
    best = min(precisions, key=lambda p: seconds[f"target_compiled_k8/{p}"])
    origin_in = next(p for p in ("tf32", "float32") if f"origin/{p}" in seconds)
    named = {name.partition("/")[0]: value for name, value in seconds.items() if name.endswith(f"/{best}")}

    def steps_per_target(precision: str) -> float:
        fastest = min(seconds[f"train_{kind}/{precision}"] for kind in ("eager", "compiled"))
        return seconds[f"target_compiled_k8/{precision}"] / fastest

    return {
        **named,
        "precision": best,
        "origin": seconds[f"origin/{origin_in}"],
        "origin_over_ours_k8": seconds[f"origin/{origin_in}"] / seconds[f"target_compiled_k8/{origin_in}"],
        "origin_precision": origin_in,
        "steps_per_target_k8": steps_per_target(best),
        "steps_per_target_k8_by_precision": {p: steps_per_target(p) for p in precisions},
        "eager_over_compiled_k8": seconds["target_eager_k8/float32"] / seconds[f"target_compiled_k8/{best}"],
        "eager_over_compiled_k8_by_precision": {
            p: seconds["target_eager_k8/float32"] / seconds[f"target_compiled_k8/{p}"] for p in precisions
        },
        "peak_bytes_k8": peaks[f"compiled/{best}"],
        "peak_bytes_eager_k8": peaks["eager/float32"],
    }


def end_to_end(preset: config.RunConfig, precision: str, synthetic: bool, folder: Path) -> dict[str, float]:
    """Seconds of a whole run and of 50 further targets. What was compiled for an unmeasured run is there already; the
    process begins anew with it, as the next person's does."""
    if synthetic:
        pixels, labels = (t.numpy() for t in random_images(TRAINING_IMAGES + TEST_IMAGES))
        images = {"images": pixels[TEST_IMAGES:], "test_images": pixels[:TEST_IMAGES]}
        np.savez(folder / "random.npz", **images, labels=labels[TEST_IMAGES:], test_labels=labels[:TEST_IMAGES])
        preset = preset.replace(dataset=f"arrays:{folder / 'random.npz'}")
    preset = preset.replace(
        precision=precision, compile="on", replay_mode="memory", targets=tuple(f"test:{i}" for i in range(8))
    )
    root = runs.outputs_root(folder / "outputs")
    further = Replay(tuple(f"test:{i}" for i in range(100, 150)), "loss", "memory")
    for _ in ("compiles", "measured"):
        torch.compiler.reset()
        run, seconds = runs.Run.create(root, preset), {}
        with run.lock():
            for name, job in (("train_and_replay_8", None), ("replay_50", further)):
                began = time.perf_counter()
                execute(run, job)
                seconds[name] = time.perf_counter() - began
        manifest = run.manifest()
        seconds["train"] = manifest.timings["train_seconds"]
    return {**seconds, "trainings_for_50": seconds["replay_50"] / seconds["train"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="", help="sample on a CPU, resnet9-short on a GPU where not given")
    parser.add_argument("--synthetic", action="store_true", help="random images of the preset's shape")
    parser.add_argument("--batch", type=int, default=0, help="images a step; 0: the preset's")
    parser.add_argument("--precisions", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-whole", dest="whole", action="store_false", help="single steps only")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    where, precisions = device.choose(options.device), options.precisions.split(",")
    preset = config.preset(options.preset or ("resnet9-short" if where.type == "cuda" else "sample"))
    with device.exact_arithmetic(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(preset, where, options.synthetic, options.batch, max(KS))
        measured = measure(bench, precisions, options.rounds, Path(folder))
        keys = summary(measured, precisions)
        result = {
            "device": device.describe(where),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "preset": preset.preset,
            "batch": bench.stream.plan.batch_size,
            "parameters": bench.model.parameters,
            **keys,
            "measured": measured,
        }
        options.json.write_text(json.dumps(result, indent=1))  # a whole run takes minutes more
        if options.whole:
            whole = end_to_end(preset, keys["precision"], options.synthetic, Path(folder))
            result |= {"end_to_end": whole, "trainings_for_50": whole["trainings_for_50"]}
            options.json.write_text(json.dumps(result, indent=1))
    for name, value in result.items():
        if isinstance(value, int | float | str):
            print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")


if __name__ == "__main__":
    main()
