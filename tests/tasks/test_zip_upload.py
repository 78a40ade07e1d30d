"""Zips that strangers make: the good ones become a task, all others a sentence, and nothing is
written or run.
"""

import io
import stat
import zipfile
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import claiming_png
from PIL import Image

from copra_lab.tasks import photo, zip_upload
from copra_lab.tasks.zip_upload import IMAGES, UploadError, zip_task

COLOURS = {"cats": (200, 30, 30), "big_dogs": (30, 30, 200)}


@cache
def picture(colour=(90, 160, 30), size: int = 20, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    return file.getvalue()


def zipped(
    entries: "dict[str | zipfile.ZipInfo, bytes]", method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as z:
        for name, data in entries.items():
            z.writestr(name, data)
    return file.getvalue()


def deep(kind: type, value: int = 40_000) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 20), value, kind)).save(
        file, "PNG" if kind is np.uint16 else "TIFF"
    )
    return file.getvalue()


GOOD = {f"{name}/{i}.png": picture(colour) for name, colour in COLOURS.items() for i in range(3)}


@pytest.mark.parametrize("root", ["", "my animals/"])
def test_folders_become_classes_and_every_image_is_tested(tmp_path, root):
    noise = {
        f"{root}.DS_Store": b"x",
        "__MACOSX/cats/._0.png": b"x",
        f"{root}cats/Thumbs.db": b"x",
        f"{root}cats/": b"",
    }
    (tmp_path / "a.zip").write_bytes(
        data := zipped({**noise, **{root + name: image for name, image in GOOD.items()}})
    )
    for given_ in (data, tmp_path / "a.zip"):
        task = zip_task(given_, 16)
        assert task.classes == ("big dogs", "cats")
        assert task.prompts[0] == "a photo of a big dogs"
        assert task.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert task.test.images.shape == (
            6,
            16,
            16,
            3,
        )
        assert task.test.images[4].equal(photo(io.BytesIO(GOOD["cats/1.png"]), 16))
        assert len(task.train) == len(task.val) == 0
    assert [f.name for f in tmp_path.iterdir()] == ["a.zip"]


def entry(name: str, mode: int = 0o644 | stat.S_IFREG, **more) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for key, value in more.items():
        setattr(info, key, value)
    return info


def encrypted(data: bytes) -> bytes:
    """With the bit that says so set in every header."""
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(magic)
        while at >= 0:
            data = data[: at + offset] + bytes([data[at + offset] | 1]) + data[at + offset + 1 :]
            at = data.find(magic, at + 4)
    return data


def lying(data: bytes, size: int) -> bytes:
    """Whose directory promises that each file has so many bytes."""
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data = data[: at + 24] + size.to_bytes(4, "little") + data[at + 28 :]
        at = data.find(b"PK\x01\x02", at + 4)
    return data


