"""Influence: the training images that helped and harmed a target most, to look at, compare and act on."""

import streamlit as st

from engine.analysis import lists, target_view
from engine.analysis import outward as outward_effects
from engine.analysis.ranking import Ranking, rank
from engine.analysis.target_view import TargetView
from engine.runs import notes
from engine.runs.scores import TargetRef
from engine.targets import TrainImage
from ui import (
    cards,
    download,
    duplicates_twin,
    export_form,
    formats,
    further_targets,
    gallery,
    link,
    list_filters,
    over_seeds,
    pictures,
    removal_curve,
    report_form,
    run_choice,
    shell,
    target_card,
    target_choice,
    ticks,
    what_if_form,
)
from ui.list_filters import Choices
from ui.run_choice import RunView
from ui.text import plain

HEADINGS = {"helps": "Most helpful", "harms": "Most harmful", "raises": "Raise it most", "lowers": "Lower it most"}
COMPARED = 12  # images of each pinned target


@st.cache_data(max_entries=64, show_spinner=False)
def ranked(
    sha256: str, row: int, function: str, k: int, among: lists.Filter, true_label, page: int, _scores_N, _labels_N
):
    """By content: a score set's name says too little, for it is used again after a deletion."""
    return rank(_scores_N, function, k, among.among(_scores_N, _labels_N, true_label), page)


# -- the address


def turn_to_the_first_page(run: RunView) -> None:
    """Another list begins with its first page. Written into the address with all else, once the page is drawn: each
    writing is one step for the browser's «back»."""
    st.session_state[f"page-{run.id}"] = 1


def keep_link(run: RunView, ref: TargetRef, choices: Choices, page: int) -> None:
    among = choices.among
    state = {
        "target": ref.key,
        "pin": list(choices.pins),
        "label": None if among.label is None else run.dataset.classes[among.label],
        "relation": among.relation,
        "side": choices.side,
        "k": choices.k,
        "size": choices.size,
        "low": among.low,
        "high": among.high,
        "page": page,
    }
    # What the address does not say, and is as if it did, would be one more step for «back».
    unsaid = [
        name
        for name, value in {**list_filters.UNSAID, "page": 1}.items()
        if state[name] == value and name not in st.query_params
    ]
    link.keep(run=run.id, **{name: value for name, value in state.items() if name not in unsaid})


# -- the lists


def say_of_self_influence(ref: TargetRef) -> None:
    """What the image's score on itself means."""
    if isinstance(ref.target, TrainImage):
        st.caption(
            f"The target is a training image: the score of train:{ref.target.index} itself is its self-influence. One "
            "far from 0 says that the model owes it to this very image, as with a rare one, or a wrong label."
        )


def turned_to(run: RunView, ref: TargetRef, choices: Choices, true_label: int | None) -> tuple[Ranking, int]:
    """Both lists as the page of them holds them that the link, or a person, asks for; and the number of that page."""
    scores_N, labels_N = run.manifest.score_sets.row(ref), run.dataset.train_labels
    content, key = run.manifest.score_sets.sha256(ref.score_set), f"page-{run.id}"

    def ranking_of(page: int) -> Ranking:
        return ranked(content, ref.row, ref.function, choices.k, choices.among, true_label, page, scores_N, labels_N)

    first = ranking_of(1)
    link.follow(key, link.whole("page", 1, first.pages, 1))
    page = st.session_state[key] = min(st.session_state[key], first.pages)
    return (first if page == 1 else ranking_of(page)), page


def draw_ranking(run: RunView, ref: TargetRef, view: TargetView, choices: Choices, ranking: Ranking) -> None:
    """The lists side by side, in one unit, and below them the choice of their page."""
    show_all_again(run, ref, choices.among)
    scores_N = run.manifest.score_sets.row(ref)
    shown = [*ranking.helpful, *ranking.harmful]
    effects = cards.Effects(scores_N, formats.Scale.of(scores_N[shown], ref.function), view)
    say_what_numbers_are(run, effects.scale)
    sides = list(list_filters.SIDES)[1:] if choices.side == "both" else [choices.side]
    for column, side in zip(st.columns(len(sides), gap="medium"), sides, strict=True):
        with column:
            draw_side(run, ref, effects, ranking, side, gallery.sizes(max(run.dataset.image_shape[:2]))[choices.size])
    if ranking.pages > 1:
        st.pagination(ranking.pages, key=f"page-{run.id}")


