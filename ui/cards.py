"""What a page says of an image beside its picture: tiles of training images, of targets, the target's own panel."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from engine.analysis import lists, target_view
from engine.analysis import logits as logit_maths
from engine.analysis import outward as outward_effects
from engine.analysis import what_if as what_ifs
from engine.analysis.scale import without_it
from engine.datasets.base import Dataset
from engine.runs import uploads
from engine.runs.scores import TargetRef
from engine.targets import TRAIN, UploadedImage, target_function
from engine.targets.members import Members
from ui import formats, gallery, link, pictures, self_influence, ticks
from ui.run_choice import RunView
from ui.text import line, plain

PLAIN = 20  # images of a set that are shown
BARS = 200  # targets beside an enlarged image; thousands of them would be megabytes for a page of tiles
OUTWARDS = "What this image did to all targets"


@functools.lru_cache(maxsize=64)
def _used_in(recipe, n: int, indices: tuple[int, ...]) -> list[np.ndarray]:
    return outward_effects.used_in(recipe, n, indices)


@dataclass(frozen=True)
class Effects:
    """What training images did to the target that a page is about: tiles then say it in words, as a bar and, enlarged,
    exactly and in a sentence."""

    scores_N: np.ndarray
    scale: formats.Scale  # that of the list
    view: target_view.TargetView | None = None  # the target as the model sees it now; None: nothing is foretold

    def lines(self, index: int) -> tuple[str, ...]:
        return (self.scale.words(float(self.scores_N[index])),)

    def details(self, index: int) -> list[tuple[str, str]]:
        score = self.scores_N[index]
        return [
            ("Effect on the target", self.scale.with_unit(float(score))),
            ("Score, exactly", self.scale.exact(score)),
        ]

    def sentence(self, index: int, classes: Sequence[str]) -> str:
        """«Without it the loss would rise from 0.064 to about 0.075.»"""
        if self.view is None or self.scale.function.method:
            return ""
        function = self.scale.function
        now = self.view.values[function.name]
        then = what_ifs.after(function.name, now, lists.without(self.scores_N, np.array([index])))
        return without_it(line(function.in_words(classes)), now, then, self.view.several)


def training(
    run: RunView,
    indices: Sequence[int] | np.ndarray,
    lines: list[tuple[str, ...]] | None = None,
    extra: list[list[tuple[str, str]]] | None = None,
    leave_out: str | None = None,
    first: int | None = None,
    effects: Effects | None = None,
    places: Sequence[int] | None = None,
) -> list[gallery.Tile]:
    """Training images: `lines` of each stand below it; enlarged come its labels, `extra` details, the steps that
    used it, its note, and its scores on the run's targets, less the one of key `leave_out`. `first`: the rank of the
    first, where they are ranked; `places`: that of each, where some are left out between. `effects`: those on the
    page's target, which come before all else."""
    dataset, said, indices = run.dataset, ticks.read(run), np.asarray(indices, np.int64)
    used = _steps_in_words(run, indices)
    targets, scores_KM = outward_effects.scores_on(run.manifest, indices)
    scales = formats.scales((ref.function for ref in targets), scores_KM)
    model, bars = _model_labels(run, indices), _bars(run, targets, scores_KM, scales, leave_out)
    known = self_influence.known_of(run)
    scale = None if known is None else self_influence.scale_of(known)
    if first is not None:
        places = range(first, first + len(indices))
    tiles = []
    for m, index in enumerate(indices.tolist()):
        label = line(dataset.classes[dataset.train_labels[index]])
        details = [
            ("Image", f"train:{index}"),
            *(effects.details(index) if effects else ()),
            ("Given label", label),
            *file_of(run.dataset, "train", index),
            *model[m],
            *self_influence.details(known, scale, index),
            *(extra[m] if extra else ()),
            *used[m],
            *([("Note", line(said.of(index)))] if said.of(index) else ()),
        ]
        tiles.append(
            gallery.Tile(
                "train",
                index,
                label if places is None else f"{places[m]:,}. {label}",
                (*(effects.lines(index) if effects else ()), *(lines[m] if lines else ())),
                tuple(details),
                bars[m],
                link.to("Training_images", run=run.id, image=index),
                OUTWARDS,
                effect=effects.scale.effect(float(effects.scores_N[index])) if effects else None,
                sentence=effects.sentence(index, dataset.classes) if effects else "",
                bars_note=_bars_note(targets, scales, dataset.classes),
            )
        )
    return tiles


