"""Influence: the training images that helped and harmed a target most, to look at, compare and act on."""

import dataclasses

import streamlit as st

from engine.analysis import outward as outward_effects
from engine.analysis import target_view, trust
from engine.analysis import what_if as what_ifs
from engine.analysis.lists import Filter, table
from engine.analysis.ranking import Ranking, rank
from engine.jobs.what_if import WhatIf
from engine.runs import notes
from engine.targets import Target, target_function
from ui import cards, explain, formats, link, pictures, shell, ticks
from ui.text import line, plain

SHOWN = (6, 12, 24, 48)
SIZES = {"S": 64, "M": 96, "L": 144}
EVERY = "All classes"
RELATIONS = {"any": "Any", "same": "The target's", "other": "Another"}
SIDES = {"both": "Both", "helpful": "Helpful", "harmful": "Harmful"}
HEADINGS = {"helpful": "Most helpful", "harmful": "Most harmful"}
EFFECTS = {"helpful": "improved", "harmful": "worsened"}
TICKED = 32  # of the ticked images, as small tiles
COMPARED = 12  # images of each pinned target
PINNED = 8


@st.cache_data(max_entries=64, show_spinner=False)
def ranked(sha256: str, row: int, function: str, k: int, chosen: Filter, true_label, page: int, _scores_N, _labels_N):
    """By content: a score set's name says too little, for it is used again after a deletion."""
    return rank(_scores_N, function, k, chosen.among(_scores_N, _labels_N, true_label), page)


def from_the_first() -> None:
    """A list that is filtered anew is another list."""
    st.query_params["page"] = "1"


def drag(key: str) -> None:
    """What was dragged over the histogram is the range of the scores; a double click takes it away."""
    boxes = st.session_state[key].selection.box
    for name, at in (("low", 0), ("high", -1)):
        st.query_params.pop(name, None)
        if boxes:
            st.query_params[name] = f"{sorted(boxes[0]['x'])[at]:.4g}"
    from_the_first()


def every_score() -> None:
    for name in ("low", "high"):
        st.query_params.pop(name, None)
    # Another key makes another chart, without a selection.
    st.session_state["histogram-cleared"] = f"{st.session_state.get('histogram-cleared', '')}x"
    from_the_first()


def filters(run, dataset, target_key: str, true_label) -> tuple[Filter, str, int, int]:
    """The filter, the sides to show, images a side, and the tiles' size."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        labels = [EVERY, *dataset.classes]
        label = st.selectbox(
            "Label",
            labels,
            key=f"label-{run.id}",
            width=150,
            on_change=from_the_first,
            index=labels.index(link.one_of("label", labels, EVERY)),
        )
        relation = "any"
        if true_label is not None:
            relation = st.segmented_control(
                "Label against the target's",
                list(RELATIONS),
                format_func=RELATIONS.get,
                required=True,
                key=f"relation-{run.id}-{target_key}",
                on_change=from_the_first,
                default=link.one_of("relation", RELATIONS, "any"),
            )
        side = st.segmented_control(
            "Sign",
            list(SIDES),
            format_func=SIDES.get,
            required=True,
            key=f"side-{run.id}",
            on_change=from_the_first,
            default=link.one_of("side", SIDES, "both"),
        )
        k = st.selectbox(
            "Images a side",
            SHOWN,
            key="k",
            width=120,
            on_change=from_the_first,
            index=SHOWN.index(link.one_of("k", SHOWN, 12)),
        )
        size = st.segmented_control(
            "Tiles", list(SIZES), key="size", required=True, default=link.one_of("size", SIZES, "M")
        )
    number = None if label == EVERY else dataset.classes.index(label)
    chosen = Filter(number, relation, link.real("low"), link.real("high"))
    return chosen, side, k, SIZES[size]


def lists(run, dataset, target, scores_N, ranking, side: str, size: int) -> None:
    sides = list(HEADINGS) if side == "both" else [side]
    for column, which in zip(st.columns(len(sides), gap="large"), sides, strict=True):
        indices, of = getattr(ranking, which), getattr(ranking, f"{which}_of")
        with column:
            st.subheader(HEADINGS[which])
            unit, effect = target_function(target.function).unit, f"{EFFECTS[which]} the target's {target.function}"
            st.caption(
                f"Training on these {plain(effect)} most; {formats.count(of, 'images')}, scores in {plain(unit)}"
            )
            if len(indices):
                scores = [formats.arrow_score(score) for score in scores_N[indices]]
                extra = [
                    [("Score", f"{score} {unit}"), ("Effect", f"{which}: its presence {effect}")] for score in scores
                ]
                tiles = cards.training(
                    run, dataset, indices, [(score,) for score in scores], extra, target.key, ranking.first
                )
                ticks.tiles(run, tiles, which, size, "Scores on the run's other targets")
            else:
                st.info("No training image is left on this side with these filters.", icon=":material/filter_alt_off:")


def histogram(run, target, scores_N, chosen) -> None:
    st.subheader("All scores")
    key = f"histogram-{run.id}-{target.key}-{st.session_state.get('histogram-cleared', '')}"
    pictures.chart(
        pictures.histogram(scores_N, target_function(target.function).unit, chosen.low, chosen.high),
        key,
        f"Histogram of the scores of {len(scores_N)} training images",
        lambda: drag(key),
        ("box",),
    )
    st.caption(
        f"Drag across it to keep a range. {formats.count(len(scores_N), 'training images')}, "
        f"{formats.score(scores_N.min())} to {formats.score(scores_N.max())}; the vertical axis is logarithmic."
    )


def compare(run, dataset, target, pins: list[str], names: dict) -> None:
    """The same training images' scores on several targets."""
    st.subheader("Pinned targets side by side")
    keys = list(dict.fromkeys([target.key, *pins]))
    indices, matrix = outward_effects.strongest(run.manifest(), keys, COMPARED)
    rows = [f"train:{i} · {dataset.classes[dataset.train_labels[i]]}" for i in indices]
    pictures.chart(
        pictures.heat(matrix, rows, [names[key] for key in keys], "(in its target's unit)", 0),
        "heat",
        f"Heat map of the scores of {len(rows)} training images on {len(keys)} targets; the images below carry "
        "the numbers",
    )
    st.caption(
        f"The {COMPARED} images of largest score, either sign, on each target. Blue: negative, orange: positive, each "
        "target in shares of its largest; the numbers are in the tooltip and with the images below, in the same order."
    )
    lines = [tuple(formats.arrow_score(s) for s in row) for row in matrix]
    ticks.tiles(run, cards.training(run, dataset, indices, lines), "pinned", 96, "Scores on the run's targets")


