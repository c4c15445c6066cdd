"""Numbers as people read them: every one with its unit. Sizes are decimal (1 MB = 10⁶ bytes)."""

import datetime
import math
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine import model_names, space
from engine.analysis import lists
from engine.analysis.scale import Scale, exact
from engine.analysis.trust import Step
from engine.analysis.what_if import is_capped
from engine.analysis.wording import between as between  # for pages
from engine.analysis.wording import count, duration, figure, percent, signed, size
from engine.errors import ConfigError
from engine.jobs.registry import kind_named
from engine.runs.job import JobRecord
from engine.runs.run import Summary
from engine.targets import target_function
from ui import glossary
from ui.text import line, plain

if TYPE_CHECKING:
    import pandas as pd

PHASES = {
    "queued": "Queued",
    "prepare": "Prepare",
    "compile": "Compile",
    "train": "Train",
    "evaluate": "Evaluate",
    "replay": "Replay",
    "rebuild": "Rebuild",
    "retrain": "Retrain",
    "gradients": "Gradients",
    "features": "Features",
    "map": "Map",
    "digests": "Look at the images",
    "pairs": "Compare pairs",
    "export": "Export",
    "done": "Done",
}
LABELS = {
    "recipe.epochs": "Epochs",
    "recipe.batch_size": "Batch size (images)",
    "recipe.peak_lr": "Peak learning rate",
    "recipe.schedule": "Learning-rate schedule",
    "recipe.warmup": "Warm-up (fraction of steps)",
    "recipe.momentum": "Momentum",
    "recipe.nesterov": "Nesterov momentum",
    "recipe.weight_decay": "Weight decay",
    "recipe.decay_norm_bias": "Decay biases and norms too",
    "recipe.seed": "Seed",
    "recipe.optimizer": "Optimizer",
    "recipe.beta1": "β1 (Adam)",
    "recipe.beta2": "β2 (Adam)",
    "recipe.eps": "ε beside the root (Adam)",
    "recipe.eps_root": "ε inside the root (Adam)",
    "recipe.clip_norm": "Gradient norm at most (0: no limit)",
    "recipe.groups": "Parameter groups",
    "recipe.augment": "Augmentation",
    "recipe.label_smoothing": "Label smoothing",
    "recipe.class_weights": "Class weights",
    "recipe.warmup_steps": "Warm-up (steps; 0: the fraction)",
    "recipe.anneal": "One-cycle legs",
    "recipe.div_factor": "One-cycle: peak ÷ first rate",
    "recipe.final_div_factor": "One-cycle: first ÷ last rate",
    "recipe.milestones": "Steps down at (fractions of steps)",
    "recipe.gamma": "Factor at each step down",
    "recipe.power": "Power (polynomial)",
    "dataset": "Data set",
    "model": "Model",
    "width": "Width (× channels)",
    "model_options": "Options of the model",
    "initial_weights": "First weights",
    "frozen": "Not trained",
    "frozen_eval": "What is not trained rests in evaluation mode",
    "targets": "Targets",
    "target_function": "Target function",
    "replay_mode": "Replay mode",
    "segment": "Steps a segment (0: automatic)",
    "checkpoint_mb": "Checkpoints at most (MB, 0: no limit)",
    "clean_when_done": "Delete checkpoints when the scores are done",
    "targets_per_pass": "Targets a pass (0: automatic)",
    "window": "Attribution window",
    "device": "Device",
    "precision": "Precision",
    "preset": "Preset",
}
PARTS = {
    "trajectory": "Checkpoints",
    "scores": "Scores",
    "validation": "Validation",
    "exports": "Exports",
    "model": "Model",
    "features": "Features",
    "duplicates": "Duplicates",
    "logs": "Logs",
    "other": "Settings",
}
# Small files and logs still fit into what a run leaves free; its next states soon do not.
CLASSES = 30  # whose probabilities are shown
WIDEST = 36  # characters of a file's name below its tile
LOW_DISK = 5 * space.RESERVE


def memory(meters: dict[str, float | None]) -> str:
    """What the job's process holds, and what is left of the machine's."""
    told = (
        f"Memory of its process: {size(meters.get('rss'))}  \nMemory available: {size(meters.get('ram_available'))} of "
        f"{size(meters.get('ram_total'))}"
    )
    if meters.get("gpu_total"):
        told += f"  \nGPU memory in use: {size(meters.get('gpu'))} of {size(meters['gpu_total'])}"
    return told


def duration_beside(seconds: float | None, training: float | None) -> str:
    """A time, and how many times the training's that is."""
    return duration(seconds) + (f" (training × {seconds / training:.1f})" if seconds and training else "")


