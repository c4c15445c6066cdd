"""A target without the images that helped it most, or harmed it most, few and many, beside random ones: the form that
asks for the retrainings, and the curve that they give."""

from collections.abc import Iterable

import plotly.graph_objects as go
import streamlit as st

from engine.analysis import removal, trust
from engine.analysis.what_if import PROBABILITY
from engine.jobs.removal import Removal
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage, target_function
from ui import download, formats, imported, pictures, shell
from ui.run_choice import RunView
from ui.text import line, markup, plain

COLOURS = dict(zip(removal.SIDES, pictures.COLOURS, strict=False))  # of helpful and harmful, as everywhere
BAND = "rgba(138, 147, 156, 0.28)"  # the house's grey, to be seen through
TWICE = 2  # standard errors: about 95 of 100 cases
HEIGHT = 320


def draw(run: RunView, ref: TargetRef) -> None:
    """On the page of a target: what it would be without its first images, as it was tried, and the form for more."""
    st.header("Removal curve", help=formats.help_text("removal curve"))
    if run.manifest.method:
        imported.say(run.manifest, "a removal curve")
        return
    if isinstance(ref.target, UploadedImage):
        st.caption("A retraining is asked about images of the data set, and this one is your own.")
        return
    reports = {report["name"]: report for report in removal.reports(run.manifest, ref.key)}
    if reports:
        name = next(iter(reports))
        if len(reports) > 1:
            name = st.selectbox(
                "Removal curve of",
                list(reports),
                format_func=lambda name: _in_short(reports[name]),
                key=f"curve-{ref.key}",
            )
        draw_report(run, reports[name])
    with st.expander("Draw another curve" if reports else "Draw the curve by retraining", key="removal-form"):
        _draw_form(run, ref)


def _in_short(report: dict) -> str:
    numbers = sorted({each["left_out"] for each in report["sets"]})
    return f"{', '.join(f'{n:,}' for n in numbers)} images left out, seed {report['seed']} ({report['name']})"


def _draw_form(run: RunView, ref: TargetRef) -> None:
    """Which sets are left out, how many retrainings that is and what they take, and the button."""
    st.caption(
        "Leaves out the images that help this target most by its scores, those that harm it most, and random ones of "
        "the same number, one retraining each: how much more the chosen ones matter is what the scores are worth here."
    )
    which, how_many, drawn = st.columns([2, 2, 1], vertical_alignment="bottom")
    shares = which.pills(
        "Leave out (of the training images)",
        removal.FRACTIONS,
        selection_mode="multi",
        default=removal.FRACTIONS,
        format_func=lambda share: f"{100 * share:g} %",
        key=f"removal-shares-{run.id}",
    )
    sides = how_many.pills(
        "The most",
        removal.SIDES,
        selection_mode="multi",
        default=removal.SIDES,
        format_func=str.capitalize,
        key=f"removal-sides-{run.id}",
    )
    draws = drawn.number_input(
        "Random sets of each number",
        min_value=0,
        max_value=removal.MOST // len(removal.FRACTIONS) - len(removal.SIDES),
        value=removal.DRAWS,
        key=f"removal-draws-{run.id}",
        help="More of them make the band of chance surer.",
    )
    count, job = removal.retrainings(shares, sides, draws), Removal(ref.key, tuple(shares), tuple(sides), int(draws))
    if count:
        st.caption(formats.retraining_time(trust.retraining_seconds(run.manifest), *job.lacking(run.manifest)))
    else:
        st.caption("Choose what to leave out.")
    if st.button(
        "Draw the curve",
        icon=":material/show_chart:",
        key="removal-start",
        **shell.acting(not count, model_of=run.manifest),
    ):
        shell.submit(run.id, job)


# -- what came of it


