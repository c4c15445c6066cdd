"""Influence: the training images that helped and harmed a target most, to look at, compare and act on."""

import dataclasses
from dataclasses import dataclass

import streamlit as st

from engine.analysis import lists, target_view, trust
from engine.analysis import outward as outward_effects
from engine.analysis import what_if as what_ifs
from engine.analysis.ranking import rank
from engine.jobs.what_if import WhatIf
from engine.runs import notes
from engine.runs.scores import TargetRef
from engine.targets import Target, TrainImage, target_function
from ui import cards, explain, formats, link, paging, pictures, run_choice, shell, target_choice, targets_form, ticks
from ui.paging import EVERY, class_name, from_the_first
from ui.run_choice import RunView
from ui.text import line, plain

A_SIDE = (6, 12, 24, 48)  # images
SIZES = {"S": 64, "M": 96, "L": 144}  # pixels
RELATIONS = {"any": "Any", "same": "The target's", "other": "Another"}
SIDES = {"both": "Both", "helpful": "Helpful", "harmful": "Harmful"}
HEADINGS = {"helpful": "Most helpful", "harmful": "Most harmful"}
EFFECTS = {"helpful": "improved", "harmful": "worsened"}
SMALL_TILES = 32  # of the ticked images
COMPARED = 12  # images of each pinned target
PINS = 8
SUGGESTED = 24  # misclassified images that are offered as further targets


@dataclass(frozen=True)
class Choices:
    """What the filters above the lists say."""

    among: lists.Filter
    side: str  # of `SIDES`
    k: int  # images a side
    size: str  # of `SIZES`


@st.cache_data(max_entries=64, show_spinner=False)
def ranked(
    sha256: str, row: int, function: str, k: int, among: lists.Filter, true_label, page: int, _scores_N, _labels_N
):
    """By content: a score set's name says too little, for it is used again after a deletion."""
    return rank(_scores_N, function, k, among.among(_scores_N, _labels_N, true_label), page)


# -- what is looked at


def choose_target(run: RunView) -> tuple[TargetRef, list[str]]:
    """The target, and the keys of those pinned to be compared with it."""
    left, right = st.columns(2)
    ref = target_choice.chosen(run, f"target-{run.id}", place=left, on_change=from_the_first)
    pins = right.multiselect(
        "Pin targets to compare",
        list(run.targets),
        default=link.several("pin", run.targets)[:PINS],
        key=f"pins-{run.id}",
        format_func=run.titles.get,
        max_selections=PINS,
        placeholder="None pinned",
    )
    return ref, pins


def say_of_self_influence(ref: TargetRef) -> None:
    """What the image's score on itself means."""
    if isinstance(ref.target, TrainImage):
        st.caption(
            f"The target is a training image: the score of train:{ref.target.index} itself is its self-influence. One "
            "far from 0 says that the model owes it to this very image, as with a rare one, or a wrong label."
        )


def choose_filters(run: RunView, ref: TargetRef, true_label: int | None) -> Choices:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        labels = [EVERY, *run.dataset.classes]
        label = st.selectbox(
            "Label",
            labels,
            key=f"label-{run.id}",
            width=150,
            on_change=from_the_first,
            format_func=class_name,
            index=labels.index(link.one_of("label", labels, EVERY)),
        )
        relation = "any"
        if true_label is not None:
            relation = segments("Label against the target's", RELATIONS, "relation", f"relation-{run.id}-{ref.key}")
        side = segments("Sign", SIDES, "side", f"side-{run.id}")
        k = st.selectbox(
            "Images a side",
            A_SIDE,
            key="k",
            width=120,
            on_change=from_the_first,
            index=A_SIDE.index(link.one_of("k", A_SIDE, 12)),
        )
        size = st.segmented_control(
            "Tiles", list(SIZES), key="size", required=True, default=link.one_of("size", SIZES, "M")
        )
    number = paging.label_number(label, run.dataset.classes)
    return Choices(lists.Filter(number, relation, link.real("low"), link.real("high")), side, k, size)


def segments(label: str, options: dict[str, str], name: str, key: str) -> str:
    """A row of segments whose choice is the link's `name`: its first option where the link says none."""
    return st.segmented_control(
        label,
        list(options),
        format_func=options.get,
        required=True,
        key=key,
        on_change=from_the_first,
        default=link.one_of(name, options, next(iter(options))),
    )