def age(created: str | None) -> str:
    try:
        then = datetime.datetime.fromisoformat(created).timestamp()
    except (TypeError, ValueError, OverflowError):  # no date, or one before all time zones
        return "—"
    return f"{duration(max(0.0, time.time() - then))} ago"


def clock(timestamp: float | None) -> str:
    return "—" if timestamp is None else time.strftime("%H:%M:%S", time.localtime(timestamp))


def rounded(value: float) -> str:
    """Three figures, and no exponent of E: «0.000234»."""
    return exact(float(f"{value:.3g}"))


def with_power(values) -> tuple[list[str], str]:
    """Signed values for narrow cells, as multiples of one power of ten, «+1.2», and that power, «10⁻²»."""
    largest = max(map(abs, values), default=0)
    power = math.floor(math.log10(largest)) if largest else 0
    superscript = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    texts = [signed(value / 10.0**power, 1) for value in values]
    return [text if float(text.replace("−", "-")) else "0.0" for text in texts], f"10{superscript}"


def help_text(word: str) -> str:
    """What a term means, for a widget's `help`; it ends with where the glossary has it."""
    return glossary.help_text(word)


def scales(functions: Iterable[str], scores_K: Iterable) -> dict[str, Scale]:
    """A scale for each target function, of what there is of it: `scores_K` are a number, or a row, for each of
    `functions`, which may name one several times."""
    rows: dict[str, list] = {}
    for function, scores in zip(functions, scores_K, strict=True):
        rows.setdefault(function, []).extend(np.ravel(scores))
    return {function: Scale.of(scores, function) for function, scores in rows.items()}


def units(scales: dict[str, Scale], classes: Sequence[str]) -> str:
    """«Numbers are thousandths of a nat.», or of each function its unit."""
    several = {scale.unit for scale in scales.values()}
    if len(several) == 1:
        return f"Numbers are {several.pop()}."
    of_each = (f"{scale.unit} ({line(scale.function.in_words(classes))})" for scale in scales.values())
    return f"Numbers are {', '.join(of_each)}." if several else ""


