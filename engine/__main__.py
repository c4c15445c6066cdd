"""The engine from the command line: `python -m engine --help`, installed as `replay-explorer`.

Exit codes: 0 done, 1 the run failed, 2 the call or its settings are wrong, 3 no such run, 130 interrupted from the
keyboard, 141 nobody reads the output any more. engine/arguments.py reads the call, engine/commands.py does it.

Only what the interpreter has loaded anyway is imported at the head, even `typing` is not: what takes time to load is
loaded where Ctrl-C is answered, by `console`.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

OK, FAILED, USAGE, NOT_FOUND, INTERRUPTED, NOBODY_READS = 0, 1, 2, 3, 130, 141


def main(arguments: list[str] | None = None, on_loaded: Callable[[], None] = lambda: None) -> int:
    """Does one command and returns its exit code; `on_loaded` is called once all that it needs is imported.

    Errors that are foreseen end in one line on stderr. `SystemExit` comes from argparse alone: --help, a wrong call.
    """
    import logging

    from engine import arguments as calls
    from engine import commands
    from engine.errors import ConfigError, ReplayError, RunNotFoundError

    call = calls.parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logger = logging.getLogger("engine")
    logger.setLevel(call.log_level.upper())
    try:
        command, as_rank = commands.COMMANDS[call.command], commands.is_rank(call)
        if command.trains:
            commands.load_torch()
        if command.tables:
            commands.load_pandas()
        on_loaded()
        return commands.do(call, as_rank)
    except ReplayError as error:
        logger.debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, RunNotFoundError):
            return NOT_FOUND
        return USAGE if isinstance(error, ConfigError) else FAILED
    except BrokenPipeError:  # `… | head -1`: no error, and nothing to be said
        return NOBODY_READS
    except OSError as error:
        logger.debug("", exc_info=True)
        what = f"{error.filename} cannot be read or written" if error.filename else "the output cannot be written"
        print(f"error: {what} ({error.strerror or error}).", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def console() -> NoReturn:
    """`main` for a terminal: sets what belongs to the process, which a caller of `main` keeps for itself."""
    if answers_ctrl_c := signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in `nohup`'s
        signal.signal(signal.SIGINT, _leave)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in latin-1 has no «…», and needs none
    # Threads of a pass that wait for each other should sleep rather than spin: beside a browser on the same two
    # cores, spinning made training four times slower. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # as in `engine.loading`

    def on_loaded() -> None:
        gc.freeze()  # what is there by now stays to the end, which comes sooner if nobody looks through it
        gc.enable()
        if answers_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on a run is left in good order

    try:
        code = main(on_loaded=on_loaded)
    except SystemExit as end:  # of argparse, which has printed why
        code = end.code if isinstance(end.code, int) else USAGE
    if answers_ctrl_c:
        signal.signal(signal.SIGINT, _leave)  # while the interpreter ends
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or NOBODY_READS
    except OSError as error:
        print(f"error: the output cannot be written ({error.strerror}).", file=sys.stderr)
        code = code or FAILED
    if code in (NOBODY_READS, FAILED) and sys.stdout is not None:
        # What is still in the buffer can go nowhere. The interpreter would try once more as it ends, and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:  # nobody reads the progress: no reason to call what was done a failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


def _leave(*_: object) -> NoReturn:
    """Ctrl-C where nothing is under way: at once, for an exception inside a half-imported library may be lost."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    console()