def what_if(run, dataset, target, scores_N) -> None:
    """The predicted change if the ticked images had not been there, and a retraining that checks it."""
    st.subheader("What if?")
    ticked = ticks.of(run)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        many = st.number_input("Images", min_value=1, max_value=len(scores_N), value=50, step=10, width=140)
        st.button(
            "Tick the most harmful",
            icon=":material/arrow_upward:",
            **shell.acting(),
            on_click=lambda: ticks.add(run, rank(scores_N, target.function, many).harmful),
        )
        st.button(
            "Tick the most helpful",
            icon=":material/arrow_downward:",
            **shell.acting(),
            on_click=lambda: ticks.add(run, rank(scores_N, target.function, many).helpful),
        )
        st.button(
            "Clear the ticks", icon=":material/clear:", on_click=ticks.clear, args=(run,), **shell.acting(not ticked)
        )
    if not ticked:
        st.caption(
            "Tick training images above: what would this target's loss be without them? Ticks are kept with the run."
        )
        return
    pictures.plain_tiles(dataset.name, "train", ticked[:TICKED])
    if ticked[TICKED:]:
        st.caption(f"The first {TICKED} of them.")
    labels = ["Leave them out", *(line(f"Label them {name}") for name in dataset.classes)]
    asked = st.selectbox(f"{formats.count(len(ticked), 'images')} ticked", labels, key=f"do-{run.id}")
    relabelled = {} if asked == labels[0] else dict.fromkeys(ticked, labels[1:].index(asked))
    left_out = [] if relabelled else ticked
    # A target scored since is not in the report; checking again gives it, and trains nothing again.
    tried = [
        w
        for w in trust.what_ifs(run.manifest())
        if w["left_out"] == left_out
        and w["relabelled"] == {str(i): c for i, c in relabelled.items()}
        and target.key in [t["key"] for t in w["targets"]]
    ]
    if tried:
        shown = tried[-1]["targets"]
    elif relabelled:
        shown = []
    else:
        shown = [dataclasses.asdict(w) for w in what_ifs.predict(run.manifest(), dataset, ticked)]
    for what in shown:
        if what["key"] == target.key:
            st.markdown(plain(formats.what_if_change(what)))
            st.table(formats.what_if_table(what))
    if relabelled:
        st.caption(
            "The scores tell what an image's presence does, not what another label would: there is no prediction, "
            "only the check."
        )
    if [w for w in shown if w["key"] != target.key]:
        with st.expander("The run's other targets"):
            for what in shown:
                if what["key"] != target.key:
                    title = plain(Target.parse(what["name"]).title(dataset))
                    st.markdown(f"**{title}** · {plain(what['function'])}")
                    st.table(formats.what_if_table(what))
    if tried:
        st.caption(
            f"Retrained: test accuracy {formats.percent(tried[-1]['test_accuracy_before'])} before, "
            f"{formats.percent(tried[-1]['test_accuracy'])} after."
        )
    elif st.button("Check by retraining", type="primary", icon=":material/science:", **shell.acting()):
        shell.manager().submit(run.id, WhatIf.of(left_out, relabelled))
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def keep_note(run, key: str) -> None:
    with shell.guarded():
        notes.write_note(run, notes.RUN, st.session_state[key])


