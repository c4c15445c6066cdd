"""Writing what a check of scores found into `validation/` (`engine.analysis.trust` reads it). No torch."""

import math
from typing import TYPE_CHECKING

from engine import files

if TYPE_CHECKING:
    from engine.jobs.session import Session

REPORT_BYTES = 1 << 20  # more than a report takes


def write_report(session: "Session", name: str, report: dict) -> None:
    path = session.run.path / "validation" / f"{name}.json"
    report = {
        "schema": 1,
        "training_digest": session.training,
        "data_fingerprint": session.dataset.fingerprint,
        "window_start": session.start,
        **report,
    }
    sha = session.journal.save(REPORT_BYTES, lambda: files.write_json(path, report))
    session.journal.add_files({f"validation/{name}.json": sha})


def numbers(values: dict) -> dict:
    """For JSON, which knows no NaN: null where nothing varied."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
