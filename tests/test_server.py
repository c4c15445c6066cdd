"""The real server by itself, without a browser: whom it answers, and what a visitor cannot ask of it."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import streamlit as st
from streamlit.proto.BackMsg_pb2 import BackMsg

from tools.serve import ROOT, serving
from ui import hosts, shell

pytestmark = pytest.mark.slow  # the server takes a while to start

KEY = "cmVwbGF5LWV4cGxvcmVyLQ=="  # any sixteen bytes


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("outputs"), REPLAY_ALLOWED_HOSTS="tool.example, *.lab.example") as (url, _):
        yield urlsplit(url).port


def status(port: int, host: str | None, path: str = "/", headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {**({} if host is None else {"Host": host}), **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse().status


def opens(port: int, host: str, origin: str | None = None) -> bool:
    """Whether the connection that drives a page is opened."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
    answer = status(port, host, "/_stcore/stream", {**upgrade, **({} if origin is None else {"Origin": origin})})
    assert answer in (101, 400, 403)
    return answer == 101


def test_the_server_ends_when_it_is_told_to_though_a_browser_stalls(tmp_path):
    scripts = (Path(st.__file__).parent / "static" / "static" / "js").iterdir()
    largest = max(scripts, key=lambda path: path.stat().st_size)
    with serving(tmp_path) as (url, process), socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # and nothing is read: the answer gets stuck
        stalled.connect(("localhost", urlsplit(url).port))
        stalled.sendall(f"GET /static/js/{largest.name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert stalled.recv(12) == b"HTTP/1.1 200"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0  # a guard against hangs


OURS = ("localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost.", "tool.example", "a.b.lab.example")
FOREIGN = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil-lab.example",
    "lab.example.evil.example",
    "user@localhost",
    "localhost@evil.example",
    "localhost/evil.example",
    "localhost, evil.example",
    "0.0.0.0",
    "192.0.2.7",
    "[::1].evil.example",
    "",
)


@pytest.mark.parametrize("path", ["/", "/Live", "/_stcore/health", "/_stcore/host-config", "/static/nothing.js"])
def test_another_host_is_answered_nothing(port, path):
    assert status(port, f"localhost:{port}", path) in (200, 404)
    for host in ("evil.example", f"evil.example:{port}"):
        assert status(port, host, path) == 400


@pytest.mark.parametrize("host", OURS)
def test_the_names_it_listens_on_and_the_owners_are_answered(port, host):
    assert status(port, host) == status(port, f"{host}:{port}") == 200
    assert opens(port, f"{host}:{port}") and opens(port, f"{host}:{port}", f"http://{host}:{port}")


@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_name_is_refused_and_opens_no_connection(port, host):
    assert status(port, host) == 400
    assert not opens(port, host) and not opens(port, host, f"http://{host}")


def test_a_request_without_a_host_is_refused(port):
    assert status(port, None) == 400


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://localhost.evil.example"]
)
def test_a_foreign_page_opens_no_connection(port, origin):
    assert not opens(port, f"localhost:{port}", origin)


@pytest.mark.parametrize("address, names", [("0.0.0.0", {"127.0.0.1", "localhost"}), ("192.0.2.1", {"192.0.2.1"})])
def test_another_address_answers_its_own_name(address, names, monkeypatch):
    monkeypatch.setattr(st, "get_option", lambda name: address)
    assert names <= hosts.listening_names() and "evil.example" not in hosts.listening_names()


def test_a_visitor_clears_no_caches():
    """The message is dropped on its way, those before and after it are not."""
    messages = [BackMsg(clear_cache=True), BackMsg(stop_script=True), BackMsg(clear_cache=True)]
    sent = [{"type": "websocket.receive", "bytes": m.SerializeToString()} for m in messages]
    sent += [{"type": "websocket.receive", "bytes": b"\xff"}, {"type": "websocket.disconnect", "code": 1000}]
    waiting = iter(sent)

    async def receive():
        return next(waiting)

    async def passed() -> list:
        others = hosts.without_cache_clearing(receive)
        return [await others() for _ in range(3)]

    with ThreadPoolExecutor(1) as thread:  # in this one a browser of other tests may have its loop
        assert thread.submit(asyncio.run, passed()).result() == [sent[1], *sent[3:]]


def test_what_a_page_leaves_is_looked_for_among_few_objects_also_after_the_first_training(tmp_path):
    """Streamlit collects after every page: among all of torch's objects that takes 0.1 s and more."""
    code = """
import gc, time
from engine.loading import load_derivatives
from ui import shell

def few() -> None:
    for _ in range(600):
        if (count := len(gc.get_objects())) < 50_000:
            return
        time.sleep(0.1)
    raise SystemExit(f"{count:,} objects are looked through")

shell.queue().loaded.wait()
few()
load_derivatives()
few()
"""
    environment = {**os.environ, "REPLAY_OUTPUTS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_engine_outlives_the_caches(root):
    engine = shell.queue()
    st.cache_resource.clear()
    st.cache_data.clear()
    assert shell.queue() is engine
