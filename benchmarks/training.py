"""Seconds of `fit`, CopRA over plain LoRA, side by side in one run: ``python benchmarks/training.py``.

While low layers are off, nothing below the lowest active one needs a backward pass, and of images that are kept
(``views``) not even a forward one. Ratios are of medians over repeats that take turns, so that a busy machine slows all
alike."""

import argparse
import itertools
import statistics
import time

import torch

from copra_lab import load_clip, load_task
from copra_lab.copra import PLAIN, CopRA
from copra_lab.train import fit

METHODS = {"LoRA": PLAIN, "CopRA": CopRA()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--task", default="things-blur")
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--views", type=int, default=4, help="kept copies of each image, in the second half of the table")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    clip, task = load_clip(), load_task(a.task)
    ways = list(itertools.product(a.precisions, (0, a.views), METHODS))
    seconds: dict[tuple, list[float]] = {w: [] for w in ways}
    for repeat in range(a.repeats):
        for way in ways:
            precision, views, method = way
            start = time.perf_counter()
            fit(clip, task, dropping=METHODS[method], seed=repeat, steps=a.steps, batch=a.batch, views=views, precision=precision)
            seconds[way].append(time.perf_counter() - start)
    print(f"{a.steps} steps of {a.batch} images on {a.threads} thread(s), {task.name}; median of {a.repeats} (lowest to highest)")
    for precision, views in itertools.product(a.precisions, (0, a.views)):
        lora, copra = (seconds[precision, views, m] for m in METHODS)
        ratios = sorted(c / x for c, x in zip(copra, lora, strict=True))
        kind = f"{views} kept views" if views else "fresh views"
        print(
            f"{precision:9} {kind:13} LoRA {statistics.median(lora):6.1f} s   CopRA {statistics.median(copra):6.1f} s   "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
