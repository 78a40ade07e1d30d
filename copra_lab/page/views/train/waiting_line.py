"""The line of those who want to train: one at a time, each network address in its turn.

Each is told how long it takes.
"""

import threading
import time
from dataclasses import dataclass, field

from copra_lab.page.server.limits import ADDRESS_TRAININGS, MOST_WAITING
from copra_lab.page.server.visitors import in_turns

GONE = 30.0
"""Seconds without a question after which a visitor counts as gone."""


@dataclass(eq=False)
class Ticket:
    """A place in the line of `who`.

    ``work``: training images that are still to be looked at, each as often as it is; ``address``:
    the network address that it was asked for from.
    """

    who: object
    work: int
    address: str = ""
    stopped: bool = False
    seen: float = field(default_factory=time.monotonic)

    @property
    def visitor(self) -> object:
        """Who takes turns with others: all of one address together."""
        return self.address or self.who


class Waiting:
    """The line of those who want to train.

    Whoever does not ask for so many seconds is ``gone``, and the next one's turn comes: nobody
    waits for a closed page. At most ``most`` are in the line, ``of_address`` of one address. Whose
    address has nobody in the line yet comes before the second of another address.

    Each who waits has a thread of Gradio's, so the line is behind one lock, and those who wait are
    woken by its condition.
    """

    def __init__(
        self, most: int = MOST_WAITING, gone: float = GONE, of_address: int = ADDRESS_TRAININGS
    ) -> None:
        self.most, self.gone, self.of_address = most, gone, of_address
        self.pace: float | None = None
        """Seconds that a training image took lately, everything counted; None as long as nobody
        trained."""
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()

    def join(self, who: object, work: int, address: str = "") -> Ticket:
        """A new place in the line.

        Raises ValueError for somebody who is in the line already, and if it is full, or full for
        this address; "" is none.
        """
        with self._changed:
            self._sweep()
            if any(t.who is who for t in self._tickets):
                raise ValueError(
                    "your last training is not over; stop it first, or wait until it ends"
                )
            if len(self._tickets) >= self.most:
                raise ValueError(
                    f"{self.most} visitors are training or waiting already; try again in a few "
                    "minutes"
                )
            if address and sum(t.address == address for t in self._tickets) >= self.of_address:
                raise ValueError(
                    f"{self.of_address} visitors from your network address are training or waiting "
                    "already; try again in a few minutes"
                )
            ticket = Ticket(who, work, address)
            at_work, others = self._tickets[:1], self._tickets[1:]
            served = [t.visitor for t in at_work]
            self._tickets = at_work + in_turns([*others, ticket], lambda t: t.visitor, served)
            return ticket

    def ahead(self, ticket: Ticket, seconds: float = 0) -> int:
        """How many come before this one, 0 when it is its turn.

        It waits so many `seconds` for that. Raises ValueError for one who counted as gone.
        """
        with self._changed:
            self._ask(ticket)
            self._changed.wait_for(lambda: self._ask(ticket) == 0 or ticket.stopped, seconds)
            return self._ask(ticket)

    def _ask(self, ticket: Ticket) -> int:
        ticket.seen = time.monotonic()
        self._sweep()
        if ticket not in self._tickets:
            raise ValueError(
                "this page was silent for too long, so others went first; press Train again"
            )
        return self._tickets.index(ticket)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._tickets = [t for t in self._tickets if now - t.seen < self.gone]

    def seconds(self, ticket: Ticket, own: bool = False) -> float | None:
        """About how long it takes until its turn comes; None as long as nobody knows.

        Or, with its `own` work, until it is done.
        """
        with self._changed:
            if self.pace is None:
                return None
            upto = self._tickets.index(ticket) + own if ticket in self._tickets else 0
            return self.pace * sum(t.work for t in self._tickets[:upto])

    def worked(self, ticket: Ticket, images: int, seconds: float) -> None:
        """So many training images took so long."""
        with self._changed:
            ticket.work = max(0, ticket.work - images)
            now = seconds / images
            self.pace = now if self.pace is None else 0.9 * self.pace + 0.1 * now

    def stop(self, who: object) -> bool:
        """Tell the training of `who` to end. False if there is none."""
        with self._changed:
            found = [t for t in self._tickets if t.who is who]
            for ticket in found:
                ticket.stopped = True
            self._changed.notify_all()
            return bool(found)

    def leave(self, ticket: Ticket) -> None:
        """Give the place up."""
        with self._changed:
            self._tickets = [t for t in self._tickets if t is not ticket]
            self._changed.notify_all()
