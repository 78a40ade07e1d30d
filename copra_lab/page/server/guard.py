"""ASGI middleware that counts connections, megabytes and uploads.

It also closes the routes of Gradio that the page does not use.
"""

import asyncio
import json
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from copra_lab.page.server import limits
from copra_lab.page.server.fair_queue import BUSY
from copra_lab.page.server.visitors import TooMuch, Visitors

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TOO_LARGE, NOT_HERE = 413, 404

_UNUSED = re.compile(
    r"(/gradio_api)?/(deep_link|component_server|process_recording|monitoring|dev/reload|stream/|proxy=|file[=/]\s*https?:)",
    re.I,
)
"""Paths that Gradio serves and the page does not use: one writes files, some reach for other hosts,
and one sends visitors there."""

_OPEN = re.compile(r"/gradio_api/heartbeat/([^/]+)$")

HOUR = 3600.0


class _TooLarge(Exception):
    pass


@dataclass(eq=False)
class Uploads:
    """Megabytes that were uploaded within ``seconds``."""

    of_address: float = limits.ADDRESS_UPLOADS_MB
    most: float = limits.UPLOADS_MB
    seconds: float = HOUR
    _lately: deque[tuple[float, str, float]] = field(default_factory=deque, init=False)

    def add(self, address: str, megabytes: float) -> None:
        """Raises TooMuch where that is more than fits."""
        now = time.monotonic()
        while self._lately and now - self._lately[0][0] >= self.seconds:
            self._lately.popleft()
        own = megabytes + sum(mb for _, who, mb in self._lately if who == address)
        if own > self.of_address or megabytes + sum(mb for *_, mb in self._lately) > self.most:
            raise TooMuch(
                "the uploads of the last hour have filled the room that the page has for them; try "
                "again in an hour"
            )
        self._lately.append((now, address, megabytes))


@dataclass(eq=False)
class Guard:
    """ASGI middleware. ``visitors`` are told who opens a page, and who closes it."""

    app: Any
    visitors: Visitors
    uploads: Uploads = field(default_factory=Uploads)
    megabytes: float = limits.REQUEST_MB
    seconds: float = limits.REQUEST_SECONDS
    connections: int = limits.CONNECTIONS
    of_address: int = limits.ADDRESS_CONNECTIONS
    _open: Counter[str] = field(default_factory=Counter, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        address, path = (scope.get("client") or ("",))[0], scope["path"]
        if _UNUSED.match(path):
            await _refuse(scope, send, NOT_HERE, "this page does not offer that")
        elif self._open.total() >= self.connections or self._open[address] >= self.of_address:
            full = "too many connections are open; close some pages, or try again in a minute"
            await _refuse(scope, send, BUSY, full)
        else:
            self._open[address] += 1
            try:
                await self._admit(scope, receive, send, address, path)
            finally:
                self._open[address] -= 1
                if not self._open[address]:
                    del self._open[address]

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, address: str, path: str
    ) -> None:
        size, session = _megabytes(scope), None
        if size is not None and size > self.megabytes:
            most = f"a request has at most {self.megabytes:g} MB; make the picture or zip smaller"
            await _refuse(scope, send, TOO_LARGE, most)
            return
        try:
            if path == "/gradio_api/upload":
                self.uploads.add(address, self.megabytes if size is None else size)
            if here := _OPEN.match(path):
                self.visitors.opened(here[1], address)
                session = here[1]
        except TooMuch as e:
            await _refuse(scope, send, BUSY, str(e))
            return
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, self._counted(receive), sending)
        except _TooLarge:
            if not begun:
                most = f"a request has at most {self.megabytes:g} MB"
                await _refuse(scope, send, TOO_LARGE, most)
        finally:
            if session is not None:
                self.visitors.left(session)
                asyncio.get_running_loop().call_later(self.visitors.closed + 1, self.visitors.sweep)

    def _counted(self, receive: Receive) -> Receive:
        """`receive`, which ends where a body is larger than it may be, or takes longer."""
        room, until, whole = 1e6 * self.megabytes, time.monotonic() + self.seconds, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal room, whole
            if whole:  # all that can still come is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                return {"type": "http.disconnect"}
            room -= len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if room < 0:
                raise _TooLarge
            return message

        return counted


def _megabytes(scope: Scope) -> float | None:
    """What a request says of its own size; None where it says nothing, or nonsense."""
    said = dict(scope["headers"]).get(b"content-length")
    return int(said) / 1e6 if said is not None and said.isdigit() else None


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    """In the way in which Gradio's own page shows it: of an upload the text, of all else JSON."""
    plain = scope["path"].endswith("/upload")
    body = (sentence if plain else json.dumps({"detail": sentence})).encode()
    kind = b"text/plain; charset=utf-8" if plain else b"application/json"
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
