"""Speed compared with other libraries, in one run: ``python benchmarks/run.py``.

It writes ``results.json`` and the table in ``benchmarks/README.md``. ``--sections`` measures some
parts again on the same machine; ``--quick`` tries everything once and writes nothing. Both sides
get the same threads and the same precision, and take turns; ``others.py`` has the other side.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from others import FullForward, PeftFit, PeftPath, first, random_adapter, random_vit_b_32
from race import Row, alone, race, seconds
from rows import RESULTS, line, table
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.engine.transformer import workers
from copra_lab.models import Clip, load_clip
from copra_lab.prompts import CoOp, Nemesis
from copra_lab.pruning import keep, layers_of
from copra_lab.shapley import LayerGame, exact
from copra_lab.tasks import load_task
from copra_lab.training import DEFAULTS, PLAIN, CopRA, Dropping, fit
from copra_lab.utils.devices import cores
from copra_lab.utils.files import write_atomically
from copra_lab.zoo import shipped

HERE = Path(__file__).parent
TASK = "digits"


class Setting:
    """What is measured: the bundled CLIP, two of its adapters, and for how long."""

    def __init__(self, quick: bool, repeats: int):
        self.quick, self.repeats = quick, 1 if quick else repeats
        self.clip, self.task = load_clip(), load_task(TASK)
        self.a, self.b = [
            x.load(self.clip) for x in shipped() if x.task == TASK and x.label.startswith("LoRA")
        ]

    def bench(self, images: int, precision: str = "float32") -> Bench:
        return Bench(self.clip, first(self.task, images), precision=precision)


def games(s: Setting) -> Iterator[Row]:
    """Shapley values of twelve layers."""
    from shapiq import ExactComputer

    images, repeats = (
        (8, 1) if s.quick else (16, max(1, s.repeats // 3))
    )  # the other side takes minutes
    adapter = keep(s.a, range(6)) if s.quick else s.a
    n = len(layers_of(adapter))
    bench, auto = s.bench(images), s.bench(images, "auto")
    other = FullForward(bench, adapter)
    what = f"exact Shapley values, {n} layers, {images} images, against shapiq's "
    what += "ExactComputer on full forwards"

    def theirs(game: Callable = other) -> None:
        ExactComputer(game, n_players=n)("SV", order=1)

    def ours(bench: Bench = bench) -> None:
        exact(LayerGame(bench, adapter), n)

    yield race(what, ours, theirs, repeats)
    if auto.dtype != torch.float32:
        half = FullForward(bench, adapter, auto.dtype)
        name = str(auto.dtype).removeprefix("torch.")
        yield race(
            f"{what}, both in {name}", lambda: ours(auto), lambda: theirs(half), repeats, name
        )
        yield race(
            f"{what}, ours in {name}, theirs in float32", lambda: ours(auto), theirs, repeats, name
        )
    asked = np.random.default_rng(0).random((32 if s.quick else 256, 12)) < 0.5
    bench = s.bench(100)
    game = LayerGame(bench, s.a)

    def apart() -> None:
        for row in asked:
            bench.accuracy(game.adapter_of(row))

    yield race(
        f"{len(asked)} random coalitions, 100 images, against the same one by one",
        lambda: game.outcomes(asked),
        apart,
        s.repeats,
    )
    other = FullForward(bench, s.a)
    yield race(
        f"{len(asked)} random coalitions, 100 images, against full forwards",
        lambda: game.outcomes(asked),
        lambda: other(asked),
        s.repeats,
    )


def paths(s: Setting) -> Iterator[Row]:
    """A line of 21 points."""
    images = 100 if s.quick else 400
    line = [i / 20 for i in range(21)]
    bench, auto = s.bench(images), s.bench(images, "auto")
    peft = PeftPath(bench, s.a, s.b)
    what = (
        f"path of 21 points, {images} images, against peft's add_weighted_adapter on transformers"
    )
    yield race(what, lambda: bench.path(s.a, s.b, line), lambda: peft.path(line), s.repeats)
    if auto.dtype != torch.float32:
        name = str(auto.dtype).removeprefix("torch.")
        yield race(
            f"{what}, ours in {name}, theirs in float32",
            lambda: auto.path(s.a, s.b, line),
            lambda: peft.path(line),
            s.repeats,
            name,
        )


def training(s: Setting) -> Iterator[Row]:
    """Steps of `fit`."""
    steps = 10 if s.quick else 200
    for batch in (8, 32):
        other = PeftFit(s.clip, s.task, batch)
        what = f"a training step of {batch} images, LoRA, against peft and transformers"
        yield race(
            what,
            lambda b=batch: fit(s.clip, s.task, steps=steps, batch=b, progress=False),
            lambda o=other: o.steps(steps),
            s.repeats,
            per=steps,
        )
    for views, kind in ((0, "fresh views"), (4, "4 kept views")):
        options = {"steps": steps, "views": views, "progress": False}
        yield race(
            f"a training step of 8 images, CopRA, against plain LoRA, {kind}",
            lambda o=options: fit(s.clip, s.task, dropping=CopRA(), **o),
            lambda o=options: fit(s.clip, s.task, dropping=PLAIN, **o),
            s.repeats,
            per=steps,
        )


def prompts(s: Setting) -> Iterator[Row]:
    """A whole CoOp run, and what the penalties add to it."""
    options = {"steps": 10} if s.quick else {}

    def run(penalty: Nemesis | None = None) -> None:
        fit(s.clip, s.task, CoOp(), penalty=penalty, views=16, progress=False, **options)

    steps = options.get("steps", DEFAULTS[CoOp]["steps"])
    what = f"a CoOp run, {s.task.shots} shots, {len(s.task.classes)} classes, {steps} steps, "
    what += "against the same with"
    yield race(f"{what} PUN", run, lambda: run(Nemesis(1.0)), s.repeats)
    for n in (1, 16):
        yield race(f"{what} PAN, N = {n}", run, lambda n=n: run(Nemesis(0.0, samples=n)), s.repeats)


def forward(s: Setting) -> Iterator[Row]:
    """One adapter on 400 images, and how much of the processor's speed that uses."""
    bench, auto = s.bench(400), s.bench(400, "auto")
    other = FullForward(bench, s.a)
    other.put([True] * 12)
    yield race(
        "accuracy of an adapter, 400 images, against open_clip with merged weights",
        lambda: bench.accuracy(s.a),
        other.predict,
        5 * s.repeats,
    )
    if auto.dtype != torch.float32:
        name = str(auto.dtype).removeprefix("torch.")
        yield race(
            f"the same, ours in {name}",
            lambda: auto.accuracy(s.a),
            other.predict,
            5 * s.repeats,
            name,
        )
    work = flops(s.clip) * 400
    took = statistics.median(seconds(lambda: bench.accuracy(s.a)) for _ in range(5 * s.repeats))
    peak, reached = peak_flops(), work / took
    yield Row(
        "matrix products of the forward, against the processor's best on 768 × 768",
        reached / 1e9,
        peak / 1e9,
        "GFLOP/s",
        "float32",
        peak / reached,
    )


