"""How the page handles visitors: ``python benchmarks/load.py``.

It serves the page on this machine and lets one visitor drag λ in the Blend view, then ten at once.
It reports how long they waited, whether each saw the numbers of their own model, and how the
server's memory changed. ``--visitors 10 --seconds 30`` are the defaults; ``--json FILE`` writes the
measurements.

The targets on two idle cores: one visitor's first number within 250 ms and all images within a
second; ten visitors' first numbers within 1.5 s (p95); stable memory. The visitors share the cores
with the server. The exit code is 1 if a number was wrong or missing.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from served import served  # noqa: E402 (after the path)
from visitors import Handlers, Shown, Visitor  # noqa: E402

from copra_lab.bench import Bench  # noqa: E402
from copra_lab.models import load_clip  # noqa: E402
from copra_lab.page.state.lab import Lab  # noqa: E402
from copra_lab.page.state.schemas import BlendState  # noqa: E402
from copra_lab.tasks import load_task  # noqa: E402
from copra_lab.utils.files import write_atomically  # noqa: E402

TIE = {"float32": 1e-3, "bfloat16": 0.1}
"""An image whose two best logits are this close may count either way.

Sums are rounded in another order when it is computed in a different batch.
"""


@dataclass(frozen=True)
class Result:
    """Seconds to the first number and to the number of all images; megabytes of the server.

    The first is from a thumb position, the second from where the thumb stopped.
    """

    visitors: int
    seconds: float
    firsts: int
    first_p50: float
    first_p95: float
    wholes: int
    whole_p50: float
    whole_p95: float
    shown: int
    mismatches: int
    lost: int
    memory_start: float
    memory_end: float

    @property
    def sound(self) -> bool:
        return not self.mismatches and not self.lost


def pairs(lab: Lab) -> list[BlendState]:
    """A pair of adapters for each visitor, so that a number sent to the wrong visitor shows.

    It goes through every pair of every task in turn.
    """
    found = []
    keys = {task: [key for _, key in lab.adapters(task)] for task in lab.tasks()}
    for step in range(1, max(map(len, keys.values()))):
        found += [
            BlendState(task, own[i], own[i + step])
            for i in range(max(map(len, keys.values())))
            for task, own in keys.items()
            if i + step < len(own)
        ]
    return found


async def crowd(
    url: str, server: psutil.Process, places: Sequence[BlendState], seconds: float
) -> tuple[list[Visitor], float, float]:
    """The visitors after they left, and the server's megabytes when all had come and at the end."""
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=2
    )  # sooner than the server closes them
    async with httpx.AsyncClient(
        base_url=url, timeout=httpx.Timeout(30, read=None), limits=limits
    ) as client:
        handlers = Handlers.of((await client.get("/config")).json())
        all_ = [Visitor(client, handlers, place, seed) for seed, place in enumerate(places)]
        try:
            await asyncio.gather(*(v.come() for v in all_))
            start = memory(server)
            await asyncio.gather(*(v.stay(seconds) for v in all_))
            return all_, start, memory(server)
        finally:
            await asyncio.gather(*(v.leave() for v in all_))


def memory(server: psutil.Process) -> float:
    return sum(p.memory_info().rss for p in (server, *server.children(recursive=True))) / 1e6


class Truth:
    """The right numbers, computed by a separate bench, alone and on all images at once."""

    def __init__(self, lab: Lab, precision: str):
        self.lab, self.precision = lab, precision
        self.clip = load_clip()
        self.benches: dict[str, Bench] = {}
        self.known: dict[BlendState, tuple[np.ndarray, np.ndarray]] = {}

    def fits(self, shown: Shown) -> bool:
        if shown.place not in self.known:
            task = shown.place.task
            if task not in self.benches:
                self.benches[task] = Bench(
                    self.clip, load_task(task, self.clip), precision=self.precision
                )
            bench = self.benches[task]
            logits = bench.logits(shown.place.adapter(self.lab)).float()
            top = logits.topk(2).values
            self.known[shown.place] = (
                (logits.argmax(-1) == bench.labels).numpy(),
                (top[:, 0] - top[:, 1] < TIE[self.precision]).numpy(),
            )
        right, tied = (x[: shown.n] for x in self.known[shown.place])
        return (
            shown.total == len(self.known[shown.place][0])
            and abs(int(right.sum()) - shown.correct) <= tied.sum()
        )


def run(
    url: str, server: psutil.Process, places: Sequence[BlendState], seconds: float, truth: Truth
) -> Result:
    all_, start, end = asyncio.run(crowd(url, server, places, seconds))
    firsts, wholes = ([s for v in all_ for s in getattr(v, name)] for name in ("firsts", "wholes"))
    shown = [s for v in all_ for s in v.shown]
    wrong = sum(not truth.fits(s) for s in shown)
    percentiles = (
        float(np.percentile(x, p)) if x else float("nan")
        for x in (firsts, wholes)
        for p in (50, 95)
    )
    a, b, c, d = percentiles
    return Result(
        len(places),
        seconds,
        len(firsts),
        a,
        b,
        len(wholes),
        c,
        d,
        len(shown),
        wrong,
        sum(v.lost for v in all_),
        start,
        end,
    )


def table(results: Sequence[Result]) -> str:
    rows = [
        "| visitors | first number, p50 / p95 | all images, p50 / p95 | numbers shown | wrong | "
        "missing | server, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        first, whole = (
            f"{1000 * p50:.0f} / {1000 * p95:.0f} ms"
            for p50, p95 in ((r.first_p50, r.first_p95), (r.whole_p50, r.whole_p95))
        )
        rows.append(
            f"| {r.visitors} | {first} | {whole} | {r.shown} | {r.mismatches} | {r.lost} | "
            f"{r.memory_start:.0f} → {r.memory_end:.0f} |"
        )
    return "\n".join(rows)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--visitors",
        type=int,
        default=10,
        help="visitors who drag at once in the second round (default: %(default)s)",
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=30,
        help="seconds of each round (default: %(default)s)",
    )
    p.add_argument(
        "--precision",
        choices=TIE,
        help="precision of the page's bench (default: the faster one on this machine)",
    )
    p.add_argument("--json", type=Path, help="write the measurements to this file")
    a = p.parse_args()
    if not 1 <= a.visitors <= 50 or not a.seconds > 0:
        p.error("--visitors must be 1 to 50, and --seconds above 0")
    lab = Lab()
    precision = a.precision or str(lab.bench(next(iter(lab.tasks()))).dtype).removeprefix("torch.")
    found = pairs(lab)
    truth = Truth(lab, precision)
    with served("--precision", precision) as (url, pid):
        server = psutil.Process(pid)
        results = [
            run(url, server, [found[i % len(found)] for i in range(n)], a.seconds, truth)
            for n in sorted({1, a.visitors})
        ]
    print(f"{precision}, {a.seconds:g} s a round\n\n{table(results)}")
    if a.json:
        write_atomically(
            a.json,
            (
                json.dumps(
                    {"precision": precision, "rounds": [asdict(r) for r in results]}, indent=1
                )
                + "\n"
            ).encode(),
        )
    return 0 if all(r.sound for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
