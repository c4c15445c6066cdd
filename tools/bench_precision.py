"""What a replay's precision does to scores: `python -m tools.bench_precision --device cpu --json FILE`.

One training of a preset, and its replay for a few test images in each precision, against the one in float64: relative
error, Spearman's correlation over all training images, and how many of the 100 images of largest score are the same;
the lowest of the targets.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from engine import config, device
from engine.core.compiled import Compiled
from engine.core.converted import Converted, converted
from engine.core.replay import replay
from engine.core.step import Eager, Passes
from engine.core.stream import Stream, examples
from engine.core.targets import adjoints
from engine.core.training import initial_state, optimizer_for, train
from engine.datasets import registry as dataset_registry
from engine.models import registry as model_registry
from engine.models.functional import FunctionalModel
from engine.trajectory.stores import MemoryStore

TOP = 100
CHUNK = {"cpu": 4, "cuda": 8}


class Kept(MemoryStore):
    """A store as a trajectory: what a training hands its states to, and a replay asks for them."""

    rebuilt = 0

    def rebuild(self) -> None:
        pass

    def finish(self, final) -> None:
        self.final = final


def passes_in(precision: str, model: FunctionalModel, stream: Stream, compiled: bool) -> Passes:
    """Of a model whose states are float32."""
    where, wide = stream.data.device, precision == "float64"
    own = model.to(where, torch.float64) if wide else model
    if compiled:
        example = initial_state(model, optimizer_for(model, stream.recipe)), stream.at(0)
        made = Compiled(own, precision, converted(*example, torch.float64) if wide else example)
        made.compile_backwards(1 if where.type == "cuda" else 4)
    else:
        made = Eager(own, precision, CHUNK[where.type])
    return Converted(made, torch.float64) if wide else made


def compare(scores: Tensor, exact: Tensor) -> dict[str, float]:
    """Of scores [K, N]; the worst of the targets but for the error, which is of all."""
    rows = list(zip(scores.cpu(), exact.cpu(), strict=True))
    top = [len(set(a.abs().topk(TOP).indices.tolist()) & set(b.abs().topk(TOP).indices.tolist())) for a, b in rows]
    return {
        "relative_error": ((scores - exact).norm() / exact.norm()).item(),
        "spearman": min(float(spearmanr(a.numpy(), b.numpy())[0]) for a, b in rows),
        "top_100": min(top) / TOP,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--data", default="", help="a data set; none: the preset's")
    parser.add_argument("--epochs", type=int, default=0, help="0: the preset's")
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--precisions", default="float64,float32,tf32,bfloat16", help="the first is compared with")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    where, preset = device.choose(options.device), config.preset(options.preset)
    preset = preset.replace(
        dataset=options.data or preset.dataset, **{"recipe.epochs": options.epochs or preset.recipe.epochs}
    )
    dataset = dataset_registry.load(preset.dataset)
    model = model_registry.build(preset, dataset, where)
    learnt, test = (examples(dataset, split, where, torch.float32) for split in ("train", "test"))
    stream, result, exact = Stream(learnt, preset.recipe), {}, None
    with device.exact_arithmetic():
        states = Kept(optimizer_for(model, preset.recipe))
        train(model, stream, trajectory=states)
        end = adjoints(model, states.final, test, [[i] for i in range(options.targets)], "loss")
        for precision in options.precisions.split(","):
            passes = passes_in(precision, model, stream, options.compiled)
            began = time.perf_counter()
            scores = replay(model, stream, states, end, passes=passes)
            exact = scores if exact is None else exact
            result[precision] = {**compare(scores, exact), "seconds": time.perf_counter() - began}
            print(precision, {name: float(f"{value:.6g}") for name, value in result[precision].items()}, flush=True)
    about = {
        "device": device.describe(where),
        "torch": torch.__version__,
        "preset": preset.preset,
        "data": preset.dataset,
    }
    about |= {"steps": stream.steps, "targets": options.targets, "compiled": options.compiled}
    options.json.write_text(json.dumps({**about, "by_precision": result}, indent=1))


if __name__ == "__main__":
    main()