def flops(clip: Clip) -> float:
    """Floating-point operations of one image's matrix products; the last block reads one token."""
    visual = clip.model.visual
    d, t = visual.class_embedding.shape[0], visual.positional_embedding.shape[0]
    blocks, attention = len(visual.transformer.resblocks), 2 * 2 * t * d
    block = t * (2 * 12 * d * d + attention)
    last = t * 2 * 2 * d * d + 2 * 10 * d * d + attention
    return (blocks - 1) * block + last + 2 * (t - 1) * visual.conv1.weight.numel()


def peak_flops(side: int = 768) -> float:
    """Matrix products on all cores at once, one per worker, of a size that fits their caches."""
    xs = [torch.randn(side, side) for _ in range(workers()._max_workers)]

    def run(x: torch.Tensor) -> None:
        with torch.inference_mode():
            for _ in range(20):
                x @ x

    best = min(seconds(lambda: list(workers().map(run, xs))) for _ in range(5))
    return len(xs) * 20 * 2 * side**3 / best


def growth(s: Setting) -> Iterator[Row]:
    """How the cost grows."""
    for images in (50, 200, 800):
        bench = s.bench(images)
        yield alone(
            f"accuracy of an adapter, {images} images",
            lambda b=bench: b.accuracy(s.a),
            3 * s.repeats,
        )
    bench = s.bench(32)
    for players in (4, 6) if s.quick else (4, 8, 10, 12):
        pairs = {
            f"group {i}": [
                n
                for n, site in s.clip.sites.items()
                if n in s.a.deltas and site.layer * players // 12 == i
            ]
            for i in range(players)
        }
        yield alone(
            f"exact Shapley values, {players} groups of layers, 32 images",
            lambda p=pairs, n=players: exact(LayerGame(bench, s.a, p), n),
            s.repeats,
        )


