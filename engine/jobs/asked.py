"""What a job asks of a model: targets, each with the examples that hold its images.

The images of a target lie in the test split, in the training split (as they stand, never augmented), or are one that
was uploaded. Adjoints and values are taken target by target of the examples that hold it, so that nothing copies a
split to set one image beside it.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from engine.core import targets
from engine.core.state import Adjoint, State
from engine.core.stream import Examples
from engine.core.stream import examples as examples_of
from engine.datasets.base import Dataset
from engine.errors import DataError
from engine.jobs.session import Session
from engine.models.functional import FunctionalModel
from engine.runs import uploads
from engine.targets import OWN, TEST, TRAIN, Target, UploadedImage


@dataclass(frozen=True, eq=False)
class Asked:
    """One target of a run: rows int64 [S] of `examples`. `split` as of `engine.targets.Members`."""

    target: Target
    split: str
    examples: Examples
    rows: np.ndarray


def asked_of(session: Session, texts: Iterable[str]) -> list[Asked]:
    """In their order. The run's model must be trained: a confusion holds what that model takes so. Raises `ConfigError`
    for a target without an image, and `DataError` for an uploaded image that does not fit the data set."""
    record, dataset = session.run.manifest(), session.dataset
    asked = []
    for target in map(Target.parse, texts):
        members = target.resolve(dataset, record.test_logits)
        if isinstance(target, UploadedImage):
            asked.append(Asked(target, OWN, _uploaded(session, target), np.array([0])))
        else:
            examples = {TEST: session.test, TRAIN: session.stream.data}[members.split]
            asked.append(Asked(target, members.split, examples, members.indices))
    return asked


def before_training(texts: Iterable[str], dataset: Dataset, train: Examples, test: Examples) -> list[Asked]:
    """What a run's own targets may hold at most, for an estimate of what they take."""
    asked = []
    for target in map(Target.parse, texts):
        members = target.at_most(dataset)
        asked.append(Asked(target, members.split, {TEST: test, TRAIN: train}[members.split], members.indices))
    return asked


def values(model: FunctionalModel, state: State, asked: list[Asked], function: str) -> list[float]:
    """φ of each target."""
    by_examples: dict[int, list[int]] = {}
    for k, each in enumerate(asked):
        by_examples.setdefault(id(each.examples), []).append(k)
    values_K = [0.0] * len(asked)
    for ks in by_examples.values():
        examples, sets = asked[ks[0]].examples, [asked[k].rows for k in ks]
        if asked[ks[0]].split == TRAIN:  # the few images that are asked about, and not the whole split
            rows = np.unique(np.concatenate(sets))
            examples = examples.rows(rows)
            sets = [np.searchsorted(rows, each) for each in sets]
        for k, value in zip(ks, targets.values(model, state, examples, sets, function).tolist(), strict=True):
            values_K[k] = value
    return values_K


def adjoints(model: FunctionalModel, state: State, asked: list[Asked], function: str) -> Adjoint:
    """dφ/ds at the final state, one row a target."""
    rows = [targets.adjoints(model, state, each.examples, [each.rows], function) for each in asked]
    theta, buffers = (torch.cat([getattr(row, part) for row in rows]) for part in ("theta", "buffers"))
    return Adjoint(theta, tuple(torch.zeros_like(theta) for _ in state.opt), buffers)


def logits(model: FunctionalModel, state: State, asked: list[Asked]) -> dict[str, list[float]]:
    """[C] of each target that is one image outside the test split, by its text: what the pages say of it."""
    return {
        str(each.target): targets.logits_of_each(model, state, each.examples, each.rows)[0].float().tolist()
        for each in asked
        if each.split != TEST
    }


def _uploaded(session: Session, target: UploadedImage) -> Examples:
    dataset = session.dataset
    image = uploads.read(session.run, target.image_id)
    if image.shape != dataset.image_shape:
        raise DataError(f"An uploaded image of run {session.run.id} is not of its data set's size.", "Upload it again.")
    inputs, labels = torch.from_numpy(image[None]), torch.tensor([target.label])
    examples = dataclasses.replace(
        examples_of(dataset, "test", session.device, session.dtype),
        inputs=inputs.to(session.device),
        labels=labels.to(session.device),
    )
    return examples if session.trunk is None else session.trunk.features(examples)  # as the test split holds
