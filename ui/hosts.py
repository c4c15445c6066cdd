"""Which Host names the server answers, and which pages may open its connection.

A web page anywhere can point a name of its own at 127.0.0.1 and then talk to this app as if it were the page's own
server («DNS rebinding»): the browser sees one origin. Only the `Host` header tells. So the app answers the names and
addresses that it listens on, and those that its owner adds in `REPLAY_ALLOWED_HOSTS`, such as the name that a proxy
serves it under. They are separated by commas; `*.lab.example` stands for every name below lab.example, `*` for any.

A connection (`/_stcore/stream`) that a browser opens says its `Origin`, too: it must be a page of the very host and
port that it connects to, or one of Streamlit's `server.corsAllowedOrigins`.

Over that connection a browser may ask to clear all caches, those of other visitors' pages with them; this is for who
develops an app, and is not passed on.
"""

import ipaddress
import os
import re
import socket
from urllib.parse import urlsplit

import psutil
import streamlit as st
from google.protobuf.message import DecodeError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REFUSED = (
    "This name is not one that Replay Explorer answers to. Open it at the address that its start-up printed, or add "
    "the name to REPLAY_ALLOWED_HOSTS and start it again.\n"
)


def name_of(host: str) -> str | None:
    """The name or address in a Host header, in small letters, without port and brackets; None where it is neither."""
    match = HOST.fullmatch(host)
    return match[1].lower().strip("[]").rstrip(".") if match else None


def listening_names() -> set[str]:
    """The names and addresses of `server.address`; of this machine, where it is none or stands for every address."""
    address = (st.get_option("server.address") or "").strip("[]").lower()
    if address in LOOPBACK:
        return set(LOOPBACK)
    if address not in ("", "0.0.0.0", "::"):
        return {address}
    addresses = {a.address.partition("%")[0] for cards in psutil.net_if_addrs().values() for a in cards}
    return {*LOOPBACK, socket.gethostname().lower(), *filter(_is_address, addresses)}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def added_names() -> list[str]:
    """Those of `REPLAY_ALLOWED_HOSTS`."""
    names = os.environ.get("REPLAY_ALLOWED_HOSTS", "").split(",")
    return [name.strip().lower().strip("[]").rstrip(".") for name in names if name.strip()]


class OnlyOurHosts:
    """ASGI middleware: answers 400 to a request, and closes a connection, of another Host or of a foreign page."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.names = listening_names()
        self.patterns = added_names()

    def answers(self, host: str) -> bool:
        name = name_of(host)
        if name is None:
            return False
        return name in self.names or any(
            pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self.patterns
        )

    def opens(self, origin: str | None, host: str) -> bool:
        """Whether a page of this origin may connect; a program that is no browser says none."""
        if origin is None or origin in st.get_option("server.corsAllowedOrigins"):
            return True
        return urlsplit(origin).netloc.lower() == host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        origins = [value.decode("latin-1") for key, value in scope["headers"] if key == b"origin"]
        good = len(hosts) == 1 and self.answers(hosts[0])
        if scope["type"] == "http" and not good:
            return await PlainTextResponse(REFUSED, status_code=400)(scope, receive, send)
        if scope["type"] == "websocket" and not (good and all(self.opens(origin, hosts[0]) for origin in origins)):
            return await send({"type": "websocket.close", "code": 1008})
        await self.app(scope, receive if scope["type"] == "http" else without_cache_clearing(receive), send)


def without_cache_clearing(receive: Receive) -> Receive:
    """The messages of a connection but for those that clear all caches."""

    async def receive_others() -> Message:
        while True:
            message = await receive()
            if not _clears_caches(message.get("bytes") or b""):
                return message

    return receive_others


def _clears_caches(content: bytes) -> bool:
    try:
        return BackMsg.FromString(content).WhichOneof("type") == "clear_cache"
    except DecodeError:
        return False  # Streamlit closes the connection
