"""Training images: browse them by class, go from one outwards to the targets, and the influence of class on class."""

import streamlit as st

from engine.analysis import class_matrix as class_matrices
from engine.analysis import outward as outward_effects
from engine.analysis.ranking import rank
from engine.runs import notes
from engine.targets import FUNCTIONS, target_function
from ui import cards, formats, link, paging, pictures, shell, ticks
from ui.text import line, plain

TILES = 8  # targets on either side
OF_A_CELL = 12  # images on either side of a matrix's cell
A_PAGE = 24
EVERY = "All classes"
BARS = "Scores on the run's targets"
VIEWS = {"image": "One image outwards", "browse": "Browse by class", "matrix": "Class on class"}


def from_the_first() -> None:
    """A list that is filtered anew is another list."""
    st.query_params["page"] = "1"


def browse(run, dataset) -> None:
    labels, key = [EVERY, *dataset.classes], f"label-{run.id}"
    link.follow(key, link.one_of("label", labels, EVERY))
    label = st.selectbox("Given label", labels, key=key, width=220, on_change=from_the_first, format_func=line)
    indices = paging.of_class(dataset.train_labels, None if label == EVERY else dataset.classes.index(label))
    pages = paging.pages(len(indices), A_PAGE)
    page = link.whole("page", 1, pages, 1)
    if pages > 1:
        page = st.pagination(pages, default=page, key=f"page-{run.id}-{label}")
    link.keep(run=run.id, view="browse", label=None if label == EVERY else label, page=page)
    st.caption(
        f"{formats.count(len(indices), 'training images')}. Enlarge one to see its scores, or to go from it outwards."
    )
    shown = paging.of_page(indices, page, A_PAGE)
    ticks.tiles(run, cards.training(run, dataset, shown, [() for _ in shown]), "browse", 96, BARS)
    link.copy()


def keep_note(run, index: int, key: str) -> None:
    with shell.guarded():
        notes.write_note(run, index, st.session_state[key])


