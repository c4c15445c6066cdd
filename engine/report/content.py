"""What a report tells, as one value: texts, pictures and drawings in the order in which they are read.

All texts are plain: names of classes and files, notes and names of runs are in them as others wrote them, and become
HTML in `engine.report.writing` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from engine.analysis import certainty, trust
from engine.datasets.base import Dataset
from engine.report import asked, origin, relied, training
from engine.report.choice import Choice
from engine.report.pictures import Pictures
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import target_function


@dataclass(frozen=True)
class Report:
    """`name` that a person gave the run, or ""; `window` its phrase, or "". `note` is the one on the run, where notes
    were asked for."""

    title: str
    name: str
    run_id: str
    facts: tuple[tuple[str, str], ...]
    window: str
    note: str
    meanings: tuple[str, ...]  # of a score, one a target function
    targets: tuple[asked.Asked, ...]
    relied: relied.Relied
    training: training.Course
    origin: origin.Origin


def build(
    run: Run,
    record: Manifest,
    dataset: Dataset,
    refs: tuple[TargetRef, ...],
    choice: Choice,
    on_target: Callable[[int], None] = lambda number: None,
) -> Report:
    """Reads what there is of a run. What is not known (of runs of older versions, from Python, or of scores that came
    from elsewhere) is said in words; what is damaged raises `IntegrityError`. `on_target` is told the number of each
    target, from 1, before its turn: nearly all of the time goes into their pictures."""
    images, said = Pictures(dataset), notes.read(run, len(dataset.train_labels))
    evidence = trust.evidence(record, len(dataset.train_labels))
    known = relied.Known(trust.judge(evidence), evidence.reports, certainty.known(record) if evidence.reports else {})
    source = asked.Source(record, dataset, images, known, choice, said if choice.notes else notes.Notes(), run)
    targets = []
    for number, ref in enumerate(refs, 1):
        on_target(number)
        targets.append(asked.of(source, ref, number))
    return Report(
        title=targets[0].title if len(targets) == 1 else said.name or f"Run {run.id}",
        name=said.name,
        run_id=run.id,
        facts=origin.at_a_glance(record, dataset),
        window=record.window_phrase,
        note=said.of(notes.RUN) if choice.notes else "",
        meanings=tuple(
            target_function(name).meaning(dataset.classes) for name in dict.fromkeys(r.function for r in refs)
        ),
        targets=tuple(targets),
        relied=relied.of(record, dataset, refs, known, evidence),
        training=training.of(run),
        origin=origin.of(run.id, record, dataset, refs, choice),
    )
