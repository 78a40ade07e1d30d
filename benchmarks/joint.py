"""Many LoRA trainings together against one after another: ``python benchmarks/joint.py``.

It prints a table. With ``--before FOLDER``, a checkout of version 0.1.0 (``git worktree add FOLDER
0593415``), that version's own `fit` is the other side; without, only peft is. Every side is a
process of its own with one thread, and while one works the others wait.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = 60
RUNS = (2, 4, 8, 16, 32)


class Side:
    """A process that trains when it is asked to, and says how long that took.

    Args:
        how: What it does, see `work`.
        threads: Of the process.
        before: The checkout of another version to import; None for this one.
    """

    def __init__(self, how: str, threads: int = 1, before: Path | None = None) -> None:
        env = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        root = before or HERE.parent
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--side", how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | env | {"PYTHONPATH": str(root)},
        )

    def begin(self, **order: Any) -> None:
        assert self.process.stdin
        print(json.dumps(order), file=self.process.stdin, flush=True)

    def end(self) -> dict[str, float]:
        """Seconds of the last order, and the most MiB the process has held so far."""
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def seconds(self, **order: Any) -> float:
        self.begin(**order)
        return self.end()["seconds"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Line:
    """A row of the table: milliseconds a step of one run on each side, and theirs / ours."""

    what: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"
        return f"| {self.what} | {self.ours:.1f} | {self.theirs:.1f} | {spread} |"


def turns(
    what: str, ours: Side, theirs: Side, mine: dict[str, Any], other: dict[str, Any], repeats: int
) -> Line:
    """Both sides in turn; of each the milliseconds for one step of one run."""
    ours.seconds(**mine | {"steps": 2}), theirs.seconds(**other | {"steps": 2})
    found = []
    for i in range(repeats):
        pair = [(ours, mine), (theirs, other)][:: 1 if i % 2 == 0 else -1]
        each = [1e3 * s.seconds(**o) / (o["runs"] * o["steps"]) for s, o in pair]
        found.append(each if i % 2 == 0 else each[::-1])
    ratios = sorted(b / a for a, b in found)
    a, b = (statistics.median(x) for x in zip(*found, strict=True))
    return Line(what, a, b, statistics.median(ratios), ratios[0], ratios[-1])


def rows(a: argparse.Namespace) -> Iterator[Line]:
    """Together against one after another."""
    steps = 3 if a.quick else STEPS
    ours = Side("together")
    others = {"peft and transformers": Side("peft")}
    if a.before:
        others = {"0.1.0": Side("alone", before=a.before)} | others
    for name, other in others.items():
        for dropping in ("lora", "copra") if name == "0.1.0" else ("lora",):
            for runs in (1, *RUNS):
                order = {"steps": steps, "dropping": dropping}
                one, many = order | {"runs": min(runs, 2)}, order | {"runs": runs}
                label = "a single fit" if runs == 1 else f"{runs} runs together"
                method = "LoRA" if dropping == "lora" else "CopRA"
                what = f"{label}, {method}, against {name}"
                if re.search(a.only, what):
                    yield turns(what, ours, other, many, one, a.repeats)
    what = "4 runs together, ViT-B-32 with random weights, against 0.1.0"
    if a.before and re.search(a.only, what):
        order = {"steps": 2 if a.quick else 8, "clip": "ViT-B-32"}
        many, one = order | {"runs": 4}, order | {"runs": 1}
        yield turns(what, ours, others["0.1.0"], many, one, 1 if a.quick else 2)
    what = "8 × 8 images, against 64 images of one run, for 8 images"
    if re.search(a.only, what):
        large = {"runs": 1, "batch": 64, "steps": max(1, steps // 8)}
        line = turns(what, ours, ours, {"runs": 8, "steps": steps}, large, a.repeats)
        share = [x / 8 for x in (line.theirs, line.ratio, line.low, line.high)]
        yield Line(what, line.ours, *share)
    for side in (ours, *others.values()):
        side.close()


def processes(a: argparse.Namespace) -> str:
    """Two processes of one thread against one process of two."""
    steps = 3 if a.quick else STEPS
    two, one = [Side("together") for _ in range(2)], Side("together", threads=2)
    found = []
    for _ in range(1 + a.repeats):
        start = time.perf_counter()
        for side in two:
            side.begin(runs=8, steps=steps)
        for side in two:
            side.end()
        apart = time.perf_counter() - start
        found.append((apart, one.seconds(runs=16, steps=steps)))
    for side in (*two, one):
        side.close()
    apart, joined = (statistics.median(x) for x in zip(*found[1:], strict=True))
    return (
        f"16 runs in two processes of one thread {apart:.1f} s, in one process of two threads "
        f"{joined:.1f} s"
    )


def memory(a: argparse.Namespace) -> str:
    """The most that a process holds while so many train together."""
    found = []
    for runs in (1, 8) if a.quick else (1, 8, 16, 32):
        side = Side("together")
        side.begin(runs=runs, steps=3)
        found.append(f"{runs}: {side.end()['mebibytes']:.0f}")
        side.close()
    return f"MiB of a process that trains so many together: {', '.join(found)}"


def sweeps(a: argparse.Namespace) -> str:
    """The same sweep with and without groups."""
    side, found = Side("sweep", threads=1), {}
    for at_once in (1, None):
        found[at_once] = side.seconds(steps=5 if a.quick else 150, at_once=at_once)
    side.close()
    return (
        f"a sweep of 24 runs on {os.cpu_count()} cores: each by itself {found[1]:.0f} s, in groups "
        f"{found[None]:.0f} s, {found[1] / found[None]:.2f} times as fast"
    )


def work(how: str) -> None:
    """What a side does: orders come in as lines of JSON, answers go out as such."""
    import resource

    import copra_lab as cl

    clips: dict[str, Any] = {}

    def clip(name: str = "") -> Any:
        if name not in clips:
            clips[name] = _random_vit_b_32(cl) if name else cl.load_clip()
        return clips[name]

    task = None if how == "sweep" else cl.load_task("digits")
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        if how == "sweep":
            _sweep(order)
        else:
            _train(cl, how, clip(order.get("clip", "")), task, order)
        seconds = time.perf_counter() - start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mebibytes": most}), file=out, flush=True)


def _train(cl: Any, how: str, clip: Any, task: Any, order: dict[str, Any]) -> None:
    settings = {"steps": order["steps"], "batch": order.get("batch", 8)}
    dropping = {"dropping": cl.CopRA()} if order.get("dropping") == "copra" else {}
    runs = range(order["runs"])
    if how == "peft":
        from others import PeftFit

        for _ in runs:
            PeftFit(clip, task, settings["batch"]).steps(settings["steps"])
    elif how == "alone" or len(runs) == 1:
        for seed in runs:
            cl.fit(clip, task, cl.LoRA(), **dropping, seed=seed, **settings, progress=False)
    else:
        from copra_lab.training import TrainingSettings

        jobs = [
            cl.Job(task, cl.LoRA(), **dropping, settings=TrainingSettings(seed=seed, **settings))
            for seed in runs
        ]
        cl.fit_many(clip, jobs, at_once=len(jobs), progress=False)


def _sweep(order: dict[str, Any]) -> None:
    from copra_lab.sweeps import grid, run_all

    table = {"methods": ["lora", "copra"], "tasks": ["digits", "things-blur"], "seeds": 6}
    runs = grid(table | {"settings": {"steps": order["steps"]}}).runs
    with tempfile.TemporaryDirectory() as folder:
        run_all(runs, Path(folder), at_once=order["at_once"], measure=False, progress=False)


def _random_vit_b_32(cl: Any) -> Any:
    """open_clip's ViT-B-32 with random weights: only for its speed."""
    import open_clip
    import torch

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").requires_grad_(False).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return cl.Clip(model, tokenizer, "ViT-B-32, random", 224, mean, std)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--before", type=Path, help="a checkout of version 0.1.0")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--quick", action="store_true", help="try everything once, with few steps")
    p.add_argument("--only", default="", metavar="PATTERN", help="only rows that match")
    p.add_argument("--side", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side:
        work(a.side)
        return
    a.repeats = 1 if a.quick else a.repeats
    print("| what | ours, ms | theirs, ms | theirs / ours (lowest to highest) |\n|---|---|---|---|")
    for line in rows(a):
        print(line, flush=True)
    for section in () if a.only else (processes, memory, sweeps):
        print(f"\n{section(a)}", flush=True)


if __name__ == "__main__":
    main()