PASSED = {
    "no image": ({"cats/readme.txt": b"x"}, "'cats/readme.txt' (unsupported file type)"), "svg": ({"cats/a.svg": b"<svg/>"}, "'cats/a.svg' (unsupported file type)"),
    "nested": ({"cats/a.zip": zipped(GOOD)}, "'cats/a.zip' (unsupported file type)"),
    "a disguise": ({"cats/a.png": b"<svg/>"}, "'cats/a.png' (not a supported image format)"),
    "cut off": ({"cats/a.png": picture(size=90)[:-60]}, "'cats/a.png' (image file is truncated"),
    "too large": ({"cats/a.png": claiming_png(20_000, 10_000)}, "'cats/a.png' (its 200 megapixels take 800 MB of memory but the limit is 512 MB: make it smaller)"),
    "outside": ({"cover.png": picture()}, "'cover.png' (not in a class folder)"),
    "32 bits": ({"cats/a.tif": deep(np.int32)}, "'cats/a.tif' (its pixels are 32-bit or signed integers"),
    "several": ({"cats/a.txt": b"", "cats/b.pdf": b"", "cats/c.png": b""}, "3 files, the first 'cats/a.txt' (unsupported file type)"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED)
def test_what_cannot_be_read_is_passed_over_and_named(name):
    more, words = PASSED[name]
    task = zip_task(zipped({**GOOD, **more}), 16)
    assert task.test.sources == tuple(sorted(GOOD))
    assert f"Passed over: {words}" in task.about
    assert len(task.notes) == 1
    assert zip_task(zipped(GOOD), 16).notes == ()


def test_folders_inside_a_class_are_of_it():
    task = zip_task(zipped({**GOOD, "cats/old/7.png": picture(COLOURS["cats"])}), 16)
    assert task.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert task.test.sources[-1] == "cats/old/7.png"
    assert not task.notes


def test_only_the_images_that_test_are_read_of_a_zip_with_a_split():
    split = {
        f"mine/{part}/{name}": image
        for part in ("Train", "validation", "TEST")
        for name, image in GOOD.items()
    }
    task = zip_task(zipped(split), 16)
    assert task.classes == ("big dogs", "cats")
    assert [s.split("/")[1] for s in task.test.sources] == ["TEST"] * 6
    assert "The folder's own split. The 12 other images of it are not needed." in task.about
    assert (
        zip_task(zipped({n: i for n, i in split.items() if "TEST" not in n}), 16)
        .test.sources[0]
        .startswith("mine/validation/")
    )
    assert zip_task(
        zipped({f"{part}/{i}.png": picture() for part in ("train", "bus") for i in range(2)}), 16
    ).classes == ("bus", "train")
    both = {f"{part}/{i}.png": picture() for part in ("train", "test") for i in range(2)}
    with pytest.raises(UploadError, match="have no class folders"):
        zip_task(zipped(both), 16)


def test_what_was_unusual_is_said():
    task = zip_task(
        zipped({**GOOD, "cats/deep.png": deep(np.uint16), "cats/dark.png": deep(np.uint16, 900)}),
        16,
    )
    assert task.prompts[1] == "a photo of a cats"
    assert "each asked as “a photo of a {}”" in task.about
    assert task.notes[0].startswith("2 images of more than 8 bits")
    assert task.notes[1].startswith("1 of these nearly black")
    assert [int(image.float().mean()) for image in task.test.images[-2:]] == [900 >> 8, 40_000 >> 8]


ZEROS = b"\0" * 30_000_000
BAD = {
    "empty": (b"", "not a whole zip"), "text": (b"not a zip", "not a whole zip"), "cut off": (zipped(GOOD)[:-60], "not a whole zip"),
    "cut in the middle": (zipped(GOOD)[:200] + zipped(GOOD)[260:], "not a whole zip"), "nothing in it": (zipped({}), "0 folders"),
    "one class": (zipped({"cats/1.png": picture()}), "1 folders"), "too many classes": (zipped({f"c{i}/1.png": picture() for i in range(51)}), "51 folders"),
    "no folders": (zipped({"1.png": picture(), "2.png": picture()}), "is not in a folder"), "a class of other files": (zipped({**GOOD, "birds/1.heic": b"x"}), "'birds' has no image"),
    "up": (zipped({**GOOD, "../../etc/passwd": b"x"}), "leads out of the zip"), "absolute": (zipped({**GOOD, "/etc/1.png": b"x"}), "leads out"),
    "windows": (zipped({**GOOD, "C:/x/1.png": b"x"}), "leads out"), "backslash": (zipped({**GOOD, "cats\\..\\1.png": b"x"}), "leads out"),
    "a nought": (zipped(GOOD).replace(b"cats/1.png", b"cats\0/.png"), "leads out"), "symlink": (zipped({**GOOD, entry("cats/9.png", 0o777 | stat.S_IFLNK): b"/etc/passwd"}), "is a link"),
    "device": (zipped({**GOOD, entry("cats/9.png", stat.S_IFCHR): b""}), "is a link or not a file"),
    "encrypted": (encrypted(zipped(GOOD)), "is encrypted"), "lzma": (zipped(GOOD, zipfile.ZIP_LZMA), "uncommon way"),
    "no image of a class": (zipped({**GOOD, "birds/a.png": b"<svg/>", "birds/b.png": b""}), "no image of 'birds' can be read: 'birds/a.png' cannot be read"),
    "a split without train": (zipped({f"{part}/{name}": image for part in ("val", "test") for name, image in GOOD.items()}), "without train"),
    "half a split": (zipped({**GOOD, "test/cats/1.png": picture()}), "'test' is named like a split and 'big_dogs' and 'cats' like a class"),
    "many large": (zipped({**GOOD, **{f"cats/a{i}.bmp": picture(size=4000, kind="GIF") for i in range(13)}}), "200 megapixels together"),
    "a bomb": (zipped({"cats/1.png": ZEROS, "dogs/1.png": b"0"}), "no image of 'cats' can be read"),
    "two bombs": (zipped({"cats/1.bmp": picture() + ZEROS, "dogs/1.bmp": picture() + ZEROS}), "more than 50 MB"),
    "a bomb that lies": (lying(zipped({"cats/1.bmp": picture() + ZEROS, "dogs/1.bmp": picture() + ZEROS}), 100), "not a whole zip"),
    "too many files": (zipped({f"c{i % 3}/{i}.png": b"" for i in range(IMAGES + 1)}), f"{IMAGES + 1} files"),
    "too many entries": (zipped({f"c{i}/": b"" for i in range(3 * IMAGES + 1)}), "entries"), "too large": (b"PK" + bytes(10_000_001), "10.0 MB"),
    "no name": (zipped({**GOOD, "_/1.png": picture()}), "cannot be a class name"), "a long name": (zipped({**GOOD, "c" * 61 + "/1.png": picture()}), "cannot be a class name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_everything_else_is_one_sentence(name, tmp_path, monkeypatch):
    data, words = BAD[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UploadError) as e:
        zip_task(data)
    assert words in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300
    assert list(tmp_path.iterdir()) == []


WHOLE = zipped(GOOD)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    st.integers(0, len(WHOLE)),
)
def test_a_damaged_zip_is_a_task_or_a_sentence(changes, end):
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    for some in (bytes(data), bytes(data[:end])):
        try:
            task = zip_task(some, 16)
        except UploadError:
            continue
        assert len(task.test) == len(task.test.labels) <= len(GOOD)
        assert len(task.classes) >= 2


NAMES = st.text("ab_ ./\\:é\n", min_size=1, max_size=12)


@settings(max_examples=150)
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_any_names_make_a_task_of_two_levels_or_a_sentence(names):
    entries = {f"{name}.png": picture() for name in names}
    try:
        task = zip_task(zipped(entries), 16)
    except UploadError as e:
        assert str(e)
        return
    for source, label in zip(task.test.sources, task.test.labels.tolist(), strict=True):
        folders = [part for part in source.split("/") if part not in ("", ".")][:-1]
        assert task.classes[label] in {" ".join(f.replace("_", " ").split()) for f in folders[:2]}
        folder = (
            folders[0]
            if len(folders) == 1
            else next(
                f for f in folders if " ".join(f.replace("_", " ").split()) == task.classes[label]
            )
        )
        assert task.classes[label] == " ".join(folder.replace("_", " ").split())
        assert ".." not in source.split("/")
        assert not source.startswith("/")


def test_what_comes_out_is_counted_and_not_what_was_promised(monkeypatch):
    monkeypatch.setattr(zip_upload, "UNPACKED", 0.0004)
    size = sum(map(len, GOOD.values()))
    with pytest.raises(UploadError, match="unpacks to more than"):
        zip_task(zipped(GOOD))
    monkeypatch.setattr(zip_upload, "UNPACKED", size / 1e6)
    assert torch.equal(zip_task(zipped(GOOD)).test.labels, torch.tensor([0, 0, 0, 1, 1, 1]))
