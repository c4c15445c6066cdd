"""Compare runs: do the scores of two trainings agree, what does that mean, which images moved? Many in a table."""

import functools
from collections.abc import Sequence

import streamlit as st

from engine.analysis import compare, trust
from engine.runs.run import Run
from ui import (
    cards,
    compare_scores,
    compare_table,
    docs,
    formats,
    link,
    over_seeds,
    pictures,
    run_choice,
    run_names,
    shell,
    ticks,
)
from ui.run_choice import RunView
from ui.text import line, plain

MOVED = 24  # images
VIEWS = {"two": "Two runs", "many": "Many runs in a table", "seeds": "Mean over seeds"}


def in_words(differ: list[compare.Setting]) -> str:
    """Settings that differ, of A and of the other."""
    said = [
        f"{formats.LABELS.get(name, name)} {formats.setting(first)} and {formats.setting(second)}"
        for name, first, second in differ
    ]
    return "; ".join(said) or "nothing"


def names_of(*ids: str) -> dict[str, str]:
    """What a person reads of these runs, by id."""
    return run_names.labels(run for run in shell.all_runs() if run.id in ids)


# -- two runs


def choose_second(a: RunView) -> RunView | None:
    """The run of `?other=`, or the newest of the same data, else of other data."""
    others = {run.id: run for run in compare.scored(a.manifest, shell.all_runs())}
    asked = st.query_params.get("other")
    if asked is not None and asked not in others and not st.session_state.get("run changed"):
        with shell.guarded():
            compare.check(a.manifest, Run.open(shell.root(), asked).manifest())  # raises what is wrong with it
    if not others:
        st.info(f"There is no other run with scores to compare {plain(a.id)} with.", icon=":material/info:")
        st.page_link("pages/Set_up_a_run.py", label="Set up a second run", icon=":material/tune:")
        return None
    ids, key = list(others), f"other-{a.id}"
    link.follow(key, asked if asked in others else ids[0])
    run_id = st.selectbox("Run B", ids, key=key, format_func=run_names.labels(others.values()).get)
    return RunView.of(Run.open(shell.root(), run_id))


def draw_meaning(differ: list[compare.Setting], shared: compare.SharedImages, found: compare.Summed) -> None:
    """What differs, first; then how far the scores agree, and what that says."""
    st.markdown(f"**What differs, A and B:** {plain(in_words(differ))}.")
    st.info(plain(compare.meaning(differ, found, len(shared))), icon=":material/compare_arrows:")
    if shared.indices is not None:
        labels = f", of which {len(shared.relabelled):,} have another label" if len(shared.relabelled) else ""
        st.caption(
            f"The data differ: compared are the {len(shared):,} training images that have the same number and the same "
            f"pixels in both{labels}, of {shared.of[0]:,} in A and {shared.of[1]:,} in B."
        )
    if found.identical or any(name == compare.METHOD for name, *_ in differ):
        return
    st.markdown(
        "**In this training?** The scores of each run are exact for its own training, and both are right: with other "
        "first weights and another order of the images, other images of the same kind do the work. Most of them do "
        "next to nothing, so that their order says little; the strong ones agree more.  \n"
        "**In any training of the recipe?** No single run says that: *Mean over seeds*, above, averages several. "
        f"On the sample the means of two seeds and of two others agree to {compare.MEANS_RANK:.2f} in order, and in "
        f"size to {compare.MEANS_LINEAR:.2f}."
    )
    docs.show("trust.md", "Two trainings of one recipe", "Where these numbers come from")