def setting(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        parts = [
            ":".join(f"{p}" for p in part if p is not None) if isinstance(part, tuple) else f"{part}" for part in value
        ]
        return ", ".join(parts[:8]) + (f", … ({len(parts)})" if parts[8:] else "") or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def or_none(value: float) -> float | None:
    """A figure as JSON has it: NaN is none."""
    return None if math.isnan(value) else value


def share(whole_percent: int) -> float:
    return whole_percent / 100


def whole_percent(share: float) -> int:
    return round(100 * share)


def unless(value, default):
    """None for the default, which a link leaves away."""
    return None if value == default else value


def megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels"


def likeliest(classes: Sequence[str], shares: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and their probabilities as they are; of more than `CLASSES`, those of the likeliest, in their order."""
    if len(classes) <= CLASSES:
        return tuple(classes), shares
    first = np.argsort(-shares, kind="stable")[:CLASSES]
    return tuple(classes[i] for i in first), shares[first]


def of_which_probabilities(classes: Sequence[str]) -> str:
    which = "each class" if len(classes) <= CLASSES else f"the {CLASSES} likeliest classes"
    return f"Probability of {which}"


def place_of(place: int | None, of: int) -> str:
    """Among the images on one side."""
    return "—" if place is None else f"place {place:,} of {of:,}"


def place_on_side(place: int | None, of: int, side: str) -> str:
    """«place 734 of the 2,718 helpful»."""
    return "—" if place is None else f"place {place:,} of the {of:,} {side}"


def sign_in_words(function: str) -> str:
    harmful, helpful = (
        ("Positive", "negative") if target_function(function).harmful_sign > 0 else ("Negative", "positive")
    )
    return f"{harmful}: harmful; {helpful}: helpful."


def matrix_table(rows: list[str], columns, matrix, function: str) -> list[dict]:
    """A row of targets each, in a unit of its own."""
    scales = [Scale.of(row, function) for row in matrix]
    return [
        {"Targets": title, "Unit": scale.unit}
        | {name: scale.number(value) for name, value in zip(columns, row, strict=True)}
        for title, scale, row in zip(rows, scales, matrix, strict=True)
    ]


def matrix_table_by_class(classes: list[str], groups: list[str], matrix, function: str) -> list[dict]:
    """A row a class; a column of targets each, in a unit of its own."""
    scales = [Scale.of(column, function) for column in matrix.T]
    heads = [f"{group} ({scale.unit})" for group, scale in zip(groups, scales, strict=True)]
    return [
        {"Class": name} | {head: scale.number(value) for head, scale, value in zip(heads, scales, row, strict=True)}
        for name, row in zip(classes, matrix, strict=True)
    ]


def key_of(mapping: dict, value) -> str:
    return next(key for key, given in mapping.items() if given == value)


def steps(numbers, of: int | None, epochs: int) -> str:
    """The steps of a training, from 1; of many, the first and the last. An image is in one of each epoch, if any."""
    if not len(numbers):
        return "none: it was in no complete batch"
    shown = (
        ", ".join(map(str, numbers))
        if len(numbers) <= 12
        else (f"{', '.join(map(str, numbers[:6]))}, … {', '.join(map(str, numbers[-3:]))} ({len(numbers)} in all)")
    )
    shown = f"{shown} of {of:,}" if of else shown
    if len(numbers) < epochs:
        shown += (
            f", in {len(numbers)} of {count(epochs, 'epochs')}: in the others it was in the last, incomplete batch, "
            "which is dropped"
        )
    return shown


def varied(value: float | None, digits: int = 2) -> str:
    """A figure of agreement, which a target whose predictions or outcomes are all the same has not."""
    return "did not vary" if value is None else figure(value, digits)


def times(value: float | None) -> str:
    return "—" if value is None else f"× {value:.3g}"


def retraining_time(seconds: float | None, lacking: int, of: int) -> str:
    """What so many retrainings take that are still to be done, `of` all that are asked for, as a sentence: from what
    one took on this run."""
    done = of - lacking
    if not lacking:
        return f"{count(of, 'retrainings')} {'was' if of == 1 else 'were all'} done before: this takes a moment."
    before = f" {done:,} of {of:,} were done before." if done else ""
    trainings = count(lacking, "retrainings")
    if seconds is None:
        return f"This takes {trainings}, each as long as the training.{before}"
    return f"This takes about {duration(seconds * lacking)}: {trainings} of {duration(seconds)}.{before}"


def validate_button(step: Step) -> str:
    """What the button does that a verdict asks for."""
    if not step.missing:
        return "Validate again"
    if step.missing == step.subsets:
        return f"Validate with {step.subsets} subsets"
    return f"Add {count(step.missing, 'retrainings')}"


def shortened(path: str) -> str:
    """The last part of a source file's path, as wide as a tile bears; the whole stands where the tile is enlarged."""
    name = path.rpartition("/")[2]
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 9]}…{name[-8:]}"


def file_name(key: str) -> str:
    """A target's key as part of a file's name."""
    return re.sub("[^A-Za-z0-9.-]+", "-", key.replace(":", ""))


def what_if_change(what_if: dict, classes: Sequence[str]) -> str:
    """One target, in sentences: the change of its function, predicted with its standard error where that is known,
    and, where it was retrained, actual; and whether the prediction goes beyond the least that there is."""
    function, predicted = what_if["function"], what_if["change"]
    words, now = target_function(function).in_words(classes), what_if["before"][function]
    actual = None if what_if["actual"] is None else what_if["actual"][function] - now
    scale = Scale.of([change for change in (predicted, actual) if change is not None], function)
    sentences = []
    if predicted is not None:
        told = scale.plus_minus(predicted, what_if.get("standard_error"))
        sentences.append(f"Predicted change of the {words}: {told} {scale.unit}.")
        if is_capped(function, now, predicted):
            sentences.append(
                f"That is more than there is: a {words} cannot fall below {target_function(function).lowest:g}, where "
                "the prediction ends."
            )
    if actual is not None:
        sentences.append(f"Retrained: {scale.number(actual)} {scale.unit}.")
    return " ".join(sentences)


def error_in_words(what_if: dict) -> str:
    """What stands behind the ± of a prediction, or that nothing does; "" where nothing is predicted."""
    if what_if["change"] is None:
        return ""
    if what_if.get("standard_error") is None:
        return "How far off this may be is not known: no validation of this run says it for this target yet."
    return (
        "± is one standard error, as the run's validation measured it: what happens is within twice that in about 95 "
        "of 100 sets. Of images that were chosen for their effect it is wider, for they go beyond what was tried."
    )


def changed(what_if: dict) -> str:
    """What a what-if did to the training images."""
    parts = [f"{count(len(what_if['left_out']), 'images')} left out"] if what_if["left_out"] else []
    if what_if["relabelled"]:
        parts.append(f"{count(len(what_if['relabelled']), 'images')} relabelled")
    return " and ".join(parts)


