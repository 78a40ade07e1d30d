"""Measure the bundled CLIP and write its model card.

``python recipes/card.py --photos cifar100_train.npz``. Without ``--photos`` the accuracy on
photographs stays as it was, if it belongs to the same weights; so does the speed on other
processors.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from augment import jitter, uniform, warp
from captions import TEMPLATES, emoji_names, seen_photo
from export_clip import ASSETS
from photos import Photos, load_photos
from probes import features, linear_probe, raw_pixels, zero_shot
from tables import filled

from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import load_task
from copra_lab.tasks.emoji.drawings import drawings
from copra_lab.utils.files import write_atomically
from copra_lab.utils.statistics import Accuracy

COPIES = 5


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


def kept_back_photos(clip: Clip, photos: Photos) -> list[dict]:
    """Zero-shot on photographs of the part "card", among known classes and among held-out ones."""
    keep = photos.rows("card")
    images, labels = torch.from_numpy(photos.images[keep]), torch.from_numpy(photos.labels[keep])
    held = torch.tensor([not seen_photo(n) for n in photos.names])
    text = torch.stack(
        [
            clip.text_features([t.format(n) for t in TEMPLATES["photo"]]).mean(0)
            for n in photos.names
        ]
    )
    f, out = clip.image_features(images), []
    for what, mask in (("seen", ~held), ("held-out", held)):
        rows, among = mask[labels], mask.nonzero().flatten()
        hits = (among[(f[rows] @ text[among].T).argmax(-1)] == labels[rows]).numpy()
        a = Accuracy(int(hits.sum()), len(hits))
        out.append(
            row(
                f"zero-shot, kept-back photos, {len(among)} {what} classes",
                a.value,
                a.interval,
                a.n,
            )
        )
    return out


def row(what: str, value: float, interval: tuple[float, float], n: int) -> dict:
    return {
        "what": what,
        "value": round(value, 4),
        "low": round(interval[0], 4),
        "high": round(interval[1], 4),
        "n": n,
    }


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


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--photos", help="as for pretrain.py")
    p.add_argument(
        "--clip", type=Path, help="folder of another CLIP; prints instead of writing the card"
    )
    a = p.parse_args()
    clip = load_clip(a.clip)
    rows = [seen_names(clip), *probes(clip)]
    file = ASSETS / "card.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if old.get("base") != clip.hash:
        old = {"rows": [], "speed": []}
    rows += (
        kept_back_photos(clip, load_photos(a.photos))
        if a.photos
        else [r for r in old["rows"] if "photos" in r["what"]]
    )
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
