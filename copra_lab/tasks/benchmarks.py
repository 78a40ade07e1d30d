"""The data sets on which fine-tuned CLIPs are compared: where each is, its prompt, its download.

They are torchvision's copies in torchvision's folders, so that existing ones are used; CoOp's
folders are found too. Class names and prompts are CoOp's (arXiv:2109.01134). CoOp's split is used
if its file (such as ``split_zhou_OxfordPets.json``) is next to the folder of images. Without it,
numbers are close to those of papers but not on the same images: the split is then the data set's
own, or, if it has none, one with CoOp's shares made by hashing file names. Shots are chosen by hash
as well, so a seed does not choose the same shots as in CoOp.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from copra_lab.tasks import benchmark_layouts as la
from copra_lab.tasks.decoding import Readable
from copra_lab.tasks.listing import Listing, parted
from copra_lab.utils.download import Archive, install
from copra_lab.utils.files import cache_folder

__all__ = ["SETS", "data_folder"]


def _file(home: Path, source: str) -> Readable:
    if not (file := home / source).is_file():
        raise FileNotFoundError(
            f"{file} is missing from this copy of the data set: unpack it again"
        )
    return file


@dataclass(frozen=True)
class DataSet:
    """A row of `SETS`.

    Attributes:
        title: Its name in the field.
        question: What the task asks.
        template: CoOp's prompt.
        homes: Folders below the root where it may be, torchvision's or CoOp's.
        images: What the right one of `homes` contains: the folder or the file of images.
        read: Reads its layout.
        split: The name of CoOp's split file.
        archives: What to download.
        by_hand: What to do if there is nothing to download.
        also: Other names for it.
        open: Gives the image of an entry's source.
    """

    title: str
    question: str
    template: str
    homes: tuple[str, ...]
    images: str
    read: Callable[[Path], la.Found]
    split: str = ""
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    also: tuple[str, ...] = ()
    open: Callable[[Path, str], Readable] = _file


def _cifar(title: str, home: str, read: Callable[[Path], la.Found], file: str, md5: str) -> DataSet:
    texts = (title, "Name the thing on a small photograph.", "a photo of a {}.")
    archive = Archive(f"https://www.cs.toronto.edu/~kriz/{file}", md5, "", home)
    return DataSet(*texts, (home,), "", read, archives=(archive,), open=la.cifar_picture)


OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"

EUROSAT = "torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"

FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

# Of archives that belong together, the one with the images comes last: if they are there, the
# others are too.
SETS: dict[str, DataSet] = {
    "caltech101": DataSet(
        "Caltech101", "Name the thing on a photograph.", "a photo of a {}.",
        ("caltech101", "caltech-101"), "101_ObjectCategories", la.caltech101,
        "split_zhou_Caltech101.json",
        (Archive("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                 "3138e1922a9193bfa496528edbbc45d0", "caltech101", "101_ObjectCategories"),),
    ),
    "dtd": DataSet(
        "Describable Textures", "Name the texture.", "{} texture.",
        ("dtd/dtd", "dtd"), "images", la.dtd, "split_zhou_DescribableTextures.json",
        (Archive(OXFORD + "dtd/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1",
                 "dtd", "dtd"),),
        also=("describabletextures",),
    ),
    "eurosat": DataSet(
        "EuroSAT", "Tell the use of land on a satellite's photograph.",
        "a centered satellite photo of {}.",
        ("eurosat",), "2750", la.eurosat, "split_zhou_EuroSAT.json",
        (Archive("https://huggingface.co/datasets/" + EUROSAT, "c8fa014336c82ac7804f0398fcb19387",
                 "eurosat", "2750"),),
    ),
    "fgvc-aircraft": DataSet(
        "FGVC-Aircraft", "Name the variant of an aircraft.",
        "a photo of a {}, a type of aircraft.",
        ("fgvc-aircraft-2013b/data", "fgvc_aircraft"), "images", la.fgvc_aircraft,
        archives=(Archive(OXFORD + "fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", "", "",
                          "fgvc-aircraft-2013b"),),
    ),
    "flowers102": DataSet(
        "Oxford Flowers", "Name the flower.", "a photo of a {}, a type of flower.",
        ("flowers-102", "oxford_flowers"), "jpg", la.flowers102, "split_zhou_OxfordFlowers.json",
        (Archive(OXFORD + "flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d",
                 "flowers-102", "imagelabels.mat"),
         Archive(OXFORD + "flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c",
                 "flowers-102", "setid.mat"),
         Archive(OXFORD + "flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa",
                 "flowers-102", "jpg")),
        also=("oxfordflowers",),
    ),
    "food101": DataSet(
        "Food-101", "Name the dish.", "a photo of {}, a type of food.",
        ("food-101",), "images", la.food101, "split_zhou_Food101.json",
        (Archive("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                 "85eeb15f3717b99a5da872d97d918f87", "", "food-101"),),
    ),
    "oxford-pets": DataSet(
        "Oxford-IIIT Pets", "Name the breed of a cat or dog.",
        "a photo of a {}, a type of pet.",
        ("oxford-iiit-pet", "oxford_pets"), "images", la.oxford_pets, "split_zhou_OxfordPets.json",
        (Archive(OXFORD + "pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f",
                 "oxford-iiit-pet", "annotations"),
         Archive(OXFORD + "pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                 "oxford-iiit-pet", "images")),
        also=("oxfordiiitpet", "pets"),
    ),
    "stanford-cars": DataSet(
        "Stanford Cars", "Name the make, model and year of a car.", "a photo of a {}.",
        ("stanford_cars",), "", la.stanford_cars, "split_zhou_StanfordCars.json",
        by_hand="its authors no longer offer it, so put a copy's devkit, cars_train, cars_test and "
        "cars_test_annos_withlabels.mat there",
        also=("cars",),
    ),
    "sun397": DataSet(
        "SUN397", "Name the scene.", "a photo of a {}.",
        ("sun397", ""), "SUN397", la.sun397, "split_zhou_SUN397.json",
        (Archive("http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                 "8ca2778205c41d23104230ba66911c7a", "", "SUN397"),),
    ),
    "ucf101": DataSet(
        "UCF101", "Tell what a person is doing on the middle frame of a video.",
        "a photo of a person doing {}.",
        ("ucf101",), "UCF-101-midframes", la.ucf101, "split_zhou_UCF101.json",
        by_hand="unpack CoOp's UCF-101-midframes.zip there and put split_zhou_UCF101.json next to "
        "it (both are linked in CoOp's DATASETS.md)",
    ),
    # CIFAR's binary version; torchvision reads the one made of pickles.
    "cifar10": _cifar(
        "CIFAR-10", "cifar-10-batches-bin", la.cifar10,
        "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    "cifar100": _cifar(
        "CIFAR-100", "cifar-100-binary", la.cifar100,
        "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8",
    ),
    "fashion-mnist": DataSet(
        "Fashion-MNIST", "Name the piece of clothing on a small grey photograph.",
        "a photo of a {}.",
        ("FashionMNIST/raw",), "train-images-idx3-ubyte.gz", la.fashion_mnist,
        archives=tuple(
            Archive(FASHION + file, md5, "FashionMNIST/raw", file)
            for file, md5 in (
                ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
                ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
                ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
                ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            )
        ),
        open=la.fashion_picture,
    ),
    "imagenet": DataSet(
        "ImageNet", "Name the thing on a photograph.", "a photo of a {}.",
        ("imagenet/images", "imagenet", ""), "train", la.imagenet,
        by_hand="ask for it at image-net.org, and unpack it as torchvision does, into train and "
        "val with one folder per class (n01440764, …)",
    ),
}  # fmt: skip
"""The data sets of the field, by the name that `load_task` takes."""


def find(name: object) -> str | None:
    """The key in `SETS` that `name` means, or None.

    "oxford-pets", "OxfordPets", "oxford_pets" and torchvision's "torchvision:OxfordIIITPet" are
    the same.
    """
    if not isinstance(name, str) or not re.fullmatch(r"(torchvision:)?\w[\w-]*", name):
        return None  # a path, for example
    plain = re.sub(r"[\W_]", "", name.removeprefix("torchvision:").lower())
    names = ((key, (key.replace("-", ""), *row.also)) for key, row in SETS.items())
    return next((key for key, known in names if plain in known), None)


def data_folder() -> Path:
    """The default folder of data sets: ``$COPRA_LAB_DATA``, or ``data`` in the cache folder."""
    return Path(os.environ.get("COPRA_LAB_DATA") or cache_folder() / "data")


def listing(key: str, root: "str | Path | None" = None, download: bool = True) -> Listing:
    """List a data set of the field, downloading it if it is missing.

    An unpacked copy is never changed.

    Args:
        key: One of `SETS`.
        root: The folder that holds it or is to hold it; None is `data_folder()`.
        download: Whether to download it if it is missing.

    Raises:
        FileNotFoundError: It is missing and cannot be downloaded; the message says what to do.
        ConnectionError: The download failed.
        ValueError: The copy or the download is incomplete.
    """
    row, root = SETS[key], Path(root).expanduser() if root is not None else data_folder()
    home = _home(row, root) or _fetched(key, root, download)
    split = home / row.split if row.split and (home / row.split).is_file() else None
    try:
        classes, entries = la.coop_split(split, row.images) if split else row.read(home)
        if unknown := {e.label for e in entries} - classes.keys():
            raise ValueError(f"it names no class {min(unknown)!r}")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        missing = e.filename if isinstance(e, FileNotFoundError) else None
        why = f"no {missing}" if missing else f"{type(e).__name__}: {e}"
        raise ValueError(
            f"{split or home} is not a complete copy of {row.title} ({why}): unpack it again"
        ) from e
    if split:
        origin = "Split as in CoOp's file."
    elif any(e.part for e in entries):
        origin = "The data set's own split."
    else:
        origin = (
            "It has no split of its own: half of the images train, a fifth validates, three "
            "tenths test."
        )
    about = f"{row.question} {len(classes)} classes. {origin}"
    open_ = partial(row.open, home)
    return Listing(
        key, row.title, about, classes, row.template, parted(entries), open_, group="real"
    )


def _home(row: DataSet, root: Path) -> Path | None:
    return next((root / home for home in row.homes if (root / home / row.images).exists()), None)


def _fetched(key: str, root: Path, download: bool) -> Path:
    row = SETS[key]
    why = f"there is no {root / row.homes[0] / row.images}"
    if download and row.archives:
        try:
            with _lock(root, key):
                install(row.archives, root)
            if home := _home(row, root):
                return home
        except (FileNotFoundError, PermissionError) as e:
            why = str(e)
    files = ", ".join(f"{a.url} as {a.file(root)}" for a in row.archives)
    again = "" if download else " with download=True"
    hint = row.by_hand or f"give its root, call again{again} to download it, or download {files}"
    raise FileNotFoundError(f"{row.title} is not in {root} ({why}): {hint}")


def _lock(root: Path, key: str) -> FileLock:
    """Of several processes that want the same data set, one downloads it and the others wait."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileNotFoundError(f"{root} cannot be created ({e}): give another root") from e
    return FileLock(root / f".{key}.lock")
