"""Training images: from one of them outwards to the targets, and the influence of class on class."""

import streamlit as st

from engine import explore, influence, notes
from engine.config import TARGET_FUNCTIONS
from ui import cards, formats, link, pictures, shell, ticks

TILES = 8           # targets on either side
OF_A_CELL = 12      # images on either side of a matrix's cell
VIEWS = {"image": "One image outwards", "matrix": "Class on class"}


def keep_note(run, index: int, key: str) -> None:
    with shell.guarded():
        notes.write_note(run, index, st.session_state[key])


def outwards(run, dataset) -> None:
    n = len(dataset.train_labels)
    asked = link.whole("image", 0, explore.last(n), 0)
    index = st.number_input(f"Training image, from 0 to {formats.count(explore.last(n), 'images').split()[0]}", 0, explore.last(n),
                            value=asked, key=f"image-{run.id}-{asked}", width=220)
    link.keep(run=run.id, view="image", image=index)
    effects = explore.outward(run, index)
    tile, = cards.training(run, dataset, [index], [()])
    look, facts = st.columns([1, 2.4], gap="large")
    with look:
        ticks.tiles(run, [tile], f"image-{index}", 224, "Scores on the run's targets")
    with facts:
        st.table([{"": name, "Value": value} for name, value in tile.details])
        key = f"note-{run.id}-{index}"
        st.text_area("Note on this image", notes.read(run).of(index), key=key, max_chars=notes.LONGEST, height=80,
                     placeholder="It is kept with the run.", on_change=keep_note, args=(run, index, key), **shell.acting())
        link.copy()
    for heading, found in (("Helped most", [e for e in reversed(effects) if not e.harmful]),
                           ("Harmed most", [e for e in effects if e.harmful])):
        st.subheader(heading)
        if not found:
            st.caption("None of the run's targets.")
            continue
        shown = [(e.target.name, e.target.key, (e.target.function, formats.arrow_score(e.score), formats.rank_of(e.rank, e.of)))
                 for e in found[:TILES]]
        cards.show_targets(run, dataset, shown, heading.split()[0])
    st.subheader("All targets of the run")
    st.dataframe([{"Target": influence.title(e.target.name, dataset), "Function": e.target.function, "Score": formats.arrow_score(e.score),
                   "Unit": influence.unit(e.target.function), "Effect": "harmful" if e.harmful else "helpful",
                   "Rank on that side": f"{e.rank:,} of {e.of:,}",
                   "Influence": link.to("Influence", run=run.id, target=e.target.key)} for e in effects],
                 hide_index=True, column_config={"Influence": st.column_config.LinkColumn(display_text="look")})


def cell_chosen(key: str, titles: list[str], classes) -> None:
    """A click on a cell does what the two choices below do."""
    if points := st.session_state[key].selection.points:
        st.session_state["matrix-group"], st.session_state["matrix-label"] = titles[int(points[0]["y"])], classes[int(points[0]["x"])]


def matrix(run, dataset) -> None:
    functions = [f for f in TARGET_FUNCTIONS if explore.groups(run, dataset, f)]
    function = functions[0]
    if functions[1:]:
        function = st.segmented_control("Target function", functions, required=True,
                                        default=link.one_of("function", functions, functions[0]))
    titles, sums = explore.class_matrix(run, dataset, function)
    unit = influence.unit(function)
    st.caption(f"Rows: the run's targets by what they ask about. Columns: the label of the training images. A cell: the sum of these "
               f"images' scores, in {unit}, averaged over the row's targets. {formats.sign_in_words(function)} Click a cell to see its "
               "images, or choose below. Colours are shares of the row's largest.")
    key = f"matrix-{run.id}-{function}"
    pictures.chart(pictures.heat(sums, titles, list(dataset.classes), unit, 1, written=True), key,
                   f"Matrix of summed scores: {len(titles)} groups of targets by {len(dataset.classes)} classes of training images; "
                   "the table below has the numbers", lambda: cell_chosen(key, titles, dataset.classes), ("points",))
    with st.expander("As a table"):
        st.dataframe(formats.matrix_table(titles, dataset.classes, sums, unit), hide_index=True)
    left, right = st.columns(2)
    for name, options in (("group", titles), ("label", list(dataset.classes))):
        if st.session_state.get(f"matrix-{name}") not in options:
            st.session_state[f"matrix-{name}"] = link.one_of(name, options, options[0])
    group = left.selectbox("Targets", titles, key="matrix-group")
    label = right.selectbox("Label of the training images", dataset.classes, key="matrix-label")
    link.keep(run=run.id, view="matrix", function=function, group=group, label=label)
    scores_N = explore.group_scores(run, explore.groups(run, dataset, function)[group])
    among = dataset.train_labels == dataset.classes.index(label)
    ranking = influence.rank(scores_N, function, OF_A_CELL, among)
    for column, heading, indices, of in zip(st.columns(2, gap="large"), ("Most helpful", "Most harmful"),
                                            (ranking.helpful, ranking.harmful), (ranking.helpful_of, ranking.harmful_of), strict=True):
        with column:
            st.subheader(heading)
            st.caption(f"{formats.count(of, 'images')} of class {label}, by their mean score on «{group}»")
            if len(indices):
                lines = [(formats.arrow_score(s),) for s in scores_N[indices]]
                ticks.tiles(run, cards.training(run, dataset, indices, lines, first=ranking.first), heading.split()[1], 96,
                            "Scores on the run's targets")
            else:
                st.info("None on this side.", icon=":material/filter_alt_off:")
    link.copy()


def draw(run) -> None:
    dataset = pictures.dataset(run.config.dataset)
    if not run.targets():
        shell.no_scores(run)
        return
    view = st.segmented_control("View", list(VIEWS), format_func=VIEWS.get, required=True, default=link.one_of("view", VIEWS, "image"),
                                label_visibility="collapsed")
    (outwards if view == "image" else matrix)(run, dataset)


with shell.page("Training images"):
    draw(shell.chosen_run(shell.runs(), "There is no run to look at yet."))
