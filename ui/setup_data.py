"""Step 1 of the form: the images that are learned from and explained."""

import numpy as np
import streamlit as st

from engine.datasets import store
from engine.datasets.base import Dataset
from ui import pictures, setup_draft, setup_fields, setup_start, shell
from ui.setup_draft import Form
from ui.text import line, plain

SAMPLES = 12  # training images that are shown, of as many classes as there are


def load() -> Dataset | None:
    """The draft's data set; where it cannot be had, the page says why at this step, and goes on without it."""
    with shell.guarded():
        return pictures.dataset(setup_draft.now().base.dataset)
    return None


def draw(form: Form) -> None:
    name = form.config.dataset
    titles = {one.name: f"{one.title} · {one.name}" for one in store.prepared_sets()}
    names = list(dict.fromkeys([*setup_start.offered_data(), name]))
    setup_fields.show("set-dataset", name)
    st.selectbox(
        "Data set",
        names,
        format_func=lambda each: line(titles.get(each, each)),
        key="set-dataset",
        on_change=take,
        disabled=form.disabled,
        help="Your own images, as a folder, a table, arrays or an archive, are added on the page Data.",
    )
    setup_fields.remarks(form, "dataset")
    if form.dataset is not None:
        st.caption(facts(form.dataset))
        pictures.plain_tiles(form.dataset, "train", samples(form.dataset))
    st.page_link("pages/Data.py", label="Add images of your own, or look at these", icon=":material/folder_open:")


def take() -> None:
    setup_start.choose_data(st.session_state["set-dataset"])


def facts(dataset: Dataset) -> str:
    height, width, channels = dataset.image_shape
    sizes = dataset.sizes
    return plain(
        f"{sizes.n_train:,} training and {sizes.n_test:,} test images of {width} × {height} pixels, "
        f"{'grey' if channels == 1 else 'in colour' if channels == 3 else f'{channels} channels'}, "
        f"{sizes.n_classes:,} classes."
    )


def samples(dataset: Dataset) -> list[int]:
    """The first training image of each of the first classes."""
    return np.unique(dataset.train_labels, return_index=True)[1][:SAMPLES].tolist()
