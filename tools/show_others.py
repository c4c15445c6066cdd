"""Other libraries' scores in the app, beside the exact ones: `make show-others`. Prints Markdown.

The preset `sample` is trained and replayed for sixteen test images. TRAK (traker), EK-FAC (kronfluence), the gradient
dot product (dattri) and TracInCPFast (captum) then explain the same model and images, each through its own library and
in the lines that docs/viewer.md has; what each writes is shown as it is, by `python -m engine show`, and compared with
the replay target by target:

    shape      of what the library gives, in its own order of axes
    rank       Spearman's correlation with the exact scores, median of the targets
    top 50     share of the 50 strongest images that is the same, median of the targets
    noticed    what the app says of order and sign

Before a figure counts, the run's scores must be, bit for bit, what the library gave.

`--folder` keeps the runs (build/show-others), `--pictures DIR` draws the pages in a real browser, `--only NAME` makes
one. Needs requirements-bench.txt.
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
from torch.utils.data import DataLoader

from engine.analysis import compare
from engine.library import matrices
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from tools.bench_methods import BATCH, PROJECTED, EkFac, Material, material
from tools.bench_trust import prepared


def trak(m: Material, out: Path) -> Path:
    """float32 [N, K]."""
    from trak import TRAKer

    n, k, weights = len(m.train), len(m.targets), m.module.state_dict()
    traker = TRAKer(
        m.module,
        "image_classification",
        n,
        str(out / "trak"),
        device="cpu",
        use_half_precision=False,
        proj_dim=PROJECTED,
        logging_level="ERROR",
    )
    traker.load_checkpoint(weights, 0)
    for batch in DataLoader(m.train, BATCH):
        traker.featurize(batch, num_samples=len(batch[1]))
    traker.finalize_features()
    traker.start_scoring_checkpoint("targets", weights, 0, k)
    traker.score(m.targets[:], num_samples=k)
    np.save(out / "trak.npy", traker.finalize_scores("targets"))
    return out / "trak.npy"


def kronfluence(m: Material, out: Path) -> Path:
    """float32 [K, N] under the name `all_modules`, in the file that the library itself writes."""
    EkFac(m._replace(scratch=out), m.state, "analysis").products("ekfac", m.targets, m.train)
    (path,) = out.rglob("pairwise_scores.safetensors")
    return path


def dattri(m: Material, out: Path) -> Path:
    """float32 [N, K]."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask
    from torch.func import functional_call

    def loss(parameters, example):
        image, label = example
        return torch.nn.functional.cross_entropy(functional_call(m.module, parameters, image[None]), label[None])

    task = AttributionTask(loss, m.module, [m.module.state_dict()])
    attributor = TracInAttributor(task, torch.ones(1), normalized_grad=False)
    attributor.projector_kwargs = None  # the constructor takes None for its random projection, not for none
    torch.save(attributor.attribute(DataLoader(m.train, BATCH), DataLoader(m.targets, BATCH)), out / "dattri.pt")
    return out / "dattri.pt"


def captum(m: Material, out: Path) -> Path:
    """float32 [K, N]."""
    from captum.influence import TracInCPFast

    torch.save(m.module.state_dict(), out / "checkpoint.pt")

    def load(module: torch.nn.Module, path: str) -> float:
        module.load_state_dict(torch.load(path, weights_only=True))
        return 1.0  # its learning rate

    last = [layer for layer in m.module.modules() if isinstance(layer, torch.nn.Linear)][-1]
    loss = torch.nn.CrossEntropyLoss(reduction="sum")
    tracin = TracInCPFast(m.module, last, m.train, [str(out / "checkpoint.pt")], load, loss, BATCH)
    torch.save(tracin.influence(m.targets[:]), out / "captum.pt")
    return out / "captum.pt"


class Other(NamedTuple):
    method: str  # as the app calls it
    package: str
    make: Callable[[Material, Path], Path]  # into a folder, to the file that is shown


