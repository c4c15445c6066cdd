"""The command line or the app in a process whose job waits at a given step, so that others act exactly there.

    python -m tools.hold PHASE STEP GATE engine run --preset sample
    python -m tools.hold PHASE STEP GATE streamlit run app.py

Once STEP steps of PHASE are done the job waits until the file GATE is there, it is cancelled, or its process ends. How
fast the machine and its disk are decides nothing: the log tells every step, and what a killed job goes on from is
written as often as it can be.
"""

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from engine.core import training
from engine.jobs import journal, resume
from engine.jobs.cancel import process_ends
from tools import as_main


class Hold(NamedTuple):
    """Where the job of a process waits, and the file that lets it go on."""

    phase: str
    step: int
    gate: Path

    @property
    def words(self) -> list[str]:
        """The head of a command line, after the interpreter."""
        return ["-m", "tools.hold", self.phase, str(self.step), str(self.gate)]

    def open(self) -> None:
        self.gate.touch()


def every_step_told() -> contextlib.ExitStack:
    """From now on, or within `with every_step_told():`, every step of a job is an event of its own, however fast the
    machine is."""
    told = contextlib.ExitStack()
    told.enter_context(mock.patch.multiple(journal, REPORT_EVERY=(0.0, 0.0), METER_SHARE=math.inf))
    told.enter_context(mock.patch.object(training, "LOSS_EVERY", 0.0))
    return told


def install(hold: Hold) -> None:
    """Makes the jobs of this process wait."""
    every_step_told()
    resume.RESUME_SHARE = math.inf
    exact = journal.Meter.report

    def report(meter: journal.Meter, done: int, *curves: Any, **more: Any) -> None:
        exact(meter, done, *curves, **more)
        cancelled = meter.journal.disk_space.cancelled
        while (
            meter.phase == hold.phase
            and done >= hold.step
            and not (hold.gate.exists() or cancelled.is_set() or process_ends())
        ):
            time.sleep(0.01)

    journal.Meter.report = report


if __name__ == "__main__":
    phase, step, gate, module, *words = sys.argv[1:]
    install(Hold(phase, int(step), Path(gate)))
    as_main.run(module, *words)
