"""How the server's process ends when it is told to (SIGTERM, SIGINT): in order, and with exit code 0.

The server catches the signal, closes its connections, and then raises the signal once more, as if it had not been
caught: the process would end where it stands, the job in hand untold. By then this has closed the main thread to the
signal, so that the server returns and the interpreter ends as it does after any program: the engine's queue interrupts
its job, which can be resumed.
"""

import contextlib
import signal
from collections.abc import AsyncIterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.asynccontextmanager
async def in_order(app: object) -> AsyncIterator[None]:
    """The life of the server: from its start to when all connections are closed."""
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