def say_what_numbers_are(run: RunView, scale: formats.Scale) -> None:
    """In plain words; what a score is exactly is the help's."""
    what = plain(scale.function.in_words(run.dataset.classes))
    helps, harms = (f"*{verb}*{' it' if scale.function.classes else ''}" for verb in good_and_bad(scale))
    if scale.function.method:
        st.caption(
            f"What {plain(scale.function.method)} says that each image did to the target: one that {helps} spoke for "
            f"it, one that {harms} against. Numbers: {plain(scale.unit)}.",
            help=plain(scale.function.meaning(run.dataset.classes)),
        )
        return
    up, down = ("higher", "lower") if scale.function.harmful_sign > 0 else ("lower", "higher")
    st.caption(
        f"Trained without an image that {helps}, the model would have a {up} {what} on the target; without one that "
        f"{harms}, a {down} one. Numbers: {plain(scale.unit)}.",
        help=plain(scale.function.meaning(run.dataset.classes)),
    )


def good_and_bad(scale: formats.Scale) -> tuple[str, str]:
    """What is said of the images on the helpful side, and of those on the harmful one."""
    return scale.verbs[::-1] if scale.function.harmful_sign > 0 else scale.verbs


def draw_side(run: RunView, ref: TargetRef, effects: cards.Effects, ranking: Ranking, side: str, size: int) -> None:
    indices, of = getattr(ranking, side), getattr(ranking, f"{side}_of")
    verb = good_and_bad(effects.scale)[side == "harmful"]
    st.header(HEADINGS[verb], help=f"{formats.count(of, 'images')} with these filters.")
    if not len(indices):
        st.info("No training image is left on this side with these filters.", icon=":material/filter_alt_off:")
        return
    tiles = cards.training(run, indices, leave_out=ref.key, first=ranking.first, effects=effects)
    beside = cards.beside(run, effects.view)
    ticks.tiles(run, tiles, side, size, "What it did to the run's other targets", beside=beside)


def show_all_again(run: RunView, ref: TargetRef, among: lists.Filter) -> None:
    """A button that takes the range of scores away, where there is one."""
    limits = [limit for limit in (among.low, among.high) if limit is not None]
    if limits:
        st.button(
            f"Scores {formats.Scale.of(limits, ref.function).range(among.low, among.high)} only: show all again",
            on_click=forget_range,
            args=(run,),
            icon=":material/filter_alt_off:",
        )


def forget_range(run: RunView) -> None:
    list_filters.keep_range(run, None, None)
    # Another key makes another chart, without a selection.
    st.session_state["histogram-cleared"] = f"{st.session_state.get('histogram-cleared', '')}x"
    turn_to_the_first_page(run)


def draw_histogram(run: RunView, ref: TargetRef, among: lists.Filter) -> None:
    scores_N = run.manifest.score_sets.row(ref)
    scale = formats.Scale.of(scores_N, ref.function)
    st.header("All scores")
    key = f"histogram-{run.id}-{ref.key}-{st.session_state.get('histogram-cleared', '')}"
    pictures.chart(
        pictures.histogram(scores_N, scale, among.low, among.high),
        key,
        f"Histogram of the scores of {len(scores_N)} training images",
        lambda: take_range(run, key, scale),
        ("box",),
    )
    st.caption(
        f"Drag across it to keep a range. {formats.count(len(scores_N), 'training images')}, "
        f"{plain(scale.range(float(scores_N.min()), float(scores_N.max())))}; the vertical axis is logarithmic."
    )


def take_range(run: RunView, key: str, scale: formats.Scale) -> None:
    """What was dragged over the histogram is the range of the scores; a double click takes it away."""
    boxes = st.session_state[key].selection.box
    ends = [float(f"{x * scale.one:.4g}") for x in sorted(boxes[0]["x"])] if boxes else [None, None]
    list_filters.keep_range(run, ends[0], ends[-1])
    turn_to_the_first_page(run)


