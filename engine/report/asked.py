"""A target in a report: what the model says of it, and the training images that helped and harmed it most."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from engine.analysis import certainty, lists, removal, target_view
from engine.analysis import what_if as what_ifs
from engine.analysis.ranking import Ranking, rank
from engine.analysis.scale import NONE, Scale, from_to, verbs
from engine.analysis.wording import between, count, figure, percent, signed
from engine.datasets.base import Dataset
from engine.report import drawings
from engine.report.choice import Choice
from engine.report.pictures import Picture, Pictures, picture
from engine.report.relied import Known
from engine.runs import uploads
from engine.runs.manifest import Manifest
from engine.runs.notes import Notes
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import TEST, Members, TargetFunction, UploadedImage, target_function
from engine.targets.names import canonical

HEADINGS = {"helps": "Most helpful", "harms": "Most harmful", "raises": "Raised it most", "lowers": "Lowered it most"}

FEW = 12  # images of a set that are shown

LIKELIEST = 5  # classes whose probabilities are shown

TEST_LOGITS = "model/test_logits.npy"


@dataclass(frozen=True)
class Source:
    """What a part of a report is made from."""

    record: Manifest
    dataset: Dataset
    pictures: Pictures
    known: Known
    choice: Choice
    notes: Notes  # empty where they were not asked for
    run: Run


@dataclass(frozen=True)
class Tile:
    """A training image: its place among its side, its score in words («helps 10.3») and exactly, and the share of the
    list's largest."""

    picture: Picture
    place: int
    index: int
    label: str
    file: str
    words: str
    exact: str
    share: float
    note: str
    ticked: bool


@dataclass(frozen=True)
class Side:
    """One list: `kind` is "helps" or "harms" (also of functions that know no better and no worse), `without` the
    sentence on all of its images together."""

    kind: str
    heading: str
    of: int  # images that there are on this side
    tiles: tuple[Tile, ...]
    without: str


@dataclass(frozen=True)
class Share:
    name: str
    share: float
    text: str
    true: bool


@dataclass(frozen=True)
class Asked:
    """A target. `right` is None where it is several images, or where the model's answer is not known; `unit` says what
    the numbers of both sides count."""

    anchor: str
    key: str
    title: str
    pictures: tuple[Picture, ...]
    said: str  # what the model says, in a sentence
    right: bool | None
    facts: tuple[tuple[str, str], ...]
    shares: tuple[Share, ...]
    unit: str
    sides: tuple[Side, ...]
    checked: str  # by retraining, in a sentence
    drawing: Markup | None
    removal: tuple[tuple[str, ...], ...]  # a row a set: which, images, change foretold and retrained, probability
    removal_words: str
    lds: str  # for the table of all targets
    strongest: tuple[str, str]


def of(source: Source, ref: TargetRef, number: int) -> Asked:
    """Raises `ConfigError` where the target has no image, `IntegrityError` for damaged files."""
    members = ref.target.resolve(source.dataset, source.record.test_logits)
    view = _view(source, ref, members)
    scores_N = source.record.score_sets.row(ref)
    ranking = rank(scores_N, ref.function, source.choice.images)
    scale = Scale.of(scores_N[[*ranking.helpful, *ranking.harmful]], ref.function)
    sides = tuple(_side(source, ref, view, ranking, scale, side) for side in ("helpful", "harmful"))
    checked, drawing, lds = _checked(source, ref)
    rows, words = _removal(source, ref)
    return Asked(
        anchor=f"target-{number}",
        key=ref.key,
        title=ref.title(source.dataset),
        pictures=_pictures(source, ref, members),
        said=_said(source, members, view),
        right=None if view is None or view.predicted_label is None else view.predicted_label == view.true_label,
        facts=_facts(source, ref, members, view),
        shares=() if view is None else _shares(source, ref, view),
        unit=scale.unit,
        sides=sides,
        checked=checked,
        drawing=drawing,
        removal=rows,
        removal_words=words,
        lds=lds,
        strongest=(
            _strongest(source, scores_N, ranking.helpful, scale),
            _strongest(source, scores_N, ranking.harmful, scale),
        ),
    )


# -- what the model says


def _view(source: Source, ref: TargetRef, members: Members) -> target_view.TargetView | None:
    """None where the run does not have what its model says, as one of scores that were made elsewhere."""
    record = source.record
    if members.split == TEST:
        known = TEST_LOGITS in record.files
    else:
        rows = (t for sidecar in record.score_sets.sidecars() for t in sidecar["targets"])
        known = any("logits" in t for t in rows if canonical(t["name"]) == str(ref.target))
    return target_view.view(record, source.dataset, ref.target, ref.function) if known else None


