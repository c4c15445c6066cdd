"""What a page tells of an image beside its picture: tiles of training images, tiles of targets, the target's own panel."""

import functools

import numpy as np
import streamlit as st

from engine.analysis import lists, target_view
from engine.analysis import logits as logit_maths
from engine.analysis import outward as outward_effects
from engine.runs import uploads
from engine.runs.scores import TargetRef
from engine.targets import FUNCTIONS, UploadedImage, target_function
from ui import formats, gallery, link, pictures, ticks
from ui.text import plain

PLAIN = 20  # images of a set that are shown


@functools.lru_cache(maxsize=64)
def _used_in(recipe, n: int, indices: tuple[int, ...]) -> list[np.ndarray]:
    return outward_effects.used_in(recipe, n, indices)


def training(
    run,
    dataset,
    indices,
    lines: list[tuple[str, ...]],
    extra=None,
    leave_out: str | None = None,
    first: int | None = None,
) -> list[gallery.Tile]:
    """Training images: `lines` of each stand below it; enlarged come its labels, `extra` details, the steps that
    used it, its note, and its scores on the run's targets, less the one of key `leave_out`. `first`: the rank of the
    first, where they are ranked."""
    record, said = run.manifest(), ticks.kept(run)
    config = record.config
    indices = np.asarray(indices, np.int64)
    targets, scores_KM = outward_effects.scores_on(record, indices)
    titles = [t.title(dataset) for t in targets]
    used = _used_in(config.recipe, len(dataset.train_labels), tuple(indices.tolist()))
    model, total = _model_labels(record, dataset, indices), record.steps
    tiles = []
    for m, index in enumerate(indices.tolist()):
        label = dataset.classes[dataset.train_labels[index]]
        bars = [
            (titles[k], float(scores_KM[k, m]), formats.score(scores_KM[k, m]))
            for k in range(len(targets))
            if targets[k].key != leave_out
        ]
        details = [
            ("Image", f"train:{index}"),
            ("Given label", label),
            *model[m],
            *(extra[m] if extra else ()),
            ("Used in steps", formats.steps(used[m], total, config.recipe.epochs)),
        ]
        if said.of(index):
            details.append(("Note", said.of(index)))
        tiles.append(
            gallery.Tile(
                "train",
                index,
                label if first is None else f"{first + m}. {label}",
                lines[m],
                tuple(details),
                tuple(bars),
                link.to("Training_images", run=run.id, image=index),
                "From this image outwards",
            )
        )
    return tiles


def _model_labels(record, dataset, indices) -> list[list[tuple[str, str]]]:
    if "model/train_logits.npy" not in record.files:  # of a run of an older version
        return [[("Model's label", "not recorded in this run")]] * len(indices)
    logp = logit_maths.log_probabilities(record.train_logits()[indices])
    given = dataset.train_labels[indices]
    return [
        [
            ("Model's label", f"{dataset.classes[row.argmax()]}, {formats.percent(float(np.exp(row.max())))}"),
            ("Probability of the given label", formats.percent(float(np.exp(row[label])))),
        ]
        for row, label in zip(logp, given, strict=True)
    ]


def own_picture(run, view) -> str:
    return pictures.array_picture(uploads.read(run, view.target.image_id), view.title, 96)


def target(run, dataset, view, panel) -> None:
    """The target in the sidebar, where it stays in view."""
    with panel:
        st.divider()
        st.markdown(f"**{plain(view.title)}**")
        indices = view.test_indices.tolist()
        if view.predicted_label is not None:
            picture, facts = st.columns([2, 3])
            with picture:
                st.html(pictures.picture(dataset.name, "test", indices[0]) if indices else own_picture(run, view))
        else:
            pictures.plain_tiles(dataset.name, "test", indices[:PLAIN], 28)
            facts = st.container()
            facts.caption(
                f"The first {len(indices[:PLAIN])} of {formats.count(len(indices), 'test images')}; values are means."
            )
        true_label = "several" if view.true_label is None else plain(dataset.classes[view.true_label])
        lines = [f"True label: **{true_label}**"]
        if view.predicted_label is not None:
            right = ":material/check: right" if view.predicted_label == view.true_label else ":material/close: wrong"
            lines.append(f"Predicted: **{plain(dataset.classes[view.predicted_label])}** {right}")
        else:
            lines.append(f"Classified right: **{formats.percent(view.accuracy)}**")
        facts.markdown("  \n".join(lines))
        st.markdown(
            " · ".join(
                f"{name} **{formats.figure(view.values[name], 4)}** {function.short_unit}"
                for name, function in FUNCTIONS.items()
            )
        )
        shares = target_view.probabilities(run.manifest(), dataset, view.target)
        pictures.chart(
            pictures.probabilities(shares, dataset.classes),
            "probabilities",
            formats.shares_in_words(dataset.classes, shares),
        )


def removal(scores_N, ranking, function: str, panel) -> None:
    """What leaving out the images of either list would do, as far as the scores foretell."""
    with panel:
        for side, indices in (("harmful", ranking.harmful), ("helpful", ranking.helpful)):
            if len(indices):
                st.caption(
                    f"Without the {len(indices)} {side} images shown, predicted change of the {plain(function)}: "
                    f"{formats.score(lists.without(scores_N, indices))} {target_function(function).short_unit}"
                )


def show_targets(run, dataset, shown: list[tuple[TargetRef, tuple[str, ...]]], key: str) -> None:
    """Targets with the lines below, as tiles that lead to their influence; of a set, its first image."""
    tiles = []
    for ref, lines in shown:
        first = next(iter(ref.target.resolve(dataset.test_labels, len(dataset.classes)).tolist()), -1)
        own = ref.target if isinstance(ref.target, UploadedImage) else None
        tiles.append(
            gallery.Tile(
                "test",
                first,
                ref.target.title(dataset),
                lines,
                (("Target", ref.name),),
                link=link.to("Influence", run=run.id, target=ref.key),
                link_text="Influence on this target",
                image=uploads.read(run, own.image_id) if own else None,
            )
        )
    gallery.show(dataset.name, tiles, f"targets-{key}")
