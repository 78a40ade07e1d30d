"""Who is on the page, from which address, and what to forget once they have left."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from copra_lab.page.server.limits import ADDRESS_SESSIONS, CLOSED_SECONDS, IDLE_SECONDS, SESSIONS

T = TypeVar("T")


class TooMuch(Exception):
    """A limit is met; the message is a sentence for the visitor."""


def in_turns(
    waiting: Iterable[T], who: Callable[[T], Hashable], busy: Iterable[Hashable] = ()
) -> list[T]:
    """Those who wait, reordered: everybody's first, then everybody's second, and so on.

    Each round is first come, first served. Who is ``busy`` had some already, as often as named.
    """
    had = Counter(busy)
    rounds = []
    for item in waiting:
        rounds.append((had[who(item)], item))
        had[who(item)] += 1
    return [item for _, item in sorted(rounds, key=lambda r: r[0])]


@dataclass
class Visitor:
    """One who is on the page.

    ``open``: how many of its connections say that the page is still there; ``seen``: when it was
    last heard of, in seconds of the monotonic clock; ``keeps``: for how many seconds after that it
    is remembered.
    """

    address: str
    open: int = 0
    seen: float = field(default_factory=time.monotonic)
    keeps: float = IDLE_SECONDS


@dataclass(eq=False)
class Visitors:
    """All who are remembered, by their sessions.

    Used on the server's event loop alone. ``forget`` is called with each session whose time is
    over.
    """

    forget: Callable[[str], None]
    most: int = SESSIONS
    of_address: int = ADDRESS_SESSIONS
    closed: float = CLOSED_SECONDS
    idle: float = IDLE_SECONDS
    _known: dict[str, Visitor] = field(default_factory=dict, init=False)

    def __contains__(self, session: str) -> bool:
        return session in self._known

    def __len__(self) -> int:
        return len(self._known)

    def address(self, session: str) -> str:
        """The address of a session; "" for one who is not known."""
        return self._known[session].address if session in self._known else ""

    def comes(self, session: str, address: str) -> None:
        """A request of this session. Raises TooMuch if there is no room for one who is new."""
        self.sweep()
        if session not in self._known:
            if len(self._known) >= self.most:
                raise TooMuch(
                    f"the page is full: {self.most} visitors are here already; try again in a few "
                    "minutes"
                )
            if sum(v.address == address for v in self._known.values()) >= self.of_address:
                raise TooMuch(
                    f"{self.of_address} pages are open at your network address already; close "
                    "some, or try again in a few minutes"
                )
            self._known[session] = Visitor(address, keeps=self.idle)
        self._known[session].seen = time.monotonic()

    def opened(self, session: str, address: str) -> None:
        """A page of this session is there, until it is `left`. Raises TooMuch as `comes` does."""
        self.comes(session, address)
        visitor = self._known[session]
        visitor.open, visitor.keeps = visitor.open + 1, self.closed

    def left(self, session: str) -> None:
        """A page of this session is gone."""
        if visitor := self._known.get(session):
            visitor.open, visitor.seen = visitor.open - 1, time.monotonic()

    def sweep(self) -> None:
        """Forget those whose time is over."""
        now = time.monotonic()
        for session, v in list(self._known.items()):
            if not v.open and now - v.seen >= v.keeps:
                del self._known[session]
                self.forget(session)