def act(run, dataset, target, chosen, true_label) -> None:
    """What is taken away from here: a note, the list, the link."""
    with st.container(horizontal=True):
        # Written when it is asked for: of 60,000 images it takes a while.
        st.download_button(
            "List as CSV",
            lambda: table(run.manifest(), dataset, target, chosen, true_label, ticks.kept(run)).to_csv(index=False),
            f"{run.id}-{target.key.replace(':', '')}.csv",
            icon=":material/download:",
        )
        link.copy()
    key = f"note-{run.id}"
    st.text_area(
        "Note on this run",
        ticks.kept(run).of(notes.RUN),
        key=key,
        max_chars=notes.LONGEST,
        height=80,
        placeholder="What was found; it is kept with the run.",
        on_change=keep_note,
        args=(run, key),
        **shell.acting(),
    )


def further_targets(run, dataset) -> None:
    """Scores of more targets: from the kept trajectory, or after training once more."""
    with st.expander("Explain further targets of this run", icon=":material/add:"):
        wrong = target_view.misclassified(run.manifest(), dataset)[:24].tolist()
        names = {f"test:{i}": f"test:{i} · {dataset.classes[dataset.test_labels[i]]}, misclassified" for i in wrong}
        names |= {f"class:{c}": f"class:{c} · all test images of {name}" for c, name in enumerate(dataset.classes)}
        names["test:all"] = "test:all · all test images"
        chosen = st.multiselect(
            "Targets",
            list(names),
            format_func=lambda t: line(names.get(t, t)),
            accept_new_options=True,
            placeholder="Choose, or type test:INDEX",
        )
        explain.choose(run, tuple(chosen), "further", "Replay for these targets")
        st.page_link(
            "pages/Test_images.py",
            label="Or choose them by looking, or bring an image of your own",
            icon=":material/grid_view:",
            query_params={"run": run.id},
        )


def without_scores(run, dataset) -> None:
    shell.no_scores(run)
    if run.manifest().trained:
        further_targets(run, dataset)


def draw(run, beside) -> None:
    record = run.manifest()
    dataset = pictures.dataset(record.config.dataset)
    targets = {t.key: t for t in record.score_sets.targets()}
    if not targets:
        without_scores(run, dataset)
        return
    names = {key: line(t.title(dataset)) for key, t in targets.items()}
    keys = list(names)
    left, right = st.columns(2)
    asked = st.query_params.get("target")
    if asked not in targets and asked is not None:
        st.warning(
            f"Run {run.id} has no scores for the target in the link; another one is shown.", icon=":material/warning:"
        )
    key = left.selectbox(
        "Target",
        keys,
        index=keys.index(asked) if asked in targets else 0,
        format_func=names.get,
        key=f"target-{run.id}",
        on_change=from_the_first,
    )
    pins = right.multiselect(
        "Pin targets to compare",
        keys,
        default=link.several("pin", keys)[:PINNED],
        key=f"pins-{run.id}",
        format_func=names.get,
        max_selections=PINNED,
        placeholder="None pinned",
    )
    target = targets[key]
    view = target_view.view(record, dataset, target.target)
    cards.target(run, dataset, view, beside)
    st.caption(target_function(target.function).meaning)

    chosen, side, k, size = filters(run, dataset, key, view.true_label)
    st.query_params.setdefault("page", "1")
    scores_N, content = (
        record.score_sets.row(target),
        record.score_sets.sha256(target.score_set),
    )

    def ranking_of(page: int) -> Ranking:
        return ranked(
            content, target.row, target.function, k, chosen, view.true_label, page, scores_N, dataset.train_labels
        )

    ranking = ranking_of(1)
    page = link.whole("page", 1, ranking.pages, 1)
    if chosen.low is not None or chosen.high is not None:
        st.button(
            f"Scores {formats.range_of(chosen.low, chosen.high)} only: show all again",
            on_click=every_score,
            icon=":material/filter_alt_off:",
        )
    drawn, below = st.container(), st.container()
    if ranking.pages > 1:
        page = below.pagination(ranking.pages, default=page, key=f"page-{run.id}-{key}-{k}-{hash(chosen)}")
        ranking = ranking_of(page)
    with drawn:
        lists(run, dataset, target, scores_N, ranking, side, size)
    histogram(run, target, scores_N, chosen)
    cards.removal(scores_N, ranking, target.function, beside)
    link.keep(
        run=run.id,
        target=key,
        pin=pins,
        label=None if chosen.label is None else dataset.classes[chosen.label],
        relation=chosen.relation,
        side=side,
        k=k,
        size=formats.key_of(SIZES, size),
        low=chosen.low,
        high=chosen.high,
        page=page,
    )
    with shell.guarded():
        act(run, dataset, target, chosen, view.true_label)
    if pins:
        with shell.guarded():
            compare(run, dataset, target, pins, names)
    with shell.guarded():
        what_if(run, dataset, target, scores_N)
    further_targets(run, dataset)


with shell.page("Influence") as beside:
    draw(shell.chosen_run(shell.runs(), "There is no run to look at yet."), beside)
