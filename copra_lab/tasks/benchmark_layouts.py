"""How the field's data sets lay out their folders: the images, their classes and their parts.

A reader takes the data set's folder. It returns the classes (each label with its name in a prompt,
in the data set's own order) and the entries, whose sources are paths below that folder. An entry
has a part if the data set assigns one. Class names are changed as in CoOp (arXiv:2109.01134, its
``datasets/``). Nothing is unpickled.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from copra_lab.tasks.benchmark_names import CALTECH, EUROSAT, FLOWERS
from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.folder import images_in
from copra_lab.tasks.splits import PARTS
from copra_lab.utils.extras import needs

Found = tuple[dict[str, str], list[Entry]]


def spaced(name: str) -> str:
    """The name with spaces for underscores."""
    return name.replace("_", " ")


def _entry(source: str, label: str, part: str = "") -> Entry:
    return Entry(source, label, source, part)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _rows(files: Mapping[str, Path]) -> list[tuple[str, str]]:
    """(part, line) for each line of these files, one a part."""
    return [(part, line) for part, file in files.items() for line in _lines(file)]


def _named(labels: Iterable[str]) -> dict[str, str]:
    return {label: spaced(label) for label in labels}


def _by_number(names: Mapping[int, str]) -> dict[str, str]:
    return _named(names[i] for i in sorted(names))


def _by_name(entries: Iterable[Entry]) -> dict[str, str]:
    return _named(sorted({e.label for e in entries}))


def coop_split(file: Path, images: str) -> Found:
    """CoOp's ``split_zhou_….json``: for each part, rows of a path, a number and a class name.

    Args:
        file: The JSON file.
        images: The folder that the paths start from.

    Raises:
        ValueError: The file names an unknown part.
    """
    names: dict[int, str] = {}
    entries = []
    for part, rows in _json(file).items():
        if part not in PARTS:
            raise ValueError(f"{part!r} is not a part of a split")
        for path, number, name in rows:
            names[int(number)] = str(name)
            entries.append(_entry(str(PurePosixPath(images, path)), str(name), part))
    return _by_number(names), entries


def class_folders(
    folder: Path,
    home: Path,
    part: str = "",
    skip: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> Found:
    """One folder of images per class.

    Args:
        folder: What holds the class folders.
        home: The data set's folder.
        part: The part of all images.
        skip: Folders to leave out.
        names: Class names that differ from their folders'.

    Raises:
        ValueError: There are no folders.
    """
    folders = sorted(f for f in folder.iterdir() if f.is_dir() and f.name not in skip)
    found = [f for f in folders if not f.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder} has no class folders")
    classes = {f.name: spaced((names or {}).get(f.name, f.name)) for f in found}
    return classes, [e for f in found for e in _images(f, home, f.name, part)]


def _images(folder: Path, home: Path, label: str, part: str = "") -> list[Entry]:
    return [_entry(f.relative_to(home).as_posix(), label, part) for f in images_in(folder)]


def caltech101(home: Path) -> Found:
    """Caltech101, https://data.caltech.edu/records/mzrjq-6wc02."""
    skip = ("BACKGROUND_Google", "Faces_easy")
    return class_folders(home / "101_ObjectCategories", home, skip=skip, names=CALTECH)


def eurosat(home: Path) -> Found:
    """EuroSAT, https://github.com/phelber/EuroSAT."""
    return class_folders(home / "2750", home, names=EUROSAT)


def dtd(home: Path) -> Found:
    """Describable Textures, the first of its ten splits.

    https://www.robots.ox.ac.uk/~vgg/data/dtd/
    """
    rows = _rows({part: home / "labels" / f"{part}1.txt" for part in PARTS})
    entries = [_entry(f"images/{name}", name.split("/")[0], part) for part, name in rows]
    return _by_name(entries), entries


def fgvc_aircraft(home: Path) -> Found:
    """FGVC-Aircraft by variant, https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/."""
    entries = []
    for part, line in _rows({part: home / f"images_variant_{part}.txt" for part in PARTS}):
        image, label = line.split(" ", 1)
        entries.append(_entry(f"images/{image}.jpg", label, part))
    return {name: name for name in _lines(home / "variants.txt")}, entries


