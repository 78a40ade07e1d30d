"""Tasks from Hugging Face data sets: with a stand-in that answers to the same, and with the library
itself where it is installed.
"""

import io
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PIL

from copra_lab.tasks import load_task
from copra_lab.tasks.hugging_face import is_dataset, listing

NAMES = ["cat", "red_panda", "zebra"]
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 200)]


class Image:
    """The feature: only its class's name is looked at."""


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Table:
    """What `hugging_face` asks of a ``datasets.Dataset``."""

    def __init__(self, features, columns, name="pets"):
        self.features, self._columns, self.info = (
            features,
            columns,
            SimpleNamespace(dataset_name=name),
        )
        self.column_names = list(columns)

    def __len__(self):
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key):
        return (
            self._columns[key]
            if isinstance(key, str)
            else {c: v[key] for c, v in self._columns.items()}
        )


def picture(label, i):
    pixels = np.tile(np.uint8(COLOURS[label]), (20, 30, 1))
    pixels[0, :2] = i
    return PIL.fromarray(pixels)


def columns(n, start=0):
    labels = [i % 3 for i in range(n)]
    return {"image": [picture(y, start + i) for i, y in enumerate(labels)], "label": labels}


def stand_in(n, start=0, **changed):
    return Table(
        {"image": Image(), "label": ClassLabel(NAMES)} | changed.pop("features", {}),
        columns(n, start) | changed,
    )


def real(n, start=0):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    return datasets.Dataset.from_dict(columns(n, start), features=features)


MAKE = pytest.mark.parametrize("make", [stand_in, real])


def check(task):
    for part in (task.train, task.val, task.test):
        mean = part.images[:, 4:].float().mean((1, 2)).numpy()
        assert all(
            np.abs(m - COLOURS[y]).max() < 2
            for m, y in zip(mean, part.labels.tolist(), strict=True)
        )


@MAKE
def test_a_single_data_set_is_dealt(make):
    task = load_task(make(60), side=16, shots=10**6)
    assert task.classes == ("cat", "red panda", "zebra")
    assert task.prompts[1] == "a photo of a red panda"
    assert [len(s) for s in (task.train, task.val, task.test)] == [30, 12, 18]
    assert len({*task.train.sources, *task.val.sources, *task.test.sources}) == 60
    assert "half train" in task.about
    check(task)
    few = load_task(make(60), side=16, shots=2, seed=1)
    assert few.train.labels.bincount().tolist() == [2, 2, 2]
    assert few.test.sources == task.test.sources
    assert few.train.sources != load_task(make(60), side=16, shots=2, seed=0).train.sources


@MAKE
@pytest.mark.parametrize(
    ("names", "sizes", "said"),
    [
        (("train", "test"), (24, 6, 30), "own split"),
        (("train", "validation"), (24, 6, 30), "validation part is the test"),
        (("train", "valid", "test"), (30, 30, 30), "own split"),
        (("train", "test", "extra"), (24, 6, 30), "own split"),
        (("anything",), (15, 6, 9), "half train"),
    ],
    ids=["two", "no test", "three", "one more", "one"],
)
def test_splits(make, names, sizes, said):
    task = load_task({name: make(30, 40 * i) for i, name in enumerate(names)}, side=16, shots=10**6)
    assert tuple(len(s) for s in (task.train, task.val, task.test)) == sizes
    assert said in task.about
    check(task)


@MAKE
def test_test_rows_without_a_label_are_left_out(make):
    test = make(30, 50)
    if make is stand_in:
        test._columns["label"] = [-1] * 30
    else:
        test = test.remove_columns("label").add_column("label", [-1] * 30).cast(test.features)
    task = load_task({"train": make(30), "validation": make(12, 30), "test": test}, side=16)
    assert len(task.test) == 12
    assert "validation part is the test" in task.about


def test_the_real_dictionary_and_its_undecoded_images():
    datasets = pytest.importorskip("datasets")
    data = datasets.DatasetDict({"train": real(30), "test": real(15, 30)})
    task = load_task(data, side=16)
    raw = data.cast_column("image", datasets.Image(decode=False))
    assert load_task(raw, side=16).test.images.equal(task.test.images)
    with pytest.raises(ValueError, match="streamed data set"):
        load_task(data["train"].to_iterable_dataset(), side=16)
    with pytest.raises(
        ValueError, match=r"not images: reset its format with data\.with_format\(None\)"
    ):
        load_task(data.with_format("numpy"), side=16)


def test_labels_that_are_words():
    words = [NAMES[i % 3] for i in range(30)]
    task = load_task(stand_in(30, label=words, features={"label": object()}), side=16, shots=10**6)
    assert task.classes == ("cat", "red panda", "zebra")
    check(task)


