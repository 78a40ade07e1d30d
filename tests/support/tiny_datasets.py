"""Small data sets, laid out on disk as each one's authors lay out theirs. An image's colour tells
its class.

A builder writes below `root` and gives what it wrote: (words for the class in a prompt, part or ""
where the layout deals none) for each image, by its path below `root`. `N` images a class, of which
`SHARE` in each part that the layout has.
"""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from copra_lab.tasks.benchmark_layouts import FASHION

N = 20
SHARE = {"train": 10, "val": 4, "test": 6}
TWO = {"train": 14, "test": 6}
Truth = dict[str, tuple[str, str]]


def colour(words: str) -> np.ndarray:
    """Of the images of a class: apart from those of others, unless a test is very unlucky."""
    return (
        np.frombuffer(hashlib.blake2b(words.encode(), digest_size=3).digest(), np.uint8) // 2 + 64
    )


def pixels(words: str, i: int, shape=(20, 24)) -> np.ndarray:
    out = np.tile(colour(words), (*shape, 1))
    out[:8, :8] = [37 * i % 256, 53 * i % 256, i // 256]  # no two images are equal, as JPEG neither
    return out


def save(file: Path, words: str, i: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(words, i)).save(file, quality=95)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def numbered(shares: dict[str, int]) -> list[tuple[int, str]]:
    """(number from 1, part) of the images of a class, parts mixed."""
    parts = [p for p, n in shares.items() for _ in range(n)]
    order = np.random.default_rng(len(parts)).permutation(len(parts))
    return [(i + 1, parts[j]) for i, j in enumerate(order)]


def class_folders(root: Path, folder: str, names: dict[str, str], pattern: str) -> Truth:
    found: Truth = {}
    for name, words in names.items():
        for i in range(1, N + 1):
            path = f"{folder}/{name}/{pattern.format(name=name.split('/')[-1], i=i)}"
            save(root / path, words, i)
            if words:
                found[path] = (words, "")
    return found


def caltech101(root: Path) -> Truth:
    names = {
        "airplanes": "airplane",
        "BACKGROUND_Google": "",
        "dollar_bill": "dollar bill",
        "Faces": "face",
        "Faces_easy": "",
    }
    return class_folders(root, "caltech101/101_ObjectCategories", names, "image_{i:04d}.jpg")


def eurosat(root: Path) -> Truth:
    names = {"AnnualCrop": "Annual Crop Land", "Forest": "Forest", "SeaLake": "Sea or Lake"}
    return class_folders(root, "eurosat/2750", names, "{name}_{i}.jpg")


def sun397(root: Path) -> Truth:
    names = {
        "a/abbey": "abbey",
        "a/apartment_building/outdoor": "outdoor apartment building",
        "b/beauty_salon": "beauty salon",
    }
    write(root / "SUN397" / "ClassName.txt", "".join(f"/{n}\n" for n in names))
    return class_folders(root, "SUN397", names, "sun_{name}{i:05d}.jpg")


def dtd(root: Path) -> Truth:
    found, listed = {}, {part: [] for part in SHARE}
    for name in ("banded", "polka-dotted", "zigzagged"):
        for i, part in numbered(SHARE):
            path = f"dtd/dtd/images/{name}/{name}_{i:04d}.jpg"
            save(root / path, name, i)
            listed[part].append(f"{name}/{name}_{i:04d}.jpg")
            found[path] = (name, part)
    for part, paths in listed.items():
        write(root / "dtd/dtd/labels" / f"{part}1.txt", "\n".join(paths) + "\n")
    return found


def fgvc_aircraft(root: Path) -> Truth:
    home, found, listed, variants = (
        root / "fgvc-aircraft-2013b/data",
        {},
        {part: [] for part in SHARE},
        ("707-320", "DHC-8-100", "F/A-18", "Hawk T1"),
    )
    for k, variant in enumerate(variants):
        for i, part in numbered(SHARE):
            save(home / "images" / f"{k:02d}{i:05d}.jpg", variant, i)
            listed[part].append(f"{k:02d}{i:05d} {variant}")
            found[f"fgvc-aircraft-2013b/data/images/{k:02d}{i:05d}.jpg"] = (variant, part)
    write(home / "variants.txt", "\n".join(variants) + "\n")
    for part, rows in listed.items():
        write(home / f"images_variant_{part}.txt", "\n".join(rows) + "\n")
    return found


def flowers102(root: Path) -> Truth:
    home, found, labels, sets = root / "flowers-102", {}, [], {part: [] for part in SHARE}
    for number, name in (
        (41, "barberton daisy"),
        (1, "pink primrose"),
        (60, "pink-yellow dahlia"),
        (102, "blackberry lily"),
    ):
        for _, part in numbered(SHARE):
            labels.append(number)
            sets[part].append(len(labels))
            save(home / "jpg" / f"image_{len(labels):05d}.jpg", name, len(labels))
            found[f"flowers-102/jpg/image_{len(labels):05d}.jpg"] = (name, part)
    savemat(home / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(
        home / "setid.mat",
        {
            k: np.array([sets[p]], np.uint16)
            for k, p in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))
        },
    )
    return found