def flowers102(home: Path) -> Found:
    """Oxford Flowers, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/."""
    labels, sets = (_matlab(home / f"{name}.mat") for name in ("imagelabels", "setid"))
    number = dict(enumerate(np.atleast_1d(labels["labels"]).tolist(), 1))
    parts = {"train": "trnid", "val": "valid", "test": "tstid"}
    rows = [(i, part) for part, key in parts.items() for i in np.atleast_1d(sets[key]).tolist()]
    entries = [_entry(f"jpg/image_{i:05d}.jpg", FLOWERS[number[i] - 1], part) for i, part in rows]
    return {name: name for name in FLOWERS}, entries


def food101(home: Path) -> Found:
    """Food-101, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/."""
    entries = []
    for part in ("train", "test"):
        for label, paths in _json(home / "meta" / f"{part}.json").items():
            entries += [_entry(f"images/{path}.jpg", label, part) for path in paths]
    return _by_name(entries), entries


def oxford_pets(home: Path) -> Found:
    """Oxford-IIIT Pets, https://www.robots.ox.ac.uk/~vgg/data/pets/."""
    names: dict[int, str] = {}
    entries, lists = [], home / "annotations"
    for part, line in _rows({"train": lists / "trainval.txt", "test": lists / "test.txt"}):
        image, number, _, _ = line.split()
        breed = names[int(number)] = image.rpartition("_")[0].lower()
        entries.append(_entry(f"images/{image}.jpg", breed, part))
    return _by_number(names), entries


def stanford_cars(home: Path) -> Found:
    """Stanford Cars; in prompts the year comes first."""
    kit, test = home / "devkit", home / "cars_test_annos_withlabels.mat"
    labels = [str(name) for name in np.atleast_1d(_matlab(kit / "cars_meta.mat")["class_names"])]
    entries = []
    for part, file in (("train", kit / "cars_train_annos.mat"), ("test", test)):
        for row in np.atleast_1d(_matlab(file)["annotations"]):
            label = labels[int(row["class"]) - 1]
            entries.append(_entry(f"cars_{part}/{row['fname']}", label, part))
    words = {label: label.split() for label in labels}
    return {label: " ".join([w[-1], *w[:-1]]) for label, w in words.items()}, entries


def sun397(home: Path) -> Found:
    """SUN397, https://vision.princeton.edu/projects/2010/SUN/.

    "a/apartment_building/outdoor" becomes "outdoor apartment building".
    """
    root = home / "SUN397"
    labels = [line.lstrip("/") for line in _lines(root / "ClassName.txt")]
    entries = [e for label in labels for e in _images(root / label, home, label)]
    return {label: spaced(" ".join(label.split("/")[:0:-1])) for label in labels}, entries


def ucf101(home: Path) -> Found:
    """UCF101, https://www.crcv.ucf.edu/data/UCF101.php: CoOp's middle frames of its videos.

    The split is the first of the data set's three.
    """
    lists = home / "ucfTrainTestlist"
    labels = [line.split()[1] for line in _lines(lists / "classInd.txt")]
    name = {label: "_".join(re.findall("[A-Z][^A-Z]*", label)) for label in labels}
    entries = []
    for part, line in _rows({p: lists / f"{p}list01.txt" for p in ("train", "test")}):
        label, video = line.split()[0].split("/")
        frame = f"UCF-101-midframes/{name[label]}/{video.removesuffix('.avi')}.jpg"
        entries.append(_entry(frame, label, part))
    return {label: spaced(name[label]) for label in labels}, entries


def imagenet(home: Path) -> Found:
    """ImageNet, https://image-net.org; its validation images test, as usual.

    Class names are CLIP's: from CoOp's ``classnames.txt``, or open_clip's.

    Raises:
        ValueError: There is no ``classnames.txt``, and the classes are not ImageNet's 1,000.
    """
    classes, train = class_folders(home / "train", home, "train")
    _, test = class_folders(home / "val", home, "test")
    files = (home / "classnames.txt", home.parent / "classnames.txt")
    if file := next((f for f in files if f.is_file()), None):
        names = dict(line.split(" ", 1) for line in _lines(file))
    elif len(classes) == 1000:
        with needs("clip"):
            from open_clip import IMAGENET_CLASSNAMES

        names = dict(zip(classes, IMAGENET_CLASSNAMES, strict=True))
    else:
        raise ValueError(
            f"its {len(classes)} classes are not ImageNet's 1,000, and there is no classnames.txt "
            "with a line like 'n01440764 tench' for each"
        )
    return {label: names[label] for label in classes}, train + test


