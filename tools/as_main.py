"""A module as `python -m MODULE WORD…` runs it, in a process in which something was changed before."""

import runpy
import sys


def run(module: str, *words: str) -> None:
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
