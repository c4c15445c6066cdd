"""The sample preset as shipped: accurate, and its scores say what retraining does."""

import pytest
import torch

from engine import config, data, influence, models, runs, work
from engine import targets as phi
from engine.state import examples
from engine.store import read_state
from engine.training import train

LEFT_OUT = 60
TARGETS = tuple(f"test:{i}" for i in range(8))


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> runs.Run:
    run = runs.Run.create(runs.outputs_root(tmp_path_factory.mktemp("sample")), config.preset("sample"))
    with run.locked():
        work.execute(run)
    return run


def test_the_sample_is_accurate_and_smooth(sample):
    assert sample.config.targets == TARGETS
    assert sample.manifest["test_accuracy"] >= 0.84
    growth = [t["adjoint_growth"] for t in sample.score_sets()[0]["targets"]]
    assert max(growth) < 10      # chaotic recipes of the same accuracy grow over a hundredfold


def test_leaving_out_the_most_harmful_and_helpful_moves_the_loss_as_the_scores_say(sample):
    run, dataset, cpu = sample, data.load(sample.config.dataset), torch.device("cpu")
    model = models.functional(run.config, dataset)
    train_set, test_set = (examples(dataset, split, cpu, torch.float32) for split in data.SPLITS)
    sets = [influence.resolve(t, dataset.test_labels, 10) for t in TARGETS]
    before = [t["value"] for t in run.score_sets()[0]["targets"]]
    scores_KN = run.scores("loss-000")

    unchanged = train(model, train_set, run.config.recipe)
    stored = read_state(run.path / "model" / "state.safetensors", {}, "")
    assert torch.equal(unchanged.theta, stored["theta"])       # one step, one order: bitwise

    rows = []
    for k in range(len(TARGETS)):
        ranking = influence.rank(scores_KN[k], "loss", LEFT_OUT)
        for left_out in (ranking.helpful, ranking.harmful):
            assert len(left_out) == LEFT_OUT
            weights = torch.ones(len(train_set))
            weights[torch.from_numpy(left_out)] = 0
            state = train(model, train_set, run.config.recipe, weights)
            after = phi.values(model, state, test_set, [sets[k]], "loss").item()
            rows.append((-scores_KN[k][left_out].sum().item(), after - before[k]))
    print("\npredicted and actual change of the loss, nats:")
    print("\n".join(f"{predicted:+.4f} {actual:+.4f}" for predicted, actual in rows))
    right = sum((predicted > 0) == (actual > 0) for predicted, actual in rows)
    assert right >= 14, f"{right} of {len(rows)} signs are right"
