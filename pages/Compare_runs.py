"""Compare runs: do the scores of two runs of one data set agree, and which images moved?"""

import streamlit as st

from engine.analysis import compare
from engine.runs.run import Run
from engine.targets import target_function
from ui import cards, formats, link, pictures, run_choice, shell, ticks
from ui.run_choice import RunView
from ui.text import line, plain

MOVED = 24  # images


@st.cache_data(max_entries=1024, show_spinner="Comparing the scores …")
def agreement(source: tuple, _both: compare.Common) -> compare.Agreement:
    """By the content of both score files."""
    return compare.agreement(_both.a_N, _both.b_N)


def choose_second(a: RunView) -> RunView | None:
    """The run of `?other=`, or the newest of the same data."""
    others = {run.id: run for run in compare.of_the_same_data(a.manifest, shell.all_runs())}
    asked = st.query_params.get("other")
    if asked is not None and asked not in others:
        with shell.guarded():
            compare.check(a.manifest, Run.open(shell.root(), asked).manifest())  # raises what is wrong with it
    if not others:
        st.info(
            f"There is no other run of {plain(a.manifest.config.dataset)} with scores to compare {a.id} with.",
            icon=":material/info:",
        )
        st.page_link("pages/Set_up_a_run.py", label="Set up a second run", icon=":material/tune:")
        return None
    ids, key = list(others), f"other-{a.id}"
    link.follow(key, asked if asked in others else ids[0])
    run_id = st.selectbox("Compared with (B)", ids, key=key, format_func=lambda i: formats.run_label(others[i]))
    return RunView.of(Run.open(shell.root(), run_id))


def draw_differences(a: RunView, b: RunView) -> None:
    st.subheader("What differs")
    differ = compare.differences(a.manifest, b.manifest)
    rows = [
        (formats.LABELS.get(name, name), formats.setting(first), formats.setting(second))
        for name, first, second in differ
    ]
    manifests = (a.manifest, b.manifest)
    rows += [
        ("Test accuracy", *(formats.percent(m.test_accuracy) for m in manifests)),
        ("Rank correlation with retraining (LDS)", *(formats.figure(compare.measured_lds(m)) for m in manifests)),
        ("Training time", *(formats.duration(m.timings.get("train_seconds")) for m in manifests)),
    ]
    st.table([dict(zip(("", f"A: {a.id}", f"B: {b.id}"), map(plain, row), strict=True)) for row in rows])
    if not differ:
        st.caption("Every setting is the same.")


def draw_agreement(shared: list[compare.Common], titles: list[str]) -> None:
    st.subheader("Agreement of the scores")
    agreements = [agreement(both.source, both) for both in shared]
    rank, overlap = (compare.median([getattr(a, name) for a in agreements]) for name in ("spearman", "overlap"))
    shell.metrics(
        {
            "Rank correlation, median": formats.varied(rank),
            f"Same among the top {compare.TOP}, median": formats.percent(overlap),
        }
    )
    st.dataframe(
        [
            {
                "Target": title,
                "Rank correlation": formats.varied(formats.or_none(each.spearman), 3),
                f"Same in top {compare.TOP}": formats.percent(each.overlap),
            }
            for title, each in zip(titles, agreements, strict=True)
        ],
        hide_index=True,
    )
    st.caption(
        f"{formats.count(len(shared), 'targets')} in common. Rank correlation: Spearman's, of the scores of all "
        f"{formats.count(len(shared[0].a_N), 'training images')}. Top {compare.TOP}: the images of largest score, "
        "either sign."
    )


def draw_scatter(a: RunView, b: RunView, both: compare.Common, title: str) -> None:
    """The scores of one target in both runs, a point an image."""
    function = target_function(both.target.function)
    indices = compare.drawn(both.a_N, both.b_N)
    pictures.chart(
        pictures.against(both.a_N[indices], both.b_N[indices], indices, function.unit),
        f"against-{both.target.key}",
        f"Scatter of the scores of {len(indices)} training images on {title} in run A, {a.id}, and in B, {b.id}",
    )
    st.caption(
        f"Scores in {plain(function.unit)}. {formats.sign_in_words(both.target.function)} "
        f"{formats.count(len(indices), 'images')}: the {compare.STRONG} strongest of either run, and "
        f"{compare.OTHERS:,} at random. On the dashed line both scores are the same."
    )


def draw_moved(a: RunView, b: RunView, both: compare.Common) -> None:
    st.subheader("Images that moved most")
    st.caption(
        "By the difference of the two scores, each divided by the standard deviation of its run's scores on this "
        "target over all training images: so a run with larger scores throughout does not decide the order."
    )
    unit, indices = target_function(both.target.function).unit, compare.moved(both.a_N, both.b_N, MOVED)
    pairs = zip(both.a_N[indices], both.b_N[indices], strict=True)
    scores = [(formats.arrow_score(first), formats.arrow_score(second)) for first, second in pairs]
    lines = [(f"A {first}", f"B {second}") for first, second in scores]
    extra = [
        [(f"Score in A, {a.id}", f"{first} {unit}"), (f"Score in B, {b.id}", f"{second} {unit}")]
        for first, second in scores
    ]
    ticks.tiles(a, cards.training(a, indices, lines, extra), "moved", 96, f"Scores on the targets of A, {a.id}")
    st.caption(f"Ticks are kept with run A, {a.id}.")


def say_nothing_in_common(b: RunView) -> None:
    st.info("The runs have no target in common. Explain the same test images in both.", icon=":material/info:")
    st.page_link(
        "pages/Test_images.py",
        label="Choose targets of the second run",
        icon=":material/grid_view:",
        query_params={"run": b.id},
    )


with shell.page("Compare runs"):
    a = run_choice.chosen("There is no run to compare yet.")
    run_choice.stop_without_scores(a)
    b = choose_second(a)
    if b is None:
        link.keep(run=a.id)
        st.stop()
    with shell.guarded():
        draw_differences(a, b)
    shared = {both.target.key: both for both in compare.common(a.manifest, b.manifest)}
    if not shared:
        say_nothing_in_common(b)
        link.keep(run=a.id, other=b.id)
        st.stop()
    titles = {key: line(both.target.title(a.dataset)) for key, both in shared.items()}
    draw_agreement(list(shared.values()), list(titles.values()))
    keys, chooser = list(shared), f"of-{a.id}-{b.id}"
    link.follow(chooser, link.one_of("target", keys, keys[0]))
    key = st.selectbox("Target", keys, format_func=titles.get, key=chooser)
    link.keep(run=a.id, other=b.id, target=key)
    draw_scatter(a, b, shared[key], titles[key])
    draw_moved(a, b, shared[key])
    link.copy()
