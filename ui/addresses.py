"""What the server does for the addresses of pages: their names in any case, and a history that «back» goes through."""

from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = f"<script>{(Path(__file__).parent / 'history.js').read_text(encoding='utf-8')}</script>".encode()
# So that every page comes whole and as it is: with the script, whatever the browser has kept of before.
CONDITIONS = (b"if-none-match", b"if-modified-since", b"accept-encoding", b"range")


class Addresses:
    """ASGI middleware. `pages` are the names of the app's pages, as they stand in addresses."""

    def __init__(self, app: ASGIApp, pages: tuple[str, ...]):
        self.app = app
        self.pages = {name.lower(): name for name in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        folder, _, asked = scope["path"].rpartition("/")
        base = (st.get_option("server.baseUrlPath") or "").strip("/")
        if folder.strip("/") != base or (asked and asked.lower() not in self.pages):
            return await self.app(scope, receive, send)
        if asked and (name := self.pages[asked.lower()]) != asked:
            query = scope["query_string"].decode("latin-1")
            # From where the browser is: right behind a proxy, and never another host.
            return await RedirectResponse(f"{name}?{query}" if query else name)(scope, receive, send)
        headers = [(name, value) for name, value in scope["headers"] if name not in CONDITIONS]
        await self.app({**scope, "headers": headers}, receive, with_script(send))


def with_script(send: Send) -> Send:
    """Sends a page of HTML with the script in its head; anything else as it is."""
    start: Message | None = None
    body = b""

    async def sending(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            if not headers.get("content-type", "").startswith("text/html"):
                return await send(message)
            start = message
        elif start is None:
            await send(message)
        else:
            body += message.get("body", b"")
            if not message.get("more_body"):
                await _send_whole(start, body, send)

    return sending


async def _send_whole(start: Message, body: bytes, send: Send) -> None:
    headers = MutableHeaders(raw=list(start["headers"]))
    if body:  # an answer to HEAD has none
        body = body.replace(b"</head>", SCRIPT + b"</head>", 1)
        headers["content-length"] = str(len(body))
    for name in ("etag", "last-modified", "accept-ranges"):
        if name in headers:
            del headers[name]
    await send({**start, "headers": headers.raw})
    await send({"type": "http.response.body", "body": body})
