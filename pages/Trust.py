"""Trust: does what the scores predict happen when the model is trained again?

One sentence at the top says what is known so far, and the button beside it does what would settle it; all below is the
evidence for that sentence.
"""

import json

import streamlit as st

from engine.analysis import certainty, trust
from engine.jobs.smoothness import Smoothness
from engine.jobs.validation import Validate
from engine.targets import Target, target_function
from ui import docs, download, formats, link, paging, pictures, run_choice, seed_group, shell, smoothness
from ui.run_choice import RunView
from ui.text import line, plain

BOXES = dict(zip(trust.LEVELS, (st.success, st.warning, st.error)))
ICONS = dict(zip(trust.LEVELS, (":material/verified:", ":material/help:", ":material/dangerous:")))
SMALL_TILES = 24  # of the images that a what-if changed
A_PAGE = 10  # what-ifs


def draw_verdict(run: RunView, known: trust.Evidence, verdict: trust.Verdict) -> None:
    """What is known so far, and the button that does what is missing."""
    step = verdict.step
    more = "" if step is None else step.in_words("" if step.seconds is None else formats.duration(step.seconds))
    BOXES[verdict.level](
        f"**{verdict.level[0].upper()}{verdict.level[1:]}.** {plain(verdict.reason)} {plain(more)}",
        icon=ICONS[verdict.level],
    )
    if run.manifest.in_progress:
        st.caption("The run is being worked on, and may know more in a moment.")
        run_choice.link_to_live(run)
    with st.container(horizontal=True), shell.guarded():
        busy = run.manifest.in_progress
        if step is not None and st.button(
            formats.validate_button(step),
            type="primary",
            icon=":material/play_arrow:",
            **shell.acting(busy, model_of=run.manifest),
        ):
            shell.submit(run.id, Validate(step.subsets, (step.drop,), step.seed))
        if known.smoothness is None and st.button(
            "Measure the smoothness (4 trainings)",
            icon=":material/timeline:",
            **shell.acting(busy, model_of=run.manifest),
        ):
            shell.submit(run.id, Smoothness())
    shell.metrics(
        {
            "Agreement with retraining (LDS)": formats.figure((verdict.report or {}).get("lds_mean")),
            "Smoothness of the training": formats.figure(verdict.metasmoothness),
            "Growth of early changes": formats.times(verdict.growth),
        },
        {
            "Agreement with retraining (LDS)": formats.help_text("LDS"),
            "Smoothness of the training": formats.help_text("Metasmoothness"),
            "Growth of early changes": formats.help_text("Growth of the adjoint"),
        },
    )
    for error in known.damage:
        shell.show_error_once(error.what, error.remedy)
    docs.show("trust.md", "The verdict", "Where the limits come from")


def draw_validation_form(run: RunView, known: trust.Evidence) -> None:
    st.header("Validate by retraining")
    st.markdown(
        "Random subsets of the training images are left out, one retraining each, and what happens to every target is "
        f"compared with what the scores predict. A verdict needs {trust.DECISIVE} subsets; at least {trust.FEWEST} are "
        f"asked for, and {trust.NARROW} give a useful interval."
    )
    many, seeded, _ = st.columns([1, 1, 2])
    subsets = many.number_input(
        "Subsets", min_value=trust.FEWEST, max_value=trust.MOST, value=trust.PROPOSED, step=1, help="A retraining each."
    )
    seed = seeded.number_input("Seed", min_value=0, value=0, step=1, help="Decides which images a subset leaves out.")
    which, others = st.columns(2, vertical_alignment="bottom")
    usual = which.pills(
        "Leave out (of the training images)",
        trust.FRACTIONS,
        selection_mode="multi",
        default=trust.FRACTIONS[:1],
        format_func=lambda fraction: f"{100 * fraction:g} %",
        help="Scores are exact for small changes: 1 % is the usual test.",
    )
    typed = others.text_input("Other shares, with ; between them", placeholder="2 %; 0.03")
    fractions = [*usual, *filter(None, map(str.strip, typed.split(";")))]
    drops = ()
    with shell.guarded():  # says which share is none
        drops = tuple(dict.fromkeys(map(formats.fraction, fractions)))
        lacking = trust.lacking(known.retrained, subsets, drops, seed)
        takes = formats.retraining_time(trust.retraining_seconds(run.manifest), lacking, subsets * len(drops))
        st.caption(takes if drops else "Name at least one share.")
    with shell.guarded():
        if (
            st.button("Validate", icon=":material/play_arrow:", **shell.acting(not fractions, model_of=run.manifest))
            and drops
        ):
            shell.submit(run.id, Validate(subsets, drops, seed))


