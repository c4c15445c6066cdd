"""Training images by how likely their label is wrong, or harms. No torch.

Two orders of all images. By harm: with the mean loss over clean held-out images as the target, an example's score is
what its presence adds to that loss. By loss: −log of the probability that the trained model gives to the label given,
which a wrong label keeps high in a short training. On the sample with 5 % wrong labels, loss found them better (average
precision 0.90 against 0.47, `make bench-labels`); harm tells which of them matter to the target. A third where it was
computed, of the images that it was computed for: by self-influence (`engine.analysis.self_influence`), which found
fewer than loss (average precision 0.60 against 0.82 on a smaller training, docs/self-influence.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis import duplicates, self_influence
from engine.analysis.lists import files_of
from engine.analysis.logits import judged
from engine.datasets import registry as datasets
from engine.datasets import store
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.targets import FUNCTIONS, AllTests, ClassOfTests, target_function

if TYPE_CHECKING:
    import pandas as pd

ORDERS = ("harm", "loss")
SELF = "self-influence"  # a third order, where it was computed

DUPLICATES, UNREADABLE = "duplicates", "unreadable"

SOURCES = ("loss", "harm", SELF, DUPLICATES, UNREADABLE)  # of a queue

LOGITS = "model/train_logits.npy"


def orders(record: Manifest) -> tuple[str, ...]:
    """Those that this run's images can be ranked in."""
    return ORDERS if self_influence.recorded_name(record) is None else (*ORDERS, SELF)


def target_key(record: Manifest, key: str | None = None) -> str:
    """The key given, or that of all test images, or the first set's, or the first."""
    if key is not None:
        return record.score_sets.target(key).key
    refs = record.score_sets.targets()
    if not refs:
        raise ConfigError(f"Run {record.run_id} has no scores yet.", "Attribute the target test:all.")
    of_all = {t.function: t for t in refs if isinstance(t.target, AllTests)}
    of_classes = [t for t in refs if isinstance(t.target, ClassOfTests)]
    first = [*(of_all[name] for name in FUNCTIONS if name in of_all), *of_classes, *refs][0]
    return first.key


def ranked(record: Manifest, key: str | None = None, by: str = "harm") -> "pd.DataFrame":
    """Training images, the most suspicious first, in one of `ORDERS`; or by `SELF`, those that it was computed for.

    Columns: rank, index, given_label, model_label, probability (of the given label, of the trained
    model), loss (its −log, nats), harm (of the target function: positive is harmful, whatever the function; its score
    or minus that), by `SELF` also self_influence (nats), and, where the data set knows it, true_label.
    """
    import pandas as pd

    if by not in (*ORDERS, SELF):
        raise ConfigError(f"Suspects are not ordered by «{by}».", f"Choose one of {', '.join((*ORDERS, SELF))}.")
    known = self_influence.known(record) if by == SELF else None
    if by == SELF and known is None:
        raise ConfigError(
            f"Run {record.run_id} has no self-influence yet.", f"Compute it: python -m engine {SELF} {record.run_id}."
        )
    target = record.score_sets.target(target_key(record, key))
    dataset = datasets.load(record.config.dataset)
    score = np.asarray(record.score_sets.row(target), np.float64)
    harm = target_function(target.function).harmful_sign * score
    given, predicted, _ = judged(record.train_logits(), dataset.train_labels)
    order = np.argsort(given if by == "loss" else -harm, kind="stable") if known is None else known.images
    names = np.array(dataset.classes)
    columns = {
        "rank": np.arange(1, len(order) + 1),
        "index": order,
        **files_of(dataset, order),
        "given_label": names[dataset.train_labels[order]],
        "model_label": names[predicted[order]],
        "probability": np.exp(given[order]),
        "loss": -given[order],
        "harm": harm[order],
    }
    if known is not None:
        columns["self_influence"] = known.rise_N[order]
    if dataset.true_train_labels is not None:
        columns["true_label"] = names[dataset.true_train_labels[order]]
    return pd.DataFrame(columns)


def better_order(by_harm: "pd.DataFrame") -> tuple[str, dict[str, float]]:
    """The order of `ORDERS` that finds the wrong labels of this run better, and the average precision of each, where
    the data set knows its true labels; of `ranked`, in any order. Where nothing is known: "loss", and no figures."""
    wrong_N = wrong_of(by_harm)
    if wrong_N is None:
        return "loss", {}
    precision = {order: average_precision(by_harm[order].to_numpy(), wrong_N) for order in ORDERS}
    return max(reversed(ORDERS), key=lambda order: precision[order]), precision


def known_orders(images: "pd.DataFrame") -> dict[str, float]:
    """Of some of `ranked`, the average precision of each order that they have, where an error is known."""
    wrong_N = wrong_of(images)
    if wrong_N is None:
        return {}
    columns = {order: order.replace("-", "_") for order in (*ORDERS, SELF)}
    return {
        order: average_precision(images[column].to_numpy(), wrong_N)
        for order, column in columns.items()
        if column in images
    }


def wrong_of(images: "pd.DataFrame") -> np.ndarray | None:
    """bool [M]: which labels are wrong; None where that is not known, or none is."""
    if "true_label" not in images:
        return None
    wrong_N = (images["given_label"] != images["true_label"]).to_numpy()
    return wrong_N if wrong_N.any() else None


def decided(
    images: "pd.DataFrame", dataset: Dataset, left_out: Sequence[int], labels: Mapping[int, int]
) -> "pd.DataFrame":
    """`ranked` with what a person decided, for other tools: `ticked` (left out, or with a new label), and `new_label`,
    empty where the image keeps the one given."""
    named = {index: dataset.classes[label] for index, label in labels.items()}
    indices = images["index"].to_numpy()
    new = [named.get(index, "") for index in indices.tolist()]
    return images.assign(ticked=np.isin(indices, [*left_out, *named]), new_label=new)