OTHERS = {
    "trak": Other("TRAK", "traker", trak),
    "kronfluence": Other("EK-FAC", "kronfluence", kronfluence),
    "dattri": Other("Gradient dot product", "dattri", dattri),
    "captum": Other("TracInCPFast", "captum", captum),
}
SIGN = "help"  # of all four: what they multiply is the gradient of the loss with itself, or of the margin


def shown(exact: Run, name: str) -> tuple[Run, str]:
    """Lets a library explain the exact run's model and shows what it gives: that run, and a row of the table."""
    other = OTHERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        m = material(exact, Path(scratch))
        began = time.perf_counter()
        path = other.make(m, Path(scratch))
        took = time.perf_counter() - began
        record = exact.manifest()
        subprocess.run(
            [
                *(sys.executable, "-m", "engine", "show", "--outputs", str(exact.root), "--no-open"),
                *("--scores", str(path), "--train", record.config.dataset, "--method", other.method, "--sign", SIGN),
                *("--targets", ",".join(record.config.targets), "--name", f"{other.method} on the sample"),
                *("--test-logits", str(exact.path / "model" / "test_logits.npy")),
                *("--train-logits", str(exact.path / "model" / "train_logits.npy")),
            ],
            check=True,
            stdout=sys.stderr,
        )
        run = Run(exact.root, max(each.name for each in exact.root.glob("*-scores-*")))
        matrix, targets = matrices.opened(path), len(record.config.targets)
        given = np.empty((targets, len(m.train)), np.float32)
        matrices.fill(given, matrix, matrices.order_of(matrix, targets, len(m.train), None, True))
    assert np.array_equal(given, run.scores().matrix("imported-000")), "the run has other scores than the library gave"
    version = importlib.metadata.version(other.package)
    return run, row(record, run.manifest(), f"{other.method} | {other.package} {version}", matrix.shape, took)


def row(exact: Manifest, record: Manifest, what: str, shape: tuple[int, int], took: float) -> str:
    commons = compare.common(exact, record)
    assert len(commons) == len(exact.config.targets)
    found = compare.summed([compare.agreement(both.a_N, both.b_N) for both in commons])
    noticed = " ".join(record.score_sets.sidecars()[0]["noticed"]) or "nothing"
    return (
        f"| {what} | {' × '.join(f'{size:,}' for size in shape)} | {found.spearman:.3f} | {found.overlap:.0%} | "
        f"{took:.1f} | {noticed} |"
    )


def draw(exact: Run, runs: dict[str, Run], folder: Path) -> None:
    """The pages in a real browser."""
    from tools.serve import chromium, drawn, server

    target = exact.manifest().config.targets[0]
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        with server(exact.root, page) as (url, _):
            for name, run in runs.items():
                key = next(ref.key for ref in run.scores().targets() if ref.name == target)
                for heading, address in (
                    ("Influence", f"Influence?run={run.id}&target={key}"),
                    ("Compare runs", f"Compare_runs?run={exact.id}&other={run.id}"),
                ):
                    page.goto(f"{url}/{address}")
                    drawn(page)
                    page.wait_for_timeout(2000)  # charts move into their place
                    page.screenshot(path=folder / f"{name}-{heading.lower().replace(' ', '-')}.png")


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--folder", type=Path, default=Path("build") / "show-others")
    given.add_argument("--pictures", type=Path)
    given.add_argument("--only", choices=OTHERS)
    given = given.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    exact = prepared(given.folder, quick=False).run
    runs = {}
    print("| method | library | shape | rank | top 50 | seconds | noticed |\n|---|---|---|---|---|---|---|")
    for name in OTHERS if given.only is None else [given.only]:
        runs[name], line = shown(exact, name)
        print(line, flush=True)
    print(f"\nruns in {exact.root}: python -m engine app --outputs {exact.root}")
    if given.pictures is not None:
        given.pictures.mkdir(parents=True, exist_ok=True)
        draw(exact, runs, given.pictures)


if __name__ == "__main__":
    main()