def outwards(run, dataset) -> None:
    last, key = paging.last(len(dataset.train_labels)), f"image-{run.id}"
    link.follow(key, link.whole("image", 0, last, 0))
    index = st.number_input(f"Training image, from 0 to {last:,}", 0, last, key=key, width=220)
    link.keep(run=run.id, view="image", image=index)
    effects = outward_effects.outward(run.manifest(), index)
    (tile,) = cards.training(run, dataset, [index], [()])
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=224):
            ticks.tiles(run, [tile], f"image-{index}", 224, BARS)
        with st.container(width=420):
            st.table([{"": name, "Value": plain(value)} for name, value in tile.details])
            key = f"note-{run.id}-{index}"
            st.text_area(
                "Note on this image",
                ticks.kept(run).of(index),
                key=key,
                max_chars=notes.LONGEST,
                height=80,
                placeholder="It is kept with the run.",
                on_change=keep_note,
                args=(run, index, key),
                **shell.acting(),
            )
            link.copy()
    st.caption(
        "Targets in the order of the score's share of the largest score that each has: nats and logits do not "
        f"compare, nor do targets. Ranks are among all {formats.count(len(dataset.train_labels), 'training images')}: "
        "rank 1 helped, or harmed, the target most."
    )
    for heading, found in (
        ("Helped most", [e for e in reversed(effects) if e.side == "helpful"]),
        ("Harmed most", [e for e in effects if e.side == "harmful"]),
    ):
        st.subheader(heading)
        if found:
            shown = [
                (e.ref, (e.ref.function, formats.arrow_score(e.score), formats.rank_of(e.rank, e.of)))
                for e in found[:TILES]
            ]
            cards.show_targets(run, dataset, shown, heading.split()[0])
        else:
            st.caption("None of the run's targets.")
    st.subheader("All targets of the run")
    st.dataframe(
        [
            {
                "Target": line(e.ref.target.title(dataset)),
                "Function": line(e.ref.function),
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


def cell_chosen(key: str, group_key: str, titles: list[str], label_key: str, classes) -> None:
    """A click on a cell does what the two choices below do."""
    if points := st.session_state[key].selection.points:
        st.session_state[group_key] = titles[int(points[0]["y"])]
        st.session_state[label_key] = classes[int(points[0]["x"])]


def another_function() -> None:
    """It may have no such group of targets."""
    st.query_params.pop("group", None)


def matrix(run, dataset) -> None:
    record = run.manifest()
    functions = [f for f in FUNCTIONS if class_matrices.groups(record, dataset, f)]
    function, key = link.one_of("function", functions, functions[0]), f"function-{run.id}"
    if functions[1:]:
        link.follow(key, function)
        function = st.segmented_control(
            "Target function", functions, required=True, key=key, on_change=another_function
        )
    groups, classes, unit = (
        class_matrices.groups(record, dataset, function),
        list(dataset.classes),
        target_function(function).unit,
    )
    titles, sums = class_matrices.class_matrix(record, dataset, function)
    group_key, label_key = f"group-{run.id}-{function}", f"of-label-{run.id}"
    link.follow(group_key, link.one_of("group", titles, titles[0]))
    link.follow(label_key, link.one_of("label", classes, classes[0]))
    chosen = titles.index(st.session_state[group_key]), classes.index(st.session_state[label_key])
    st.caption(
        "Rows: the run's targets by what they ask about. Columns: the label of the training images. A cell: the sum "
        f"of these images' scores, averaged over the row's targets, in the power of ten beside the row, {unit}. "
        f"{formats.sign_in_words(function)} Colours are shares of the row's largest. Click a cell to see its images, "
        "or choose below."
    )
    key = f"matrix-{run.id}-{function}"
    pictures.chart(
        pictures.heat(sums, titles, classes, unit, 1, chosen),
        key,
        f"Matrix of summed scores: {len(titles)} groups of targets by {len(classes)} classes of training "
        "images; the table below has the numbers, and the two choices below it choose a cell",
        lambda: cell_chosen(key, group_key, titles, label_key, classes),
    )
    with st.expander("As a table"):
        st.dataframe(formats.matrix_table(titles, classes, sums, unit), hide_index=True)
    left, right = st.columns(2)
    group = left.selectbox("Targets", titles, key=group_key, format_func=line)
    label = right.selectbox("Label of the training images", classes, key=label_key, format_func=line)
    link.keep(run=run.id, view="matrix", function=function, group=group, label=label)
    scores_N = class_matrices.group_scores(record, groups[group])
    ranking = rank(scores_N, function, OF_A_CELL, dataset.train_labels == classes.index(label))
    of = f"their mean score on {formats.count(len(groups[group]), 'targets')}" if groups[group][1:] else "their score"
    sides = ("helpful", ranking.helpful, ranking.helpful_of), ("harmful", ranking.harmful, ranking.harmful_of)
    for column, (side, indices, many) in zip(st.columns(2, gap="large"), sides, strict=True):
        with column:
            st.subheader(f"Most {side}")
            st.caption(f"{formats.count(many, 'images')} of class {plain(label)}, by {of}: {plain(group)}")
            if len(indices):
                lines = [(formats.arrow_score(s),) for s in scores_N[indices]]
                ticks.tiles(run, cards.training(run, dataset, indices, lines, first=ranking.first), side, 96, BARS)
            else:
                st.info("None on this side.", icon=":material/filter_alt_off:")
    link.copy()


def draw(run) -> None:
    record = run.manifest()
    dataset = pictures.dataset(record.config.dataset)
    if not record.score_sets.targets():
        shell.no_scores(run)
        return
    link.follow("view", link.one_of("view", VIEWS, "image"))
    view = st.segmented_control(
        "View", list(VIEWS), format_func=VIEWS.get, required=True, key="view", label_visibility="collapsed"
    )
    {"image": outwards, "browse": browse, "matrix": matrix}[view](run, dataset)


with shell.page("Training images"):
    draw(shell.chosen_run(shell.runs(), "There is no run to look at yet."))