def _steps_in_words(run: RunView, indices: np.ndarray) -> list[list[tuple[str, str]]]:
    """Of each image, the steps of the training that used it; none of imported scores, whose training is not known."""
    if run.manifest.method:
        return [[]] * len(indices)
    recipe = run.manifest.config.recipe
    used = _used_in(recipe, len(run.dataset.train_labels), tuple(indices.tolist()))
    return [[("Used in steps", formats.steps(steps, run.manifest.steps, recipe.epochs))] for steps in used]


def _bars(
    run: RunView,
    targets: list[TargetRef],
    scores_KM: np.ndarray,
    scales: dict[str, formats.Scale],
    leave_out: str | None,
) -> list[tuple[tuple[str, float, str], ...]]:
    """Of each image, its effects on the run's targets: name, share of the largest here, and words. Of more targets than
    `BARS`, those that it moved most."""
    bars: list[list[tuple[str, float, str]]] = []
    for scores_K in scores_KM.T:
        of_image = []
        for k in _strongest(scores_K, [scales[ref.function].largest for ref in targets]):
            ref, score = targets[k], float(scores_K[k])
            if ref.key != leave_out:
                scale = scales[ref.function]
                of_image.append((run.titles[ref.key], scale.effect(score)[0], scale.words(score)))
        bars.append(of_image)
    return list(map(tuple, bars))


def _bars_note(targets: list[TargetRef], scales: dict[str, formats.Scale], classes: Sequence[str]) -> str:
    few = f"The {BARS} targets that it moved most, of {len(targets):,}. " if len(targets) > BARS else ""
    return few + formats.units(scales, classes)


def _strongest(scores_K: np.ndarray, largest: list[float]) -> list[int]:
    """The targets of the largest |score|, as shares of the largest here of their function: at most `BARS`, in their
    order."""
    if len(largest) <= BARS:
        return list(range(len(largest)))
    shares = np.abs(scores_K) / np.maximum(largest, 1e-300)
    return sorted(np.argpartition(shares, -BARS)[-BARS:].tolist())


def beside(run: RunView, view: target_view.TargetView) -> gallery.Beside | None:
    """The target's image, to stand beside each enlarged one; None for a target of several."""
    if view.several:
        return None
    title = line(view.title)
    if isinstance(view.target, UploadedImage):
        return gallery.Beside(title, pictures.data_url(uploads.read(run.folder, view.target.image_id)), title)
    (index,) = view.members.indices.tolist()
    src, alt = (f(run.dataset, view.members.split, index) for f in (pictures.image_url, pictures.alt))
    return gallery.Beside(title, src, alt)


def file_of(dataset: Dataset, split: str, index: int) -> tuple[tuple[str, str], ...]:
    """The image's source file, for the details beside it; none where it comes from no file of its own."""
    file = dataset.file_name(split, index)
    return (("File", line(file)),) if file else ()


def _file_of_one(dataset: Dataset, members: Members) -> tuple[tuple[str, str], ...]:
    """The source file of a target that is one image; none of others."""
    indices = members.indices.tolist()
    return file_of(dataset, members.split, indices[0]) if len(indices) == 1 else ()


def _model_labels(run: RunView, indices: np.ndarray) -> list[list[tuple[str, str]]]:
    if not run.manifest.has_logits("train"):  # of a run of an older version, or of imported scores
        return [[] if run.manifest.method else [("Model's label", "not recorded in this run")]] * len(indices)
    classes, given = run.dataset.classes, run.dataset.train_labels[indices]
    logp = logit_maths.log_probabilities(run.manifest.train_logits()[indices])
    return [
        [
            ("Model's label", line(f"{classes[row.argmax()]}, {formats.percent(float(np.exp(row.max())))}")),
            ("Probability of the given label", formats.percent(float(np.exp(row[label])))),
        ]
        for row, label in zip(logp, given, strict=True)
    ]


