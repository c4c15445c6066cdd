"""The app that shows a folder of runs: whether one runs, its address, and starting one.

An app says where it is answered in `.app.json` of its folder of runs, and holds a lock on `.app.lock` beside it for as
long as it lives: the system lets go of that with the process, so that an address is never believed of one that is gone.
A folder that cannot be written, as in read-only mode, has none, and another app can be started beside it.
"""

import contextlib
import fcntl
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from engine import files
from engine.errors import ConfigError, IntegrityError, ReplayError, StorageError

ADDRESS, LOCK = ".app.json", ".app.lock"

FIRST_PORT, PORTS = 8501, 100

PATIENCE = 60.0  # seconds for which a server may start


def command(*options: str, outputs: str | os.PathLike | None = None) -> list[str]:
    """What starts the app's server; `options` of `streamlit run`. Raises `ConfigError` where it is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("The app needs Streamlit, which is not installed.", "Install it: pip install replay-explorer")
    here = Path(__file__).parents[2]  # a checkout, or site-packages
    script = next((p for p in (here / "replay_explorer" / "app.py", here / "app.py") if p.is_file()), None)
    if script is None:
        raise ConfigError(f"There is no app in {here}.", "Install the package again: pip install replay-explorer")
    arguments = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    return [*arguments, "--", "--outputs", os.fspath(outputs)] if outputs else arguments


@contextlib.contextmanager
def announced(root: Path, port: int, base: str = "") -> Iterator[None]:
    """Says in the folder of runs that an app shows it at this port, for as long as the block lasts. Where another app
    does already, or the folder cannot be written, nothing is said."""
    lock = None
    try:
        lock = _held(root)
        if lock is not None:
            files.write_json(root / ADDRESS, {"url": f"http://localhost:{port}/{base}".rstrip("/"), "pid": os.getpid()})
    except (ReplayError, OSError):  # the app works without
        pass
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _held(root: Path) -> IO[bytes] | None:
    """The lock of a folder; None where somebody has it, or nothing may be written there."""
    if files.read_only():
        return None
    file = (root / LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def running(root: Path) -> str | None:
    """The address of the app that shows this folder of runs; None where none says that it does."""
    try:
        with (root / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                pass
        url = files.read_json(root / ADDRESS, "Stop the app, and start it again.").get("url")
    except (OSError, IntegrityError, AttributeError):
        return None
    return url if isinstance(url, str) and url.startswith("http://localhost:") and answers(url) else None


def answers(url: str) -> bool:
    """Whether a server of Streamlit is ready there."""
    try:
        urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
        return True
    except (OSError, ValueError):
        return False


def start(root: Path, detached: bool) -> tuple[str, subprocess.Popen[bytes]]:
    """Starts the app on this folder of runs and waits until it answers: its address, and its process. `detached`: it
    lives on when this process ends, and writes nothing to its terminal. Raises `StorageError` where it does not start.
    """
    port = free_port()
    process = subprocess.Popen(
        command("--server.port", str(port), "--server.headless", "true", outputs=root),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if detached else None,
        start_new_session=detached,
    )
    url, end = f"http://localhost:{port}", time.monotonic() + PATIENCE
    while not answers(url):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            raise StorageError(f"The app did not start on {root}.", f"See why: python -m engine app --outputs {root}")
        time.sleep(0.1)
    return url, process


def show(path: Path, wait: bool) -> None:
    """Prints the link to a run, on the app that shows its folder of runs, which is started where none does, and opens
    it in a browser where there is a screen. `wait`: until the app that was started is stopped, by Ctrl-C; else that
    lives on when this process ends."""
    url, process = running(path.parent), None
    if url is None:
        url, process = start(path.parent, detached=not wait)
    print(link(url, path.name), flush=True)
    if has_screen():
        webbrowser.open(link(url, path.name))
    if process is None:
        return
    if not wait:
        print(f"The app lives on as process {process.pid}; end it with: kill {process.pid}", flush=True)
        return
    print("Ctrl-C stops the app.", flush=True)
    try:
        process.wait()
    finally:
        process.terminate()  # nothing where it has ended
        process.wait()


def free_port() -> int:
    """The first of Streamlit's usual ports that nobody has, else any."""
    for port in (*range(FIRST_PORT, FIRST_PORT + PORTS), 0):
        with socket.socket() as place, contextlib.suppress(OSError):
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("localhost", port))
            return place.getsockname()[1]
    raise StorageError("No port of this machine is free.", "End a server that is not needed.")


def link(url: str, run_id: str) -> str:
    """Where a run's scores are looked at first."""
    return f"{url}/Influence?{urllib.parse.urlencode({'run': run_id})}"


def has_screen() -> bool:
    """Whether a browser that is started would be seen."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
