"""What a page says of an image beside its picture: tiles of training images, of targets, the target's own panel."""

import functools
from collections.abc import Sequence

import numpy as np
import streamlit as st

from engine.analysis import lists, target_view
from engine.analysis import logits as logit_maths
from engine.analysis import outward as outward_effects
from engine.datasets.base import Dataset
from engine.runs import uploads
from engine.runs.scores import TargetRef
from engine.targets import TRAIN, UploadedImage, target_function
from engine.targets.members import Members
from ui import formats, gallery, link, pictures, ticks
from ui.run_choice import RunView
from ui.text import line, plain

PLAIN = 20  # images of a set that are shown


@functools.lru_cache(maxsize=64)
def _used_in(recipe, n: int, indices: tuple[int, ...]) -> list[np.ndarray]:
    return outward_effects.used_in(recipe, n, indices)


def training(
    run: RunView,
    indices: Sequence[int] | np.ndarray,
    lines: list[tuple[str, ...]],
    extra: list[list[tuple[str, str]]] | None = None,
    leave_out: str | None = None,
    first: int | None = None,
) -> list[gallery.Tile]:
    """Training images: `lines` of each stand below it; enlarged come its labels, `extra` details, the steps that
    used it, its note, and its scores on the run's targets, less the one of key `leave_out`. `first`: the rank of the
    first, where they are ranked."""
    manifest, dataset, said = run.manifest, run.dataset, ticks.read(run)
    recipe = manifest.config.recipe
    indices = np.asarray(indices, np.int64)
    targets, scores_KM = outward_effects.scores_on(manifest, indices)
    used = _used_in(recipe, len(dataset.train_labels), tuple(indices.tolist()))
    model = _model_labels(run, indices)
    tiles = []
    for m, index in enumerate(indices.tolist()):
        label = line(dataset.classes[dataset.train_labels[index]])
        bars = [
            (run.titles[ref.key], float(score), formats.score(score))
            for ref, score in zip(targets, scores_KM[:, m], strict=True)
            if ref.key != leave_out
        ]
        details = [
            ("Image", f"train:{index}"),
            ("Given label", label),
            *file_of(run.dataset, "train", index),
            *model[m],
            *(extra[m] if extra else ()),
            ("Used in steps", formats.steps(used[m], manifest.steps, recipe.epochs)),
            *([("Note", line(said.of(index)))] if said.of(index) else ()),
        ]
        title = label if first is None else f"{first + m}. {label}"
        outwards = link.to("Training_images", run=run.id, image=index)
        tiles.append(
            gallery.Tile(
                "train", index, title, lines[m], tuple(details), tuple(bars), outwards, "From this image outwards"
            )
        )
    return tiles


def file_of(dataset: Dataset, split: str, index: int) -> tuple[tuple[str, str], ...]:
    """The image's source file, for the details beside it; none where it comes from no file of its own."""
    file = dataset.file_name(split, index)
    return (("File", line(file)),) if file else ()


def _file_of_one(dataset: Dataset, members: Members) -> tuple[tuple[str, str], ...]:
    """The source file of a target that is one image; none of others."""
    indices = members.indices.tolist()
    return file_of(dataset, members.split, indices[0]) if len(indices) == 1 else ()


def _model_labels(run: RunView, indices: np.ndarray) -> list[list[tuple[str, str]]]:
    if "model/train_logits.npy" not in run.manifest.files:  # of a run of an older version
        return [[("Model's label", "not recorded in this run")]] * len(indices)
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
        st.markdown(
            " · ".join(
                f"{plain(function.in_words(run.dataset.classes))} **{formats.figure(value, 4)}** {function.short_unit}"
                for value, function in ((value, target_function(name)) for name, value in view.values.items())
            )
        )
        shares = target_view.probabilities(run.manifest, run.dataset, view.target)
        pictures.chart(
            pictures.probabilities(shares, run.dataset.classes),
            "probabilities",
            formats.shares_in_words(run.dataset.classes, shares),
        )


def _target_pictures(run: RunView, view: target_view.TargetView):
    """Draws the target's image, or some of its images, and returns the place for its facts."""
    split, indices = view.members.split, view.members.indices.tolist()
    if view.predicted_label is None:
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
    if view.predicted_label is None:
        return [f"{label}: **{true_label}**", f"Classified right: **{formats.percent(view.accuracy)}**"]
    files = [f"File: {plain(file)}" for _, file in _file_of_one(run.dataset, view.members)]
    right = ":material/check: right" if view.predicted_label == view.true_label else ":material/close: wrong"
    return [f"{label}: **{true_label}**", f"Predicted: **{plain(classes[view.predicted_label])}** {right}", *files]


def removal(run: RunView, scores_N, ranking, function: str, panel) -> None:
    """What leaving out the images of either list would do, as far as the scores foretell."""
    with panel:
        for side, indices in (("harmful", ranking.harmful), ("helpful", ranking.helpful)):
            if len(indices):
                st.caption(
                    f"Without the {len(indices)} {side} images shown, predicted change of the "
                    f"{plain(target_function(function).in_words(run.dataset.classes))}: "
                    f"{formats.score(lists.without(scores_N, indices))} {target_function(function).short_unit}"
                )


def show_targets(run: RunView, refs: list[tuple[TargetRef, tuple[str, ...]]], key: str) -> None:
    """Targets with the lines below, as tiles that lead to their influence; of a set, its first image."""
    dataset, tiles = run.dataset, []
    for ref, lines in refs:
        members = ref.target.resolve(dataset, run.manifest.test_logits)
        own = ref.target if isinstance(ref.target, UploadedImage) else None
        tiles.append(
            gallery.Tile(
                "train" if members.split == TRAIN else "test",
                next(iter(members.indices.tolist()), -1),
                line(ref.target.title(dataset)),
                lines,
                (("Target", ref.name), *_file_of_one(dataset, members)),
                link=link.to("Influence", run=run.id, target=ref.key),
                link_text="Influence on this target",
                image=uploads.read(run.folder, own.image_id) if own else None,
            )
        )
    gallery.show(dataset, tiles, f"targets-{key}")
