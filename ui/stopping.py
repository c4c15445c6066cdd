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

import streamlit as st
import uvicorn

from engine.errors import ReplayError
from engine.library import serving
from ui import shell

SIGNALS = (signal.SIGTERM, signal.SIGINT)

PATIENCE = 3  # seconds


@contextlib.asynccontextmanager
async def in_order(app: object) -> AsyncIterator[None]:
    """The life of the server, from its start to when all connections are closed; meanwhile the folder of runs says
    where the app is answered (`engine.library.serving`)."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)  # whose method has taken the signal
    if isinstance(server, uvicorn.Server):
        server.config.timeout_graceful_shutdown = PATIENCE
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ReplayError):  # no folder of runs: the pages say so
            port, base = st.get_option("server.port"), st.get_option("server.baseUrlPath") or ""
            stack.enter_context(serving.announced(shell.folder_of_runs(), port, base))
        yield
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