def test_images_as_bytes_and_as_paths(tmp_path):
    shown = columns(30)["image"]
    buffers = [io.BytesIO() for _ in shown]
    for i, (image, buffer) in enumerate(zip(shown, buffers, strict=True)):
        image.save(buffer, "PNG")
        image.save(tmp_path / f"{i}.png")
    plain = load_task(stand_in(30), side=16).test.images
    assert load_task(
        stand_in(30, image=[{"bytes": b.getvalue(), "path": None} for b in buffers]), side=16
    ).test.images.equal(plain)
    assert load_task(
        stand_in(
            30, image=[{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(30)]
        ),
        side=16,
    ).test.images.equal(plain)


def test_columns_are_found_or_asked_for():
    two = stand_in(
        30,
        fine=[i % 3 for i in range(30)],
        label=[0] * 30,
        features={"fine": ClassLabel(NAMES), "label": ClassLabel(["thing"])},
    )
    assert load_task(two, side=16).classes == ("thing",), "one called label is the label"
    task = load_task(listing(two, label="fine", template="{}!", name="fine pets"), side=16)
    assert task.name == "fine pets"
    assert task.prompts[0] == "cat!"
    other = Table(
        {"a": ClassLabel(NAMES), "b": ClassLabel(NAMES), "image": Image()},
        {"a": [0], "b": [0], "image": [None]},
    )
    with pytest.raises(
        ValueError,
        match=r"which column is the label\? Call load_task\(copra_lab\.tasks\.hugging_face\.listing\(data, label=…\)\) with one of a, b",
    ):
        load_task(other)
    with pytest.raises(ValueError, match=r"which column is the image\? .* one of label"):
        load_task(Table({"label": ClassLabel(NAMES)}, {"label": [0]}))
    with pytest.raises(ValueError, match="there is no column 'label': choose one of image, kind"):
        load_task(Table({"image": Image(), "kind": object()}, {"image": [None], "kind": [1]}))
    with pytest.raises(ValueError, match="has numbers without names: cast it"):
        load_task(stand_in(30, features={"label": object()}))


def test_what_cannot_be_a_task():
    stream = SimpleNamespace(features=None, column_names=None)
    with pytest.raises(
        ValueError, match=r"streamed data set has no rows .* without streaming=True"
    ):
        load_task(stream)
    with pytest.raises(ValueError, match="the splits a, b have no 'train' with a 'test'"):
        load_task({"a": stand_in(3), "b": stand_in(3)})
    with pytest.raises(ValueError, match="dict is not a task"):
        load_task({})
    with pytest.raises(ValueError, match=re.escape("pets has no images to train on")):
        load_task(stand_in(1))
    broken = stand_in(30, image=[{"bytes": b"nothing", "path": None}] * 30)
    with pytest.raises(ValueError, match=r"train:\d+ cannot be read as an image"):
        load_task(broken, side=16)
    assert not is_dataset([1])
    assert not is_dataset("train")
    assert is_dataset({"train": stand_in(3)})


def test_every_image_is_where_its_row_says():
    task = load_task(stand_in(60), side=20, shots=10**6)
    seen = Counter(s for part in (task.train, task.val, task.test) for s in part.sources)
    assert seen == Counter(f"train:{i}" for i in range(60))
    assert [int(s.partition(":")[2]) % 3 for s in task.test.sources] == task.test.labels.tolist()


DEEP = np.arange(400, dtype=np.uint16).reshape(20, 20) * 163


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pictures_of_16_bits_and_rows_without_one(kind):
    datasets = pytest.importorskip("datasets")
    file, shown = io.BytesIO(), columns(30)
    exif = PIL.Exif()
    exif[0x0112] = 1  # with which the library forgets what the file says of its bits
    PIL.fromarray(DEEP).save(file, kind, exif=exif)
    rows = [{"bytes": file.getvalue(), "path": None}] * 27 + [None] * 3
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    data = datasets.Dataset.from_dict({"image": rows, "label": shown["label"]}, features=features)
    task = load_task(data, side=20, shots=10**6)
    for part in (task.train, task.val, task.test):
        assert (part.images.numpy() == (DEEP >> 8)[None, :, :, None]).all()
    assert task.notes[0].startswith("27 images of more than 8 bits")
    assert "Passed over: 3 files, the first train:" in task.notes[1]
    arrays = datasets.Dataset.from_dict(
        {"image": [DEEP] * 30, "label": shown["label"]}, features=features
    )
    assert (load_task(arrays, side=20).test.images.numpy() == (DEEP >> 8)[None, :, :, None]).all()
    plain = load_task(stand_in(30, image=[PIL.fromarray(DEEP)] * 30), side=20)
    assert (plain.test.images.numpy() == (DEEP >> 8)[None, :, :, None]).all()


def test_pictures_whose_white_is_not_known_are_refused():
    with pytest.raises(
        ValueError,
        match=r"it is unknown which one is white: save it with 8 or 16 bits\): repair or remove it; nor can \d+ more",
    ):
        load_task(stand_in(30, image=[PIL.fromarray(DEEP.astype(np.int32))] * 30), side=16)


def test_a_transform_of_the_users_is_not_undone():
    data = real(30).with_transform(lambda rows: {**rows, "image": ["mine"] * len(rows["image"])})
    with pytest.raises(ValueError, match="cannot be read as an image"):
        load_task(data, side=16)


def test_splits_in_any_case_and_a_template():
    data = {"Training": stand_in(24), "VALID": stand_in(9, 40), "Testing": stand_in(12, 60)}
    task = load_task(data, side=16, shots=10**6, template="an icon of a {}")
    assert (len(task.train), len(task.val), len(task.test)) == (24, 9, 12)
    assert task.prompts[0] == "an icon of a cat"
    assert "The prompt is “an icon of a {}”." in task.about
    assert "a photo of a {}" in load_task(data, side=16).about
    with pytest.raises(ValueError, match="the splits val, validation are named like the same part"):
        load_task({"train": stand_in(9), "val": stand_in(9), "validation": stand_in(9)})
    with pytest.raises(ValueError, match=r"a template must contain \{\} once"):
        load_task(data, template="icon")
