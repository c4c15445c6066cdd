"""Trust: does what the scores predict happen when the model is trained again?"""

import json

import streamlit as st

from engine.analysis import lds, trust
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.targets import Target, target_function
from ui import formats, link, pictures, run_choice, shell
from ui.run_choice import RunView
from ui.text import line, plain

BOXES = dict(zip(trust.LEVELS, (st.success, st.warning, st.error)))
ICONS = dict(zip(trust.LEVELS, (":material/verified:", ":material/help:", ":material/dangerous:")))
FRACTIONS = ("0.01", "0.05", "0.1")
SMALL_TILES = 24  # of the images that a what-if changed


def draw_verdict(run: RunView) -> None:
    verdict = trust.verdict(run.manifest)
    BOXES[verdict.level](
        f"**{verdict.level[0].upper()}{verdict.level[1:]}.** {plain(verdict.reason)}", icon=ICONS[verdict.level]
    )
    shell.metrics(
        {
            "Rank correlation with retraining (LDS)": formats.figure(verdict.lds),
            "Metasmoothness": formats.figure(verdict.metasmoothness),
            "Growth of the adjoint": formats.times(verdict.growth),
        }
    )
    st.caption(
        "LDS: 1 where the scores order what happens perfectly, 0 where they say nothing. Metasmoothness: how far the "
        "training's answer to changed weights is a straight line, from −1 to 1. Growth: of the adjoint's norm from the "
        "end of training to its start; large where training is chaotic. docs/trust.md has the limits and where they "
        "come from."
    )


def draw_validation_form(run: RunView) -> None:
    st.subheader("Validate by retraining")
    st.markdown(
        "Random subsets of the training images are left out, one retraining each, and what happens to every target is "
        "compared with what the scores predict."
    )
    many, which, seeded = st.columns([1, 2, 1])
    subsets = many.number_input(
        "Subsets", min_value=lds.FEWEST, value=32, step=1, help="One retraining each; 50 give a useful interval."
    )
    fractions = which.multiselect(
        "Fractions to leave out",
        FRACTIONS,
        default=FRACTIONS[:1],
        accept_new_options=True,
        help="Scores are exact for small changes: 0.01 is the usual test.",
    )
    seed = seeded.number_input("Seed", min_value=0, value=0, step=1, help="Decides the subsets.")
    takes = formats.retraining_time(run.manifest.timings.get("train_seconds"), subsets, len(fractions))
    st.caption(
        f"This takes {takes}. Retrainings that were done before are kept." if takes else "Name at least one fraction."
    )
    with st.container(horizontal=True):
        start = st.button(
            "Validate", type="primary", icon=":material/play_arrow:", **shell.acting(disabled=not fractions)
        )
        measure = st.button("Measure the smoothness (four trainings)", icon=":material/timeline:", **shell.acting())
    with shell.guarded():
        if start:
            drops = tuple(dict.fromkeys(map(formats.fraction, fractions)))
            shell.submit(run.id, Validate(subsets, drops, seed))
        if measure:
            shell.submit(run.id, Smoothness())


def draw_comparison(run: RunView) -> None:
    st.subheader("Predicted and actual change")
    reports = {report["name"]: report for report in trust.reports(run.manifest)}
    if not reports:
        st.info("Not validated yet.", icon=":material/info:")
        return
    left, right = st.columns(2)
    report = reports[
        left.selectbox("Validation", list(reports), format_func=lambda name: line(validation_title(run, reports[name])))
    ]
    titles = {None: "All targets", **{target["key"]: line(target["title"]) for target in report["targets"]}}
    key = right.selectbox("Target", list(titles), format_func=titles.get, key=f"scatter-{report['name']}")
    draw_agreement(run, report, key)
    if key is not None:
        st.page_link(
            "pages/Influence.py",
            label=f"Influence on {plain(titles[key])}",
            icon=":material/image_search:",
            query_params={"run": run.id, "target": key},
        )
    draw_target_table(run, report)
    draw_downloads(run, report)


def function_in_words(run: RunView, report: dict) -> str:
    return target_function(report["function"]).in_words(run.dataset.classes)


def validation_title(run: RunView, report: dict) -> str:
    return (
        f"{function_in_words(run, report)}, {formats.percent(report['drop'])} left out, {report['subsets']} subsets, "
        f"seed {report['seed']}"
    )


