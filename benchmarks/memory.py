"""Memory of one side, in its own process: ``python benchmarks/memory.py ours evaluate 400``.

It prints the largest number of MiB that the process held while ViT-B-32 was measured or trained,
weights included.
"""

import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from others import PeftFit, PeftPath, first, random_adapter, random_vit_b_32
from torch import nn

from copra_lab.bench import Bench
from copra_lab.tasks import load_task
from copra_lab.training import fit


def peak(run: Callable[[], object]) -> float:
    """The most MiB that this process holds during `run`, sampled every five milliseconds."""
    process, most, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        run()
    finally:
        done.set()
        watching.join()
    return most / 2**20


class _Scale(nn.Module):
    """The part of a model that the other side's loop asks ours for."""

    def __init__(self, logit_scale: nn.Parameter):
        super().__init__()
        self.logit_scale = logit_scale


def prepared(side: str, what: str, images: int) -> Callable[[], object]:
    """What to measure; for the other side, only the preprocessing is ours."""
    clip, task = random_vit_b_32(), first(load_task("digits"), images)
    if side == "ours":
        if what == "train":
            return partial(fit, clip, task, steps=2, batch=8, progress=False)
        return lambda: Bench(clip, task, precision="float32").accuracy(random_adapter(clip))
    if what == "train":
        trained = PeftFit(clip, task, 8)
        trained.clip = replace(clip, model=_Scale(clip.model.logit_scale))
        return partial(trained.steps, 2)
    adapter, text = random_adapter(clip), clip.text_features(task.prompts)
    seen: Any = SimpleNamespace(
        clip=clip, split=task.test, order=torch.arange(images), text=text, labels=task.test.labels
    )
    few = SimpleNamespace(**{**seen.__dict__, "order": seen.order[:16], "labels": seen.labels[:16]})
    return partial(PeftPath(few, adapter, adapter).look_at(seen).accuracy, 50)


def main() -> None:
    run = prepared(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    gc.collect()
    print(round(peak(run)))


if __name__ == "__main__":
    main()
