"""Visitors without a browser: they speak the page's protocol and drag the Blend view's slider."""

import asyncio
import json
import random
import re
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from gradio_client.utils import apply_diff

from copra_lab.page.state.schemas.blend import HIGH, LOW, STEP, BlendState

STRIDE, PAUSE, STRIDES = 0.07, 0.3, 8
"""Seconds between two thumb positions and between two drags, and positions per drag."""

PATIENCE = 60
"""Seconds after which a visitor stops waiting for a number."""


@dataclass(frozen=True)
class Shown:
    """A number that a visitor saw: of the first `n` of `total` images, how many are right."""

    place: BlendState
    correct: int
    n: int
    total: int


@dataclass(frozen=True)
class Handlers:
    """The server's numbers of the Blend view's handlers, by what triggers them."""

    move: int
    rest: int
    fill: int
    clear: int

    @staticmethod
    def of(config: dict[str, Any]) -> "Handlers":
        """From the page's configuration, as the browser gets it."""
        ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}

        def on(elem_id: str, event: str) -> int:
            return next(
                d["id"]
                for d in config["dependencies"]
                if [ids[elem_id], event] in map(list, d["targets"])
            )

        def after(number: int) -> int:
            return next(d["id"] for d in config["dependencies"] if d.get("trigger_after") == number)

        move = on("blend-weight", "input")
        return Handlers(move, after(move), after(after(move)), on("blend-clear", "click"))


class Visitor:
    """Drags between two adapters and records what was shown.

    `shown` are the numbers, `firsts` and `wholes` the seconds they took. As in the browser, while a
    position is being computed only the newest of the later ones waits. When its number has come,
    the remaining images are asked for, then the positions that were skipped.
    """

    def __init__(self, client: httpx.AsyncClient, handlers: Handlers, place: BlendState, seed: int):
        self.client, self.handlers, self.place, self.random = (
            client,
            handlers,
            place,
            random.Random(seed),
        )
        self.session = uuid.uuid4().hex
        self.shown: list[Shown] = []
        self.firsts: list[float] = []
        self.wholes: list[float] = []
        self.lost = 0
        self._messages: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)
        self._pending: set[str] = set()
        self._listener: asyncio.Task[None] | None = None
        self._thumb = (0.0, time.monotonic())
        self._moved, self._rested, self._whole, self._idle = (asyncio.Event() for _ in range(4))

    async def come(self) -> None:
        """Open the view and wait for its first number on all images."""
        self._tasks = [
            asyncio.create_task(follow) for follow in (self._follow(), self._rest(), self._fill())
        ]
        await self._to(0.0)
        if not await self._settled(5 * PATIENCE):
            raise RuntimeError("the page gave no first number within five minutes")

    async def stay(self, seconds: float) -> None:
        """Drag back and forth for this long."""
        self.firsts, self.wholes, end = [], [], time.monotonic() + seconds
        while time.monotonic() < end:
            async for _ in self._call(
                self.handlers.clear, [None]
            ):  # so that no position of the drag is known before
                pass
            here, there = self._thumb[0], round(self.random.uniform(LOW, HIGH), 2)
            for i in range(1, STRIDES + 1):
                await self._to(here + (there - here) * i / STRIDES)
                await asyncio.sleep(STRIDE)
            self.lost += not await self._settled(PATIENCE)
            await asyncio.sleep(PAUSE)

    async def _settled(self, seconds: float) -> bool:
        """Whether the number on all images came in time. Raises what a handler raised."""
        whole = asyncio.create_task(self._whole.wait())
        done, _ = await asyncio.wait(
            [whole, *self._tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        whole.cancel()
        for task in done - {whole}:
            task.result()
        return whole in done

    async def leave(self) -> None:
        for task in (*self._tasks, *([self._listener] if self._listener else [])):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _to(self, weight: float) -> None:
        self._thumb = round(round(weight / STEP) * STEP, 2) + 0.0, time.monotonic()
        self._whole.clear()
        self._moved.set()

    async def _follow(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            weight, since = self._thumb
            p, first = self.place, True
            async for output in self._call(
                self.handlers.move,
                [p.task, p.a, p.b, weight, "delta", False, None, "", 1000 * time.monotonic()],
            ):
                if self._saw(output) == weight and first:
                    self.firsts.append(time.monotonic() - since)
                    first = False
            self._rested.set()

    async def _rest(self) -> None:
        while True:
            await self._rested.wait()
            self._rested.clear()
            async for output in self._call(self.handlers.rest, [None]):
                weight, since = self._thumb
                if (
                    self._saw(output) == weight
                    and self.shown[-1].n == self.shown[-1].total
                    and not self._whole.is_set()
                ):
                    self.wholes.append(time.monotonic() - since)
                    self._whole.set()
            self._idle.set()

    async def _fill(self) -> None:
        """Curves are filled in meanwhile; nothing waits for them."""
        while True:
            await self._idle.wait()
            self._idle.clear()
            async for _ in self._call(self.handlers.fill, [None]):
                pass

    def _saw(self, output: list[Any]) -> float | None:
        """The λ of the number in a handler's output, which is recorded; None if there is none."""
        html = next((o for o in output if isinstance(o, str) and "data-weight=" in o), None)
        if html is None:
            return None
        found = dict(re.findall(r' data-(weight|correct|n|total)="([^"]*)"', html))
        weight = float(found["weight"])
        place = BlendState(self.place.task, self.place.a, self.place.b, weight)
        self.shown.append(Shown(place, int(found["correct"]), int(found["n"]), int(found["total"])))
        return weight

    async def _call(self, handler: int, data: list[Any]) -> AsyncIterator[list[Any]]:
        """The server's complete messages. Raises RuntimeError for a refusal or an error."""
        body = {
            "data": data,
            "fn_index": handler,
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": None,
        }
        answer = await self.client.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"the server refused: {answer.text[:200]}")
        event = answer.json()["event_id"]
        self._pending.add(event)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        now: list[Any] | None = None
        try:
            while True:
                message = await self._messages[event].get()
                output = (message.get("output") or {}).get("data")
                if message["msg"] == "process_generating" and output:
                    now = (
                        output
                        if now is None
                        else [apply_diff(old, diff) for old, diff in zip(now, output, strict=True)]
                    )
                    yield now
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"the server failed: {message['output']}")
                    if now is None:
                        yield output or []
                    return
        finally:
            self._pending.discard(event)
            self._messages.pop(event, None)

    async def _listen(self) -> None:
        while self._pending:
            async with self.client.stream(
                "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
            ) as stream:
                async for line in stream.aiter_lines():
                    message = (
                        json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                    )
                    if message.get("msg") == "close_stream":
                        break
                    if message.get("event_id"):
                        self._messages[message["event_id"]].put_nowait(message)