def food101(root: Path) -> Truth:
    home, found, listed = root / "food-101", {}, {part: {} for part in TWO}
    for name, words in (
        ("apple_pie", "apple pie"),
        ("waffles", "waffles"),
        ("baby_back_ribs", "baby back ribs"),
    ):
        for i, part in numbered(TWO):
            save(home / "images" / name / f"{1000 + i}.jpg", words, i)
            listed[part].setdefault(name, []).append(f"{name}/{1000 + i}")
            found[f"food-101/images/{name}/{1000 + i}.jpg"] = (words, part)
    for part, of in listed.items():
        write(home / "meta" / f"{part}.json", json.dumps(of))
    return found


def oxford_pets(root: Path) -> Truth:
    home, found, listed = root / "oxford-iiit-pet", {}, {part: [] for part in TWO}
    breeds = (
        ("Abyssinian", "abyssinian"),
        ("american_bulldog", "american bulldog"),
        ("Egyptian_Mau", "egyptian mau"),
    )
    for k, (breed, words) in enumerate(breeds, 1):
        for i, part in numbered(TWO):
            save(home / "images" / f"{breed}_{i}.jpg", words, i)
            listed[part].append(f"{breed}_{i} {k} {2 - breed[0].isupper()} {k}")
            found[f"oxford-iiit-pet/images/{breed}_{i}.jpg"] = (words, part)
    for part, file in (("train", "trainval"), ("test", "test")):
        write(home / "annotations" / f"{file}.txt", "\n".join(listed[part]) + "\n")
    return found