def draw_report(run: RunView, report: dict) -> None:
    """The two curves, what they say in a sentence, the table and the CSV."""
    words = target_function(report["function"]).in_words(run.dataset.classes)
    st.markdown(plain(in_a_sentence(report, words)))
    scale = formats.Scale.of([each["actual"] for each in report["sets"]], report["function"])
    left, right = st.columns(2, gap="medium")
    with left:
        alt = f"Change of the {words} against the number of images left out: {_numbers(report, scale)}"
        pictures.chart(changes(report, scale, words), f"removal-change-{report['name']}", alt)
    with right:
        alt = "Probability of the true label against the number of images left out"
        pictures.chart(probabilities(report), f"removal-probability-{report['name']}", alt)
    st.caption(_caption(report))
    with st.expander("The numbers", key=f"removal-table-{report['name']}"):
        st.table(table(run, report, scale))
    download.button(
        "Curve as CSV",
        lambda: formats.csv(removal.table(report)),
        f"{run.id}-{formats.file_name(report['target'])}-{report['name']}.csv",
        key=f"removal-csv-{report['name']}",
    )


def in_a_sentence(report: dict, words: str) -> str:
    """«Without the 20 most helpful images the loss changed by +1.20 nats (random ones: −0.01 to +0.02).»"""
    last = [each for side in removal.SIDES for each in removal.curve(report, side)[-1:]]
    scale = formats.Scale.of([each["actual"] for each in last], report["function"])
    return " ".join(
        f"Without the {formats.count(each['left_out'], 'most ' + each['side'] + ' images')} the {words} changed by "
        f"{scale.number(each['actual'])} {scale.unit}{_by_chance(report, each['left_out'], scale)}."
        for each in last
    )


def _by_chance(report: dict, number: int, scale: formats.Scale) -> str:
    bands = [each for each in removal.band(report, "actual") if each.left_out == number]
    if not bands:
        return ""
    (band,) = bands
    ends = [scale.number(band.low)] + ([scale.number(band.high)] if band.high > band.low else [])
    return f" (random ones: {' to '.join(ends)})"


def _numbers(report: dict, scale: formats.Scale) -> str:
    return (
        "; ".join(f"{each['side']} {each['left_out']:,}: {scale.number(each['actual'])}" for each in report["sets"])
        + f" {scale.unit}"
    )


def _caption(report: dict) -> str:
    known = [each for each in report["sets"] if each["standard_error"] is not None]
    bars = (
        f"Its bars are ±{TWICE} standard errors, of the validation's random sets, wider for what goes beyond them"
        if known
        else "How far off a prediction may be is not known until the run is validated"
    )
    draws = max((each["draw"] + 1 for each in report["sets"] if each["side"] == removal.RANDOM), default=0)
    band = (
        f" The grey band: the lowest to the highest of {formats.count(draws, 'random sets')} of the same number."
        if draws
        else ""
    )
    on = plain(str(report["device_name"]))
    return f"Solid: retrained. Dotted: as the scores predict. {bars}.{band} Computed on {on}."


def table(run: RunView, report: dict, scale: formats.Scale) -> list[dict[str, str]]:
    unit = plain(scale.unit)
    return [
        {
            "Left out": f"{each['side']} {each['draw'] + 1}"
            if each["side"] == removal.RANDOM
            else f"most {each['side']}",
            "Images": f"{each['left_out']:,} ({formats.percent(each['left_out'] / report['images'])})",
            f"Predicted change ({unit})": scale.plus_minus(each["predicted"], each["standard_error"]),
            f"Retrained ({unit})": scale.number(each["actual"]),
            "Probability of the true label": formats.percent(each["after"][PROBABILITY]),
            "Prediction": _prediction(run, report, each),
        }
        for each in report["sets"]
    ]


def _prediction(run: RunView, report: dict, each: dict) -> str:
    """Of one image its label, and whether that is another now; of a set, the share of its images that have another."""
    classes = run.dataset.classes
    if each["label"] is None or each["label"] >= len(classes):
        return f"{formats.percent(each['flipped'])} changed"
    return plain(f"{classes[each['label']]}{', as before' if each['label'] == report['label'] else ', changed'}")


# -- charts


