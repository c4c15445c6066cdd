"""Compare runs: do the scores of two runs of one data set agree, and which images moved?"""

import streamlit as st

from engine import compare, influence
from engine.runs import Run
from ui import cards, formats, link, pictures, shell, ticks

MOVED = 24


@st.cache_data(max_entries=256, show_spinner=False)
def agreement(sha_a: str, row_a: int, sha_b: str, row_b: int, key: str, _a, _b) -> compare.Agreement:
    return compare.agreement(compare.scores_of(_a, key), compare.scores_of(_b, key), key)


def agree(a, b, key: str) -> compare.Agreement:
    """By the content of both score files."""
    rows = [(run.manifest["files"][f"scores/{run.target(key).score_set}.npy"], run.target(key).row) for run in (a, b)]
    return agreement(*rows[0], *rows[1], key, a, b)


def second_run(run, candidates: list) -> Run | None:
    """The run of `?other=`, or the newest of the same data."""
    same = {r.id: r for r in compare.of_the_same_data(run, candidates)}
    asked = st.query_params.get("other")
    if asked is not None and asked not in same:
        with shell.guarded():
            if asked == run.id:
                st.warning("The link compares a run with itself; another one is shown.", icon=":material/warning:")
            else:
                compare.common_targets(run, Run.open(shell.root(), asked))      # raises what is wrong with it
    if not same:
        st.info(f"There is no other run of {run.config.dataset} with scores to compare {run.id} with.", icon=":material/info:")
        st.page_link("pages/Set_up_a_run.py", label="Set up a second run", icon=":material/tune:")
        return None
    ids = list(same)
    chosen = st.selectbox("Compared with", ids, index=ids.index(asked) if asked in same else 0, key=f"other-{run.id}-{asked}",
                          format_func=lambda i: formats.run_label(same[i]))
    return same[chosen]


def settings(a, b) -> None:
    st.subheader("What differs")
    rows = [{"": formats.LABELS.get(name, name), a.id: formats.setting(first), b.id: formats.setting(second)}
            for name, first, second in compare.differences(a, b)]
    figures = [("Test accuracy", *(formats.percent(r.manifest.get("test_accuracy")) for r in (a, b))),
               ("Rank correlation with retraining (LDS)", *(formats.figure(compare.measured_lds(r)) for r in (a, b))),
               ("Training time", *(formats.duration(r.manifest.get("timings", {}).get("train_seconds")) for r in (a, b)))]
    st.table([*rows, *({"": name, a.id: first, b.id: second} for name, first, second in figures)])
    if not rows:
        st.caption("Every setting is the same.")


def one_target(a, b, dataset, key: str, name: str) -> None:
    a_N, b_N = compare.scores_of(a, key), compare.scores_of(b, key)
    unit, drawn = influence.unit(a.target(key).function), compare.drawn(a_N, b_N)
    pictures.chart(pictures.against(a_N[drawn], b_N[drawn], drawn, a.id, b.id, unit), f"against-{key}",
                   f"Scatter of the scores of {len(drawn)} training images on {name} in run {a.id} and in run {b.id}")
    st.caption(f"{formats.count(len(drawn), 'images')}: the {compare.STRONG} strongest of either run and {compare.OTHERS:,} at random. "
               "On the dashed line both scores are the same.")
    st.subheader("Images that moved most")
    st.caption("By the difference of the two scores, each in units of its run's standard deviation over all training images. "
               f"First line: run {a.id}; second line: run {b.id}.")
    moved = compare.moved(a_N, b_N, MOVED)
    lines = [(formats.arrow_score(first), formats.arrow_score(second)) for first, second in zip(a_N[moved], b_N[moved], strict=True)]
    extra = [[(f"Score in {a.id}", f"{first} {unit}"), (f"Score in {b.id}", f"{second} {unit}")] for first, second in lines]
    ticks.tiles(a, cards.training(a, dataset, moved, lines, extra), "moved", 96, f"Scores on the targets of {a.id}")


def draw(a, candidates: list) -> None:
    dataset = pictures.dataset(a.config.dataset)
    if not a.targets():
        shell.no_scores(a)
        return
    b = second_run(a, candidates)
    if b is None:
        link.keep(run=a.id)
        return
    settings(a, b)
    keys = compare.common_targets(a, b)
    st.subheader("Agreement of the scores")
    if not keys:
        st.info("The runs have no target in common. Explain the same test images in both.", icon=":material/info:")
        st.page_link("pages/Test_images.py", label="Choose targets of the second run", icon=":material/grid_view:",
                     query_params={"run": b.id})
        link.keep(run=a.id, other=b.id)
        return
    names = {t.key: f"{influence.title(t.name, dataset)} · {t.function}" for t in a.targets()}
    found = [agree(a, b, key) for key in keys]
    st.dataframe([{"Target": names[f.key], "Rank correlation of all scores (Spearman)": formats.varied(formats.or_none(f.spearman), 3),
                   f"Same among the {compare.TOP} strongest": formats.percent(f.overlap)} for f in found], hide_index=True)
    key = st.selectbox("Target", keys, index=keys.index(link.one_of("target", keys, keys[0])), format_func=names.get, key=f"of-{a.id}-{b.id}")
    link.keep(run=a.id, other=b.id, target=key)
    one_target(a, b, dataset, key, names[key])
    link.copy()


with shell.page("Compare runs"):
    runs = shell.runs()
    draw(shell.chosen_run(runs, "There is no run to compare yet."), runs)
