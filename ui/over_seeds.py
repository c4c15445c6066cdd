"""Scores averaged over trainings that differ in their seed: which images matter in every training, and which in one."""

from collections.abc import Sequence

import streamlit as st

from engine.analysis import seeds
from engine.analysis.seeds import ForOthers, OverSeeds
from engine.errors import ReplayError
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from ui import compare_images, docs, download, formats, link, pictures, run_choice, run_names, seed_group, shell
from ui.run_choice import RunView
from ui.text import line, plain

ROWS = 200  # of the table: the largest means


@st.cache_data(max_entries=64, show_spinner="Holding the scores of each training against the others …")
def for_others(source: tuple, _records: Sequence[Manifest]) -> ForOthers | None:
    """By the content of the validations."""
    return seeds.for_others(_records)


def draw(a: RunView) -> dict:
    """The mean over run A and the other trainings of its recipe. Returns what the link says beside A."""
    records, there = choose(a)
    shown: dict = {"view": "seeds"}
    if len(records) < 2:
        none = "There is no other training of this recipe yet, with another seed and with scores."
        st.info("Choose at least one other training." if there else none, icon=":material/info:")
        seed_group.draw_form(a, opened=not there)
        return shown
    if len(records) <= there:  # a link without them means all, also those that are done later
        shown["runs"] = [record.folder.name for record in records[1:]]
    with shell.guarded():
        averaged = {each.target.key: each for each in seeds.over_seeds(records)}
        draw_what(records)
        titles = {key: line(each.target.title(a.dataset)) for key, each in averaged.items()}
        key, keys = f"mean-of-{a.id}", list(averaged)
        link.follow(key, link.one_of("target", keys, keys[0]))
        chosen = st.selectbox("Target", keys, format_func=titles.get, key=key)
        run_choice.hold(run=a.id, target=chosen)
        shown["target"] = chosen
        if lacking := len(records) - len(averaged[chosen].seeds):
            st.caption(
                f"{formats.count(lacking, 'trainings')} of them {'has' if lacking == 1 else 'have'} no scores of it."
            )
        shown |= draw_target(a, averaged[chosen])
    seed_group.draw_form(a)
    docs.show("trust.md", "Any training of the recipe", "Where this is measured")
    return shown


def choose(a: RunView) -> tuple[list[Manifest], int]:
    """A, and the other trainings that are averaged with it: those of `?runs=`, or all; and how many there are."""
    scored = [Run(shell.root(), run.id) for run in shell.all_runs() if run.scored]
    others = {record.folder.name: record for record in seeds.alike(a.manifest, scored)[1:]}
    asked = [part for part in st.query_params.get("runs", "").split(",") if part]
    for run_id in asked:
        if run_id not in others:
            with shell.guarded():  # says why it is not to be averaged, and the page goes on without it
                seeds.check_alike([a.manifest, Run.open(shell.root(), run_id).manifest()])
    if not others:
        return [a.manifest], 0
    key, options = f"averaged-{a.id}", list(others)
    link.follow(key, [run_id for run_id in asked if run_id in others] or options)
    names = run_names.labels(run for run in shell.all_runs() if run.id in others)
    if options[1:]:
        st.multiselect("Averaged with A", options, key=key, format_func=lambda run_id: names.get(run_id, run_id))
    chosen = [others[run_id] for run_id in options if run_id in st.session_state[key]]
    return [a.manifest, *chosen], len(options)


def draw_what(records: Sequence[Manifest]) -> None:
    """What is averaged, and how far that foretells a training of yet another seed."""
    numbers = ", ".join(str(record.config.recipe.seed) for record in records)
    st.markdown(
        f"**The mean of {len(records)} trainings** (seeds {numbers}) says what an image does in *any* training of this "
        "recipe; the scores of one run say what it did in that one."
    )
    source = tuple(
        (record.folder.name, *sorted(sha for name, sha in record.files.items() if name.startswith("validation/lds-")))
        for record in records
    )
    found = for_others(source, records)
    if found is not None:
        st.info(plain(seeds.in_words(found)), icon=":material/verified:")
    else:
        st.caption(
            "How far it foretells other trainings is measured once two or more of these runs are validated with the "
            "same subsets: validate this one on Trust, and repeat it again."
        )


# -- one target


def draw_target(a: RunView, of: OverSeeds) -> dict:
    """Returns what the link says."""
    shown = compare_images.draw(a, of, [f"seed {seed}" for seed in of.seeds], "trainings")
    draw_table(a, of, formats.Scale.of(of.mean_N[of.strongest(ROWS)], of.target.function))
    return shown


def draw_table(a: RunView, of: OverSeeds, scale: formats.Scale) -> None:
    st.header("All by their mean")
    images, one, s = of.strongest(ROWS), scale.one, len(of.seeds)
    number = st.column_config.NumberColumn
    st.dataframe(
        {
            "Picture": [pictures.small_url(a.dataset, "train", image) for image in images.tolist()],
            "Image": images,
            "Label": [line(a.dataset.classes[label]) for label in a.dataset.train_labels[images]],
            "Mean": of.mean_N[images] / one,
            "± error": of.error_N[images] / one,
            "Spread": of.spread_N[images] / one,
            f"Same sign (of {s})": of.same_sign_N[images],
            f"Strongest in (of {s})": of.strong_N[images],
            **{f"Seed {seed}": row[images] / one for seed, row in zip(of.seeds, of.scores_SN, strict=True)},
        },
        hide_index=True,
        column_config={
            "Picture": st.column_config.ImageColumn(width="small"),
            "Image": number(format="train:%d"),
            **{name: number(format="%.3f") for name in ("Mean", "± error", "Spread")},
            **{f"Seed {seed}": number(format="%.3f") for seed in of.seeds},
        },
        alt=f"Training images by their mean score over {s} trainings, with its spread",
    )
    st.caption(
        f"The {len(images):,} of largest mean, of {len(of.mean_N):,}; a click on a column's name sorts. In "
        f"{plain(scale.unit)}, with the score's own sign. Strongest: among the {seeds.TOP} of largest score, either "
        "sign. Spread: the standard deviation over trainings."
    )
    download.button(
        "All as CSV",
        lambda: formats.csv(seeds.table(of, a.dataset)),
        f"mean-{len(of.seeds)}-seeds-{formats.file_name(of.target.key)}.csv",
    )


def draw_link(run: RunView, target: str) -> None:
    """On pages of one training: where its question is asked of several. Nothing where there is one alone."""
    try:
        found = seed_group.members(run.folder)
    except ReplayError:
        return
    ready = sum(summary is not None and summary.scored for summary in found[1].values()) if found else 0
    if ready > 1:
        st.page_link(
            "pages/Compare_runs.py",
            label=f"These scores explain this very training: see the mean over its {ready} seeds",
            icon=":material/functions:",
            query_params={"run": run.id, "view": "seeds", "target": target},
        )