def changes(report: dict, scale: formats.Scale, words: str) -> go.Figure:
    """The target function's change against the number left out: retrained, predicted, and by chance."""
    figure = go.Figure()
    _add_band(figure, [(each.left_out, *_ends(each, scale)) for each in removal.band(report, "actual")])
    for side in removal.SIDES:
        points = removal.curve(report, side)
        numbers = [each["left_out"] for each in points]
        errors = [TWICE * (each["standard_error"] or 0.0) / scale.one for each in points]
        _add_line(figure, side, "predicted", numbers, [each["predicted"] / scale.one for each in points], errors)
        _add_line(figure, side, "retrained", numbers, [each["actual"] / scale.one for each in points])
    figure.update_yaxes(title=f"Change of the {markup(line(words))} ({markup(scale.unit)})")
    return _finished(figure, report)


def _ends(band: removal.Band, scale: formats.Scale) -> tuple[float, float, float]:
    return band.low / scale.one, band.mean / scale.one, band.high / scale.one


def probabilities(report: dict) -> go.Figure:
    """The probability of the true label after each retraining, in percent; the line is the trained model's."""
    figure = go.Figure()
    flat = [{**each, PROBABILITY: 100 * each["after"][PROBABILITY]} for each in report["sets"]]
    shown = {**report, "sets": flat}
    _add_band(figure, [(each.left_out, each.low, each.mean, each.high) for each in removal.band(shown, PROBABILITY)])
    for side in removal.SIDES:
        points = removal.curve(shown, side)
        _add_line(figure, side, "retrained", [e["left_out"] for e in points], [e[PROBABILITY] for e in points])
    figure.add_hline(y=100 * report["before"][PROBABILITY], line=dict(color=pictures.GREY, width=1, dash="dash"))
    figure.update_yaxes(title="Probability of the true label (%)")
    return _finished(figure, report)


def _add_band(figure: go.Figure, band: list[tuple[int, float, float, float]]) -> None:
    if not band:
        return
    numbers = [number for number, *_ in band]
    lows, means, highs = ([each[at] for each in band] for at in (1, 2, 3))
    figure.add_scatter(
        x=[*numbers, *reversed(numbers)],
        y=[*highs, *reversed(lows)],
        fill="toself",
        fillcolor=BAND,
        mode="lines",
        line=dict(color=BAND, width=4),  # of one draw the band is a line
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=numbers,
        y=means,
        name="random",
        mode="lines+markers",
        line=dict(color=pictures.GREY, width=1.5),
        marker=dict(size=5),
        hovertemplate="random, mean<br>%{x:,} left out<br>%{y:.3g}<extra></extra>",
    )


def _add_line(
    figure: go.Figure, side: str, what: str, numbers: list[int], values: list[float], errors: Iterable[float] = ()
) -> None:
    retrained, errors = what == "retrained", list(errors)
    figure.add_scatter(
        x=numbers,
        y=values,
        name=f"most {side}" if retrained else f"most {side}, predicted",
        mode="lines+markers",
        line=dict(color=COLOURS[side], width=2.5 if retrained else 1.5, dash="solid" if retrained else "dot"),
        marker=dict(size=8 if retrained else 5),
        error_y=dict(array=errors, thickness=1, width=3) if any(errors) else None,
        hovertemplate=f"most {side}, {what}<br>%{{x:,}} left out<br>%{{y:.3g}}<extra></extra>",
    )


def _finished(figure: go.Figure, report: dict) -> go.Figure:
    numbers = sorted({each["left_out"] for each in report["sets"]})
    figure.update_xaxes(
        title="Training images left out", type="log", tickvals=numbers, ticktext=[f"{number:,}" for number in numbers]
    )
    figure = pictures.calm(figure, HEIGHT)
    return figure.update_layout(showlegend=True, legend=dict(orientation="h", y=1.0, yanchor="bottom", x=0))


# -- on Live


def draw_done(run: RunView, reports: tuple[str, ...]) -> TargetRef | None:
    """What one job left; the target that it was about, or None where its report was deleted since."""
    sound, _ = trust.sound(run.manifest, trust.REMOVAL)
    report = next((each for each in sound if each["name"] in reports), None)
    if report is None or report["target"] not in run.targets:
        return None
    st.success(f"Trained again: {formats.count(len(report['sets']), 'sets')} left out.", icon=":material/check:")
    st.markdown(f"**{plain(run.titles[report['target']])}**")
    draw_report(run, report)
    return run.targets[report["target"]]
