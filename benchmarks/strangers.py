"""What ten visitors cost who do the worst that the page allows: ``python benchmarks/strangers.py``.

It serves the page on this machine. Each visitor opens all views, uploads the largest zip, trains as
long as possible, drags, and uses the API in a loop, all at once, while one more visitor drags
politely.

It prints how the server's memory changed, what was answered and what was refused, and how long the
polite visitor waited, alone and among the others. ``--visitors 10 --seconds 120`` are the defaults.
The exit code is 1 if the server grew by more than `copra_lab.page.server.limits.TEN_MB`, if a
number that the polite visitor saw was wrong, or if one never came.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import random
import sys
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from load import Truth, memory, pairs  # noqa: E402 (after the path)
from served import served  # noqa: E402
from visitors import Handlers, Visitor  # noqa: E402

from copra_lab.page.server import limits  # noqa: E402
from copra_lab.page.state.lab import Lab  # noqa: E402
from copra_lab.page.state.schemas.train import BATCHES, BOTH, MOST_RANK, SHOTS, STEPS, TUNED  # noqa: E402
from copra_lab.tasks import MEGAPIXELS  # noqa: E402
from copra_lab.tasks.zip_upload import ALL_MEGAPIXELS, IMAGES, MEGABYTES, UNPACKED  # noqa: E402
from copra_lab.utils.files import write_atomically  # noqa: E402

EXAMINED = 0.1
"""Seconds between two measurements of the server's memory."""


def picture(megapixels: float, kind: str = "PNG", mode: str = "RGBA") -> bytes:
    """A flat image, which takes few bytes and much memory."""
    side, file = int((1e6 * megapixels) ** 0.5), io.BytesIO()
    Image.new(mode, (side, side), "red").save(file, kind)
    return file.getvalue()


def largest_zip() -> bytes:
    """A zip with as many images, megapixels and megabytes, packed and unpacked, as allowed."""
    data, big = io.BytesIO(), (ALL_MEGAPIXELS - MEGAPIXELS) // MEGAPIXELS
    small = IMAGES - big
    each = 0.95 * min((ALL_MEGAPIXELS - big * MEGAPIXELS) / small, UNPACKED / 3 / small)
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as z:
        flat, bmp = picture(MEGAPIXELS - 0.1), picture(each, "BMP", "RGB")
        for i in range(IMAGES):
            z.writestr(
                f"class {i % 20}/{i}.{'png' if i < big else 'bmp'}", flat if i < big else bmp
            )
        z.comment = b"x" * 65_535
    assert len(data.getvalue()) < 1e6 * MEGABYTES
    return data.getvalue()


@dataclass(frozen=True)
class Doors:
    """The server's numbers of its handlers."""

    zip_begins: int
    zip_runs: int
    train: int
    fetch: int
    named: dict[str, int]
    opens: tuple[tuple[int, int], ...]
    """(handler, its input values) of what opens a view."""

    @staticmethod
    def of(config: dict[str, Any]) -> "Doors":
        ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
        all_ = config["dependencies"]

        def on(elem_id: str, event: str) -> int:
            return next(
                d["id"]
                for d in all_
                if d.get("backend_fn") and [ids[elem_id], event] in map(list, d["targets"])
            )

        begins = on("try-zip", "upload")
        runs = next(d["id"] for d in all_ if d.get("trigger_after") == begins)
        opens = {ids[k] for k in ids if k and k.startswith("open-")}
        entering = tuple(
            (d["id"], len(d["inputs"]))
            for d in all_
            if any(t[0] in opens for t in map(list, d["targets"]))
        )
        named = {d["api_name"]: d["id"] for d in all_ if d.get("api_name")}
        return Doors(
            begins, runs, on("train-start", "click"), on("train-fetch", "click"), named, entering
        )


