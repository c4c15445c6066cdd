"""The job that trains again without some images, or with other labels, beside what the scores predict."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import lds, target_view, trust, wording
from engine.analysis import what_if as what_ifs
from engine.core.schedule import plan_for
from engine.datasets.base import Dataset
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, next_name, require_trained
from engine.jobs.reports import write_report
from engine.jobs.sharing import ALONE
from engine.runs.run import Run
from engine.targets import Target, UploadedImage

if TYPE_CHECKING:
    from engine.jobs.session import Session


@dataclass(frozen=True)
class WhatIf(Job):
    """One retraining without the training images `left_out`, and with other labels: (image, label) pairs."""

    kind: ClassVar[str] = "what-if"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "retrain", "done")

    left_out: tuple[int, ...] = ()
    relabelled: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, left_out: Iterable[int], relabelled: Mapping[int, int] | None = None) -> Self:
        """With other labels by image."""
        return cls(tuple(int(i) for i in left_out), tuple((int(i), int(c)) for i, c in (relabelled or {}).items()))

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        left_out, relabelled = what_ifs.check_changes(self.left_out, dict(self.relabelled), dataset)
        labels = dataset.train_labels.copy()
        for index, label in relabelled.items():
            labels[index] = label
        lds.check_left_out(left_out, labels, plan_for(run.manifest().config.recipe, len(labels)), "This choice")
        return self.of(left_out.tolist(), relabelled)

    @property
    def key(self) -> str:
        """What the retraining is called on disk."""
        return "what-if-" + files.json_digest([list(self.left_out), sorted(self.relabelled)])[:16]

    def doing(self) -> str:
        changes = [f"without {len(self.left_out):,} of the images"] if self.left_out else []
        if self.relabelled:
            changes.append(f"with {wording.count(len(self.relabelled), 'other labels')}")
        return f"What if? Training again {' and '.join(changes)}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return ahead.retraining(run, dataset, self.key not in trust.retrained(run.manifest()))

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen
        from engine.jobs.retrained import Change, retrained, train_rows

        reopen(session)
        run, dataset, journal = session.run, session.dataset, session.journal
        journal.update(status_said="validating")
        began = time.monotonic()
        record = run.manifest()
        name = next_name(record.files, "validation", "what-if", among="what-if-")
        left_out = np.array(self.left_out, np.int64)
        predicted = what_ifs.predict(record, dataset, left_out)
        rows = train_rows(record.score_sets.targets())
        change = {self.key: Change(left_out, self.relabelled)}
        logits = retrained(session, change, 1, rows, ALONE)[self.key]  # one training: there is nothing to share out
        targets = []
        for target in predicted:
            asked = Target.parse(target.name)
            actual = None
            if not isinstance(asked, UploadedImage):  # a retraining is asked about images of the data set
                members = asked.resolve(dataset, record.test_logits)
                labels = target_view.labels_of(asked, members, dataset)
                actual = what_ifs.values(logits.at(members), labels, target.function)
            if self.relabelled:  # the scores say nothing of a label's change
                target = replace(target, change=None, predicted=None, standard_error=None)
            targets.append(asdict(replace(target, actual=actual)))
        accuracy = float((logits.test_NC.argmax(1) == dataset.test_labels).mean())
        report = {
            "kind": "what-if",
            "left_out": list(self.left_out),
            "relabelled": {str(i): c for i, c in self.relabelled},
            "targets": targets,
            "test_accuracy": accuracy,
            "test_accuracy_before": record.test_accuracy,
            "test": what_ifs.on_test(record.test_logits(), logits.test_NC, dataset.test_labels),
        }
        write_report(session, name, report)
        journal.note(
            f"Wrote validation/{name}.json: retrained without {wording.count(len(left_out), 'images')}"
            + (f" and with {wording.count(len(self.relabelled), 'other labels')}" if self.relabelled else "")
            + f"; test accuracy {accuracy:.1%}."
        )
        journal.timing("validate_seconds", time.monotonic() - began)
        return Result(reports=(name,))