def target(run: RunView, view: target_view.TargetView, panel) -> None:
    """The target in the sidebar, where it stays in view."""
    with panel:
        st.divider()
        st.markdown(f"**{plain(view.title)}**")
        place = _target_pictures(run, view)
        place.markdown("  \n".join(_target_facts(run, view)))
        if not view.judged:
            st.caption("The model's logits did not come with these scores: what it says of the target is not known.")
            return
        st.markdown(
            " · ".join(
                f"{plain(function.in_words(run.dataset.classes))} **{formats.figure(value, 4)}** {function.short_unit}"
                for value, function in ((value, target_function(name)) for name, value in view.values.items())
            ),
            help=" ".join(map(formats.help_text, ("loss", "margin", "logit"))),
        )
        if view.predicted_label is not None and view.predicted_label == view.true_label and view.values["margin"] < 0:
            st.caption(
                "The margin is below 0 though the answer is right: it is measured against all other classes together, "
                "and the model gives them more than half of its confidence."
            )
        shares = target_view.probabilities(run.manifest, run.dataset, view.target)
        st.html(pictures.probabilities(shares, run.dataset.classes))


def _target_pictures(run: RunView, view: target_view.TargetView):
    """Draws the target's image, or some of its images, and returns the place for its facts."""
    split, indices = view.members.split, view.members.indices.tolist()
    if view.several:
        pictures.plain_tiles(run.dataset, split, indices[:PLAIN], 28)
        st.caption(
            f"The first {len(indices[:PLAIN])} of {formats.count(len(indices), 'test images')}; values are means."
        )
        return st.container()
    picture, place = st.columns([2, 3])
    with picture:
        st.html(pictures.picture(run.dataset, split, indices[0]) if indices else _own_picture(run, view))
    return place


def _own_picture(run: RunView, view: target_view.TargetView) -> str:
    assert isinstance(view.target, UploadedImage)  # the only target of one image that is in no split
    return pictures.array_picture(uploads.read(run.folder, view.target.image_id), view.title, 96)


def _target_facts(run: RunView, view: target_view.TargetView) -> list[str]:
    """Lines of Markdown."""
    classes, label = run.dataset.classes, "Given label" if view.members.split == TRAIN else "True label"
    true_label = "several" if view.true_label is None else plain(classes[view.true_label])
    if view.several:
        right = [f"Classified right: **{formats.percent(view.accuracy)}**"] if view.judged else []
        return [f"{label}: **{true_label}**", *right]
    files = [f"File: {plain(file)}" for _, file in _file_of_one(run.dataset, view.members)]
    if not view.judged:
        return [f"{label}: **{true_label}**", *files]
    assert view.predicted_label is not None  # of one image that is judged
    right = ":material/check: right" if view.predicted_label == view.true_label else ":material/close: wrong"
    return [f"{label}: **{true_label}**", f"Predicted: **{plain(classes[view.predicted_label])}** {right}", *files]


def removal(run: RunView, scores_N, ranking, function: str, panel) -> None:
    """What leaving out the images of either list would do, as far as the scores foretell; imported ones do not."""
    if target_function(function).method:
        return
    with panel:
        for side, indices in (("harmful", ranking.harmful), ("helpful", ranking.helpful)):
            if len(indices):
                change = lists.without(scores_N, indices)
                scale = formats.Scale.of([change], function)
                st.caption(
                    f"Without the {formats.count(len(indices), f'{side} images')} shown, predicted change of the "
                    f"{plain(target_function(function).in_words(run.dataset.classes))}: "
                    f"{scale.number(change)} {scale.unit}"
                )


@dataclass(frozen=True)
class TargetTile:
    """A target with what is said of it: `lines` below it, `effect` as of `gallery.Tile`."""

    ref: TargetRef
    lines: tuple[str, ...] = ()
    effect: tuple[float, str] | None = None


def show_targets(run: RunView, targets: list[TargetTile], key: str) -> None:
    """Targets as tiles that lead to their influence; of a set, its first image."""
    dataset, tiles = run.dataset, []
    for one in targets:
        ref = one.ref
        members = ref.target.resolve(dataset, run.manifest.test_logits)
        own = ref.target if isinstance(ref.target, UploadedImage) else None
        tiles.append(
            gallery.Tile(
                "train" if members.split == TRAIN else "test",
                next(iter(members.indices.tolist()), -1),
                line(ref.title(dataset)),
                one.lines,
                (("Target", ref.name), *_file_of_one(dataset, members)),
                link=link.to("Influence", run=run.id, target=ref.key),
                link_text="Influence on this target",
                image=uploads.read(run.folder, own.image_id) if own else None,
                effect=one.effect,
            )
        )
    gallery.show(dataset, tiles, f"targets-{key}")