def precision_at(suspicion_N: np.ndarray, wrong_N: np.ndarray, share: float) -> float:
    """Share of wrong labels among the most suspicious `share` of all examples."""
    k = max(1, round(share * len(suspicion_N)))
    return float(wrong_N[np.argsort(-suspicion_N, kind="stable")[:k]].mean())


def known_precision(images: "pd.DataFrame", share: float = 0.05) -> tuple[float, float] | None:
    """Of `ranked`: the share of wrong labels among the first `share`, and among all; None where the true labels are
    not known."""
    if "true_label" not in images:
        return None
    wrong_N = (images["given_label"] != images["true_label"]).to_numpy()
    return precision_at(-images["rank"].to_numpy(), wrong_N, share), float(wrong_N.mean())


def average_precision(suspicion_N: np.ndarray, wrong_N: np.ndarray) -> float:
    """Area under the precision-recall curve, as the mean of the precision at each wrong label found."""
    found = wrong_N[np.argsort(-suspicion_N, kind="stable")].astype(bool)
    if not found.any():
        raise ConfigError("No label is wrong, so there is nothing to find.", "Use a data set with known errors.")
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean())


# -- a queue to go through


@dataclass(frozen=True)
class Suspect:
    """One image to look at. `item` names it in what was looked at: the number of a training image as a text, or
    `file:NAME` of a file that is no image of the data set, whose `index` is None.

    `value` is what the queue is ordered by: nats of loss, the score on the target, or nats of self-influence; `twins`
    are the images that a duplicate is the same as, or near to, which `detail` then says in words; of a file that cannot
    be read it says why.
    """

    item: str
    index: int | None
    value: float | None = None
    twins: tuple[tuple[str, int], ...] = ()
    detail: str = ""


def sources(record: Manifest, dataset: Dataset) -> tuple[str, ...]:
    """Those of `SOURCES` that there is something of: which of them a run has depends on what was computed, and on what
    was noticed when its files were prepared."""
    kinds = {problem["kind"] for problem in store.problems(dataset)}
    there = {
        "loss": LOGITS in record.files,
        "harm": bool(record.score_sets.targets()),
        SELF: self_influence.recorded_name(record) is not None,
        DUPLICATES: "duplicate" in kinds or bool(duplicates.ways(record)),
        UNREADABLE: "unreadable" in kinds,
    }
    return tuple(source for source in SOURCES if there[source])


def queue(record: Manifest, dataset: Dataset, source: str, key: str | None, most: int) -> tuple[Suspect, ...]:
    """The first `most` suspects of a source, the most suspicious first; `key` is the target of "harm"."""
    if source == UNREADABLE:
        return tuple(
            Suspect(f"file:{problem['file']}", None, detail=problem["detail"])
            for problem in store.problems(dataset)
            if problem["kind"] == "unreadable"
        )[:most]
    if source == DUPLICATES:
        return _duplicates(record, dataset)[:most]
    images, value_N = _ordered(record, dataset, source, key)
    return tuple(Suspect(str(i), i, float(value_N[i])) for i in images[:most].tolist())


def _ordered(record: Manifest, dataset: Dataset, source: str, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Training images in the order of a source, int64 [M], and by image what they are ordered by, float64 [N]."""
    if source == "loss":
        loss_N = -judged(record.train_logits(), dataset.train_labels).given
        return np.argsort(-loss_N, kind="stable"), loss_N
    if source == "harm":
        target = record.score_sets.target(target_key(record, key))
        score_N = np.asarray(record.score_sets.row(target), np.float64)
        return np.argsort(-target_function(target.function).harmful_sign * score_N, kind="stable"), score_N
    known = self_influence.known(record) if source == SELF else None
    if known is None:
        raise ConfigError(
            f"There is no queue of suspects by «{source}» for run {record.run_id}.",
            f"Choose one of {', '.join(sources(record, dataset)) or 'another run'}.",
        )
    return known.images, known.rise_N


def _duplicates(record: Manifest, dataset: Dataset) -> tuple[Suspect, ...]:
    """Training images that are the same as one before them, or as a test image, as was noticed when files were prepared
    or found by the job `duplicates`, the surer way first: groups whose labels differ first, and of a group that another
    way found, too, the images that are not here yet."""
    groups = [
        ([(str(image["split"]), int(image["index"])) for image in problem["images"]], "")
        for problem in store.problems(dataset)
        if problem["kind"] == "duplicate"
    ]
    for by in duplicates.ways(record):
        found = duplicates.known(record, by)
        assert found is not None
        near = "" if by == duplicates.EXACT else duplicates.limit_in_words(by, found.at_most)
        for group in range(len(found.starts)):
            numbers = found.members(group)[0].tolist()
            places = [("train", i) if i < found.n_train else ("test", i - found.n_train) for i in numbers]
            groups.append((places, near))
    differ = [len({int(dataset.labels(split)[i]) for split, i in places}) > 1 for places, _ in groups]
    suspects: dict[int, Suspect] = {}
    for labels_differ, (places, near) in sorted(zip(differ, groups), key=lambda pair: not pair[0]):
        train = [place for place in places if place[0] == "train"]
        one_stays = not labels_differ and len(train) == len(places)
        for place in train[one_stays:]:
            twins = tuple(other for other in places if other != place)
            suspects.setdefault(place[1], Suspect(str(place[1]), place[1], twins=twins, detail=near))
    return tuple(suspects.values())
