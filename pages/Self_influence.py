"""Self-influence: the training images that the model knows by heart, the most memorised first."""

import streamlit as st

from engine.analysis import self_influence as self_influences
from engine.analysis import suspects
from engine.analysis.self_influence import Known
from ui import cards, download, formats, gallery, link, paging, pictures, run_choice, self_influence, shell, ticks
from ui.paging import EVERY, class_name, turn_to_the_first
from ui.run_choice import RunView
from ui.text import line, plain

SIZE = 96  # CSS pixels of a tile
WHAT = (
    "By how much an image's own loss would rise had the model not been trained on it, as far as the derivative "
    "foretells. A large one: the model knows this image by heart, and not from the others. It is a rare image, a hard "
    "one, or one with a wrong label."
)


def say_what_is_known(run: RunView, known: Known) -> None:
    shell.metrics(
        {
            "Images": f"{len(known.images):,} of {len(run.dataset.train_labels):,}",
            "Exact": f"{len(known.images) - known.estimated:,}",
            "Estimated": f"{known.estimated:,}",
        }
    )


def draw_ranking(run: RunView, known: Known) -> None:
    """The images of one label, or all, a page of them."""
    labels, key, scale = [EVERY, *run.dataset.classes], f"self-of-{run.id}", self_influence.scale_of(known)
    link.follow(key, link.one_of("label", labels, EVERY))
    st.header("Most memorised first")
    label = st.selectbox("Given label", labels, key=key, width=220, on_change=turn_to_the_first, format_func=class_name)
    number = paging.label_number(label, run.dataset.classes)
    ranks = known.places(run.dataset.train_labels, number)
    page = paging.choose(len(ranks), f"self-page-{run.id}-{label}-{len(ranks)}")
    link.keep(run=run.id, label=formats.unless(label, EVERY), page=page)
    st.caption(
        f"{formats.count(len(ranks), 'images')}, with their place among all that are known. "
        f"Numbers are {plain(scale.unit)}{', ± one standard error' if known.estimated else ''}.",
        help=formats.help_text("self-influence"),
    )
    if not len(ranks):
        st.info("It was computed for no image of this label.", icon=":material/filter_alt_off:")
        return
    on_page = paging.of_page(ranks, page)
    ticks.tiles(run, tiles(run, known, scale, on_page), "self", SIZE, cards.OUTWARDS)


def tiles(run: RunView, known: Known, scale: formats.Scale, ranks) -> list[gallery.Tile]:
    """Those of these places, from 0, each with its number and the model's label where that is another."""
    images = known.images[ranks]
    lines = [(self_influence.words(known, scale, index),) for index in images.tolist()]
    return cards.training(run, images, lines, places=(ranks + 1).tolist())


def draw_by_class(run: RunView, known: Known) -> None:
    """In numbers, the class with the largest median first."""
    scale, classes = self_influence.scale_of(known), run.dataset.classes
    st.header("By class")
    st.dataframe(
        [
            {
                "Given label": line(classes[each.label]),
                "Images": each.images,
                "Median": scale.number(each.median),
                "Largest": scale.number(each.largest),
                "Unit": scale.unit,
                "Look": link.to("Self_influence", run=run.id, label=classes[each.label]),
            }
            for each in self_influences.by_class(known, run.dataset.train_labels)
        ],
        hide_index=True,
        column_config={"Look": st.column_config.LinkColumn(display_text="show")},
    )


def draw_histogram(known: Known) -> None:
    scale = self_influence.scale_of(known)
    low, median, high = map(scale.number, known.spread)
    st.header("How it is distributed")
    pictures.chart(
        pictures.rises(known.rise_N[known.images], scale),
        "self-histogram",
        f"Histogram of the self-influence of {len(known.images):,} images, from {low} to {high} {scale.unit}; half of "
        f"them have {median} or more",
    )


def draw_known(run: RunView, known: Known) -> None:
    say_what_is_known(run, known)
    draw_ranking(run, known)
    with st.container(horizontal=True):
        table = self_influences.ranked(run.manifest, run.dataset, known)
        download.button("All as CSV", formats.csv(table), f"{run.id}-self-influence.csv")
        st.page_link(
            "pages/Find_bad_labels.py",
            label="Judge their labels, in this order",
            icon=":material/label_off:",
            query_params={"run": run.id, "order": suspects.SELF},
        )
        link.copy()
    draw_histogram(known)
    draw_by_class(run, known)


with shell.page("Self-influence"):
    run = run_choice.chosen("There is no run to look at yet.")
    run_choice.stop_without_scores(run)
    st.caption(WHAT, help=formats.help_text("self-influence"))
    known = self_influence.known_of(run)
    if known is None:
        link.keep(run=run.id)
        st.header("Compute it")
        self_influence.compute(run)
    else:
        draw_known(run, known)
        with st.expander("Compute it for further images", key="self-further"):
            self_influence.compute(run)
    ticks.bar(run)
