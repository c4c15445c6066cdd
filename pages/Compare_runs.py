"""Compare runs: do the scores of two runs of one data set agree, and which images moved?"""

import streamlit as st

from engine.analysis import compare
from engine.runs.run import Run, summaries
from engine.targets import target_function
from ui import cards, formats, link, pictures, shell, ticks
from ui.text import line, plain

MOVED = 24


@st.cache_data(max_entries=1024, show_spinner="Comparing the scores …")
def agreement(source: tuple, _both: compare.Common) -> compare.Agreement:
    """By the content of both score files."""
    return compare.agreement(_both.a_N, _both.b_N)


def second_run(run) -> Run | None:
    """The run of `?other=`, or the newest of the same data."""
    record = run.manifest()
    same = {r.id: r for r in compare.of_the_same_data(record, summaries(shell.root()))}
    asked = st.query_params.get("other")
    if asked is not None and asked not in same:
        with shell.guarded():
            compare.check(record, Run.open(shell.root(), asked).manifest())  # raises what is wrong with it
    if not same:
        st.info(
            f"There is no other run of {plain(record.config.dataset)} with scores to compare {run.id} with.",
            icon=":material/info:",
        )
        st.page_link("pages/Set_up_a_run.py", label="Set up a second run", icon=":material/tune:")
        return None
    ids, key = list(same), f"other-{run.id}"
    link.follow(key, asked if asked in same else ids[0])
    chosen = st.selectbox("Compared with (B)", ids, key=key, format_func=lambda i: formats.run_label(same[i]))
    return Run.open(shell.root(), chosen)


def settings(a, b) -> None:
    st.subheader("What differs")
    records = a.manifest(), b.manifest()
    differ = compare.differences(*records)
    rows = [
        tuple(map(plain, (formats.LABELS.get(name, name), formats.setting(first), formats.setting(second))))
        for name, first, second in differ
    ]
    rows = [
        *rows,
        ("Test accuracy", *(formats.percent(r.test_accuracy) for r in records)),
        ("Rank correlation with retraining (LDS)", *(formats.figure(compare.measured_lds(r)) for r in records)),
        ("Training time", *(formats.duration(r.timings.get("train_seconds")) for r in records)),
    ]
    st.table([{"": name, f"A: {a.id}": first, f"B: {b.id}": second} for name, first, second in rows])
    if not differ:
        st.caption("Every setting is the same.")


def agree(shared: list[compare.Common], names: list[str]) -> None:
    st.subheader("Agreement of the scores")
    found = [agreement(both.source, both) for both in shared]
    rank, same = (compare.median([getattr(f, name) for f in found]) for name in ("spearman", "overlap"))
    shell.metrics(
        {
            "Rank correlation, median": formats.varied(rank),
            f"Same among the top {compare.TOP}, median": formats.percent(same),
        }
    )
    st.dataframe(
        [
            {
                "Target": line(name),
                "Rank correlation": formats.varied(formats.or_none(f.spearman), 3),
                f"Same in top {compare.TOP}": formats.percent(f.overlap),
            }
            for name, f in zip(names, found, strict=True)
        ],
        hide_index=True,
    )
    st.caption(
        f"{formats.count(len(found), 'targets')} in common. Rank correlation: Spearman's, of the scores of all "
        f"{formats.count(len(shared[0].a_N), 'training images')}. Top {compare.TOP}: the images of largest score, "
        "either sign."
    )


def one_target(a, b, dataset, both: compare.Common, name: str) -> None:
    unit, drawn = target_function(both.target.function).unit, compare.drawn(both.a_N, both.b_N)
    pictures.chart(
        pictures.against(both.a_N[drawn], both.b_N[drawn], drawn, unit),
        f"against-{both.target.key}",
        f"Scatter of the scores of {len(drawn)} training images on {name} in run A, {a.id}, and in B, {b.id}",
    )
    st.caption(
        f"Scores in {plain(unit)}. {formats.sign_in_words(both.target.function)} {formats.count(len(drawn), 'images')}: the "
        f"{compare.STRONG} strongest of either run, and {compare.OTHERS:,} at random. On the dashed line both scores "
        "are the same."
    )
    st.subheader("Images that moved most")
    st.caption(
        "By the difference of the two scores, each divided by the standard deviation of its run's scores on this "
        "target over all training images: so a run with larger scores throughout does not decide the order."
    )
    moved = compare.moved(both.a_N, both.b_N, MOVED)
    scores = [tuple(map(formats.arrow_score, pair)) for pair in zip(both.a_N[moved], both.b_N[moved], strict=True)]
    lines = [(f"A {first}", f"B {second}") for first, second in scores]
    extra = [
        [(f"Score in A, {a.id}", f"{first} {unit}"), (f"Score in B, {b.id}", f"{second} {unit}")]
        for first, second in scores
    ]
    ticks.tiles(a, cards.training(a, dataset, moved, lines, extra), "moved", 96, f"Scores on the targets of A, {a.id}")
    st.caption(f"Ticks are kept with run A, {a.id}.")


def draw(a) -> None:
    record = a.manifest()
    dataset = pictures.dataset(record.config.dataset)
    if not record.score_sets.targets():
        shell.no_scores(a)
        return
    b = second_run(a)
    if b is None:
        link.keep(run=a.id)
        return
    with shell.guarded():
        settings(a, b)
    shared = {both.target.key: both for both in compare.common(a.manifest(), b.manifest())}
    if not shared:
        st.info("The runs have no target in common. Explain the same test images in both.", icon=":material/info:")
        st.page_link(
            "pages/Test_images.py",
            label="Choose targets of the second run",
            icon=":material/grid_view:",
            query_params={"run": b.id},
        )
        link.keep(run=a.id, other=b.id)
        return
    names = {key: line(both.target.title(dataset)) for key, both in shared.items()}
    agree(list(shared.values()), list(names.values()))
    keys, chooser = list(shared), f"of-{a.id}-{b.id}"
    link.follow(chooser, link.one_of("target", keys, keys[0]))
    key = st.selectbox("Target", keys, format_func=names.get, key=chooser)
    link.keep(run=a.id, other=b.id, target=key)
    one_target(a, b, dataset, shared[key], names[key])
    link.copy()


with shell.page("Compare runs"):
    draw(shell.chosen_run(shell.runs(), "There is no run to compare yet."))