def cifar10(home: Path) -> Found:
    """CIFAR-10, binary version, https://www.cs.toronto.edu/~kriz/cifar.html."""
    files = {f"data_batch_{i}.bin": "train" for i in range(1, 6)} | {"test_batch.bin": "test"}
    return _cifar(home, _lines(home / "batches.meta.txt"), files, 1)


def cifar100(home: Path) -> Found:
    """CIFAR-100, binary version, https://www.cs.toronto.edu/~kriz/cifar.html."""
    files = {"train.bin": "train", "test.bin": "test"}
    return _cifar(home, _lines(home / "fine_label_names.txt"), files, 2)


def _cifar(home: Path, names: list[str], files: Mapping[str, str], before: int) -> Found:
    """Each row is `before` label bytes, of which the last counts, and 32 × 32 pixels a colour."""
    entries, row = [], before + PIXELS
    for file, part in files.items():
        data = np.fromfile(home / file, np.uint8)
        if data.size % row:
            raise ValueError(f"{file} is cut off")
        for i, n in enumerate(data.reshape(-1, row)[:, before - 1].tolist()):
            entries.append(_entry(f"{file}:{i * row + before}", names[n], part))
    return _named(names), entries


PIXELS = 3 * 32 * 32


def cifar_picture(home: Path, source: str) -> Image.Image:
    """The CIFAR image at ``file:offset``."""
    file, _, at = source.rpartition(":")
    pixels = np.fromfile(home / file, np.uint8, PIXELS, offset=int(at)).reshape(3, 32, 32)
    return Image.fromarray(pixels.transpose(1, 2, 0))


FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "ankle boot")  # fmt: skip
"""Fashion-MNIST's classes, in its order."""


def fashion_mnist(home: Path) -> Found:
    """Fashion-MNIST (arXiv:1708.07747), https://github.com/zalandoresearch/fashion-mnist.

    Raises:
        ValueError: A file is cut off, or has not one label for each image.
    """
    entries = []
    for of, part in (("train", "train"), ("t10k", "test")):
        file = f"{of}-images-idx3-ubyte.gz"
        images, labels = idx(home / file), idx(home / f"{of}-labels-idx1-ubyte.gz")
        if len(images) != len(labels):
            raise ValueError(f"{file} has {len(images)} images, and there are {len(labels)} labels")
        entries += [_entry(f"{file}:{i}", FASHION[n], part) for i, n in enumerate(labels.tolist())]
    return {name: name for name in FASHION}, entries


def fashion_picture(home: Path, source: str) -> Image.Image:
    """The image of Fashion-MNIST at ``file:number``."""
    file, _, number = source.rpartition(":")
    return Image.fromarray(idx(home / file)[int(number)])


@lru_cache(2)  # unpacking takes a second, and there are thousands of images in each
def idx(file: Path) -> np.ndarray:
    """The bytes of a gzipped IDX file, as MNIST has them (http://yann.lecun.com/exdb/mnist/).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or cut off, or holds something else than bytes.
    """
    try:
        data = gzip.decompress(file.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ValueError(f"{file.name} cannot be unpacked: {e}") from e
    if len(data) < 4 or data[:3] != b"\0\0\x08":  # 8 is IDX's number for bytes
        raise ValueError(f"{file.name} is no IDX file of bytes")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise ValueError(f"{file.name} is cut off")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _matlab(file: Path) -> dict[str, Any]:
    with needs("benchmarks"):
        from scipy.io import loadmat

    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is missing")
    try:
        return loadmat(file, squeeze_me=True)
    except Exception as e:  # scipy and zlib raise a dozen kinds
        raise ValueError(f"{file.name} is not a complete MATLAB file: {e}") from e
