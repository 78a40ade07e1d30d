"""A folder of images as others lay it out: which are its classes, which its own split, what is
passed over; equal files in one part.
"""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import png, tiff
from PIL import Image

from copra_lab.tasks import image_folder, load_task
from copra_lab.tasks.folder import listing as folder
from copra_lab.tasks.splits import part_of

ALL = 10**6
PARTS = ("train", "val", "test")


def put(file: Path, content: int) -> Path:
    """An image of which equal numbers make equal files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(content).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    if file.suffix == ".png":
        file.write_bytes(png(values))
    else:
        Image.fromarray(values).save(file)
    return file


def build(root: Path, layout: dict[str, int], start: int = 0) -> Path:
    """So many different images in each of these folders."""
    for where, n in layout.items():
        for _ in range(n):
            put(root / where / f"{start}.png", start := start + 1)
    return root


def sizes(task) -> tuple[int, ...]:
    return tuple(len(getattr(task, part)) for part in PARTS)


def where(entries) -> dict[str, str]:
    return {e.source: e.part for e in entries}


# --- shares -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_dealt_as_it_says(tmp_path):
    """Three tenths of a class's different images test, a fifth validates, half train: within one
    image, and one at least in each.
    """
    numbers = (3, 4, 5, 6, 7, 10, 15, 33, 100)
    build(tmp_path, {f"class {n}": n for n in numbers})
    found = folder(tmp_path)
    parts = Counter((e.label, e.part) for e in found.entries)
    for n in numbers:
        train, val, test = (parts[f"class {n}", part] for part in PARTS)
        assert min(train, val, test) >= 1
        assert train + val + test == n
        assert abs(test - 0.3 * n) <= 0.5 or n < 4
        assert abs(val - 0.2 * n) <= 0.5
        assert abs(train - 0.5 * n) <= 1
    assert (
        "Half train, a fifth validates, three tenths test, by what the files contain."
        in found.about
    )


def test_names_do_not_matter_and_copies_stay_together(tmp_path):
    before = where(folder(build(tmp_path, {"cat": 30, "dog": 11})).entries)
    for file in [f for f in tmp_path.rglob("*.png")]:
        file.rename(file.with_name(f"IMG_{file.stem[::-1]}_{file.name}"))
    renamed = where(folder(tmp_path).entries)
    assert len(before) == 41 == len(renamed)
    assert {s.rpartition("_")[2].rpartition("/")[2]: p for s, p in renamed.items()} == {
        s.rpartition("/")[2]: p for s, p in before.items()
    }
    for file in [f for f in tmp_path.rglob("*.png")][::2]:
        shutil.copy(file, file.with_name("copy of " + file.name))
    copied = where(folder(tmp_path).entries)
    assert len(copied) == 62
    assert all(copied[s] == p for s, p in renamed.items())
    assert all(copied[s.replace("copy of ", "")] == p for s, p in copied.items())


def test_a_file_in_two_classes_is_in_one_part_and_said(tmp_path):
    build(tmp_path, {"cat": 20, "dog": 20})
    for i in range(8):
        shutil.copy(tmp_path / "cat" / f"{i}.png", tmp_path / "dog" / f"also {i}.png")
    found = folder(tmp_path)
    parts = where(found.entries)
    assert all(parts[f"cat/{i}.png"] == parts[f"dog/also {i}.png"] for i in range(8))
    assert "8 files are in more than one class, such as dog/also 0.png." in found.about


# --- splits of its own --------------------------------------------------------------------------------------------------

NAMED = {
    "train": "train", "Train": "train", "TRAINING": "train", "training_set": "train", "trainset": "train", "train data": "train", "train-images": "train",
    "val": "val", "Valid": "val", "validation": "val", "dev": "val", "valid_set": "val", "test": "test", "Testing": "test", "test_set": "test", "TEST": "test",
    "trains": None, "testimony": None, "latest": None, "validate me": None, "cat": None, "train_station": None, "developer": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_what_is_called_like_a_split(name):
    assert part_of(name) == NAMED[name]


def split_of(parts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> dict[str, int]:
    return {f"{part}/{name}": n for part, n in parts.items() for name in classes}


OWN = {
    "three": (
        split_of({"train": 5, "val": 2, "test": 3}),
        (10, 4, 6),
        "The folder's own split. The prompt",
    ),
    "in any case": (
        split_of({"Training": 5, "VALID": 2, "Test_set": 3}),
        (10, 4, 6),
        "The folder's own split. The prompt",
    ),
    "no val": (
        split_of({"train": 10, "test": 3}),
        (16, 4, 6),
        "The folder's own split. A fifth of its training images validates.",
    ),
    "no test": (
        split_of({"train": 10, "val": 3}),
        (16, 4, 6),
        "its validation images for the test. A fifth of its training images validates.",
    ),
    "train alone": (
        split_of({"train": 10}),
        (10, 4, 6),
        "All of its images are in train. Half train",
    ),
    "test alone": (split_of({"test": 10}), (10, 4, 6), "All of its images are in test. Half train"),
    "one image to train on": (split_of({"train": 2, "test": 1}), (2, 2, 2), "own split"),
    "folders inside": (
        {**split_of({"train": 5, "val": 2, "test": 3}), "train/cat/at home": 2},
        (12, 4, 6),
        "own split",
    ),
    "a class not tested": (
        {**split_of({"train": 5, "val": 2, "test": 3}), "train/cow": 4},
        (14, 4, 6),
        "test has no image of 'cow'; val has no image of 'cow'.",
    ),
    "a class like a split": ({"train": 10, "bus": 10}, (10, 4, 6), "Half train"),
    "a class like a split that holds folders": (
        {"cat/test": 5, "cat": 5, "dog": 10},
        (10, 4, 6),
        "Half train",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_split_of_its_own_is_used_and_said(name, tmp_path):
    layout, expected, words = OWN[name]
    task = load_task(build(tmp_path / "pets", layout), shots=ALL, side=16)
    assert sizes(task) == expected
    assert words in task.about
    assert not task.notes
    if "own split" in words:
        assert {part_of(s.split("/")[0]) for s in task.train.sources} == {"train"}
        tops = {part_of(p.split("/")[0]) for p in layout}
        assert {part_of(s.split("/")[0]) for s in task.test.sources} == {
            "test" if "test" in tops else "val"
        }


def test_classes_are_those_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    build(
        tmp_path,
        {f"{part}/{name}": 3 for part in ("train", "val") for name in ("b_c", "A", "0", "ü")},
    )
    theirs = ImageFolder(tmp_path / "train")
    task = load_task(tmp_path, shots=ALL, side=16)
    assert task.classes == tuple(name.replace("_", " ") for name in theirs.classes)
    by_file = {Path(f).relative_to(tmp_path).as_posix(): y for f, y in theirs.samples}
    ours = {
        s: int(y)
        for split in (task.train, task.val)
        for s, y in zip(split.sources, split.labels, strict=True)
    }
    assert ours == by_file


def test_no_image_is_in_two_parts_whatever_the_folder_does(tmp_path):
    build(tmp_path, split_of({"train": 10, "val": 5, "test": 5}))
    for to, of, n in (
        ("train/cat", "test/cat", 2),
        ("val/cat", "test/cat", 3),
        ("train/dog", "val/dog", 4),
        ("train/cat", "train/dog", 1),
    ):
        for i, file in enumerate(sorted((tmp_path / of).glob("*.png"))[:n]):
            shutil.copy(file, tmp_path / to / f"from {of.replace('/', ' ')} {i}.png")
    found = folder(tmp_path)
    content = {e.source: (tmp_path / e.source).read_bytes() for e in found.entries}
    parts = defaultdict(set)
    for e in found.entries:
        parts[content[e.source]].add(e.part)
    assert all(len(p) == 1 for p in parts.values())
    assert Counter(e.part for e in found.entries) == {
        "train": 21,
        "val": 10,
        "test": 10,
    }  # what tests is whole, and so is what validates
    assert "9 left out since the same file tests or validates." in found.about
    assert "in more than one class" in found.about


def test_equal_training_images_do_not_validate(tmp_path):
    build(tmp_path, split_of({"train": 20, "test": 2}))
    for file in [*tmp_path.glob("train/*/*.png")]:
        shutil.copy(file, file.with_name("copy of " + file.name))
    parts = where(folder(tmp_path).entries)
    assert all(parts[s.replace("copy of ", "")] == p for s, p in parts.items())
    assert Counter(parts.values()) == {"train": 64, "val": 16, "test": 4}


UNCLEAR = {
    "classes beside splits": ({**split_of({"train": 3, "test": 3}), "cow": 3}, "'test' and 'train' are named like a split and 'cow' like a class: name such folders"),
    "no classes in a split": ({"train": 3, "test": 3}, "'test' and 'train' are named like a split but have no class folders: name such"),
    "no classes in the test": ({**split_of({"train": 3}), "test": 3}, "'test' is named like a split but has no class folders"),
    "the same part twice": (split_of({"train": 3, "val": 3, "Validation": 3}), "are named like the same part of a split: merge them"),
    "no train": (split_of({"val": 3, "test": 3}), "a split without train: add it"),
    "a class that is not trained": ({**split_of({"train": 3, "test": 3}), "test/cow": 3}, "test has 'cow' but train does not"),
    "another spelling": ({"train/Cat": 3, "train/dog": 3, "test/cat": 3, "test/dog": 3}, "test has 'cat' but train does not"),
    "splits inside classes": ({f"{name}/{part}": 3 for name in ("cat", "dog") for part in ("train", "test")}, "the class 'cat' contains a split, 'test' and 'train'"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_clear_is_refused_with_what_to_rename(name, tmp_path):
    layout, words = UNCLEAR[name]
    with pytest.raises(ValueError, match=words) as e:
        load_task(build(tmp_path, layout))
    assert "or set splits=False (--no-splits) if these are class names" in str(e.value)
    assert "\n" not in str(e.value)
    task = load_task(tmp_path, splits=False, side=16)
    assert task.classes == tuple(sorted({p.split("/")[0] for p in layout}))
    assert task.options == {"splits": False}


def test_an_image_that_tests_is_not_all_that_trains(tmp_path):
    build(tmp_path, split_of({"train": 1, "test": 2}))
    shutil.copy(next((tmp_path / "train/cat").iterdir()), tmp_path / "test/cat")
    with pytest.raises(ValueError, match="every training image of 'cat' also tests or validates"):
        load_task(tmp_path)


# --- what is passed over ------------------------------------------------------------------------------------------------


def test_everything_that_can_be_read_is_taken_and_the_rest_is_counted(tmp_path):
    build(tmp_path, {"cat": 3, "dog": 3})
    suffixes = (".jfif", ".jpe", ".avif", ".ppm", ".jp2", ".tga", ".bmp", ".webp", ".JPG")
    for i, suffix in enumerate(suffixes):
        put(tmp_path / "cat" / f"x{suffix}", 100 + i)
    (tmp_path / "cat" / "deep.tif").write_bytes(tiff(np.full((16, 16), 40000, np.uint16)))
    (tmp_path / "cat" / "dark.tif").write_bytes(tiff(np.full((16, 16), 999, np.uint16)))
    for name in (
        "dog/a.heic",
        "dog/b.pdf",
        "dog/c.png",
        "list.csv",
        ".DS_Store",
        "dog/Thumbs.db",
        "__MACOSX/._a.png",
        "cat/@eaDir/a.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"nothing")
    put(tmp_path / "cover.png", 999)
    task = load_task(tmp_path, shots=ALL, side=16)
    sources = {s for part in PARTS for s in getattr(task, part).sources}
    assert {f"cat/x{suffix}" for suffix in suffixes} | {
        "cat/deep.tif",
        "cat/dark.tif",
    } < sources
    assert sum(sizes(task)) == 17
    assert task.notes == (
        "2 images of more than 8 bits, of which the high ones were taken.",
        "1 of these nearly black, using less than a sixteenth of their range: stretch them first "
        "if that is not meant.",
        "Passed over: 5 files, the first list.csv (unsupported file type).",
    )
    assert task.about.endswith(" ".join(task.notes))
    deep = dict(
        zip(
            task.train.sources + task.val.sources + task.test.sources,
            [i for p in PARTS for i in getattr(task, p).images],
            strict=True,
        )
    )
    assert deep["cat/deep.tif"].unique().tolist() == [40000 >> 8]
    assert deep["cat/dark.tif"].unique().tolist() == [999 >> 8]


def test_folders_without_an_image_are_refused_as_by_torchvision(tmp_path):
    build(tmp_path, split_of({"train": 3, "test": 3}))
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(ValueError, match=r"train.cow has no readable image: add some"):
        load_task(tmp_path)
    (tmp_path / "train" / "cow").rmdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.heic").write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=r"val has no readable image \(val/a.heic: unsupported file type\)",
    ):
        load_task(tmp_path)


def test_links_are_followed_once(tmp_path):
    build(tmp_path / "real", {"cat": 4, "dog": 4})
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "cat" / "again").symlink_to(tmp_path / "real" / "cat")
    assert len(folder(root).entries) == 8


def test_two_classes_that_read_alike_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two classes named 'red panda'"):
        load_task(build(tmp_path, {"red_panda": 3, "red panda": 3}))


# --- the prompt ---------------------------------------------------------------------------------------------------------


def test_the_template_is_said_and_may_be_ones_own(tmp_path):
    build(tmp_path, {"cat": 4, "dog": 4})
    usual, own = (
        load_task(tmp_path, side=16),
        load_task(tmp_path, side=16, template="a drawing of a {}"),
    )
    assert usual.prompts[0] == "a photo of a cat"
    assert "The prompt is “a photo of a {}”." in usual.about
    assert usual.options == {}
    assert own.prompts[0] == "a drawing of a cat"
    assert "The prompt is “a drawing of a {}”." in own.about
    assert own.options == {"template": "a drawing of a {}"}
    assert own.test.images.equal(usual.test.images)
    assert image_folder(tmp_path, side=16, template="a drawing of a {}").prompts == own.prompts
    for wrong in ("", "a cat", "{} and {}", "a {0}", "a {name}", "{}}", 7):
        with pytest.raises(ValueError, match=r"a template must contain \{\} once"):
            load_task(tmp_path, template=wrong)
    for more in ({"template": "{}"}, {"splits": False}):
        with pytest.raises(ValueError, match="digits has its own prompt and split"):
            load_task("digits", **more)


# --- any folder ---------------------------------------------------------------------------------------------------------

TOP = st.sampled_from(["train", "Train", "val", "validation", "test", "TEST", "cat", "dog", "dev"])
INSIDE = st.sampled_from(["", "", "cat", "dog", "cow", "test", "cat/old"])
FILES = st.lists(
    st.tuples(
        TOP, INSIDE, st.integers(0, 30), st.sampled_from([".png", ".png", ".png", ".ppm", ".txt"])
    ),
    min_size=1,
    max_size=60,
)


@pytest.mark.slow
@given(FILES, st.booleans())
def test_any_folder_is_a_task_or_a_sentence(tmp_path_factory, files, splits):
    root = tmp_path_factory.mktemp("any") / "root"
    for i, (top, inside, content, suffix) in enumerate(files):
        put_any(root / top / inside / f"{i}{suffix}", content)
    try:
        found = folder(root, splits=splits)
    except ValueError as e:
        assert str(e).startswith(str(root))
        assert "\n" not in str(e)
        return
    parts = defaultdict(set)
    for e in found.entries:
        path = e.source.split("/")
        parts[(root / e.source).read_bytes()].add(e.part)
        assert e.label == path[0] or (splits and part_of(path[0]) and e.label == path[1])
        told = part_of(path[0])
        if e.label != path[0] and "own split" in found.about:
            assert e.part == told or (told, e.part) in {("train", "val"), ("val", "test")}
    assert all(len(p) == 1 for p in parts.values()), "an image in two parts"
    images = {
        f.relative_to(root).as_posix() for f in root.rglob("*") if f.suffix in (".png", ".ppm")
    }
    gone = images - {e.source for e in found.entries} - {name for name, _ in found.passed}
    assert not gone or f"{len(gone)} left out since" in found.about
    assert {name for name, _ in found.passed} >= {
        f.relative_to(root).as_posix() for f in root.rglob("*.txt")
    }
    trained = {e.label for e in found.entries if e.part == "train"}
    assert trained == set(found.classes)
    assert len(found.classes) >= 2


def put_any(file: Path, content: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"P5 1 1 255\n" + bytes([content])
        if file.suffix == ".ppm"
        else png(np.uint8([[content]]))
        if file.suffix == ".png"
        else b""
    )
