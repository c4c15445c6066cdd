"""What is left to do with a run, as its manifest keeps it. The classes that do it stand in `engine.jobs`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.targets.names import canonical


@dataclass(frozen=True)
class JobRecord:
    """An unfinished job of a run: its kind, and the fields of that kind's class as JSON values.

    It stands in `Manifest.jobs` until the job is done, so that a run which was killed, cancelled or failed can
    be resumed. Nothing here knows what a kind means: `engine.jobs.registry` makes the job of it, and refuses kinds
    that it does not know.
    """

    kind: str  # of `engine.jobs.registry.JOBS`
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "JobRecord":
        return cls(value["kind"], {name: each for name, each in value.items() if name != "kind"})


def fields_of_schema_2(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job as schema 2 kept it: those that its kind has, and its options among them. Targets get the
    one text that they have today; what is no finite number, which no file of today holds, becomes a text, so that the
    job is shown as it is and refused when its turn comes."""
    fields = {name: job[name] for name in ("mode", "targets", "function") if job.get(name)}
    if "targets" in fields:
        fields["targets"] = list(dict.fromkeys(map(canonical, fields["targets"])))
    options = dict(job.get("options") or {})
    if "relabelled" in options:  # other labels by image: pairs from schema 3 on
        options["relabelled"] = sorted([int(image), label] for image, label in options["relabelled"].items())
    return _finite(fields | options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
