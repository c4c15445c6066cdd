"""Training images: browse them by class, go from one outwards to the targets, and the influence of class on class."""

import streamlit as st

from engine.analysis import class_matrix as class_matrices
from engine.analysis import outward as outward_effects
from engine.analysis.ranking import rank
from engine.analysis.scale import verbs
from engine.targets import target_function
from ui import cards, formats, link, paging, pictures, run_choice, self_influence, shell, ticks
from ui.paging import EVERY, class_name, turn_to_the_first
from ui.run_choice import RunView
from ui.text import line, plain

TILES = 8  # targets on either side
OF_A_CELL = 12  # images on either side of a matrix's cell
BARS = "What it did to the run's targets"
VIEWS = {"image": "One image", "browse": "Browse by class", "matrix": "Whole classes"}
ORDERS = {"number": "By number", "self-influence": "Most memorised first"}
PLACE = "Place on its side"


# -- browse by class


def browse(run: RunView) -> None:
    labels, key = [EVERY, *run.dataset.classes], f"label-{run.id}"
    known = self_influence.known_of(run)
    link.follow(key, link.one_of("label", labels, EVERY))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = st.selectbox(
            "Given label", labels, key=key, width=220, on_change=turn_to_the_first, format_func=class_name
        )
        order = choose_order(run, list(ORDERS)[: 1 if known is None else None])
    indices = paging.of_class(run.dataset.train_labels, paging.label_number(label, run.dataset.classes))
    if known is not None and order != "number":  # those of which it is not known come last, by number
        indices = known.in_order(indices)
    page = paging.choose(len(indices), f"page-{run.id}-{label}")
    order = formats.unless(order, "number")
    link.keep(run=run.id, view="browse", label=formats.unless(label, EVERY), order=order, page=page)
    images, lines, unit = paging.of_page(indices, page), None, ""
    if known is not None:
        scale = self_influence.scale_of(known)
        lines = [(f"self-influence {self_influence.words(known, scale, index)}",) for index in images.tolist()]
        unit = f" Self-influence is in {plain(scale.unit)}."
    st.caption(
        f"{formats.count(len(indices), 'training images')}. Click one to see what it did to the run's targets.{unit}"
    )
    ticks.tiles(run, cards.training(run, images, lines), "browse", 96, BARS)
    link.copy()


def choose_order(run: RunView, orders: list[str]) -> str:
    """Of those that the run has what they need for."""
    order, key = link.one_of("order", orders, orders[0]), f"order-{run.id}-browse"
    if not orders[1:]:
        return order
    link.follow(key, order)
    return st.segmented_control(
        "Order", orders, format_func=ORDERS.get, required=True, key=key, on_change=turn_to_the_first
    )


# -- one image, and all targets


def outwards(run: RunView) -> None:
    images = len(run.dataset.train_labels)
    last, key = paging.last(images), f"image-{run.id}"
    link.follow(key, link.whole("image", 0, last, 0))
    index = st.number_input(f"Training image, from 0 to {last:,}", 0, last, key=key, width=220)
    link.keep(run=run.id, view="image", image=index)
    effects = outward_effects.outward(run.manifest, index)
    draw_image(run, index)
    scales = formats.scales((e.ref.function for e in effects), [e.score for e in effects])
    said = (
        f"What {plain(run.manifest.method)} says that this image did to each target."
        if run.manifest.method
        else "What training on this image did to each target: a target that it *helps* would be worse without it, one "
        "that it *harms* would be better."
    )
    st.caption(
        f"{said} The bar is its share of the largest effect that any image had on that target, and "
        f"puts the targets in order. {plain(formats.units(scales, run.dataset.classes))}",
        help=None if run.manifest.method else formats.help_text("helps"),
    )
    draw_strongest(run, "Helped most", [effect for effect in reversed(effects) if effect.side == "helpful"], scales)
    draw_strongest(run, "Harmed most", [effect for effect in effects if effect.side == "harmful"], scales)
    draw_effects(run, effects, scales)


def draw_image(run: RunView, index: int) -> None:
    """The image with its facts, and the note on it."""
    (tile,) = cards.training(run, [index])
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=224):
            ticks.tiles(run, [tile], f"image-{index}", 224, BARS)
        with st.container(width=420):
            st.table([{"Fact": name, "Value": plain(value)} for name, value in tile.details])
            ticks.note_field(run, index, "Note on this image", "It is kept with the run.")
            link.copy()


