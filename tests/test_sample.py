"""The sample preset as shipped: accurate, and its scores say what retraining does."""

import numpy as np
import pytest
import torch

from engine import config
from engine.analysis import trust
from engine.analysis.ranking import rank
from engine.core import targets as phi
from engine.core.stream import Stream, examples
from engine.core.training import train
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.jobs.validation import Validate
from engine.models import registry as model_registry
from engine.runs import run as runs
from engine.targets import Target

pytestmark = pytest.mark.slow
LEFT_OUT, SUBSETS = 60, 8


@pytest.fixture(scope="module")
def sample(finished_sample) -> runs.Run:
    for run in runs.list_runs(finished_sample):  # the one that the browser test started from the button
        return run
    run = runs.Run.create(finished_sample, config.preset("sample"))
    with run.lock():
        work.execute(run)
    return run


def test_the_sample_is_accurate_and_smooth(sample):
    assert sample.manifest().test_accuracy >= 0.85
    growth = [t["adjoint_growth"] for t in sample.scores().sidecars()[0]["targets"]]
    assert max(growth) < 3  # chaotic recipes of the same accuracy grow over a hundredfold


def test_the_scores_of_the_sample_agree_with_retraining(sample):
    """The whole measurement is `make trust`; fewer subsets leave a wider interval, not a lower mean."""
    with sample.lock():
        work.execute(sample, Validate(SUBSETS, (0.01,), 1))
    (report,) = trust.reports(sample.manifest())
    print(f"\nLDS {report['lds_mean']:.3f}, slope {report['slope_mean']:.2f}, R² {report['r2_mean']:.2f}")
    assert report["lds_mean"] > 0.95 and report["r2_mean"] > 0.9 and 0.9 < report["slope_mean"] < 1.2
    assert all(t["lds"] > 0.8 for t in report["targets"])  # the surest mistake, which few images decide: 0.87
    assert report["noise_share"] == 0  # all weights 1: the run again, bit for bit


def test_leaving_out_the_most_harmful_and_helpful_moves_the_loss_as_the_scores_say(sample):
    """Far from a small random drop: the direction is what can be asked for."""
    run, dataset, cpu = sample, dataset_registry.load(sample.manifest().config.dataset), torch.device("cpu")
    model = model_registry.build(run.manifest().config, dataset)
    train_set, test_set = (examples(dataset, split, cpu, torch.float32) for split in datasets_base.SPLITS)
    scores_KN, rows = run.scores().matrix("loss-000"), []
    for k, target in enumerate(run.scores().sidecars()[0]["targets"][:1]):
        asked = np.array([Target.parse(target["name"]).index])
        ranking = rank(scores_KN[k], "loss", LEFT_OUT)
        for left_out in (ranking.helpful, ranking.harmful):
            weights = torch.ones(train_set.n)
            weights[torch.from_numpy(left_out)] = 0
            state = train(model, Stream(train_set, run.manifest().config.recipe, weights))
            after = phi.values(model, state, test_set, [asked], "loss").item()
            rows.append((-scores_KN[k][left_out].sum().item(), after - target["value"]))
    print("\npredicted and actual change of the loss, nats:")
    print("\n".join(f"{predicted:+.4f} {actual:+.4f}" for predicted, actual in rows))
    assert all((predicted > 0) == (actual > 0) for predicted, actual in rows)
