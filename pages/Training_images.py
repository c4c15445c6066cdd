"""Training images: browse them by class, go from one outwards to the targets, and the influence of class on class."""

import streamlit as st

from engine.analysis import class_matrix as class_matrices
from engine.analysis import outward as outward_effects
from engine.analysis.ranking import rank
from engine.runs import notes
from engine.targets import target_function
from ui import cards, formats, link, paging, pictures, run_choice, shell, ticks
from ui.paging import EVERY, class_name, from_the_first
from ui.run_choice import RunView
from ui.text import line, plain

TILES = 8  # targets on either side
OF_A_CELL = 12  # images on either side of a matrix's cell
BARS = "Scores on the run's targets"
VIEWS = {"image": "One image outwards", "browse": "Browse by class", "matrix": "Class on class"}


# -- browse by class


def browse(run: RunView) -> None:
    labels, key = [EVERY, *run.dataset.classes], f"label-{run.id}"
    link.follow(key, link.one_of("label", labels, EVERY))
    label = st.selectbox("Given label", labels, key=key, width=220, on_change=from_the_first, format_func=class_name)
    indices = paging.of_class(run.dataset.train_labels, paging.label_number(label, run.dataset.classes))
    pages = paging.pages(len(indices))
    page = link.whole("page", 1, pages, 1)
    if pages > 1:
        page = st.pagination(pages, default=page, key=f"page-{run.id}-{label}")
    link.keep(run=run.id, view="browse", label=formats.unless(label, EVERY), page=page)
    st.caption(
        f"{formats.count(len(indices), 'training images')}. Enlarge one to see its scores, or to go from it outwards."
    )
    images = paging.of_page(indices, page)
    ticks.tiles(run, cards.training(run, images, [() for _ in images]), "browse", 96, BARS)
    link.copy()


# -- one image outwards


def outwards(run: RunView) -> None:
    images = len(run.dataset.train_labels)
    last, key = paging.last(images), f"image-{run.id}"
    link.follow(key, link.whole("image", 0, last, 0))
    index = st.number_input(f"Training image, from 0 to {last:,}", 0, last, key=key, width=220)
    link.keep(run=run.id, view="image", image=index)
    effects = outward_effects.outward(run.manifest, index)
    draw_image(run, index)
    st.caption(
        "Targets in the order of the score's share of the largest score that each has: nats and logits do not "
        f"compare, nor do targets. Ranks are among all {formats.count(images, 'training images')}: "
        "rank 1 helped, or harmed, the target most."
    )
    draw_strongest(run, "Helped most", [effect for effect in reversed(effects) if effect.side == "helpful"])
    draw_strongest(run, "Harmed most", [effect for effect in effects if effect.side == "harmful"])
    draw_effects(run, effects)


def draw_image(run: RunView, index: int) -> None:
    """The image with its facts, and the note on it."""
    (tile,) = cards.training(run, [index], [()])
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=224):
            ticks.tiles(run, [tile], f"image-{index}", 224, BARS)
        with st.container(width=420):
            st.table([{"": name, "Value": plain(value)} for name, value in tile.details])
            key = f"note-{run.id}-{index}"
            st.text_area(
                "Note on this image",
                ticks.read(run).of(index),
                key=key,
                max_chars=notes.LONGEST,
                height=80,
                placeholder="It is kept with the run.",
                on_change=lambda: ticks.write_note(run, index, st.session_state[key]),
                **shell.acting(),
            )
            link.copy()


def draw_strongest(run: RunView, heading: str, effects: list[outward_effects.Effect]) -> None:
    """The targets of the first effects."""
    st.subheader(heading)
    if not effects:
        st.caption("None of the run's targets.")
        return
    refs = [
        (
            e.ref,
            (line(e.ref.function_in_words(run.dataset)), formats.arrow_score(e.score), formats.rank_of(e.rank, e.of)),
        )
        for e in effects[:TILES]
    ]
    cards.show_targets(run, refs, heading.split()[0])


def draw_effects(run: RunView, effects: list[outward_effects.Effect]) -> None:
    st.subheader("All targets of the run")
    st.dataframe(
        [
            {
                "Target": line(e.ref.target.title(run.dataset)),
                "Function": line(e.ref.function_in_words(run.dataset)),
                "Score": formats.arrow_score(e.score),
                "Unit": target_function(e.ref.function).unit,
                "Effect": e.side,
                "Rank on that side": formats.rank_of(e.rank, e.of),
                "Influence": link.to("Influence", run=run.id, target=e.ref.key),
            }
            for e in effects
        ],
        hide_index=True,
        column_config={"Influence": st.column_config.LinkColumn(display_text="look")},
    )


# -- class on class