def draw_strongest(
    run: RunView, heading: str, effects: list[outward_effects.Effect], scales: dict[str, formats.Scale]
) -> None:
    """The targets of the first effects."""
    st.header(heading)
    if not effects:
        st.caption("None of the run's targets.")
        return
    cards.show_targets(
        run,
        [
            cards.TargetTile(
                effect.ref,
                (scales[effect.ref.function].words(effect.score), formats.place_of(effect.rank, effect.of)),
                (-effect.share, "harms" if effect.share > 0 else "helps"),
            )
            for effect in effects[:TILES]
        ],
        heading.split()[0],
    )


def draw_effects(run: RunView, effects: list[outward_effects.Effect], scales: dict[str, formats.Scale]) -> None:
    st.header("All targets of the run")
    explained = (PLACE,) if run.manifest.method else ("Function", "Effect", "Unit", PLACE)  # the others: of a replay
    words = {"Function": "target function", "Effect": "effect", "Unit": "unit", PLACE: "place"}
    columns = {name: st.column_config.Column(help=formats.help_text(words[name])) for name in explained}
    st.dataframe(
        [
            {
                "Target": line(e.ref.target.title(run.dataset)),
                "Function": line(e.ref.function_in_words(run.dataset)),
                "Effect": scales[e.ref.function].words(e.score),
                "Unit": scales[e.ref.function].unit,
                PLACE: formats.place_on_side(e.rank, e.of, e.side),
                "Influence": link.to("Influence", run=run.id, target=e.ref.key),
            }
            for e in effects
        ],
        hide_index=True,
        column_config={
            **columns,
            "Influence": st.column_config.LinkColumn(display_text="look"),
        },
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
    classes = list(run.dataset.classes)
    raises, lowers = verbs(function)
    good, bad = (lowers, raises) if target_function(function).harmful_sign > 0 else (raises, lowers)
    group_key, label_key = f"group-{run.id}-{function}", f"of-label-{run.id}"
    link.follow(group_key, link.one_of("group", titles, titles[0]))
    link.follow(label_key, link.one_of("label", classes, classes[0]))
    cell = titles.index(st.session_state[group_key]), classes.index(st.session_state[label_key])
    st.caption(
        "What all training images of a class (columns) did together to each group of the run's targets (rows): "
        f"positive {raises}, negative {lowers}. A cell is the sum of the images' scores, averaged over the row's "
        f"targets, in {target_function(function).short_unit} times the power of ten beside the row; colours, blue "
        f"where it {good} and orange where it {bad}, are shares of the row's largest. Click a cell to see its images, "
        "or choose below.",
        help=formats.help_text("class on class"),
    )
    key = f"matrix-{run.id}-{function}"
    if len(classes) <= pictures.MOST_CLASSES:
        pictures.chart(
            pictures.heat(sums, titles, classes, function, cell),
            key,
            f"Matrix of summed scores: {len(titles)} groups of targets by {len(classes)} classes of training "
            "images; the table below has the numbers, and the two choices below it choose a cell",
            lambda: take_cell(key, group_key, titles, label_key, classes),
        )
        with st.expander("As a table"):
            st.dataframe(formats.matrix_table(titles, classes, sums, function), hide_index=True)
    else:  # nobody sees thousands of columns
        names = [line(name) for name in classes]
        st.dataframe(formats.matrix_table_by_class(names, titles, sums.T, function), hide_index=True)
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
    by = f"their mean effect on {formats.count(len(refs), 'targets')}" if refs[1:] else "their effect"
    shown = {side: getattr(ranking, side) for side in ("helpful", "harmful")}
    scale = formats.Scale.of((score for indices in shown.values() for score in scores_N[indices]), function)
    effects = cards.Effects(scores_N, scale)
    for column, (side, indices) in zip(st.columns(2, gap="large"), shown.items(), strict=True):
        with column:
            st.header(f"Most {side}")
            st.caption(
                f"{formats.count(getattr(ranking, f'{side}_of'), 'images')} of class {plain(label)}, by {by}, in "
                f"{plain(scale.unit)}: {plain(group)}"
            )
            if len(indices):
                images = cards.training(run, indices, first=ranking.first, effects=effects)
                ticks.tiles(run, images, side, 96, BARS)
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
    ticks.bar(run)
