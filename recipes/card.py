"""Measure the bundled CLIP and write its model card: ``python recipes/card.py``.

Photographs are measured where they are at hand::

    python recipes/card.py --kept-back "CIFAR-100=cifar" --validation "Tiny ImageNet=tiny/val" \\
        --cifar10 FOLDER --fashion-mnist FOLDER

What is not measured stays as it was, if it belongs to the same weights: a data set that is not at
hand, and the speed on other processors.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augment import jitter, uniform, warp
from captions import TEMPLATES, emoji_names, seen_photo
from export_clip import ASSETS
from photos import CARD, SIDE, Photos, load_photos
from PIL.Image import Resampling
from probes import features, linear_probe, raw_pixels, zero_shot
from tables import filled
from torch import Tensor
from torchvision.datasets import CIFAR10, FashionMNIST

from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import Split, Task, load_task
from copra_lab.tasks.emoji.drawings import drawings
from copra_lab.utils.files import write_atomically
from copra_lab.utils.statistics import Accuracy

COPIES = 5
BICUBIC = Resampling.BICUBIC
EVERYTHING = 10**9
"""More than there are in a class."""


def seen_names(clip: Clip, n: int = 100, seed: int = 0) -> dict:
    """Zero-shot among `n` known names: both drawings of each, under unseen augmentations."""
    rng, g = np.random.default_rng(seed), torch.Generator().manual_seed(2**40 + seed)
    names = emoji_names()
    usable = [i for i, ns in enumerate(names) if ns and len(ns[0].split()) <= 2]
    chosen = rng.choice(usable, n, replace=False)
    labels = torch.arange(n).repeat(2).repeat(COPIES)
    rgba = np.concatenate([drawings(s).rgba[chosen] for s in ("openmoji", "twemoji")] * COPIES)
    x = torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255
    x = warp(
        torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1),
        g,
        (0.6, 1.15),
        22,
        torch.zeros(len(x)),
        shift=0.2,
    )
    ground = uniform(g, 0, 1, len(x), 3, 1, 1)
    x = jitter(x[:, :3] + ground * (1 - x[:, 3:]), g, 0.12)
    prompts = [f"a drawing of a {names[i][0]}" for i in chosen]
    value, interval, sources = zero_shot(
        clip,
        (x * 255).byte().permute(0, 2, 3, 1),
        labels,
        prompts,
        [str(i % (2 * n)) for i in range(len(x))],
    )
    return row(f"zero-shot, {n} seen names, new augmentations", value, interval, sources)


def photographs(clip: Clip, title: str, photos: Photos) -> list[dict]:
    """Zero-shot on photographs of the part "card", among known classes and among held-out ones."""
    keep = photos.rows("card")
    images, labels = torch.from_numpy(photos.images[keep]), torch.from_numpy(photos.labels[keep])
    held = torch.tensor([not seen_photo(n) for n in photos.names])
    f, text, out = clip.image_features(images), classifier(clip, photos.names), []
    for what, mask in (("seen", ~held), ("held-out", held)):
        rows, among = mask[labels], mask.nonzero().flatten()
        if not len(among):
            continue
        hits = among[(f[rows] @ text[among].T).argmax(-1)] == labels[rows]
        out.append(accuracy(f"zero-shot, {title}, {len(among)} {what} classes", hits, title))
    return out


def classifier(clip: Clip, names: Sequence[str]) -> Tensor:
    """A row for each name (c, e): the mean over templates for photographs."""
    texts = [[t.format(n) for t in TEMPLATES["photo"]] for n in names]
    return torch.stack([clip.text_features(some).mean(0) for some in texts])


def well_known(clip: Clip, title: str, of: type, folder: str) -> list[dict]:
    """Zero-shot and linear probe on a data set that torchvision reads and pretraining never saw.

    The probe has 100 images a class, and 50 to choose its strength.
    """
    train, test = (of(folder, train=part, download=True) for part in (True, False))
    names = tuple(n.replace("/", " or ").lower() for n in train.classes)
    first = [_first(train, skip, n) for skip, n in ((0, 100), (100, 50))]
    task = Task(
        title,
        title,
        "",
        names,
        "a photo of a {}",
        *first,
        _first(test, 0, len(test)),
        100,
        0,
        flip=True,
    )
    hits = (clip.image_features(task.test.images) @ classifier(clip, names).T).argmax(-1)
    what = f"{title}, {len(names)} classes"
    rows = [accuracy(f"zero-shot, {what}", hits == task.test.labels, title)]
    for features_of, label in ((lambda s: features(clip, s), "features"), (raw_pixels, "pixels")):
        a = linear_probe(task, features_of)
        rows.append(row(f"linear probe on {label}, {what}", a.value, a.interval, a.n, title))
    return rows


def _first(data: Any, skip: int, n: int) -> Split:
    """Images number `skip` to `skip + n` of each class, at 64 pixels."""
    labels, seen, rows = torch.as_tensor(data.targets), Counter[int](), []
    for i, label in enumerate(labels.tolist()):
        seen[label] += 1
        if skip < seen[label] <= skip + n:
            rows.append(i)
    images = [data[i][0].convert("RGB").resize((SIDE, SIDE), BICUBIC) for i in rows]
    return Split(
        torch.from_numpy(np.stack(images)), labels[rows], tuple(f"{data.train}:{i}" for i in rows)
    )


def accuracy(what: str, hits: Tensor, data: str = "") -> dict:
    """The row of a measure that counts images."""
    a = Accuracy(int(hits.sum()), len(hits))
    return row(what, a.value, a.interval, a.n, data)


def row(
    what: str, value: float, interval: tuple[float, float], n: int, data: str = ""
) -> dict[str, Any]:
    """A row of the card; `data` names the photographs that it needs."""
    numbers = {"value": value, "low": interval[0], "high": interval[1]}
    about = {"what": what, **{k: round(v, 4) for k, v in numbers.items()}, "n": n}
    return about | ({"data": data} if data else {})


def probes(clip: Clip) -> list[dict]:
    out = []
    for name, what in (
        ("novel-kinds", "kinds of held-out concepts"),
        ("digits", "handwritten digits"),
    ):
        task = load_task(name)
        zero = Bench(clip, task, precision="float32").accuracy()
        out.append(
            row(
                f"zero-shot, {what} ({len(task.classes)} classes)",
                zero.value,
                zero.interval,
                zero.n,
            )
        )
        for of, label in ((lambda s: features(clip, s), "features"), (raw_pixels, "raw pixels")):
            a = linear_probe(task, of)
            out.append(row(f"linear probe on {label}, {what}", a.value, a.interval, a.n))
    return out


def instructions() -> str:
    """What determines how fast this processor multiplies matrices."""
    half = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.backends.cpu.get_cpu_capability() + (" with bfloat16" if half else "")


def speed(clip: Clip) -> list[dict]:
    """Milliseconds from normalised pixels of 400 images to predictions.

    It is the median of 15 after a warm-up.
    """
    task = load_task("things-blur")
    out = []
    for precision in ("bfloat16", "float32"):
        bench = Bench(clip, task, precision=precision)
        times = []
        for _ in range(16):
            start = time.perf_counter()
            bench.logits(stop=400)
            times.append(1000 * (time.perf_counter() - start))
        ms, agreement = round(float(np.median(times[1:])), 1), round(bench.agreement, 4)
        out.append(
            {
                "processor": instructions(),
                "precision": precision,
                "ms for 400 images": ms,
                "agreement with float32": agreement,
            }
        )
    return out


WELL_KNOWN = {"CIFAR-10": CIFAR10, "Fashion-MNIST": FashionMNIST}


def measured(clip: Clip, a: argparse.Namespace) -> Iterator[dict]:
    """The rows for which photographs are at hand."""
    for part, card in (("kept_back", CARD), ("validation", EVERYTHING)):
        for option in getattr(a, part):
            title, equals, source = option.partition("=")
            if not equals:
                raise SystemExit(f"--{part.replace('_', '-')} takes TITLE=SOURCE; got {option!r}")
            yield from photographs(clip, title, load_photos(source, card=card))
    for title, of in WELL_KNOWN.items():
        if folder := getattr(a, title.lower().replace("-10", "10").replace("-", "_")):
            yield from well_known(clip, title, of, folder)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    for option, text in (
        ("--kept-back", "photographs of which pretraining kept the last of each class back"),
        ("--validation", "photographs that pretraining never saw"),
    ):
        p.add_argument(
            option,
            action="append",
            default=[],
            metavar="TITLE=SOURCE",
            help=f"{text}; the source as for pretrain.py",
        )
    for name in WELL_KNOWN:
        option = f"--{name.lower().replace('-10', '10')}"
        p.add_argument(option, metavar="FOLDER", help=f"{name}; downloaded if it is not there")
    p.add_argument(
        "--clip", type=Path, help="folder of another CLIP; prints instead of writing the card"
    )
    a = p.parse_args()
    clip = load_clip(a.clip)
    rows = [seen_names(clip), *probes(clip), *measured(clip, a)]
    file = ASSETS / "card.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if old.get("base") != clip.hash:
        old = {"rows": [], "speed": []}
    now = {r.get("data") for r in rows}
    rows += [r for r in old["rows"] if r.get("data") not in now]
    here = speed(clip)
    elsewhere = [s for s in old["speed"] if s["processor"] != here[0]["processor"]]
    card = {
        "base": clip.hash,
        "parameters": sum(p.numel() for p in clip.model.parameters()),
        "rows": rows,
        "speed": elsewhere + here,
    }
    if a.clip:
        print(json.dumps(card, indent=1))
        return
    write_atomically(file, (json.dumps(card, indent=1) + "\n").encode())
    template = (Path(__file__).parent / "card_template.md").read_text(encoding="utf-8")
    template = template.replace("{base}", clip.hash).replace(
        "{parameters}", f"{card['parameters'] / 1e6:.1f}"
    )
    write_atomically(ASSETS / "README.md", filled(template).encode())


if __name__ == "__main__":
    main()