def _pictures(source: Source, ref: TargetRef, members: Members) -> tuple[Picture, ...]:
    if isinstance(ref.target, UploadedImage):
        image = uploads.read(source.run, ref.target.image_id)
        return (picture(image, ref.target.title(source.dataset), own=True),)
    few = members.indices[:FEW].tolist()
    return tuple(source.pictures.of(members.split, index, own=len(members) == 1) for index in few)


def _label_words(members: Members) -> str:
    return "Given label" if members.split == "train" else "True label"


def _said(source: Source, members: Members, view: target_view.TargetView | None) -> str:
    classes = source.dataset.classes
    if view is None:
        return "What the model says of it is not recorded with this run: its scores came without the model's answers."
    if view.predicted_label is None:
        return (
            f"Of {count(len(members), 'images')} the model gets {percent(view.accuracy)} right. The values below are "
            "means over them."
        )
    predicted = classes[view.predicted_label]
    label = "" if view.true_label is None else classes[view.true_label]
    if view.predicted_label == view.true_label:
        return f"The model says {predicted}, which is right."
    given = "as its given label" if members.split == "train" else "in truth"
    return f"The model says {predicted}. It is wrong: {given} this is {label}."


def _facts(
    source: Source, ref: TargetRef, members: Members, view: target_view.TargetView | None
) -> tuple[tuple[str, str], ...]:
    dataset, facts = source.dataset, []
    several = len(members) > 1
    if not several and len(members):
        facts.append(("Image", f"{members.split}:{members.indices[0]}"))
        if file := dataset.file_name(members.split, int(members.indices[0])):
            facts.append(("File", file))
    if view is None:
        if len(members) == 1:
            label = dataset.classes[dataset.labels(members.split)[members.indices[0]]]
            facts.append((_label_words(members), label))
        return tuple(facts)
    if several:
        label = "several" if view.true_label is None else dataset.classes[view.true_label]
        facts += [("Images", f"{len(members):,}"), (_label_words(members), label)]
        facts.append(("Classified right", percent(view.accuracy)))
    else:
        facts.append((_label_words(members), dataset.classes[view.true_label or 0]))
        facts.append(("Predicted", dataset.classes[view.predicted_label or 0]))
    mean = "mean " if several else ""
    facts.append((f"{mean}probability of the {_label_words(members).lower()}".capitalize(), percent(view.probability)))
    for name, value in view.values.items():
        asked = target_function(name)
        words = f"{mean}{asked.in_words(dataset.classes)}"
        facts.append((f"{words[:1].upper()}{words[1:]}", f"{figure(value, 4)} {asked.short_unit}"))
    return tuple(facts)


def _shares(source: Source, ref: TargetRef, view: target_view.TargetView) -> tuple[Share, ...]:
    """The likeliest classes, and the true one, the likeliest first."""
    shares = target_view.probabilities(source.record, source.dataset, ref.target)
    first = np.argsort(-shares, kind="stable")[:LIKELIEST].tolist()
    if view.true_label is not None and view.true_label not in first:
        first[-1:] = [view.true_label]
    return tuple(
        Share(source.dataset.classes[c], float(shares[c]), percent(float(shares[c])), c == view.true_label)
        for c in first
    )


# -- the images that acted most


def _side(
    source: Source, ref: TargetRef, view: target_view.TargetView | None, ranking: Ranking, scale: Scale, side: str
) -> Side:
    scores_N, indices = source.record.score_sets.row(ref), getattr(ranking, side)
    function = scale.function
    up, down = verbs(function.name)
    good, bad = (down, up) if function.harmful_sign > 0 else (up, down)
    tiles = tuple(
        _tile(source, scale, scores_N, place, index) for place, index in enumerate(indices.tolist(), ranking.first)
    )
    return Side(
        kind="helps" if side == "helpful" else "harms",
        heading=HEADINGS[good if side == "helpful" else bad],
        of=getattr(ranking, f"{side}_of"),
        tiles=tiles,
        without=without(source, ref, view, indices),
    )


def _tile(source: Source, scale: Scale, scores_N: np.ndarray, place: int, index: int) -> Tile:
    dataset, score = source.dataset, scores_N[index]
    return Tile(
        picture=source.pictures.of("train", index),
        place=place,
        index=index,
        label=dataset.classes[dataset.train_labels[index]],
        file=dataset.file_name("train", index) or "",
        words=scale.words(float(score)),
        exact=scale.exact(score),
        share=abs(scale.effect(float(score))[0]),
        note=source.notes.of(index),
        ticked=index in source.notes.ticked,
    )