def draw_facts(a: RunView, b: RunView, differ: list[compare.Setting]) -> None:
    st.header("Recipes and results")
    rows = [
        (label[:1].upper() + label[1:], formats.setting(first), formats.setting(second))
        for label, first, second in ((formats.LABELS.get(name, name), *values) for name, *values in differ)
    ]
    manifests = (a.manifest, b.manifest)
    verdicts = [None if m.method else trust.verdict(m) for m in manifests]  # imported scores cannot be checked here
    rows += [
        ("Test accuracy", *(formats.percent(m.test_accuracy) for m in manifests)),
        ("Agreement with retraining (LDS)", *(formats.figure(verdict and verdict.lds) for verdict in verdicts)),
        ("How far to rely on it", *("—" if verdict is None else verdict.level for verdict in verdicts)),
        ("Training time", *(formats.duration(m.timings.get("train_seconds")) for m in manifests)),
    ]
    names = names_of(a.id, b.id)
    headings = "Setting", plain(f"A: {names[a.id]}"), plain(f"B: {names[b.id]}")
    st.table([dict(zip(headings, map(plain, row), strict=True)) for row in rows])
    if not differ:
        st.caption("Every setting is the same.")


def draw_agreements(agreements: list[compare.Agreement], titles: list[str], images: int) -> None:
    st.header("Target by target")
    st.dataframe(
        [
            {
                "Target": title,
                "Rank correlation": formats.varied(formats.or_none(each.spearman), 3),
                "Linear correlation": formats.varied(formats.or_none(each.pearson), 3),
                f"Same in top {compare.TOP}": formats.percent(each.overlap),
            }
            for title, each in zip(titles, agreements, strict=True)
        ],
        hide_index=True,
    )
    st.caption(
        f"{formats.count(len(titles), 'targets')} in common. Correlations of the scores of {images:,} training images: "
        f"of their order (Spearman's) and of their sizes (Pearson's). Top {compare.TOP}: the images of largest score, "
        "either sign."
    )


def take_point(chart: str, image: str, indices: Sequence[int]) -> None:
    """A click on a point shows its image."""
    points = [point for point in st.session_state[chart].selection.points if point["curve_number"] == 0]
    if points:
        st.session_state[image] = indices[points[0]["point_index"]]


def draw_scatter(a: RunView, b: RunView, both: compare.Common, title: str) -> int | None:
    """The scores of one target in both runs, a point an image; the image of the one that was clicked, which is
    returned."""
    (scale, of_b), places = scales_of(both), compare.drawn(both.a_N, both.b_N)
    unit_b = None if both.other is None else of_b.unit
    indices, chart, image = both.numbers(places), f"against-{both.target.key}", f"image-{a.id}-{b.id}"
    link.follow(image, link.whole("image", 0, len(a.dataset.train_labels) - 1, -1))
    chosen = st.session_state[image]
    left, right = st.columns([3, 2])
    with left:
        pictures.chart(
            pictures.against(
                both.a_N[places] / scale.one, both.b_N[places] / of_b.one, indices, scale.unit, chosen, unit_b
            ),
            chart,
            f"Scatter of the scores of {len(indices)} training images on {title} in run A, {a.id}, and in B, {b.id}",
            on_select=functools.partial(take_point, chart, image, indices.tolist()),
        )
    with right:
        place = both.place_of(chosen)
        if place is not None:
            st.markdown(f"**train:{chosen}**")
            draw_images(a, b, both, [place], "point", 140)
        else:
            st.caption("Click a point to see its image here; those that moved most are listed below.")
    st.caption(
        f"{formats.sign_in_words(both.target.function)} {formats.count(len(indices), 'images')}: the {compare.STRONG} "
        f"strongest of either run, and up to {compare.OTHERS:,} at random. {say_how_drawn(both)}"
    )
    return chosen if place is not None else None


def say_how_drawn(both: compare.Common) -> str:
    if both.other is None:
        return "On the dashed line both scores are the same."
    turned = " with the sign of A's," if both.flipped else ""
    return f"Scores of B are drawn{turned} in a unit of their own, so that order compares, and size does not."


def scales_of(both: compare.Common) -> tuple[formats.Scale, formats.Scale]:
    """For all scores of a target in A, and in B: one for both where they are of one function."""
    refs = both.target, both.other or both.target
    of_a, of_b = (formats.Scale.of([most], ref.function) for most, ref in zip(both.largest, refs, strict=True))
    return of_a, of_b