def stanford_cars(root: Path) -> Truth:
    home, found = root / "stanford_cars", {}
    names = [
        "AM General Hummer SUV 2000",
        "Ram C/V Cargo Van Minivan 2012",
        "smart fortwo Convertible 2012",
    ]
    words = [
        "2000 AM General Hummer SUV",
        "2012 Ram C/V Cargo Van Minivan",
        "2012 smart fortwo Convertible",
    ]
    fields = [(f, object) for f in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for k in (1, 2, 3):
            for _ in range(TWO[part]):
                image = f"{len(rows) + 1:05d}.jpg"
                save(home / f"cars_{part}" / image, words[k - 1], len(rows))
                rows.append((1, 1, 20, 20, k, image))
                found[f"stanford_cars/cars_{part}/{image}"] = (words[k - 1], part)
        (home / file).parent.mkdir(exist_ok=True)
        savemat(home / file, {"annotations": np.array([rows], fields)})
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": np.array([names], object)})
    return found


def ucf101(root: Path) -> Truth:
    home, found, listed = root / "ucf101", {}, {part: [] for part in TWO}
    actions = (("ApplyEyeMakeup", "Apply_Eye_Makeup"), ("YoYo", "Yo_Yo"), ("Archery", "Archery"))
    for action, spaced in actions:
        for i, part in numbered(TWO):
            video = f"v_{action}_g{i:02d}_c01"
            save(home / "UCF-101-midframes" / spaced / f"{video}.jpg", spaced.replace("_", " "), i)
            listed[part].append(f"{action}/{video}.avi" + (" 1" if part == "train" else ""))
            found[f"ucf101/UCF-101-midframes/{spaced}/{video}.jpg"] = (
                spaced.replace("_", " "),
                part,
            )
    write(
        home / "ucfTrainTestlist/classInd.txt",
        "".join(f"{i} {action}\n" for i, (action, _) in enumerate(actions, 1)),
    )
    for part, rows in listed.items():
        write(home / "ucfTrainTestlist" / f"{part}list01.txt", "\n".join(rows) + "\n")
    return found


def imagenet(root: Path) -> Truth:
    found, names = {}, {"n01440764": "tench", "n01443537": "goldfish", "n02012849": "crane bird"}
    write(root / "imagenet/classnames.txt", "".join(f"{k} {v}\n" for k, v in names.items()))
    for k, v in names.items():
        for i, part in numbered(TWO):
            path = (
                f"imagenet/train/{k}/{k}_{i}.JPEG"
                if part == "train"
                else f"imagenet/val/{k}/ILSVRC2012_val_{i:08d}.JPEG"
            )
            save(root / path, v, i)
            found[path] = (v, part)
    return found


def cifar(
    root: Path, home: str, meta: str, names: list[str], files: dict[str, str], label: int
) -> Truth:
    write(root / home / meta, "\n".join(names) + "\n\n")
    found: Truth = {}
    record = label + 1 + 3072
    for f, (file, part) in enumerate(files.items()):
        rows = []
        for i in range(8 * len(names)):
            words = names[i % len(names)].replace("_", " ")
            found[f"{home}/{file}:{i * record + label + 1}"] = (words, part)
            rows.append(
                bytes([99] * label + [i % len(names)])
                + pixels(words, 100 * f + i, (32, 32)).transpose(2, 0, 1).tobytes()
            )
        (root / home / file).write_bytes(b"".join(rows))
    return found


def cifar10(root: Path) -> Truth:
    files = {**{f"data_batch_{i}.bin": "train" for i in range(1, 6)}, "test_batch.bin": "test"}
    return cifar(
        root,
        "cifar-10-batches-bin",
        "batches.meta.txt",
        ["airplane", "automobile", "bird"],
        files,
        0,
    )


def cifar100(root: Path) -> Truth:
    files = {"train.bin": "train", "test.bin": "test"}
    return cifar(
        root,
        "cifar-100-binary",
        "fine_label_names.txt",
        ["apple", "aquarium_fish", "baby"],
        files,
        1,
    )


def fashion_mnist(root: Path) -> Truth:
    """Grey: an image's brightness tells its class."""
    found: Truth = {}
    for of, part in (("train", "train"), ("t10k", "test")):
        labels = [i % len(FASHION) for i in range(8 * len(FASHION))]
        images = [pixels(FASHION[n], i, (28, 28))[..., 0] for i, n in enumerate(labels)]
        file = f"FashionMNIST/raw/{of}-images-idx3-ubyte.gz"
        save_idx(root / file, np.stack(images))
        save_idx(root / f"FashionMNIST/raw/{of}-labels-idx1-ubyte.gz", np.array(labels, np.uint8))
        found |= {f"{file}:{i}": (FASHION[n], part) for i, n in enumerate(labels)}
    return found


def save_idx(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    file.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


BUILDERS = {
    "caltech101": caltech101, "dtd": dtd, "eurosat": eurosat, "fgvc-aircraft": fgvc_aircraft, "flowers102": flowers102,
    "food101": food101, "oxford-pets": oxford_pets, "stanford-cars": stanford_cars, "sun397": sun397, "ucf101": ucf101,
    "imagenet": imagenet, "cifar10": cifar10, "cifar100": cifar100,
    "fashion-mnist": fashion_mnist,
}  # fmt: skip