def _strongest(source: Source, scores_N: np.ndarray, indices: np.ndarray, scale: Scale) -> str:
    if not len(indices):
        return "none"
    index = int(indices[0])
    label = source.dataset.classes[source.dataset.train_labels[index]]
    return f"train:{index} ({label}), {scale.with_unit(float(scores_N[index]))}"


def without(source: Source, ref: TargetRef, view: target_view.TargetView | None, indices: np.ndarray) -> str:
    """«Without these 10 images the loss would fall by about 1.2 nats, from 2.31 to about 1.11.»; with the standard
    error of that where a validation says it. Of scores that another program made nothing is foretold."""
    if not len(indices) or source.record.method:
        return ""
    function = target_function(ref.function)
    scores_N = source.record.score_sets.row(ref)
    change = lists.without(scores_N, indices)
    words = function.in_words(source.dataset.classes)
    words = f"mean {words}" if view is not None and view.predicted_label is None else words
    these = "this image" if len(indices) == 1 else f"these {len(indices)} images"
    scale = Scale.of([change], ref.function)
    if scale.words(change) == NONE:
        return f"Without {these} the {words} would stay as it is, as the scores foretell."
    error = certainty.of_set(source.known.errors.get(ref.key, []), scores_N[indices])
    off = "" if error is None else f" (± {scale.size(error)}, one standard error)"
    then = "" if view is None else f", {_from_to(function, view, change)}"
    return f"Without {these} the {words} would {_moves(change)} by about {scale.size(change)} {scale.unit}{off}{then}."


def _moves(change: float) -> str:
    return "rise" if change > 0 else "fall"


def _from_to(function: TargetFunction, view: target_view.TargetView, change: float) -> str:
    now = view.values[function.name]
    told = from_to(now, what_ifs.after(function.name, now, change))
    if what_ifs.is_capped(function.name, now, change):
        told += f", where it ends: a {function.name} is never below {function.lowest:g}"
    return told


# -- what retraining gave


def _checked(source: Source, ref: TargetRef) -> tuple[str, Markup | None, str]:
    """In a sentence, as a drawing, and for a cell."""
    report = source.known.report_of(ref.key)
    if report is None and (method := source.record.method):
        return f"These scores are {method}'s. Neither its training nor its model is here to check them by.", None, "—"
    if report is None:
        return "No retraining has checked the scores of this target yet.", None, "not checked"
    target = next(each for each in report["targets"] if each["key"] == ref.key)
    tried = (
        f"The model was trained again {count(report['subsets'], 'times')}, each time without "
        f"{count(report['left_out'], 'images')} drawn at random"
    )
    if target["lds"] is None:
        return f"{tried}. This target did not vary, so that there is nothing to rank.", None, "did not vary"
    interval = f"95 % interval {between(target['low'], target['high'])}" if target["low"] is not None else "no interval"
    said = (
        f"{tried}. What the scores foretold for this target and what happened have a rank correlation (LDS) of "
        f"{figure(target['lds'])} ({interval})."
    )
    title = f"Predicted against retrained change of {ref.title(source.dataset)}, LDS {figure(target['lds'])}"
    unit = target_function(ref.function).short_unit
    return said, drawings.scatter(target["predicted"], target["actual"], title, unit), figure(target["lds"])


def _removal(source: Source, ref: TargetRef) -> tuple[tuple[tuple[str, ...], ...], str]:
    """The newest removal curve of the target, if one was made: a row a set."""
    report = next(iter(removal.reports(source.record, ref.key)), None)
    if report is None:
        return (), ""
    rows = []
    for each in report["sets"]:
        which = "random images" if each["side"] == removal.RANDOM else f"the most {each['side']}"
        error = each["standard_error"]
        off = "" if error is None else f" ± {figure(error, 3)}"
        rows.append(
            (
                f"{which}, {100 * each['fraction']:g} %",
                f"{each['left_out']:,}",
                f"{signed(each['predicted'])}{off}",
                signed(each["actual"]),
                percent(each["after"].get("probability")),
            )
        )
    before = report["before"]
    asked = target_function(report["function"]).in_words(source.dataset.classes)
    words = (
        f"Trained again without sets of images. Before: {asked} {figure(before[report['function']], 3)} "
        f"{report['unit']}, probability of the label {percent(before.get('probability'))}. Changes are in that unit."
    )
    return tuple(rows), words
