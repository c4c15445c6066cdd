"""Trust: does what the scores predict happen when the model is trained again?"""

import json

import streamlit as st

from engine.analysis import lds, trust
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.targets import Target
from ui import formats, link, pictures, shell
from ui.text import line, plain

BOXES = dict(zip(trust.LEVELS, (st.success, st.warning, st.error)))
ICONS = dict(zip(trust.LEVELS, (":material/verified:", ":material/help:", ":material/dangerous:")))
FRACTIONS = ("0.01", "0.05", "0.1")
TILES = 24


def judged(run) -> None:
    verdict = trust.verdict(run.manifest())
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


def validate(run) -> None:
    st.subheader("Validate by retraining")
    st.markdown(
        "Random subsets of the training images are left out, one retraining each, and what happens to every target is "
        "compared with what the scores predict."
    )
    many, which, seeded = st.columns([1, 2, 1])
    subsets = many.number_input(
        "Subsets", min_value=lds.FEWEST, value=32, step=1, help="One retraining each; 50 give a useful interval."
    )
    typed = which.multiselect(
        "Fractions to leave out",
        FRACTIONS,
        default=FRACTIONS[:1],
        accept_new_options=True,
        help="Scores are exact for small changes: 0.01 is the usual test.",
    )
    seed = seeded.number_input("Seed", min_value=0, value=0, step=1, help="Decides the subsets.")
    takes = formats.retraining_time(run.manifest().timings.get("train_seconds"), subsets, len(typed))
    st.caption(
        f"This takes {takes}. Retrainings that were done before are kept." if takes else "Name at least one fraction."
    )
    with st.container(horizontal=True):
        start = st.button("Validate", type="primary", icon=":material/play_arrow:", **shell.acting(disabled=not typed))
        measure = st.button("Measure the smoothness (four trainings)", icon=":material/timeline:", **shell.acting())
    started = False
    with shell.guarded():
        if start:
            drops = tuple(dict.fromkeys(formats.fraction(text) for text in typed))
            shell.manager().submit(run.id, Validate(subsets, drops, seed))
            started = True
        if measure:
            shell.manager().submit(run.id, Smoothness())
            started = True
    if started:
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def compared(run) -> None:
    st.subheader("Predicted and actual change")
    reports = {r["name"]: r for r in trust.reports(run.manifest())}
    if not reports:
        st.info("Not validated yet.", icon=":material/info:")
        return
    left, right = st.columns(2)
    names = {
        name: line(f"{r['function']}, {formats.percent(r['drop'])} left out, {r['subsets']} subsets, seed {r['seed']}")
        for name, r in reports.items()
    }
    report = reports[left.selectbox("Validation", list(names), format_func=names.get)]
    titles = {None: "All targets", **{t["key"]: line(t["title"]) for t in report["targets"]}}
    key = right.selectbox("Target", list(titles), format_func=titles.get, key=f"scatter-{report['name']}")
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
        pictures.agreement(report, key),
        "agreement",
        f"Scatter of predicted and actual change over {report['subsets']} retrainings, LDS "
        f"{formats.figure(report['lds_mean'])}",
    )
    st.caption(
        f"A point is one retraining without {formats.count(report['left_out'], 'images')}; on the dashed line the prediction "
        f"is exact. Noise: by how much {formats.count(report['repeats'], 'retrainings')} with unchanged weights differed. "
        f"Computed on {plain(report['device_name'])}."
    )
    if key is not None:
        st.page_link(
            "pages/Influence.py",
            label=f"Influence on {plain(titles[key])}",
            icon=":material/image_search:",
            query_params={"run": run.id, "target": key},
        )
    st.dataframe(
        [
            {
                "Target": line(t["title"]),
                "LDS": formats.varied(t["lds"], 3),
                "95 % interval": formats.between(t["low"], t["high"]),
                "Slope": formats.varied(t["slope"]),
                "R²": formats.varied(t["r2"]),
                "Noise (of the variance)": formats.percent(t["noise_share"]),
                "Influence": link.to("Influence", run=run.id, target=t["key"]),
            }
            for t in report["targets"]
        ],
        hide_index=True,
        column_config={"Influence": st.column_config.LinkColumn(display_text="look")},
    )
    with st.container(horizontal=True):
        st.download_button(
            "Report (JSON)", json.dumps(report, indent=1), f"{run.id}-{report['name']}.json", icon=":material/download:"
        )
        st.download_button(
            "Predicted and actual (CSV)",
            trust.outcomes(report).to_csv(index=False),
            f"{run.id}-{report['name']}.csv",
            icon=":material/download:",
        )


def adjoints(run) -> None:
    sets = {s["name"]: s for s in run.scores().sidecars() if "norm_steps" in s}
    if not sets:
        return
    st.subheader("The adjoint through training")
    names = list(sets)
    name = st.selectbox("Score set", names) if names[1:] else names[0]
    pictures.chart(
        pictures.norms(sets[name]), "norms", "Norm of the adjoint over the training steps, one line a target"
    )
    st.caption(
        "One line a target, read from right to left: how far a change of the parameters at that step moves the target in "
        "the end. A line that climbs by orders of magnitude is chaos."
    )


def what_ifs(run, dataset) -> None:
    found = trust.what_ifs(run.manifest())
    st.subheader("What was tried")
    if not found:
        st.caption("Nothing yet: tick training images, and check them by retraining.")
        with st.container(horizontal=True):
            st.page_link(
                "pages/Influence.py",
                label="Tick on Influence",
                icon=":material/image_search:",
                query_params={"run": run.id},
            )
            st.page_link(
                "pages/Find_bad_labels.py",
                label="Tick on Find bad labels",
                icon=":material/label_off:",
                query_params={"run": run.id},
            )
    for what in reversed(found):
        changed = [*what["left_out"], *map(int, what["relabelled"])]
        said = formats.changed(what)
        with st.expander(
            f"{plain(said)}: test accuracy {formats.percent(what['test_accuracy_before'])} before, "
            f"{formats.percent(what['test_accuracy'])} retrained",
            icon=":material/science:",
        ):
            pictures.plain_tiles(dataset.name, "train", changed[:TILES])
            for target in what["targets"]:
                title = plain(Target.parse(target["name"]).title(dataset))
                st.markdown(f"**{title}** · {plain(target['function'])}")
                st.table(formats.what_if_table(target))


def draw(run) -> None:
    record = run.manifest()
    dataset = pictures.dataset(record.config.dataset)
    if not record.score_sets.targets():
        shell.no_scores(run)
        return
    for part in (judged, validate, compared, adjoints):
        with shell.guarded():
            part(run)
    with shell.guarded():
        what_ifs(run, dataset)


with shell.page("Trust"):
    draw(shell.chosen_run(shell.runs(), "There is no run to judge yet."))