def draw_agreement(run: RunView, report: dict, key: str | None) -> None:
    """Figures and points of one validation, of one target or of all."""
    shell.metrics(
        {
            "LDS, mean": formats.figure(report["lds_mean"], 3),
            "95 % interval": formats.between(report["lds_mean_low"], report["lds_mean_high"]),
            "Slope (1 is right)": formats.figure(report["slope_mean"]),
            "R² of the prediction": formats.figure(report["r2_mean"]),
            "Noise (of the variance)": formats.percent(report["noise_share"]),
        }
    )
    pictures.chart(
        pictures.agreement(report, key, function_in_words(run, report)),
        "agreement",
        f"Scatter of predicted and actual change over {report['subsets']} retrainings, LDS "
        f"{formats.figure(report['lds_mean'])}",
    )
    st.caption(
        f"A point is one retraining without {formats.count(report['left_out'], 'images')}; on the dashed line the "
        f"prediction is exact. Noise: by how much {formats.count(report['repeats'], 'retrainings')} with unchanged "
        f"weights differed. Computed on {plain(report['device_name'])}."
    )


def draw_target_table(run: RunView, report: dict) -> None:
    st.dataframe(
        [
            {
                "Target": line(target["title"]),
                "LDS": formats.varied(target["lds"], 3),
                "95 % interval": formats.between(target["low"], target["high"]),
                "Slope": formats.varied(target["slope"]),
                "R²": formats.varied(target["r2"]),
                "Noise (of the variance)": formats.percent(target["noise_share"]),
                "Influence": link.to("Influence", run=run.id, target=target["key"]),
            }
            for target in report["targets"]
        ],
        hide_index=True,
        column_config={"Influence": st.column_config.LinkColumn(display_text="look")},
    )


def draw_downloads(run: RunView, report: dict) -> None:
    name = f"{run.id}-{report['name']}"
    with st.container(horizontal=True):
        st.download_button("Report (JSON)", json.dumps(report, indent=1), f"{name}.json", icon=":material/download:")
        st.download_button(
            "Predicted and actual (CSV)",
            formats.csv(trust.outcomes(report)),
            f"{name}.csv",
            icon=":material/download:",
        )


def draw_adjoints(run: RunView) -> None:
    sets = {sidecar["name"]: sidecar for sidecar in run.manifest.score_sets.sidecars() if "norm_steps" in sidecar}
    if not sets:
        return
    st.subheader("The adjoint through training")
    names = list(sets)
    name = st.selectbox("Score set", names) if names[1:] else names[0]
    pictures.chart(
        pictures.norms(sets[name]), "norms", "Norm of the adjoint over the training steps, one line a target"
    )
    st.caption(
        "One line a target, read from right to left: how far a change of the parameters at that step moves the target "
        "in the end. A line that climbs by orders of magnitude is chaos."
    )


def draw_what_ifs(run: RunView) -> None:
    st.subheader("What was tried")
    reports = trust.what_ifs(run.manifest)
    if not reports:
        st.caption("Nothing yet: tick training images, and check them by retraining.")
        with st.container(horizontal=True):
            for page, icon in (("Influence", "image_search"), ("Find bad labels", "label_off")):
                st.page_link(
                    f"pages/{page.replace(' ', '_')}.py",
                    label=f"Tick on {page}",
                    icon=f":material/{icon}:",
                    query_params={"run": run.id},
                )
    for report in reversed(reports):
        with st.expander(
            f"{plain(formats.changed(report))}: test accuracy {formats.percent(report['test_accuracy_before'])} "
            f"before, {formats.percent(report['test_accuracy'])} retrained",
            icon=":material/science:",
        ):
            images = [*report["left_out"], *map(int, report["relabelled"])]
            pictures.plain_tiles(run.dataset, "train", images[:SMALL_TILES])
            for target in report["targets"]:
                title = plain(Target.parse(target["name"]).title(run.dataset))
                words = target_function(target["function"]).in_words(run.dataset.classes)
                st.markdown(f"**{title}** · {plain(words)}")
                st.table(formats.what_if_table(target, run.dataset.classes))


with shell.page("Trust"):
    run = run_choice.chosen("There is no run to judge yet.")
    run_choice.stop_without_scores(run)
    for draw in (draw_verdict, draw_validation_form, draw_comparison, draw_adjoints, draw_what_ifs):
        with shell.guarded():
            draw(run)
