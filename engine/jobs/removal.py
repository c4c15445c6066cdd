"""The job that trains again without a target's most helpful, or most harmful, images, beside random ones."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from engine.analysis import certainty, lds, removal, target_view, trust
from engine.analysis import what_if as what_ifs
from engine.analysis.removal import RANDOM, Removed
from engine.core.schedule import plan_for
from engine.datasets.base import Dataset
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, next_name, require_trained
from engine.jobs.reports import write_report
from engine.jobs.sharing import ALONE
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import target_function

if TYPE_CHECKING:
    from engine.jobs.retrained import Logits
    from engine.jobs.session import Session


@dataclass(frozen=True)
class Removal(Job):
    """One retraining a set of `removal.sets`: the first of each of `fractions` on each of `sides` by the scores of
    `target`, a key such as `test:3.loss`, and `draws` random sets of the same numbers."""

    kind: ClassVar[str] = "removal"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "retrain", "done")

    target: str
    fractions: tuple[float, ...] = removal.FRACTIONS
    sides: tuple[str, ...] = removal.SIDES
    draws: int = removal.DRAWS
    seed: int = 0

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        removal.check_choice(self.fractions, self.sides, self.draws, self.seed)
        record, labels = run.manifest(), dataset.train_labels
        ref = removal.target_of(record, self.target)
        plan = plan_for(record.config.recipe, len(labels))
        for each in self.sets(record.score_sets.row(ref), ref):
            what = f"The {each.side} {100 * each.fraction:g} % of {ref.key}"
            lds.check_left_out(each.left_out, labels, plan, what)
        return replace(self, target=ref.key)

    def sets(self, scores_N: np.ndarray, ref: TargetRef) -> list[Removed]:
        return removal.sets(scores_N, ref.function, self.fractions, self.sides, self.draws, self.seed)

    def doing(self) -> str:
        shares = ", ".join(f"{100 * fraction:g}" for fraction in self.fractions)
        which = " and ".join([*self.sides, *([RANDOM] if self.draws else [])])
        count = removal.retrainings(self.fractions, self.sides, self.draws)
        return f"Removal curve of {self.target}: {count:,} retrainings, without {shares} % of the images ({which})"

    def lacking(self, record: Manifest) -> tuple[int, int]:
        """How many of its retrainings are still to be done, and how many there are."""
        ref = removal.target_of(record, self.target)
        sets = self.sets(record.score_sets.row(ref), ref)
        return removal.lacking(record, ref, sets, self.seed), len(sets)

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return ahead.retraining(run, dataset, self.lacking(run.manifest())[0])

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen
        from engine.jobs.retrained import Change, retrained, side_by_side, train_rows

        reopen(session)
        journal, record = session.journal, session.run.manifest()
        journal.update(status_said="validating")
        began = time.monotonic()
        name = next_name(record.files, "validation", "removal", among=trust.REMOVAL)
        ref, width = removal.target_of(record, self.target), side_by_side(session)
        scores_N = record.score_sets.row(ref)
        removed = self.sets(scores_N, ref)
        keys = [removal.key(each, self.seed, width, len(scores_N)) for each in removed]
        changes = {key: Change(each.left_out) for key, each in zip(keys, removed, strict=True)}
        logits = retrained(session, changes, width, train_rows(record.score_sets.targets()), ALONE)
        report = {
            "kind": self.kind,
            "target": ref.key,
            "function": ref.function,
            "unit": target_function(ref.function).short_unit,
            "images": len(scores_N),
            "seed": self.seed,
            "side_by_side": width,
            "device_name": record.device_name,
            **_outcomes(session, ref, scores_N, removed, [logits[key] for key in keys]),
        }
        write_report(session, name, report)
        journal.note(f"Wrote validation/{name}.json: {ref.key}, {len(removed)} sets left out.")
        journal.timing("validate_seconds", time.monotonic() - began)
        return Result(reports=(name,))


def _outcomes(
    session: "Session", ref: TargetRef, scores_N: np.ndarray, removed: list[Removed], logits: "list[Logits]"
) -> dict[str, Any]:
    """The target at the trained model, and after each retraining."""
    record, dataset = session.run.manifest(), session.dataset
    logits_SC, labels_S = target_view.at_target(record, dataset, ref.target)
    members = ref.target.resolve(dataset, record.test_logits)
    before, was = what_ifs.values(logits_SC, labels_S, ref.function), logits_SC.argmax(1)
    errors = certainty.known(record).get(ref.key, [])
    sets = []
    for each, change, model in zip(removed, removal.predicted_changes(scores_N, removed), logits, strict=True):
        now = model.at(members)
        after = what_ifs.values(now, labels_S, ref.function)
        sets.append(
            {
                "side": each.side,
                "fraction": each.fraction,
                "draw": each.draw,
                "left_out": len(each.left_out),
                "predicted": change,
                "standard_error": certainty.of_set(errors, scores_N[each.left_out]),
                "actual": after[ref.function] - before[ref.function],
                "after": after,
                "flipped": float((now.argmax(1) != was).mean()),
                "label": int(now[0].argmax()) if len(now) == 1 else None,
            }
        )
    return {"before": before, "label": int(was[0]) if len(was) == 1 else None, "sets": sets}
