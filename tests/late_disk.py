"""The app in a process whose disk is slow: `python -m tests.late_disk streamlit …`. What a person decides takes a while
to be kept; so what is clicked next comes while that is being done."""

import sys
import time

from engine import files
from tools import as_main

LATE = 0.3  # seconds that each writing takes more


def install() -> None:
    def late(write):
        def write_late(*args, **kwargs):
            time.sleep(LATE)
            return write(*args, **kwargs)

        return write_late

    for name in ("append", "replace"):
        setattr(files, name, late(getattr(files, name)))


if __name__ == "__main__":
    install()
    as_main.run(*sys.argv[1:])