def keep_link(run: RunView, ref: TargetRef, pins: list[str], choices: Choices, page: int) -> None:
    among = choices.among
    link.keep(
        run=run.id,
        target=ref.key,
        pin=pins,
        label=None if among.label is None else run.dataset.classes[among.label],
        relation=among.relation,
        side=choices.side,
        k=choices.k,
        size=choices.size,
        low=among.low,
        high=among.high,
        page=page,
    )


# -- the lists


def draw_ranking(run: RunView, ref: TargetRef, choices: Choices, true_label: int | None):
    """Both lists with the pages below them; returns what the page shows, and its number."""
    scores_N = run.manifest.score_sets.row(ref)
    content = run.manifest.score_sets.sha256(ref.score_set)

    def ranking_of(page: int):
        return ranked(
            content,
            ref.row,
            ref.function,
            choices.k,
            choices.among,
            true_label,
            page,
            scores_N,
            run.dataset.train_labels,
        )

    ranking = ranking_of(1)
    page = link.whole("page", 1, ranking.pages, 1)
    show_all_again(choices.among)
    place, below = st.container(), st.container()
    if ranking.pages > 1:
        key = f"page-{run.id}-{ref.key}-{choices.k}-{hash(choices.among)}"
        page = below.pagination(ranking.pages, default=page, key=key)
        ranking = ranking_of(page)
    sides = list(HEADINGS) if choices.side == "both" else [choices.side]
    with place:
        for column, side in zip(st.columns(len(sides), gap="large"), sides, strict=True):
            with column:
                draw_side(run, ref, scores_N, ranking, side, SIZES[choices.size])
    return ranking, page


def draw_side(run: RunView, ref: TargetRef, scores_N, ranking, side: str, size: int) -> None:
    indices, of = getattr(ranking, side), getattr(ranking, f"{side}_of")
    unit = target_function(ref.function).unit
    effect = f"{EFFECTS[side]} the target's {ref.function_in_words(run.dataset)}"
    st.subheader(HEADINGS[side])
    st.caption(f"Training on these {plain(effect)} most; {formats.count(of, 'images')}, scores in {plain(unit)}")
    if not len(indices):
        st.info("No training image is left on this side with these filters.", icon=":material/filter_alt_off:")
        return
    scores = [formats.arrow_score(score) for score in scores_N[indices]]
    extra = [[("Score", f"{score} {unit}"), ("Effect", f"{side}: its presence {effect}")] for score in scores]
    tiles = cards.training(run, indices, [(score,) for score in scores], extra, ref.key, ranking.first)
    ticks.tiles(run, tiles, side, size, "Scores on the run's other targets")


def show_all_again(among: lists.Filter) -> None:
    """A button that takes the range of scores away, where there is one."""
    if among.low is not None or among.high is not None:
        st.button(
            f"Scores {formats.range_of(among.low, among.high)} only: show all again",
            on_click=forget_range,
            icon=":material/filter_alt_off:",
        )


def forget_range() -> None:
    for name in ("low", "high"):
        st.query_params.pop(name, None)
    # Another key makes another chart, without a selection.
    st.session_state["histogram-cleared"] = f"{st.session_state.get('histogram-cleared', '')}x"
    from_the_first()


def draw_histogram(run: RunView, ref: TargetRef, among: lists.Filter) -> None:
    scores_N = run.manifest.score_sets.row(ref)
    st.subheader("All scores")
    key = f"histogram-{run.id}-{ref.key}-{st.session_state.get('histogram-cleared', '')}"
    pictures.chart(
        pictures.histogram(scores_N, target_function(ref.function).unit, among.low, among.high),
        key,
        f"Histogram of the scores of {len(scores_N)} training images",
        lambda: take_range(key),
        ("box",),
    )
    st.caption(
        f"Drag across it to keep a range. {formats.count(len(scores_N), 'training images')}, "
        f"{formats.score(scores_N.min())} to {formats.score(scores_N.max())}; the vertical axis is logarithmic."
    )


def take_range(key: str) -> None:
    """What was dragged over the histogram is the range of the scores; a double click takes it away."""
    boxes = st.session_state[key].selection.box
    for name, at in (("low", 0), ("high", -1)):
        st.query_params.pop(name, None)
        if boxes:
            st.query_params[name] = f"{sorted(boxes[0]['x'])[at]:.4g}"
    from_the_first()


