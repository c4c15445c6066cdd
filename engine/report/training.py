"""The course of a training in a report: its losses, its accuracy, its rates, as drawings."""

from dataclasses import dataclass

from markupsafe import Markup

from engine.analysis.wording import count, figure, percent
from engine.report import drawings
from engine.runs.progress import Progress, follow
from engine.runs.run import Run


@dataclass(frozen=True)
class Course:
    """`words` say what there is, and what there is not."""

    words: str
    drawings: tuple[Markup, ...]


def of(run: Run) -> Course:
    """From the run's log, as it says itself. Raises `IntegrityError` where that cannot be read."""
    progress, offset = Progress(), 0
    while True:
        events, after = run.events(offset)
        follow(progress, events)
        if after == offset:
            break
        offset = after
    drawn, words = [], []
    if progress.losses:
        steps, losses, every = drawings.thinned(progress.losses)
        mean = "" if every == 1 else f", each point the mean of {every} steps"
        title = (
            f"Training loss over {count(len(progress.losses), 'steps')}, from {figure(losses[0], 3)} to "
            f"{figure(losses[-1], 3)} nats"
        )
        drawn.append(drawings.curve(steps, losses, title, f"step{mean}", "training loss (nats)", least=0.0))
        last = figure(progress.losses[-1], 3)
        words.append(f"{count(len(progress.losses), 'steps')}; the loss of the last batch was {last} nats.")
    if progress.accuracies:
        steps, shares = zip(*progress.accuracies, strict=True)
        title = f"Accuracy on test images by step, at the end {percent(shares[-1])}"
        percents = [100 * share for share in shares]
        drawn.append(drawings.curve(steps, percents, title, "step", f"right of {progress.images:,} test images (%)"))
    if progress.rates and min(progress.rates) != max(progress.rates):
        steps, rates, _ = drawings.thinned(progress.rates)
        title = f"Learning rate by step, {max(progress.rates):g} at most"
        drawn.append(drawings.curve(steps, rates, title, "step", "learning rate", least=0.0))
    if not drawn:
        words.append("The run has no record of its training's course: it was not trained here, or its log was deleted.")
    words += [f"The log is damaged: {what}" for what in progress.damage]
    return Course(" ".join(words), tuple(drawn))
