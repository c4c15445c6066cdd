"""Suspects as tiles, with what a person needs to judge a label by: what the model says, and images that look alike."""

import numpy as np
import pandas as pd
import streamlit as st

from engine.analysis import neighbours, suspects
from engine.analysis.logits import softmax
from ui import cards, formats, gallery, self_influence
from ui.run_choice import RunView
from ui.suspect_list import Suspects
from ui.text import line

ALIKE = 4  # images of each of two classes that are shown beside an enlarged one
LIKELIEST = 6  # classes whose probabilities are shown


@st.cache_data(max_entries=64, show_spinner=False)
def _nearest(fingerprint: str, indices: tuple[int, ...], labels: tuple[tuple[int, ...], ...], _dataset):
    return neighbours.nearest(_dataset, indices, labels, ALIKE)


def model_labels(run: RunView, rows: pd.DataFrame) -> dict[int, int]:
    """Numbers of classes by image."""
    indices = rows["index"].to_numpy()
    predicted = run.manifest.train_logits()[indices].argmax(1)
    return dict(zip(indices.tolist(), predicted.tolist(), strict=True))


def of(run: RunView, found: Suspects, rows: pd.DataFrame) -> list[gallery.Tile]:
    """What a person needs to judge a label by: the label given, what the model would say, and images like it."""
    indices, dataset = rows["index"].to_numpy(), run.dataset
    shares_MC, model = softmax(run.manifest.train_logits()[indices]), model_labels(run, rows)
    asked = tuple(
        tuple(dict.fromkeys((int(label), model[index])))
        for index, label in zip(indices.tolist(), dataset.train_labels[indices], strict=True)
    )
    alike = _nearest(dataset.fingerprint, tuple(indices.tolist()), asked, dataset)
    scale, known = _scale(found), self_influence.known_of(run)
    own = None if known is None else self_influence.scale_of(known)
    tiles = []
    for row, shares_C, labels, images in zip(rows.itertuples(index=False), shares_MC, asked, alike, strict=True):
        score = scale.function.harmful_sign * row.harm
        judged = f"loss {formats.figure(row.loss)}" if found.by == "loss" else scale.words(score)
        if found.by == suspects.SELF and known is not None and own is not None:
            judged = f"{self_influence.words(known, own, row.index)} {own.unit}"
        tiles.append(
            gallery.Tile(
                "train",
                row.index,
                line(f"{row.rank}. {row.given_label}"),
                (
                    line(f"model: {row.model_label}"),
                    judged,
                    *(line(formats.shortened(file)) for _, file in cards.file_of(dataset, "train", row.index)),
                    *_true_label(row),
                ),
                (*_details(run, found, row, scale.with_unit(score)), *self_influence.details(known, own, row.index)),
                effect=scale.effect(score) if found.by == "harm" else None,
                shares=_shares(dataset.classes, shares_C),
                groups=tuple(
                    (line(f"Nearest with the label {dataset.classes[label]}, by pixels"), tuple(of_label))
                    for label, of_label in zip(labels, images, strict=True)
                ),
            )
        )
    return tiles


def _scale(found: Suspects) -> formats.Scale:
    return formats.Scale.of(found.images["harm"], found.ref.function)


def _true_label(row) -> tuple[str, ...]:
    """Of a data set whose errors are known."""
    if not hasattr(row, "true_label"):
        return ()
    return (line(f"true: {row.true_label}") if row.true_label != row.given_label else "label is right",)


def _details(run: RunView, found: Suspects, row, effect: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Image", f"train:{row.index}"),
        ("Given label", line(row.given_label)),
        *cards.file_of(run.dataset, "train", row.index),
        ("Model's label", line(row.model_label)),
        ("Probability of the given label", formats.percent(row.probability)),
        ("Loss on the given label", f"{formats.figure(row.loss, 3)} nats"),
        (line(f"Effect on {run.titles[found.ref.key]}"), effect),
        *(("True label", line(text.removeprefix("true: "))) for text in _true_label(row)),
    )


def _shares(classes: tuple[str, ...], shares_C: np.ndarray) -> tuple[tuple[str, float, str], ...]:
    """The likeliest classes, at most `LIKELIEST`, the likeliest first."""
    first = np.argsort(-shares_C, kind="stable")[:LIKELIEST].tolist()
    return tuple((line(classes[c]), float(shares_C[c]), formats.percent(float(shares_C[c]))) for c in first)