# -- what is taken away from here: a note, the list, the link


def draw_exports(run: RunView, ref: TargetRef, among: lists.Filter, true_label: int | None) -> None:
    with st.container(horizontal=True):
        # Written when it is asked for: of 60,000 images it takes a while.
        st.download_button(
            "List as CSV",
            lambda: formats.csv(lists.table(run.manifest, run.dataset, ref, among, true_label, ticks.read(run))),
            f"{run.id}-{formats.file_name(ref.key)}.csv",
            icon=":material/download:",
        )
        link.copy()


def draw_note(run: RunView) -> None:
    key = f"note-{run.id}"
    st.text_area(
        "Note on this run",
        ticks.read(run).of(notes.RUN),
        key=key,
        max_chars=notes.LONGEST,
        height=80,
        placeholder="What was found; it is kept with the run.",
        on_change=lambda: ticks.write_note(run, notes.RUN, st.session_state[key]),
        **shell.acting(),
    )


def draw_pins(run: RunView, ref: TargetRef, pins: list[str]) -> None:
    """The same training images' scores on several targets."""
    st.subheader("Pinned targets side by side")
    keys = list(dict.fromkeys([ref.key, *pins]))
    indices, matrix = outward_effects.strongest(run.manifest, keys, COMPARED)
    rows = [f"train:{i} · {run.dataset.classes[run.dataset.train_labels[i]]}" for i in indices]
    pictures.chart(
        pictures.heat(matrix, rows, [run.titles[key] for key in keys], "(in its target's unit)", 0),
        "heat",
        f"Heat map of the scores of {len(rows)} training images on {len(keys)} targets; the images below carry "
        "the numbers",
    )
    st.caption(
        f"The {COMPARED} images of largest score, either sign, on each target. Blue: negative, orange: positive, each "
        "target in shares of its largest; the numbers are in the tooltip and with the images below, in the same order."
    )
    lines = [tuple(formats.arrow_score(score) for score in row) for row in matrix]
    ticks.tiles(run, cards.training(run, indices, lines), "pinned", 96, "Scores on the run's targets")


# -- what if?


def draw_what_if(run: RunView, ref: TargetRef) -> None:
    """The predicted change if the ticked images had not been there, and a retraining that checks it."""
    st.subheader("What if?")
    draw_tick_buttons(run, ref)
    if not (ticked := ticks.of(run)):
        st.caption(
            "Tick training images above: what would this target's loss be without them? Ticks are kept with the run."
        )
        return
    pictures.plain_tiles(run.dataset, "train", ticked[:SMALL_TILES])
    if ticked[SMALL_TILES:]:
        st.caption(f"The first {SMALL_TILES} of them.")
    left_out, relabelled = choose_change(run, ticked)
    report = retrained(run, ref, left_out, relabelled)
    if report is not None:
        outcomes = report["targets"]
    elif relabelled:
        outcomes = []
    else:
        outcomes = [dataclasses.asdict(w) for w in what_ifs.predict(run.manifest, run.dataset, ticked)]
    draw_outcomes(run, ref, outcomes)
    if relabelled:
        st.caption(
            "The scores tell what an image's presence does, not what another label would: there is no prediction, "
            "only the check."
        )
    if report is not None:
        st.caption(
            f"Retrained: test accuracy {formats.percent(report['test_accuracy_before'])} before, "
            f"{formats.percent(report['test_accuracy'])} after."
        )
    elif st.button("Check by retraining", type="primary", icon=":material/science:", **shell.acting()):
        shell.submit(run.id, WhatIf.of(left_out, relabelled))


def draw_tick_buttons(run: RunView, ref: TargetRef) -> None:
    scores_N = run.manifest.score_sets.row(ref)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        many = st.number_input(
            "Images", min_value=1, max_value=len(scores_N), value=min(50, len(scores_N)), step=10, width=140
        )
        for side, arrow in (("harmful", "upward"), ("helpful", "downward")):
            st.button(
                f"Tick the most {side}",
                icon=f":material/arrow_{arrow}:",
                on_click=lambda side=side: ticks.add(run, getattr(rank(scores_N, ref.function, many), side)),
                **shell.acting(),
            )
        st.button(
            "Clear the ticks",
            icon=":material/clear:",
            on_click=ticks.clear,
            args=(run,),
            **shell.acting(not ticks.of(run)),
        )