class Stranger(Visitor):
    """Does everything at once, again and again, and counts the outcomes."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        handlers: Handlers,
        place: Any,
        seed: int,
        doors: Doors,
        config: dict[str, Any],
    ):
        super().__init__(client, handlers, place, seed)
        self.doors, self.said, self.zip, self.pic = (
            doors,
            Counter[str](),
            largest_zip(),
            base64.b64encode(picture(MEGAPIXELS - 0.1)).decode(),
        )

    async def misbehave(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        acts: tuple[Callable[[], Awaitable[None]], ...] = (
            self._views,
            self._upload,
            self._train,
            self._blend,
            self._classify,
            self._shapley,
            self._drags,
        )
        async with self._page():
            await asyncio.gather(*(self._again(act, until) for act in acts))

    async def leave(self) -> None:
        if self._listener:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _page(self) -> AsyncIterator[None]:
        """The connection with which an open page tells the server that it is there."""

        async def beat() -> None:
            async with self.client.stream("GET", f"/gradio_api/heartbeat/{self.session}") as stream:
                async for _ in stream.aiter_raw():
                    pass

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _again(self, act: Callable[[], Awaitable[None]], until: float) -> None:
        name = act.__name__.strip("_")
        while time.monotonic() < until:
            try:
                await asyncio.wait_for(act(), until - time.monotonic())
                self.said[f"{name} answered"] += 1
            except TimeoutError:
                return
            except (RuntimeError, httpx.HTTPError) as e:
                self.said[
                    f"{name} refused"
                    if "wait" in str(e)
                    or "uploaded" in str(e)
                    or "questions" in str(e)
                    or "refused" in str(e)
                    else f"{name}: {e!r:.90}"
                ] += 1
                await asyncio.sleep(0.5)

    async def _all(self, handler: int, data: list[Any]) -> None:
        async for _ in self._call(handler, data):
            pass

    async def _views(self) -> None:
        for handler, values in self.doors.opens:
            with contextlib.suppress(
                RuntimeError
            ):  # a view that lacks what the browser would say answers with an error
                await self._all(handler, [None] * values)

    async def _upload(self) -> None:
        answer = await self.client.post(
            "/gradio_api/upload", files={"files": ("mine.zip", self.zip)}
        )
        if answer.status_code != 200:
            raise RuntimeError(f"refused: {answer.text}")
        file = {
            "path": answer.json()[0],
            "orig_name": "mine.zip",
            "meta": {"_type": "gradio.FileData"},
        }
        await self._all(self.doors.zip_begins, [None, time.monotonic()])
        await self._all(self.doors.zip_runs, [file, None, time.monotonic()])

    async def _train(self) -> None:
        await self._all(
            self.doors.train,
            [
                self.place.task,
                BOTH,
                MOST_RANK,
                TUNED,
                STEPS[1],
                BATCHES[-1],
                "all six",
                SHOTS[-1],
                0,
                None,
            ],
        )

    async def _blend(self) -> None:
        weight = round(random.uniform(-0.5, 1.5), 2)
        await self._all(
            self.doors.named["blend"], [self.place.task, self.place.a, self.place.b, weight]
        )

    async def _classify(self) -> None:
        await self._all(self.doors.named["classify"], [self.place.task, self.pic])

    async def _shapley(self) -> None:
        await self._all(self.doors.named["shapley"], [self.place.task, self.place.a, 60])

    async def _drags(self) -> None:
        weight = round(random.uniform(-0.5, 1.5) / 0.02) * 0.02
        await self._all(
            self.handlers.move,
            [
                self.place.task,
                self.place.a,
                self.place.b,
                weight,
                "delta",
                False,
                None,
                "",
                1000 * time.monotonic(),
            ],
        )
        await self._all(self.handlers.rest, [None])


@dataclass(frozen=True)
class Result:
    """Megabytes of the server, and the polite visitor's seconds until a first number."""

    visitors: int
    seconds: float
    memory_start: float
    memory_peak: float
    memory_end: float
    alone_p50: float
    alone_p95: float
    among_p50: float
    among_p95: float
    lost: int
    wrong: int
    said: dict[str, int]


async def watched(server: psutil.Process, peak: list[float]) -> None:
    while True:
        peak[0] = max(peak[0], memory(server))
        await asyncio.sleep(EXAMINED)


async def crowd(
    url: str, server: psutil.Process, n: int, seconds: float, lab: Lab
) -> tuple[Result, Visitor]:
    places = pairs(lab)
    pool = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(
        base_url=url, timeout=httpx.Timeout(120, read=None), limits=pool
    ) as client:
        config = (await client.get("/config")).json()
        handlers, doors = Handlers.of(config), Doors.of(config)
        polite = Visitor(client, handlers, places[0], 0)
        strangers = [
            Stranger(client, handlers, places[1 + i % (len(places) - 1)], i, doors, config)
            for i in range(n)
        ]
        try:
            for task in lab.tasks():  # all tasks are awake, as on a page that has been up for long
                await client.post("/gradio_api/call/base", json={"data": [task]})
            await polite.come()
            await polite.stay(10)
            alone, start = list(polite.firsts), memory(server)
            peak = [start]
            watcher = asyncio.create_task(watched(server, peak))
            await asyncio.gather(polite.stay(seconds), *(s.misbehave(seconds) for s in strangers))
            watcher.cancel()
            said = sum((s.said for s in strangers), Counter[str]())
            waits = [
                float(np.percentile(x, p)) if x else float("nan")
                for x in (alone, polite.firsts)
                for p in (50, 95)
            ]
            return Result(
                n,
                seconds,
                start,
                peak[0],
                memory(server),
                *waits,
                polite.lost,
                0,
                dict(sorted(said.items())),
            ), polite
        finally:
            await asyncio.gather(*(v.leave() for v in (polite, *strangers)), return_exceptions=True)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--visitors",
        type=int,
        default=10,
        help="visitors who do the worst they can (default: %(default)s)",
    )
    p.add_argument("--seconds", type=float, default=120, help="seconds (default: %(default)s)")
    p.add_argument("--json", type=Path, help="write the measurements to this file")
    a = p.parse_args()
    if not 1 <= a.visitors <= 50 or not a.seconds > 0:
        p.error("--visitors must be 1 to 50, and --seconds above 0")
    lab = Lab()
    with served("--precision", "float32") as (url, pid):
        result, polite = asyncio.run(crowd(url, psutil.Process(pid), a.visitors, a.seconds, lab))
    truth = Truth(lab, "float32")
    result = Result(**asdict(result) | {"wrong": sum(not truth.fits(s) for s in polite.shown)})
    print(
        f"{result.visitors} visitors for {result.seconds:g} s. Memory: {result.memory_start:.0f} "
        f"MB before, {result.memory_peak:.0f} MB at most, {result.memory_end:.0f} MB after.\n"
        "First number of a polite visitor, p50 / p95: "
        f"{1000 * result.alone_p50:.0f} / {1000 * result.alone_p95:.0f} ms alone, "
        f"{1000 * result.among_p50:.0f} / {1000 * result.among_p95:.0f} ms among them; "
        f"{len(polite.shown)} numbers shown, {result.wrong} wrong, {result.lost} missing."
    )
    print("\n".join(f"  {what}: {count}" for what, count in result.said.items()))
    if a.json:
        write_atomically(a.json, (json.dumps(asdict(result), indent=1) + "\n").encode())
    return int(
        bool(
            result.wrong or result.lost or result.memory_peak - result.memory_start > limits.TEN_MB
        )
    )


if __name__ == "__main__":
    sys.exit(main())