def imports(s: Setting) -> Iterator[Row]:
    def run(what: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {what}"], check=True)

    yield race(
        "import copra_lab, against import peft", run("copra_lab"), run("peft"), 2 * s.repeats, ""
    )


def larger(s: Setting) -> Iterator[Row]:
    """ViT-B-32 with random weights: what a user's own CLIP costs."""
    clip = random_vit_b_32()
    bench = Bench(clip, first(s.task, 8 if s.quick else 64), precision="float32")
    adapter = random_adapter(clip)
    asked = np.random.default_rng(0).random((8 if s.quick else 32, 12)) < 0.5
    game, other = LayerGame(bench, adapter), FullForward(bench, adapter)
    n, few = (
        len(bench),
        s.repeats // 2 + 1,
    )  # three: of two, one that was disturbed would count for half
    yield race(
        f"ViT-B-32: accuracy of an adapter, {n} images, against open_clip",
        lambda: bench.accuracy(adapter),
        lambda: other.predict(),
        s.repeats,
    )
    yield race(
        f"ViT-B-32: {len(asked)} random coalitions, {n} images, against full forwards",
        lambda: game.outcomes(asked),
        lambda: other(asked),
        few,
    )
    many = Bench(clip, first(s.task, 16 if s.quick else 400), precision="float32")
    peft = PeftPath(bench, adapter, adapter).look_at(many)
    yield race(
        f"ViT-B-32: accuracy of an adapter, {len(many)} images, against peft",
        lambda: many.accuracy(adapter),
        peft.accuracy,
        few,
    )


def larger_training(s: Setting) -> Iterator[Row]:
    """Steps of training on the same CLIP."""
    clip = random_vit_b_32()
    steps, trained = (3 if s.quick else 20), PeftFit(clip, s.task, 8)

    def a_step(dropping: Dropping) -> float:
        """Seconds; setup, and validation at the end, do not count as steps."""
        ends: list[float] = []
        fit(
            clip,
            s.task,
            dropping=dropping,
            steps=steps,
            batch=8,
            progress=False,
            on_step=lambda _: ends.append(time.perf_counter()),
        )
        return (ends[-1] - ends[0]) / (steps - 1)

    def their_step() -> float:
        return seconds(lambda: trained.steps(steps)) / steps

    for what, dropping in (("LoRA", PLAIN), ("CopRA, against LoRA", CopRA())):
        with_what = f"{what} by peft" if dropping != PLAIN else f"{what}, against peft"
        yield race(
            f"ViT-B-32: a training step of 8 images, {with_what}",
            partial(a_step, dropping),
            their_step,
            s.repeats,
            clock=lambda f: f(),
        )


def memories(s: Setting) -> Iterator[Row]:
    """Memory that the same CLIP takes."""
    for what, images in (("evaluate", 16 if s.quick else 400), ("train", 8)):
        ours, theirs = (memory(side, what, images) for side in ("ours", "peft"))
        doing = (
            f"accuracy of an adapter, {images} images"
            if what == "evaluate"
            else "LoRA steps of 8 images"
        )
        yield Row(
            f"ViT-B-32: memory at most, {doing}, against peft",
            ours,
            theirs,
            "MiB",
            "float32",
            theirs / ours,
        )


def memory(side: str, what: str, images: int) -> float:
    """MiB, measured in a separate process."""
    command = [sys.executable, str(HERE / "memory.py"), side, what, str(images)]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "games": games,
    "paths": paths,
    "training": training,
    "prompts": prompts,
    "forward": forward,
    "growth": growth,
    "imports": imports,
    "larger": larger,
    "larger training": larger_training,
    "memory": memories,
}


def machine() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        name = next(
            (
                x.split(":", 1)[1].strip()
                for x in Path("/proc/cpuinfo").read_text().splitlines()
                if x.startswith("model name")
            ),
            name,
        )
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{cores()} cores of {name} ({capability}), torch {torch.__version__}"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--quick", action="store_true", help="try everything once on little data; write nothing"
    )
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="only these; the others keep their measurements",
    )
    a = p.parse_args()
    where = {"machine": machine(), "threads": torch.get_num_threads()}
    kept = [] if a.quick else others_of(a.sections, where)
    s, measured = Setting(a.quick, a.repeats), []
    for name in tqdm(a.sections, desc="sections"):
        for row in SECTIONS[name](s):
            measured.append({"section": name, **asdict(row)})
            tqdm.write(line(measured[-1]))
    if not a.quick:
        rows = sorted(kept + measured, key=lambda r: list(SECTIONS).index(r["section"]))
        write_atomically(RESULTS, (json.dumps({**where, "rows": rows}, indent=1) + "\n").encode())
        head = (HERE / "head.md").read_text(encoding="utf-8").strip()
        page = f"{head}\n\nMeasured on {where['machine']}.\n\n{table(rows)}\n"
        write_atomically(HERE / "README.md", page.encode())


def others_of(sections: Sequence[str], where: dict) -> list[dict]:
    """Rows of other sections that were measured before.

    Exits if that was on another machine: one table is from one machine.
    """
    if set(sections) == set(SECTIONS):
        return []
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if {k: before.get(k) for k in where} != where:
        raise SystemExit(
            f"{RESULTS.name} is from another machine ({before.get('machine', 'none yet')}): run "
            "all sections, or try them with --quick"
        )
    return [r for r in before["rows"] if r["section"] not in sections]


if __name__ == "__main__":
    main()
