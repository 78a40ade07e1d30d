"""How each data set of the field lays out its folder: which images it holds, of which class, in which part.

A reader takes the data set's folder and gives the classes (each label with the words for it in a prompt, in the order of the
data set's own numbers) and the entries, whose sources are paths below that folder. An entry has a part where the data set
deals one. Names are changed as CoOp changes them (arXiv:2109.01134, its ``datasets/``). Nothing is unpickled.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.listing import images_in
from copra_lab.tasks.splits import PARTS
from copra_lab.utils.extras import needs

Found = tuple[dict[str, str], list[Entry]]


def words(name: str) -> str:
    return name.replace("_", " ")


def entry(source: str, label: str, part: str = "") -> Entry:
    return Entry(source, label, source, part)


def lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def coop_split(file: Path, images: str) -> Found:
    """CoOp's ``split_zhou_….json``: for each part, rows of a path below the folder of images, a number and a class name."""
    names: dict[int, str] = {}
    entries = []
    for part, rows in json.loads(file.read_text(encoding="utf-8")).items():
        if part not in PARTS:
            raise ValueError(f"{part!r} is no part of a split")
        for path, number, name in rows:
            names[int(number)] = str(name)
            entries.append(entry(str(PurePosixPath(images, path)), str(name), part))
    return {names[i]: words(names[i]) for i in sorted(names)}, entries


