"""Where in time a run's training is chaotic, and what to change: a section of *Trust*."""

import streamlit as st

from engine import files
from engine.analysis import stability, trust
from engine.analysis.stability import Place
from engine.jobs import curvature
from engine.jobs.curvature import Curvature
from engine.targets import target_function
from ui import formats, link, pictures, shell
from ui.run_choice import RunView
from ui.text import line, plain


def draw(run: RunView, target: str | None) -> dict:
    """What is known, the two charts, and the button that measures; returns the score set that is chosen, where there
    are several. `target` is the key of the one that the page looks at."""
    st.header("Smoothness in time", help=formats.help_text("adjoint"))
    reports, damage = trust.sound(run.manifest, trust.CURVATURE)
    for error in damage:
        shell.show_error_once(error.what, error.remedy)
    report = reports[0] if reports else None
    sidecar, chosen = choose_set(run)
    place = stability.place(run.manifest.steps or 0, sidecar, report)
    draw_place(run, place)
    if sidecar is not None:
        draw_norms(sidecar, target, place)
    if report is not None:
        draw_curvature(report, place)
    else:
        offer(run)
    return {"set": chosen}


def choose_set(run: RunView) -> tuple[dict | None, str | None]:
    """A score set that has norms, and its name where there are several."""
    sets = {each["name"]: each for each in run.manifest.score_sets.sidecars() if stability.ascending(each) is not None}
    if not sets:
        return None, None
    names, name = list(sets), next(iter(sets))
    if names[1:]:
        asked, key = st.query_params.get("set"), f"norms-{run.id}"  # a set of ticks travels under this name too
        link.follow(key, asked if asked in sets else name)
        name = st.selectbox("Score set", names, key=key, format_func=lambda name: line(set_title(run, sets[name])))
    return sets[name], name if names[1:] else None


def set_title(run: RunView, sidecar: dict) -> str:
    """What was asked for together, such as «loss: Test image 1 · Dress, and 7 more (loss-001)»."""
    first, *more = (target.get("title", target["name"]) for target in sidecar["targets"])
    words = target_function(sidecar["target_function"]).in_words(run.dataset.classes)
    return f"{words}: {first}{f', and {len(more):,} more' if more else ''} ({sidecar['name']})"


def draw_place(run: RunView, place: Place) -> None:
    """The sentence, and links to the form with what it proposes filled in."""
    if place.start is None:
        st.caption(place.in_words())
        return
    box, icon = (st.warning, "timeline") if place.broken else (st.success, "check")
    box(plain(place.in_words()), icon=f":material/{icon}:")
    if not place.broken or not run.manifest.has_model or files.read_only():
        return
    rate = place.rate(run.manifest.config.recipe.peak_lr)
    with st.container(horizontal=True):
        if place.window is not None:
            to_form(
                run, f"Set up a run whose weights count from step {place.window + 1:,}", "start", window=place.window
            )
        to_form(run, f"Set up a run at {place.part[1]} of the rate ({rate:g})", "speed", rate=rate)


def to_form(run: RunView, label: str, icon: str, **changes: float) -> None:
    st.page_link(
        "pages/Set_up_a_run.py",
        label=label,
        icon=f":material/{icon}:",
        query_params={"like": run.id, **{name: f"{value:g}" for name, value in changes.items()}},
    )


def draw_norms(sidecar: dict, target: str | None, place: Place) -> None:
    keys = [f"{each['name']}.{sidecar['target_function']}" for each in sidecar["targets"]]
    growths = [each.get("adjoint_growth", 0.0) for each in sidecar["targets"]]
    marked = keys.index(target) if target in keys else growths.index(max(growths))
    pictures.chart(
        pictures.norms(sidecar, marked, place),
        "norms",
        f"How much a change at a training step moves the target in the end. {place.in_words()}",
    )
    st.caption(
        "One line a target, read from right to left: how far a change of the parameters at that step moves the target "
        "in the end (the norm of the adjoint). A line that climbs by orders of magnitude is chaos. In colour: "
        f"{plain(sidecar['targets'][marked]['title'])}{'' if target in keys else ', which grows most'}."
    )


def draw_curvature(report: dict, place: Place) -> None:
    above = len(place.above)
    said = (
        f"above the limit at {above} of {len(report['steps'])} steps looked at" if report["limit"] else "no limit known"
    )
    pictures.chart(pictures.curvatures(report, place), "curvature", f"Curvature times rate by step: {said}")
    limit = (
        f"Above the dashed line, at {report['limit']:.3g}, a step throws apart what it meets: here {said}."
        if report["limit"]
        else "Of this optimizer no limit is known."
    )
    st.caption(
        f"The largest curvature of a step's batch times its learning rate. {limit} A network with kinks (ReLU) is "
        "chaotic below it, too."
    )


def offer(run: RunView) -> None:
    """The button that measures the curvature, with what it costs; not for a run whose model is elsewhere."""
    if not run.manifest.has_model or not run.manifest.trained:
        return
    seconds = curvature.seconds(run.manifest)
    cost = f"about {formats.duration(seconds)}" if seconds is not None else "about two trainings"
    with shell.guarded():
        if st.button(
            f"Measure the curvature by step ({cost})",
            icon=":material/show_chart:",
            **shell.acting(run.manifest.in_progress),
        ):
            shell.submit(run.id, Curvature())