def draw_images(a: RunView, b: RunView, both: compare.Common, places: Sequence[int], key: str, size: int = 96) -> None:
    """Training images with their scores in both runs, and with their label in B where it is another."""
    (scale, of_b), lines, extra = scales_of(both), [], []
    indices = both.numbers(places)
    for index, place in zip(indices.tolist(), places, strict=True):
        first, second = float(both.a_N[place]), float(both.b_N[place]) * (-1 if both.flipped else 1)
        lines.append((f"A {scale.words(first)}", f"B {of_b.words(second)}"))
        extra.append([(f"Score in A, {a.id}", scale.exact(first)), (f"Score in B, {b.id}", of_b.exact(second))])
        if a.dataset.train_labels[index] != b.dataset.train_labels[index]:
            label = line(b.dataset.classes[b.dataset.train_labels[index]])
            lines[-1] += (f"in B: {label}",)
            extra[-1].append(("Given label in B", label))
    ticks.tiles(a, cards.training(a, indices, lines, extra), key, size, f"Effects on the targets of A, {a.id}")
    units = f"In {scale.unit}" if both.other is None else f"A in {scale.unit}, B in {of_b.unit}"
    st.caption(f"{plain(units)}. Ticks are kept with run A, {plain(a.id)}.")


def draw_moved(a: RunView, b: RunView, both: compare.Common) -> None:
    st.header("Images that moved most")
    st.caption(
        "By the difference of the two scores, each divided by the standard deviation of its run's scores on this "
        "target over all training images: so a run with larger scores throughout does not decide the order."
    )
    draw_images(a, b, both, compare.moved(both.a_N, both.b_N, MOVED).tolist(), "moved")


def say_nothing_in_common(b: RunView) -> None:
    st.info("The runs have no target in common. Explain the same test images in both.", icon=":material/info:")
    st.page_link(
        "pages/Test_images.py",
        label="Choose targets of the second run",
        icon=":material/grid_view:",
        query_params={"run": b.id},
    )


def draw_two(a: RunView) -> dict:
    """Returns what the link says beside the first run."""
    b = choose_second(a)
    if b is None:
        return {}
    shown, differ = {"other": b.id}, compare.differences(a.manifest, b.manifest)
    with shell.guarded():
        shared = compare_scores.shared_of(a, b)
        commons = {both.target.key: both for both in compare.common(a.manifest, b.manifest, shared)}
        if not commons:
            st.markdown(f"**What differs, A and B:** {plain(in_words(differ))}.")
            say_nothing_in_common(b)
            return shown
        titles = {key: line(both.target.title(a.dataset)) for key, both in commons.items()}
        agreements = [compare_scores.agreement(both.source, both) for both in commons.values()]
        found = compare.summed(agreements)
        draw_meaning(differ, shared, found)
        draw_facts(a, b, differ)
        if found.identical:
            return shown
        draw_agreements(agreements, list(titles.values()), len(shared))
        keys, chooser = list(commons), f"of-{a.id}-{b.id}"
        link.follow(chooser, link.one_of("target", keys, keys[0]))
        key = st.selectbox("Target", keys, format_func=titles.get, key=chooser)
        run_choice.hold(run=a.id, target=key)
        shown["target"] = key
        shown["image"] = draw_scatter(a, b, commons[key], titles[key])
        if agreements[keys.index(key)].identical:
            st.info("Identical on this target: no image moved.", icon=":material/info:")
        else:
            draw_moved(a, b, commons[key])
    return shown


DRAW = {"two": draw_two, "many": compare_table.draw, "seeds": over_seeds.draw}


with shell.page("Compare runs"):
    a = run_choice.chosen("There is no run to compare yet.", label="Run A")
    link.follow("compare-view", link.one_of("view", VIEWS, "two"))
    view = st.segmented_control(
        "Compare", list(VIEWS), format_func=VIEWS.get, required=True, key="compare-view", label_visibility="collapsed"
    )
    if view != "many":  # which reads no scores until it is asked to
        run_choice.stop_without_scores(a)
    shown = DRAW[view](a)
    link.keep(run=a.id, **shown)
    link.copy()
    ticks.bar(a)