def choose_change(run: RunView, ticked: list[int]) -> tuple[list[int], dict[int, int]]:
    """What a retraining leaves out, or labels otherwise: label by image."""
    choices = ["Leave them out", *(line(f"Label them {name}") for name in run.dataset.classes)]
    choice = st.selectbox(f"{formats.count(len(ticked), 'images')} ticked", choices, key=f"do-{run.id}")
    if choice == choices[0]:
        return ticked, {}
    return [], dict.fromkeys(ticked, choices[1:].index(choice))


def retrained(run: RunView, ref: TargetRef, left_out: list[int], relabelled: dict[int, int]) -> dict | None:
    """The last report of this very change that has the target: one that was scored since is in none, and checking
    again gives it without training again."""
    reports = [
        report
        for report in trust.what_ifs(run.manifest)
        if report["left_out"] == left_out
        and report["relabelled"] == {str(i): c for i, c in relabelled.items()}
        and ref.key in [target["key"] for target in report["targets"]]
    ]
    return reports[-1] if reports else None


def draw_outcomes(run: RunView, ref: TargetRef, outcomes: list[dict]) -> None:
    others = [outcome for outcome in outcomes if outcome["key"] != ref.key]
    for outcome in outcomes:
        if outcome["key"] == ref.key:
            st.markdown(plain(formats.what_if_change(outcome, run.dataset.classes)))
            st.table(formats.what_if_table(outcome, run.dataset.classes))
    if others:
        with st.expander("The run's other targets"):
            for outcome in others:
                title = plain(Target.parse(outcome["name"]).title(run.dataset))
                words = target_function(outcome["function"]).in_words(run.dataset.classes)
                st.markdown(f"**{title}** · {plain(words)}")
                st.table(formats.what_if_table(outcome, run.dataset.classes))


# -- further targets


def draw_further_targets(run: RunView) -> None:
    """Scores of more targets: from the kept trajectory, or after training once more."""
    with st.expander("Explain further targets of this run", icon=":material/add:"):
        titles = suggested_targets(run)
        names = st.multiselect(
            "Targets",
            list(titles),
            format_func=lambda name: line(titles.get(name, name)),
            accept_new_options=True,
            placeholder="Choose, or type test:0-9, train:17 or confusion:coat>shirt",
            help=targets_form.HELP,
        )
        explain.choose(run, tuple(names), "further", "Replay for these targets")
        st.page_link(
            "pages/Test_images.py",
            label="Or choose them by looking, or bring an image of your own",
            icon=":material/grid_view:",
            query_params={"run": run.id},
        )


def suggested_targets(run: RunView) -> dict[str, str]:
    """Titles by name: images that the model gets wrong, and sets."""
    dataset = run.dataset
    wrong = target_view.misclassified(run.manifest, dataset)[:SUGGESTED].tolist()
    return {
        **{f"test:{i}": f"test:{i} · {dataset.classes[dataset.test_labels[i]]}, misclassified" for i in wrong},
        **{f"class:{c}": f"class:{c} · all test images of {name}" for c, name in enumerate(dataset.classes)},
        "test:all": "test:all · all test images",
    }


with shell.page("Influence") as panel:
    run = run_choice.chosen("There is no run to look at yet.")
    if not run.targets:
        run_choice.say_no_scores(run)
        if run.manifest.trained:
            draw_further_targets(run)
        st.stop()

    ref, pins = choose_target(run)
    run_choice.hold(run=run.id, target=ref.key)
    view = target_view.view(run.manifest, run.dataset, ref.target, ref.function)
    cards.target(run, view, panel)
    st.caption(plain(target_function(ref.function).meaning(run.dataset.classes)))
    say_of_self_influence(ref)

    choices = choose_filters(run, ref, view.true_label)
    st.query_params.setdefault("page", "1")
    ranking, page = draw_ranking(run, ref, choices, view.true_label)
    draw_histogram(run, ref, choices.among)
    cards.removal(run, run.manifest.score_sets.row(ref), ranking, ref.function, panel)
    keep_link(run, ref, pins, choices, page)

    with shell.guarded():
        draw_exports(run, ref, choices.among, view.true_label)
        draw_note(run)
    if pins:
        with shell.guarded():
            draw_pins(run, ref, pins)
    with shell.guarded():
        draw_what_if(run, ref)
    draw_further_targets(run)
