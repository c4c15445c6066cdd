"""How the server's process ends when it is told to (SIGTERM, SIGINT): in order, and with exit code 0.

The server catches the signal, closes its connections, waiting some seconds for those whose request is not answered yet
(by itself it would wait for ever: for a browser that stalls, for an upload that does not go on), and then raises the
signal once more, as if it had not been caught: the process would end where it stands, the job in hand untold. By then
this has closed the main thread to the signal, so that the server returns and the interpreter ends as it does after any
program: the engine's queue interrupts its job, which can be resumed.
"""

import contextlib
import signal
from collections.abc import AsyncIterator

import uvicorn

SIGNALS = (signal.SIGTERM, signal.SIGINT)

PATIENCE = 3  # seconds


@contextlib.asynccontextmanager
async def in_order(app: object) -> AsyncIterator[None]:
    """The life of the server: from its start to when all connections are closed."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)  # whose method has taken the signal
    if isinstance(server, uvicorn.Server):
        server.config.timeout_graceful_shutdown = PATIENCE
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
