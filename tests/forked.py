"""Processes that load torch once, all of them together: it takes longer than what a test has them do."""

import os
import sys
from typing import TypeVar

from engine.loading import load_derivatives

Case = TypeVar("Case")


def one_of(cases: list[Case]) -> Case:
    """What follows runs once a case, one after the other, each in a process of its own with what this one has loaded.
    Here their exit codes are printed, in a line, and the process ends. Nothing may have been derived before."""
    load_derivatives()
    codes = []
    for case in cases:
        if not (child := os.fork()):
            return case
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(*codes, flush=True)
    sys.exit()