def what_if_table(what_if: dict, classes: Sequence[str]) -> list[dict]:
    """One target: a row a figure, with what it was, what the scores predict, what retraining gave."""
    functions = [target_function(name) for name in what_if["before"] if name != "probability"]
    least = {function.name: function.lowest for function in functions}
    words = {function.name: plain(function.in_words(classes)) for function in functions}
    kinds = (
        *(
            (
                function.name,
                f"{words[function.name][:1].upper()}{words[function.name][1:]} ({function.short_unit})",
                lambda value: figure(value, 4),
            )
            for function in functions
        ),
        ("probability", "Probability of the true label", percent),
    )
    return [
        {
            "": name,
            **{
                heading: write(_at_least(least.get(which), (what_if[when] or {}).get(which)))
                for when, heading in (("before", "Now"), ("predicted", "Predicted"), ("actual", "Retrained"))
            },
        }
        for which, name, write in kinds
    ]


def _at_least(least: float | None, value: float | None) -> float | None:
    """Reports of older versions hold predicted losses below 0."""
    return value if value is None or least is None else max(least, value)


def known_errors(first: float, chance: float) -> str:
    """Of suspects whose true labels are known: the shares of wrong labels among the first 5 %, and among all."""
    return (
        f"This data set's errors are known: {percent(first)} of the first 5 % have a wrong label; by chance it would "
        f"be {percent(chance)}."
    )


def fraction(text) -> float:
    """A fraction that a person typed: 0.01, 0,01 or 1 %."""
    cleaned = str(text).strip().replace(",", ".")
    try:
        value = float(cleaned.removesuffix("%")) / 100 if cleaned.endswith("%") else float(cleaned)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):  # «nan» and «inf» are floats too
        raise ConfigError(f"«{text}» is no fraction.", "Write it like 0.01 or 1 %.")
    return value


def phase(name: str) -> str:
    return PHASES.get(name, name.capitalize())


def stages(kind: str, now: str) -> list[str]:
    """The stages of a job as Markdown, that of the phase `now` in bold."""
    names = kind_named(kind).stages
    if now == "compile":
        names = (names[0], now, *names[1:])
    if now in ("train", "evaluate", "rebuild") and now not in names:
        now = "train" if "train" in names else "rebuild"
    return [f"**{plain(phase(name))}**" if name == now else f":gray[{plain(phase(name))}]" for name in names]


def job(job: JobRecord) -> str:
    """An unfinished job in a few words."""
    targets = job.fields.get("targets")
    return job.kind + (f" of {count(len(targets), 'targets')}" if isinstance(targets, list | tuple) and targets else "")


def disk_low(free: float | None) -> bool:
    return free is not None and free < LOW_DISK


def replays_in(run: Summary) -> str:
    """The modes in which further targets need nothing first."""
    if model_names.method_of(run.model):
        return "imported scores"
    if not run.trained:
        return "not trained yet"
    return {"disk": "memory, disk", "recompute": "recompute"}.get(run.kept_mode or "", "after a rebuild")


def csv(frame: "pd.DataFrame") -> str:
    """A table as a spreadsheet may open it: no text in it is taken for a formula."""
    return lists.as_csv(frame)


def sentence(event: dict) -> str:
    """One line of the event log."""
    kind = event["kind"]
    if kind == "queued":
        return "Queued" + (f" behind {count(event['ahead'], 'runs')}" if event.get("ahead") else "")
    if kind == "phase":
        return (
            f"{phase(event['phase'])} began"
            + (f", {count(event['steps'], 'steps')}" if event.get("steps") else "")
            + (f", {event['done']:,} of them done before" if event.get("done") else "")
        )
    if kind == "paused":
        return f"Paused: the disk is full; {size(event.get('needed'))} needed, {size(event.get('disk_free'))} free"
    if kind == "continued":
        return "Continued: there is space again"
    if kind == "cleaned":
        parts = " and ".join(PARTS.get(p, p).lower() for p in event.get("parts", []))
        return f"Deleted {parts}, {size(event.get('bytes'))} freed"
    if kind == "note":
        return event.get("text", "")
    if kind in ("failed", "cancelled"):
        what = event.get("what", "")
        return what if what.startswith(kind.capitalize()) else f"{kind.capitalize()}: {what}"
    if kind == "unreadable":
        return event["what"]
    if kind == "accuracy":
        right = percent(event["accuracy"])
        return f"After step {event['step']:,}: {right} of {count(event['images'], 'test images')} right"
    if kind == "done":
        return f"Done: {event['job']}"
    return kind.capitalize()
