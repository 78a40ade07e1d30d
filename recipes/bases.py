"""LoRA from one bundled CLIP beside LoRA from another, on photographs.

``python recipes/bases.py --photos tiny/train --validation tiny/val`` draws ten classes, three times
from those that pretraining saw and three times from those that it held out, and trains LoRA and
CopRA with 16 images a class from each CLIP, as everything that ships is trained. Accuracy is on the
validation file, of which no image is in any training. It writes ``recipes/bases.csv``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from captions import seen_photo
from photos import Photos, load_photos
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import Split, Task
from copra_lab.training import PLAIN, CopRA, Job, fit_many
from copra_lab.utils.files import csv_bytes, write_atomically

TABLE = Path(__file__).parent / "bases.csv"
CLIPS = ("emoji-clip-0.1.0", "emoji-clip")
CLASSES, SHOTS, DRAWS, SEEDS = 10, 16, 3, 3
METHODS = {"lora": PLAIN, "copra": CopRA()}
COLUMNS = ("clip", "base", "classes", "draw", "method", "seed", "n", "accuracy", "low", "high")


def tasks(photos: Photos, validation: Photos) -> Iterator[tuple[str, int, Task]]:
    """The kind of its classes, the number of the draw, and the task."""
    if photos.names != validation.names:
        raise SystemExit("the two files do not have the same classes; choose two of one data set")
    seen = np.array([seen_photo(n) for n in photos.names])
    for kind, among in (("seen", seen), ("held out", ~seen)):
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            chosen = rng.choice(np.flatnonzero(among), CLASSES, replace=False)
            yield kind, draw, _task(photos, validation, chosen.tolist(), rng)


def _task(photos: Photos, validation: Photos, classes: list[int], rng: np.random.Generator) -> Task:
    def split(source: Photos, part: str, n: int | None) -> Split:
        rows = [
            (i, label)
            for label, c in enumerate(classes)
            for i in rng.permutation(np.flatnonzero((source.part == part) & (source.labels == c)))[
                :n
            ]
        ]
        images = torch.from_numpy(source.images[[i for i, _ in rows]])
        return Split(
            images,
            torch.tensor([label for _, label in rows]),
            tuple(f"{part}:{i}" for i, _ in rows),
        )

    names = tuple(photos.names[c] for c in classes)
    parts = (
        split(photos, "train", SHOTS),
        split(photos, "choice", SHOTS),
        split(validation, "card", None),
    )
    about = f"{len(names)} classes of photographs."
    return Task(
        "photographs", "Photographs", about, names, "a photo of a {}", *parts, SHOTS, 0, True
    )


def measured(clip: Clip, name: str, kind: str, draw: int, task: Task) -> Iterator[dict]:
    """The rows of one CLIP on one task: zero-shot, and each method with each seed."""
    jobs = {
        (method, seed): Job.of(task, dropping=dropping, seed=seed)
        for method, dropping in METHODS.items()
        for seed in range(SEEDS)
    }
    learned = dict(zip(jobs, fit_many(clip, list(jobs.values()), progress=False), strict=True))
    bench = Bench(clip, task, precision="float32")
    for (method, seed), adapter in {("zero-shot", ""): None, **learned}.items():
        a = bench.accuracy(adapter) if adapter else bench.accuracy()
        numbers = zip(("accuracy", "low", "high"), (a.value, *a.interval), strict=True)
        yield {
            "clip": name, "base": clip.hash, "classes": kind, "draw": draw, "method": method,
            "seed": seed, "n": a.n, **{k: round(v, 4) for k, v in numbers},
        }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", required=True, metavar="SOURCE", help="as for pretrain.py")
    p.add_argument("--validation", required=True, metavar="SOURCE", help="of the same classes")
    p.add_argument("--clips", nargs="+", default=CLIPS, help="default: %(default)s")
    a = p.parse_args()
    photos, validation = load_photos(a.photos, card=0), load_photos(a.validation, card=10**9)
    rows = [
        row
        for kind, draw, task in tqdm(list(tasks(photos, validation)), desc="tasks")
        for name in a.clips
        for row in measured(load_clip(name), name, kind, draw, task)
    ]
    write_atomically(TABLE, csv_bytes(COLUMNS, rows))


if __name__ == "__main__":
    main()