def class_on_class(run: RunView) -> None:
    function = choose_function(run)
    groups = class_matrices.groups(run.manifest, run.dataset, function)
    titles, sums = class_matrices.class_matrix(run.manifest, run.dataset, function)
    group, label = choose_cell(run, function, titles, sums)
    link.keep(run=run.id, view="matrix", function=function, group=group, label=label)
    draw_cell(run, function, group, groups[group], label)
    link.copy()


def choose_function(run: RunView) -> str:
    """Of those that the run has scores of."""
    functions = class_matrices.functions(run.manifest)
    function, key = link.one_of("function", functions, functions[0]), f"function-{run.id}"
    if not functions[1:]:
        return function
    link.follow(key, function)
    return st.segmented_control(
        "Target function",
        functions,
        required=True,
        key=key,
        on_change=forget_group,
        format_func=lambda name: plain(words_of(run, name)),
    )


def forget_group() -> None:
    """Another function may have no such group of targets."""
    st.query_params.pop("group", None)


def words_of(run: RunView, function: str) -> str:
    return target_function(function).in_words(run.dataset.classes)


def choose_cell(run: RunView, function: str, titles: list[str], sums) -> tuple[str, str]:
    """The matrix, whose cells are clicked, and the two choices that do the same: a row's title and a class."""
    classes, unit = list(run.dataset.classes), target_function(function).unit
    group_key, label_key = f"group-{run.id}-{function}", f"of-label-{run.id}"
    link.follow(group_key, link.one_of("group", titles, titles[0]))
    link.follow(label_key, link.one_of("label", classes, classes[0]))
    cell = titles.index(st.session_state[group_key]), classes.index(st.session_state[label_key])
    st.caption(
        "Rows: the run's targets by what they ask about. Columns: the label of the training images. A cell: the sum "
        f"of these images' scores, averaged over the row's targets, in the power of ten beside the row, {unit}. "
        f"{formats.sign_in_words(function)} Colours are shares of the row's largest. Click a cell to see its images, "
        "or choose below."
    )
    key = f"matrix-{run.id}-{function}"
    if len(classes) <= pictures.MOST_CLASSES:
        pictures.chart(
            pictures.heat(sums, titles, classes, unit, 1, cell),
            key,
            f"Matrix of summed scores: {len(titles)} groups of targets by {len(classes)} classes of training "
            "images; the table below has the numbers, and the two choices below it choose a cell",
            lambda: take_cell(key, group_key, titles, label_key, classes),
        )
        with st.expander("As a table"):
            st.dataframe(formats.matrix_table(titles, classes, sums, unit), hide_index=True)
    else:  # nobody sees thousands of columns
        names = [line(name) for name in classes]
        st.dataframe(formats.matrix_table(names, titles, sums.T, unit, "Classes"), hide_index=True)
    left, right = st.columns(2)
    group = left.selectbox("Targets", titles, key=group_key, format_func=line)
    label = right.selectbox("Label of the training images", classes, key=label_key, format_func=line)
    return group, label


def take_cell(key: str, group_key: str, titles: list[str], label_key: str, classes: list[str]) -> None:
    """A click on a cell does what the two choices below do."""
    if points := st.session_state[key].selection.points:
        st.session_state[group_key] = titles[int(points[0]["y"])]
        st.session_state[label_key] = classes[int(points[0]["x"])]


def draw_cell(run: RunView, function: str, group: str, refs: list, label: str) -> None:
    """The strongest images of a class on a group of targets."""
    scores_N = class_matrices.group_scores(run.manifest, refs)
    among = run.dataset.train_labels == run.dataset.classes.index(label)
    ranking = rank(scores_N, function, OF_A_CELL, among)
    by = f"their mean score on {formats.count(len(refs), 'targets')}" if refs[1:] else "their score"
    for column, side in zip(st.columns(2, gap="large"), ("helpful", "harmful"), strict=True):
        indices, of = getattr(ranking, side), getattr(ranking, f"{side}_of")
        with column:
            st.subheader(f"Most {side}")
            st.caption(f"{formats.count(of, 'images')} of class {plain(label)}, by {by}: {plain(group)}")
            if len(indices):
                lines = [(formats.arrow_score(score),) for score in scores_N[indices]]
                ticks.tiles(run, cards.training(run, indices, lines, first=ranking.first), side, 96, BARS)
            else:
                st.info("None on this side.", icon=":material/filter_alt_off:")


with shell.page("Training images"):
    run = run_choice.chosen("There is no run to look at yet.")
    run_choice.stop_without_scores(run)
    link.follow("view", link.one_of("view", VIEWS, "image"))
    view = st.segmented_control(
        "View", list(VIEWS), format_func=VIEWS.get, required=True, key="view", label_visibility="collapsed"
    )
    {"image": outwards, "browse": browse, "matrix": class_on_class}[view](run)
