"""Gradio's queue, in which no visitor takes all places.

Those who wait are answered in turns, and whoever is beyond a limit is told to come back.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.context import LocalContext
from gradio.queueing import Event, Queue

from copra_lab.page.server import limits
from copra_lab.page.server.visitors import TooMuch, Visitors, in_turns

BUSY = 429
"""Status of what is refused because of a limit."""


REMEMBERED = 1000
"""Past requests that Gradio remembers; far more than can wait, which it needs."""


class Answers(asyncio.Queue):
    """Answers to one visitor, until they are fetched.

    ``fetched``: when somebody last came for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fetched = time.monotonic()

    async def get(self) -> Any:
        """The next answer."""
        self.fetched = time.monotonic()
        return await super().get()


class FairQueue(Queue):
    """Gradio's queue with bounds for each visitor and each network address.

    ``waiting`` of one visitor, ``of_address``, and ``megabytes`` in all are bounds beside Gradio's
    own ``max_size``. Answers that nobody fetches for ``unread`` seconds are thrown away, and what
    was still to be answered with them.

    It lives on the server's event loop: nothing here is called from another thread, so nothing is
    locked.
    """

    def __init__(
        self,
        visitors: Visitors,
        *,
        waiting: int = limits.WAITING,
        of_address: int = limits.ADDRESS_WAITING,
        megabytes: float = limits.WAITING_MB,
        unread: float = limits.UNREAD_SECONDS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.visitors, self.waiting, self.of_address = visitors, waiting, of_address
        self.megabytes, self.unread = megabytes, unread

    # --- coming in

    async def push(self, body: Any, request: Any, username: Any) -> Any:
        """Gradio's, for a request within the limits; for others HTTP 429, with a sentence."""
        address = address_of(request)
        try:
            await self._sweep()
            self._check(body.session_hash, address, request)
            if body.session_hash is not None:
                self.visitors.comes(body.session_hash, address)
                if body.session_hash not in self.pending_messages_per_session:
                    self.pending_messages_per_session[body.session_hash] = Answers()
        except TooMuch as e:
            raise HTTPException(BUSY, str(e)) from e
        found = await super().push(body, request, username)
        self._dated(body.session_hash)
        while len(self.event_analytics) > REMEMBERED:
            self.event_analytics.pop(next(iter(self.event_analytics)))
        for line in self.event_queue_per_concurrency_id.values():
            busy = self._at_work(line.concurrency_id)
            ordered = in_turns(line.queue, lambda e: e.session_hash, [e.session_hash for e in busy])
            addresses = [address_of(e.request) for e in busy]
            line.queue[:] = in_turns(ordered, lambda e: address_of(e.request), addresses)
        return found

    def _at_work(self, concurrency_id: str | None = None) -> list[Event]:
        """What is being answered, of one line or of all."""
        return [
            e
            for job in self.active_jobs
            for e in job or ()
            if concurrency_id in (None, e.concurrency_id)
        ]

    def _check(self, session: str | None, address: str, request: Any) -> None:
        waiting = [e for line in self.event_queue_per_concurrency_id.values() for e in line.queue]
        asked = [*waiting, *self._at_work()]
        of_session = sum(e.session_hash == session for e in asked)
        if session is not None and of_session >= self.waiting:
            raise TooMuch(
                f"{self.waiting} of your requests are waiting already; ask again when some of them "
                "have been answered"
            )
        if sum(address_of(e.request) == address for e in asked) >= self.of_address:
            raise TooMuch(
                f"{self.of_address} requests from your network address are waiting already; try "
                "again in a minute"
            )
        full = self.max_size is not None and len(waiting) >= self.max_size
        megabytes = sum(megabytes_of(r) for r in (request, *(e.request for e in waiting)))
        if full or megabytes > self.megabytes:
            raise TooMuch(
                "the page has more requests than it can answer at the moment; try again in a minute"
            )

    # --- being answered

    def get_events(self) -> Any:
        """Gradio's, but nobody has more than three quarters of what runs at the same time."""
        hidden: list[tuple[list[Event], list[Event]]] = []
        for line in self.event_queue_per_concurrency_id.values():
            most = line.concurrency_limit
            if most is None or most < 4 or not line.queue:
                continue
            busy = Counter(address_of(e.request) for e in self._at_work(line.concurrency_id))
            held = [e for e in line.queue if busy[address_of(e.request)] >= most * 3 // 4]
            if held:
                hidden.append((line.queue, held))
                line.queue[:] = [e for e in line.queue if e not in held]
        try:
            return super().get_events()
        finally:
            for queue, held in hidden:
                queue += held

    async def process_events(self, events: list[Event], *given: Any, **named: Any) -> None:
        """Gradio's; of a request that came without a session nothing is kept."""
        try:
            await super().process_events(events, *given, **named)
        finally:
            for e in events:
                if e.session_hash == e._id:
                    self.visitors.forget(e._id)

    def compute_analytics_summary(self, records: Any) -> Any:
        """Of past requests Gradio makes statistics at each error, for a door that is shut here."""
        return self.cached_event_analytics_summary

    # --- being forgotten

    async def _sweep(self) -> None:
        """Throw away what nobody fetches."""
        now = time.monotonic()
        for session, answers in list(self.pending_messages_per_session.items()):
            if isinstance(answers, Answers) and now - answers.fetched >= self.unread:
                await self.drop(session)

    def _dated(self, session: str) -> None:
        """Replace the queue of answers that Gradio makes for a request without a session.

        Ours knows when somebody last came for them.
        """
        plain = self.pending_messages_per_session.get(session)
        if plain is not None and not isinstance(plain, Answers):
            self.pending_messages_per_session[session] = answers = Answers()
            while not plain.empty():
                answers.put_nowait(plain.get_nowait())

    async def drop(self, session: str) -> None:
        """What waits for an answer in this session, and the answers."""
        self.pending_messages_per_session.pop(session, None)
        await self.clean_events(session_hash=session)
        self.pending_event_ids_session.pop(session, None)


def fair(page: gr.Blocks, visitors: Visitors, **bounds: Any) -> None:
    """Give `page` a `FairQueue` in place of its queue, before it is launched."""
    options = {
        "live_updates": True,
        "concurrency_count": page.max_threads,
        "update_intervals": 1,
        "max_size": page._queue.max_size,
    }
    page._queue = FairQueue(visitors, blocks=page, **options, **bounds)


def address_of(request: Any) -> str:
    """The network address that a request came from; "" where that is not known."""
    client = getattr(request, "client", None)
    return client.host if client else ""


def asking() -> str:
    """The network address of whoever a handler is answering; "" outside of one."""
    return address_of(LocalContext.request.get(None))


def megabytes_of(request: Any) -> float:
    """The size of a request's body as it says itself.

    One that does not say it counts as a large one.
    """
    try:
        return float(request.headers["content-length"]) / 1e6
    except (AttributeError, KeyError, TypeError, ValueError):
        return limits.REQUEST_MB