def draw_pins(run: RunView, ref: TargetRef, pins: tuple[str, ...]) -> None:
    """The same training images' effects on several targets. A row of the map has the picture, and the number, of its
    image below."""
    st.header("Pinned targets side by side")
    refs = [run.targets[key] for key in dict.fromkeys([ref.key, *pins])]
    indices, matrix_MK = outward_effects.strongest(run.manifest, [one.key for one in refs], COMPARED)
    scales = [formats.Scale.of(column, one.function) for column, one in zip(matrix_MK.T, refs, strict=True)]
    told = [[scale.with_unit(score) for scale, score in zip(scales, row, strict=True)] for row in matrix_MK.tolist()]
    labels = [run.dataset.classes[label] for label in run.dataset.train_labels[indices]]
    pictures.chart(
        pictures.side_by_side(
            matrix_MK * [scale.function.harmful_sign for scale in scales],
            [f"{place}. {label}" for place, label in enumerate(labels, 1)],
            [run.titles[one.key] for one in refs],
            told,
            [pictures.image_url(run.dataset, "train", index) for index in indices.tolist()],
        ),
        "heat",
        f"Heat map of the effects of {len(labels)} training images on {len(refs)} targets; the images below carry the "
        "numbers",
    )
    st.caption(
        f"The {COMPARED} images of largest effect, either way, on each target; each row's image stands below with its "
        "number. Blue: helps (or raises); orange: harms (or lowers); each target in shares of its largest. Below each "
        f"image, in this order: {plain('; '.join(_with_units(run, refs, scales)))}."
    )
    lines = [tuple(scale.words(score) for scale, score in zip(scales, row, strict=True)) for row in matrix_MK.tolist()]
    tiles = cards.training(run, indices, lines, first=1)
    ticks.tiles(run, tiles, "pinned", 96, "What it did to the run's targets")


def _with_units(run: RunView, refs: list[TargetRef], scales: list[formats.Scale]) -> list[str]:
    return [f"{run.titles[ref.key]}, in {scale.unit}" for ref, scale in zip(refs, scales, strict=True)]


# -- what is taken away from here: the list, the link, a note


def draw_exports(run: RunView, ref: TargetRef, among: lists.Filter, true_label: int | None) -> None:
    with st.container(horizontal=True):
        # Written when it is asked for: of 60,000 images it takes a while.
        download.button(
            "List as CSV",
            lambda: formats.csv(lists.table(run.manifest, run.dataset, ref, among, true_label, ticks.read(run))),
            f"{run.id}-{formats.file_name(ref.key)}.csv",
        )
        link.copy()
        st.page_link(
            "pages/Themes.py",
            label="What they have in common, as themes",
            icon=":material/category:",
            query_params={"run": run.id, "target": ref.key},
        )


with shell.page("Influence") as panel:
    run = run_choice.chosen("There is no run to look at yet.")
    if not run.targets:
        run_choice.say_no_scores(run)
        if run.manifest.trained:
            further_targets.draw(run)
        st.stop()

    list_filters.read(run)
    ref = target_choice.by_looking(run, lambda: turn_to_the_first_page(run))
    run_choice.hold(run=run.id, target=ref.key)
    view = target_view.view(run.manifest, run.dataset, ref.target, ref.function)
    cards.target(run, view, panel)
    target_card.draw(run, view, ref.function)
    duplicates_twin.warn(run, ref.target)
    say_of_self_influence(ref)
    over_seeds.draw_link(run, ref.key)

    choices = list_filters.choose(run, view.true_label, lambda: turn_to_the_first_page(run))
    ranking, page = turned_to(run, ref, choices, view.true_label)
    keep_link(run, ref, choices, page)
    draw_ranking(run, ref, view, choices, ranking)
    cards.removal(run, run.manifest.score_sets.row(ref), ranking, ref.function, panel)

    with shell.guarded():
        draw_exports(run, ref, choices.among, view.true_label)
    report_form.draw(run, [ref])
    draw_histogram(run, ref, choices.among)
    if choices.pins:
        with shell.guarded():
            draw_pins(run, ref, choices.pins)
    with shell.guarded():
        what_if_form.draw(run, ref)
    with shell.guarded():
        removal_curve.draw(run, ref)
    further_targets.draw(run)
    export_form.draw(lambda: run, "influence")
    with shell.guarded():
        ticks.note_field(run, notes.RUN, "Note on this run", "What was found; it is kept with the run.")
    ticks.bar(run)