def class_folders(
    folder: Path,
    home: Path,
    part: str = "",
    skip: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> Found:
    """A folder of images a class, below `home`."""
    found = sorted(
        f
        for f in folder.iterdir()
        if f.is_dir() and not f.name.startswith(".") and f.name not in skip
    )
    if not found:
        raise ValueError(f"{folder} holds no folders of classes")
    entries = [
        entry(image.relative_to(home).as_posix(), f.name, part)
        for f in found
        for image in images_in(f)
    ]
    return {f.name: words((names or {}).get(f.name, f.name)) for f in found}, entries


def caltech101(home: Path) -> Found:
    changed = {
        "airplanes": "airplane",
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
    }
    return class_folders(
        home / "101_ObjectCategories", home, skip=("BACKGROUND_Google", "Faces_easy"), names=changed
    )


def eurosat(home: Path) -> Found:
    changed = {
        "AnnualCrop": "Annual Crop Land", "HerbaceousVegetation": "Herbaceous Vegetation Land", "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings", "Pasture": "Pasture Land", "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings", "SeaLake": "Sea or Lake",
    }  # fmt: skip
    return class_folders(home / "2750", home, names=changed)


def dtd(home: Path) -> Found:
    """The first of the data set's ten partitions."""
    named = {part: lines(home / "labels" / f"{part}1.txt") for part in PARTS}
    entries = [
        entry(f"images/{name}", name.split("/")[0], part) for part in PARTS for name in named[part]
    ]
    return {label: words(label) for label in sorted({e.label for e in entries})}, entries


def fgvc_aircraft(home: Path) -> Found:
    classes = {name: name for name in lines(home / "variants.txt")}
    rows = [
        (part, line.split(" ", 1))
        for part in PARTS
        for line in lines(home / f"images_variant_{part}.txt")
    ]
    return classes, [entry(f"images/{image}.jpg", label, part) for part, (image, label) in rows]


def flowers102(home: Path) -> Found:
    labels, sets = (matlab(home / f"{name}.mat") for name in ("imagelabels", "setid"))
    number = dict(enumerate(np.atleast_1d(labels["labels"]).tolist(), 1))
    parts = {"train": "trnid", "val": "valid", "test": "tstid"}
    rows = [(i, part) for part, key in parts.items() for i in np.atleast_1d(sets[key]).tolist()]
    entries = [entry(f"jpg/image_{i:05d}.jpg", FLOWERS[number[i] - 1], part) for i, part in rows]
    return {name: name for name in FLOWERS}, entries


def food101(home: Path) -> Found:
    listed = {
        part: json.loads((home / "meta" / f"{part}.json").read_text(encoding="utf-8"))
        for part in ("train", "test")
    }
    entries = [
        entry(f"images/{path}.jpg", label, part)
        for part, of in listed.items()
        for label, paths in of.items()
        for path in paths
    ]
    return {label: words(label) for label in sorted({e.label for e in entries})}, entries


def oxford_pets(home: Path) -> Found:
    names: dict[int, str] = {}
    entries = []
    for part, file in (("train", "trainval"), ("test", "test")):
        for line in lines(home / "annotations" / f"{file}.txt"):
            image, number, _, _ = line.split()
            breed = image.rpartition("_")[0].lower()
            names[int(number)] = breed
            entries.append(entry(f"images/{image}.jpg", breed, part))
    return {names[i]: words(names[i]) for i in sorted(names)}, entries


def stanford_cars(home: Path) -> Found:
    labels = [
        str(name)
        for name in np.atleast_1d(matlab(home / "devkit" / "cars_meta.mat")["class_names"])
    ]
    files = {
        "train": home / "devkit" / "cars_train_annos.mat",
        "test": home / "cars_test_annos_withlabels.mat",
    }
    rows = [
        (part, row)
        for part, file in files.items()
        for row in np.atleast_1d(matlab(file)["annotations"])
    ]
    entries = [
        entry(f"cars_{part}/{row['fname']}", labels[int(row["class"]) - 1], part)
        for part, row in rows
    ]
    return {
        label: " ".join([label.split()[-1], *label.split()[:-1]]) for label in labels
    }, entries  # the year comes first


def sun397(home: Path) -> Found:
    root = home / "SUN397"
    labels = [
        line.lstrip("/") for line in lines(root / "ClassName.txt")
    ]  # "a/apartment_building/outdoor": that is "outdoor apartment building"
    entries = [
        entry(image.relative_to(home).as_posix(), label)
        for label in labels
        for image in images_in(root / label)
    ]
    return {label: words(" ".join(label.split("/")[:0:-1])) for label in labels}, entries


def ucf101(home: Path) -> Found:
    """The middle frames of its videos, as CoOp took them, and the first of the data set's three splits."""
    lists = home / "ucfTrainTestlist"
    labels = [line.split()[1] for line in lines(lists / "classInd.txt")]
    spaced = {label: "_".join(re.findall("[A-Z][^A-Z]*", label)) for label in labels}
    rows = [
        (part, line.split()[0].split("/"))
        for part in ("train", "test")
        for line in lines(lists / f"{part}list01.txt")
    ]
    entries = [
        entry(f"UCF-101-midframes/{spaced[label]}/{video.removesuffix('.avi')}.jpg", label, part)
        for part, (label, video) in rows
    ]
    return {label: words(spaced[label]) for label in labels}, entries


def imagenet(home: Path) -> Found:
    """Its validation images are the test, as everywhere. Names are CLIP's: from CoOp's ``classnames.txt``, or open_clip's."""
    classes, train = class_folders(home / "train", home, "train")
    _, test = class_folders(home / "val", home, "test")
    if file := next(
        (f for f in (home / "classnames.txt", home.parent / "classnames.txt") if f.is_file()), None
    ):
        names = dict(line.split(" ", 1) for line in lines(file))
    elif len(classes) == 1000:
        with needs("clip"):
            from open_clip import IMAGENET_CLASSNAMES

        names = dict(zip(classes, IMAGENET_CLASSNAMES, strict=True))
    else:
        raise ValueError(
            f"its {len(classes)} classes are not ImageNet's 1,000, and there is no classnames.txt, with a line 'n01440764 tench' for each"
        )
    return {label: names[label] for label in classes}, train + test


def cifar10(home: Path) -> Found:
    files = [*((f"data_batch_{i}.bin", "train") for i in range(1, 6)), ("test_batch.bin", "test")]
    return _cifar(home, lines(home / "batches.meta.txt"), files, 1)


def cifar100(home: Path) -> Found:
    return _cifar(
        home,
        lines(home / "fine_label_names.txt"),
        [("train.bin", "train"), ("test.bin", "test")],
        2,
    )


def _cifar(home: Path, names: list[str], files: list[tuple[str, str]], before: int) -> Found:
    """The binary version of CIFAR: rows of label bytes, `before` of them, the last of which counts, and 32 × 32 pixels a colour."""
    entries = []
    for file, part in files:
        data = np.fromfile(home / file, np.uint8)
        if data.size % (before + PIXELS):
            raise ValueError(f"{file} is cut off")
        numbers = data.reshape(-1, before + PIXELS)[:, before - 1].tolist()
        entries += [
            entry(f"{file}:{i * (before + PIXELS) + before}", names[n], part)
            for i, n in enumerate(numbers)
        ]
    return {name: words(name) for name in names}, entries


PIXELS = 3 * 32 * 32


def cifar_picture(home: Path, source: str) -> Image.Image:
    """The image at ``file:offset``."""
    file, _, at = source.rpartition(":")
    return Image.fromarray(
        np.fromfile(home / file, np.uint8, PIXELS, offset=int(at))
        .reshape(3, 32, 32)
        .transpose(1, 2, 0)
    )


def matlab(file: Path) -> dict[str, Any]:
    with needs("benchmarks"):
        from scipy.io import loadmat

    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is missing")
    try:
        return loadmat(file, squeeze_me=True)
    except Exception as e:  # scipy and zlib have a dozen ways of saying so
        raise ValueError(f"{file.name} is not a whole MATLAB file: {e}") from e


FLOWERS = (
    "pink primrose;hard-leaved pocket orchid;canterbury bells;sweet pea;english marigold;tiger lily;moon orchid;bird of paradise;monkshood;"
    "globe thistle;snapdragon;colt's foot;king protea;spear thistle;yellow iris;globe-flower;purple coneflower;peruvian lily;balloon flower;"
    "giant white arum lily;fire lily;pincushion flower;fritillary;red ginger;grape hyacinth;corn poppy;prince of wales feathers;stemless gentian;"
    "artichoke;sweet william;carnation;garden phlox;love in the mist;mexican aster;alpine sea holly;ruby-lipped cattleya;cape flower;"
    "great masterwort;siam tulip;lenten rose;barberton daisy;daffodil;sword lily;poinsettia;bolero deep blue;wallflower;marigold;buttercup;"
    "oxeye daisy;common dandelion;petunia;wild pansy;primula;sunflower;pelargonium;bishop of llandaff;gaura;geranium;orange dahlia;"
    "pink-yellow dahlia;cautleya spicata;japanese anemone;black-eyed susan;silverbush;californian poppy;osteospermum;spring crocus;bearded iris;"
    "windflower;tree poppy;gazania;azalea;water lily;rose;thorn apple;morning glory;passion flower;lotus;toad lily;anthurium;frangipani;clematis;"
    "hibiscus;columbine;desert-rose;tree mallow;magnolia;cyclamen;watercress;canna lily;hippeastrum;bee balm;ball moss;foxglove;bougainvillea;"
    "camellia;mallow;mexican petunia;bromelia;blanket flower;trumpet creeper;blackberry lily"
).split(";")
"""The data set's files number its classes; these are the names on its page, as CoOp writes them."""