def draw_comparison(run: RunView, known: trust.Evidence, verdict: trust.Verdict) -> dict:
    """The validation of `?validation=`, or the one that the sentence speaks of; returns what of it is chosen."""
    st.header("Predicted and actual change")
    reports = {report["name"]: report for report in known.reports}
    if not reports:
        st.info("Not validated yet.", icon=":material/info:")
        return {}
    left, right = st.columns(2)
    best, key = (verdict.report or known.reports[0])["name"], f"validation-{run.id}"
    link.follow(key, link.one_of("validation", reports, best))
    name = left.selectbox(
        "Validation", list(reports), key=key, format_func=lambda name: line(validation_title(run, reports[name]))
    )
    report, key = reports[name], f"scatter-{run.id}-{name}"
    titles = {"": "All targets", **{target["key"]: line(target["title"]) for target in report["targets"]}}
    link.follow(key, link.one_of("target", list(titles)[1:], ""))
    target = right.selectbox("Target", list(titles), format_func=titles.get, key=key)
    draw_agreement(run, report, target or None)
    if target:
        run_choice.hold(run=run.id, target=target)
        st.page_link(
            "pages/Influence.py",
            label=f"Influence on {plain(titles[target])}",
            icon=":material/image_search:",
            query_params={"run": run.id, "target": target},
        )
    draw_target_table(run, report)
    draw_downloads(run, report)
    return {"validation": formats.unless(name, best), "target": target}


def function_in_words(run: RunView, report: dict) -> str:
    return target_function(report["function"]).in_words(run.dataset.classes)


def validation_title(run: RunView, report: dict) -> str:
    return (
        f"{function_in_words(run, report)}, {100 * report['drop']:g} % left out, {report['subsets']} subsets, "
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
        },
        {
            "LDS, mean": formats.help_text("LDS"),
            "95 % interval": formats.help_text("95 % interval"),
            "Slope (1 is right)": formats.help_text("Slope"),
            "R² of the prediction": formats.help_text("R²"),
            "Noise (of the variance)": formats.help_text("Noise"),
        },
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
                "Influence": link.to("Influence", run=run.id, target=target["key"]),
                "LDS": formats.varied(target["lds"], 3),
                "95 % interval": formats.between(target["low"], target["high"]),
                "Slope": formats.varied(target["slope"]),
                "R²": formats.varied(target["r2"]),
                "Noise (of the variance)": formats.percent(target["noise_share"]),
            }
            for target in report["targets"]
        ],
        hide_index=True,
        column_config={"Influence": st.column_config.LinkColumn(display_text="look", width=70)},
    )


def draw_downloads(run: RunView, report: dict) -> None:
    name = f"{run.id}-{report['name']}"
    with st.container(horizontal=True):
        download.button("Report (JSON)", json.dumps(report, indent=1), f"{name}.json")
        download.button(
            "Predicted and actual (CSV)",
            formats.csv(certainty.outcomes(run.manifest, report)),
            f"{name}.csv",
        )


def draw_what_ifs(run: RunView) -> None:
    st.header("What was tried")
    reports, damage = trust.sound(run.manifest, trust.WHAT_IF)
    for error in damage:
        shell.show_error(error.what, error.remedy)
    if not reports and not damage:
        st.caption("Nothing yet: tick training images, and check them by retraining.")
        with st.container(horizontal=True):
            for page, icon in (("Influence", "image_search"), ("Find bad labels", "label_off")):
                st.page_link(
                    f"pages/{page.replace(' ', '_')}.py",
                    label=f"Tick on {page}",
                    icon=f":material/{icon}:",
                    query_params={"run": run.id},
                )
    errors = certainty.known(run.manifest) if reports else {}
    page = paging.choose(len(reports), f"what-ifs-{run.id}-{len(reports)}", A_PAGE, name=None)
    for report in paging.of_page(reports[::-1], page, A_PAGE):  # the newest first
        with st.expander(
            f"{plain(formats.changed(report))}: test accuracy {formats.percent(report['test_accuracy_before'])} "
            f"before, {formats.percent(report['test_accuracy'])} retrained",
            icon=":material/science:",
            key=f"tried-{run.id}-{report['name']}",
            on_change="rerun",
        ) as row:
            if row.open:  # a closed row draws nothing: fifty targets are fifty tables, of each that was tried
                draw_tried(run, report, certainty.with_errors(report, run.manifest, errors))


def draw_tried(run: RunView, report: dict, targets: list[dict]) -> None:
    images = [*report["left_out"], *map(int, report["relabelled"])]
    pictures.plain_tiles(run.dataset, "train", images[:SMALL_TILES])
    for target in targets:
        title = plain(Target.parse(target["name"]).title(run.dataset))
        words = target_function(target["function"]).in_words(run.dataset.classes)
        st.markdown(f"**{title}** · {plain(words)}")
        st.markdown(plain(formats.what_if_change(target, run.dataset.classes)))
        st.table(formats.what_if_table(target, run.dataset.classes))


with shell.page("Trust"):
    run = run_choice.chosen("There is no run to judge yet.")
    run_choice.stop_without_scores(run)
    st.caption("How far to rely on this run: does what its scores predict happen when the model is trained again?")
    known = trust.evidence(run.manifest, len(run.dataset.train_labels))
    verdict, shown = trust.judge(known), {}
    with shell.guarded():
        draw_verdict(run, known, verdict)
    with shell.guarded():
        shown |= draw_comparison(run, known, verdict)
    with shell.guarded():
        draw_validation_form(run, known)
    seed_group.draw_form(run)
    with shell.guarded():
        shown |= smoothness.draw(run, shown.get("target"))
    with shell.guarded():
        draw_what_ifs(run)
    link.keep(run=run.id, **shown)
    link.copy()
