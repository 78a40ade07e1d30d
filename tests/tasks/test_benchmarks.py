"""The data sets of the field, in small, each in its own layout: names, prompts, splits, shots, and
agreement with torchvision.
"""

import gzip
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import documents
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_datasets import BUILDERS, SHARE, N, colour, save

from copra_lab.tasks import SETS, benchmark_layouts, benchmarks, load_task
from copra_lab.tasks.benchmarks import find, listing
from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.listing import parted
from copra_lab.tasks.splits import PARTS

ALL = 10**6
TORCHVISION = {
    "caltech101": "Caltech101", "dtd": "DTD", "eurosat": "EuroSAT", "fgvc-aircraft": "FGVCAircraft", "flowers102": "Flowers102",
    "food101": "Food101", "oxford-pets": "OxfordIIITPet", "stanford-cars": "StanfordCars", "sun397": "SUN397",
}  # fmt: skip
SPLITS = {
    "dtd": {"train": "train", "val": "val", "test": "test"}, "fgvc-aircraft": {"train": "train", "val": "val", "test": "test"},
    "flowers102": {"train": "train", "val": "val", "test": "test"}, "food101": {"train": "train", "test": "test"},
    "oxford-pets": {"trainval": "train", "test": "test"}, "stanford-cars": {"train": "train", "test": "test"},
}  # fmt: skip


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """All of them in one root, as a user has them, and what was written."""
    root = tmp_path_factory.mktemp("data")
    return root, {key: build(root) for key, build in BUILDERS.items()}


def load(built, key, **settings):
    return load_task(key, root=built[0], side=16, download=False, **settings)


def rows(task, part):
    split = getattr(task, part)
    return list(
        zip(
            split.sources,
            (task.classes[i] for i in split.labels.tolist()),
            split.images.numpy(),
            strict=True,
        )
    )


def test_every_data_set_is_tried():
    assert set(BUILDERS) == set(SETS)


@pytest.mark.parametrize("key", SETS)
def test_images_classes_and_parts_are_as_the_layout_says(built, key):
    task, truth = load(built, key, shots=ALL), built[1][key]
    home = next(h for h in SETS[key].homes if (built[0] / h / SETS[key].images).exists())
    written = {os.path.relpath(path, home) if home else path: told for path, told in truth.items()}
    seen = {source: (words, part) for part in PARTS for source, words, _ in rows(task, part)}
    assert sum(len(getattr(task, part)) for part in PARTS) == len(seen), "an image in two parts"
    assert set(seen) == set(written)
    for source, (words, part) in seen.items():
        assert words == written[source][0]
        assert written[source][1] in ("", part) or (part == "val" and written[source][1] == "train")
    for part in PARTS:
        for source, words, image in rows(task, part):
            told = colour(words)[:1] if key == "fashion-mnist" else colour(words)  # it is grey
            assert np.abs(image[9:, 9:].mean((0, 1)) - told).max() < 10, source
    assert {w for w, _ in truth.values()} <= set(task.classes)
    assert len(set(task.prompts)) == len(task.classes)
    assert task.prompts[0] == SETS[key].template.format(task.classes[0])
    assert task.name == key
    assert f"{len(task.classes)} classes" in task.about


@pytest.mark.slow
@pytest.mark.parametrize("key", SETS)
def test_seed_and_shots_choose_training_images_only(built, key):
    one, other = load(built, key, shots=4), load(built, key, shots=4, seed=1)
    assert one.test.sources == other.test.sources
    assert one.val.sources == other.val.sources
    assert one.train.sources != other.train.sources
    assert set(one.train.labels.bincount().tolist()) <= {0, 4}, "four of each class that has images"
    assert set(load(built, key, shots=2).train.sources) < set(one.train.sources)
    assert load(built, key, shots=4).train.images.equal(one.train.images)


@pytest.mark.parametrize(
    ("key", "parts"), [("caltech101", (10, 4, 6)), ("oxford-pets", (11, 3, 6)), ("dtd", (10, 4, 6))]
)
def test_parts_that_are_not_dealt_are_dealt_as_coop_does(built, key, parts):
    task = load(built, key, shots=ALL)
    for part, n in zip(PARTS, parts, strict=True):
        assert set(getattr(task, part).labels.bincount().tolist()) == {n}, part


@pytest.mark.parametrize("key", TORCHVISION)
def test_torchvision_reads_the_same(built, key, monkeypatch):
    from torchvision import datasets as theirs

    from copra_lab.tasks import photo

    if key == "flowers102":  # it checks that the labels' files are the published ones
        files = {k: (name, None) for k, (name, _) in theirs.Flowers102._file_dict.items()}
        monkeypatch.setattr(theirs.Flowers102, "_file_dict", files)
    make = getattr(theirs, TORCHVISION[key])
    ours = load(built, key, shots=ALL)
    for split, part in SPLITS.get(key, {None: None}).items():
        data = make(built[0], **({"split": split} if split else {}))
        labels = (
            [benchmark_layouts.spaced(c) for c in data.categories]
            if key == "caltech101"
            else ours.classes
        )
        renamed = {"airplanes": "airplane", "Faces": "face"} if key == "caltech101" else {}
        a = Counter(
            (renamed.get(labels[y], labels[y]), photo(image, 16).numpy().tobytes())
            for image, y in (data[i] for i in range(len(data)))
        )
        a = {
            k: n for k, n in a.items() if k[0] in ours.classes
        }  # torchvision keeps the second copy of the faces
        mine = (
            PARTS
            if part is None
            else ("train", "val")
            if part == "train" and "val" not in SPLITS[key]
            else (part,)
        )
        assert a == Counter(
            (words, image.tobytes()) for p in mine for _, words, image in rows(ours, p)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "own"), [(k, home) for k, row in SETS.items() if row.split for home in row.homes]
)
def test_coops_own_split_is_used_where_its_file_is(built, key, own, tmp_path):
    row = SETS[key]
    home = next(h for h in row.homes if (built[0] / h / row.images).is_dir())
    shutil.copytree(
        built[0] / home / row.images, tmp_path / own / row.images
    )  # nothing else is needed
    paths = [str(Path(p).relative_to(Path(home, row.images))) for p in sorted(built[1][key])]
    names, written = ["two_words", "One", "zebra crossing"], {"train": [], "val": [], "test": []}
    for i, path in enumerate(paths):
        written[("test", "train", "val", "train")[i % 4]].append([path, i % 3, names[i % 3]])
    (tmp_path / own / row.split).write_text(json.dumps(written))
    task = load_task(key, root=tmp_path, side=16, shots=ALL, download=False)
    assert task.classes == ("two words", "One", "zebra crossing")
    assert "CoOp's file" in task.about
    for part in PARTS:
        told = Counter((str(Path(row.images, p)), y) for p, y, _ in written[part])
        assert told == Counter(
            zip(getattr(task, part).sources, getattr(task, part).labels.tolist(), strict=True)
        )


def test_test_images_are_drawn_evenly_and_said(built):
    few = load(built, "oxford-pets", test_images=7)
    assert few.test.labels.bincount().tolist() == [2, 2, 2]
    assert few.about.endswith("Tested on 6 of 18 images.")
    assert set(few.test.sources) < set(load(built, "oxford-pets", test_images=None).test.sources)
    with pytest.raises(ValueError, match="test_images must be at least 1"):
        load(built, "oxford-pets", test_images=0)


def test_imagenet_has_clips_names_without_a_file(tmp_path, monkeypatch):
    for part in ("train", "val"):
        for i in range(1000):
            (tmp_path / part / f"n{i:08d}").mkdir(parents=True)
    for i in (0, 1, 999):
        for part in ("train", "val"):
            save(tmp_path / part / f"n{i:08d}" / f"{i}.JPEG", str(i), i)
    found = listing("imagenet", tmp_path)
    assert list(found.classes.values())[:2] == ["tench", "goldfish"]
    assert len(found.classes) == 1000
    assert len(found.entries) == 6
    (tmp_path / "train" / "n00000007").rmdir()
    with pytest.raises(
        ValueError, match=r"999 classes are not ImageNet's 1,000, and there is no classnames\.txt"
    ):
        listing("imagenet", tmp_path)


def test_flower_names_are_torchvisions_but_for_two():
    from torchvision.datasets import Flowers102

    different = [
        (a, b) for a, b in zip(benchmark_layouts.FLOWERS, Flowers102.classes, strict=True) if a != b
    ]
    assert different == [
        ("barberton daisy", "barbeton daisy"),
        ("pink-yellow dahlia", "pink-yellow dahlia?"),
    ]


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SETS)
def test_a_data_set_goes_by_many_names(key):
    other = TORCHVISION.get(key, key)
    for name in (
        key,
        key.replace("-", "_"),
        key.upper(),
        f"torchvision:{key}",
        f"torchvision:{other}",
        other,
    ):
        assert find(name) == key


@pytest.mark.parametrize(
    "name",
    ["./dtd", "data/dtd", "dtd/", "", "count", "torchvision:", "-", "DTD2", None, 3, Path("dtd")],
)
def test_what_is_no_name_of_a_data_set(name):
    assert find(name) is None


def test_an_unknown_task_is_told_the_closest_data_set():
    with pytest.raises(ValueError, match="did you mean 'oxford-pets'"):
        load_task("oxford-pest")
    with pytest.raises(ValueError, match="int is not a task"):
        load_task(3)


def test_bundled_tasks_go_by_no_name_of_a_data_set():
    from copra_lab.tasks import task_names

    assert not [name for name in task_names() if find(name)]


# --- what is missing or broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SETS)
def test_a_data_set_that_is_not_there_says_where_it_should_be(tmp_path, key):
    with pytest.raises(FileNotFoundError) as e:
        load_task(key, root=tmp_path / "none", download=False)
    said = str(e.value)
    assert SETS[key].title in said
    assert "\n" not in said
    assert str(tmp_path / "none") in said
    assert all(a.url in said and str(a.file(tmp_path / "none")) in said for a in SETS[key].archives)
    assert SETS[key].archives or SETS[key].by_hand in said
    assert not (tmp_path / "none").exists()


BROKEN = {
    "dtd": "dtd/dtd/labels/val1.txt", "fgvc-aircraft": "fgvc-aircraft-2013b/data/variants.txt", "flowers102": "flowers-102/setid.mat",
    "food101": "food-101/meta/test.json", "oxford-pets": "oxford-iiit-pet/annotations/test.txt",
    "stanford-cars": "stanford_cars/devkit/cars_meta.mat", "sun397": "SUN397/ClassName.txt", "cifar10": "cifar-10-batches-bin/data_batch_3.bin",
    "cifar100": "cifar-100-binary/fine_label_names.txt", "ucf101": "ucf101/ucfTrainTestlist/classInd.txt",
    "fashion-mnist": "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz",
}  # fmt: skip


@pytest.mark.parametrize("damage", ["gone", "cut off", "nonsense"])
@pytest.mark.parametrize("key", BROKEN)
def test_a_copy_that_is_not_whole_says_so(built, tmp_path, key, damage):
    top = BROKEN[key].partition("/")[0]
    shutil.copytree(built[0] / top, tmp_path / top)
    file = tmp_path / BROKEN[key]
    if damage == "gone":
        file.unlink()
    elif damage == "cut off":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        file.write_bytes(b"\x00\xff not what it was \x00")
    try:
        load_task(key, root=tmp_path, side=16, download=False)
    except (ValueError, FileNotFoundError) as e:
        assert re.search(
            "is not a complete copy of .* unpack it again|is missing from this copy|no images to",
            str(e),
        )
        assert "\n" not in str(e)
    else:
        assert damage == "cut off" and file.suffix == ".txt", (
            "of a text that was cut off some lines are left"
        )


def test_torchvision_reads_the_same_clothes(built, tmp_path):
    from torchvision.datasets import FashionMNIST

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (built[0] / "FashionMNIST" / "raw").iterdir():  # it wants them unpacked
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    home = built[0] / "FashionMNIST" / "raw"
    classes, entries = benchmark_layouts.fashion_mnist(home)
    for train, part in ((True, "train"), (False, "test")):
        theirs = [(image.tobytes(), y) for image, y in FashionMNIST(tmp_path, train)]
        ours = [
            (
                benchmark_layouts.fashion_picture(home, e.source).tobytes(),
                list(classes).index(e.label),
            )
            for e in entries
            if e.part == part
        ]
        assert ours == theirs
    names = [name.lower().partition("/")[0] for name in FashionMNIST.classes]
    assert list(classes.values()) == names


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03\1\2"), "is cut off"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\0"), "no IDX file of bytes"),
        (gzip.compress(b""), "no IDX file of bytes"),
        (b"no gzip", "cannot be unpacked"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, data, said):
    (tmp_path / "some.gz").write_bytes(data)
    with pytest.raises(ValueError, match=f"some.gz .*{said}"):
        benchmark_layouts.idx(tmp_path / "some.gz")


def test_a_missing_image_is_named(built, tmp_path):
    shutil.copytree(built[0] / "dtd", tmp_path / "dtd")
    next((tmp_path / "dtd/dtd/images/banded").iterdir()).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"banded_\d+\.jpg is missing from this copy of the data set",
    ):
        load_task("dtd", root=tmp_path, side=16, shots=ALL)


def test_a_damaged_split_file_is_named(built, tmp_path):
    shutil.copytree(built[0] / "oxford-iiit-pet", tmp_path / "oxford-iiit-pet")
    for text in ("{", "[]", '{"train": [["a.jpg", 0]]}', '{"more": [["a.jpg", 0, "x"]]}'):
        (tmp_path / "oxford-iiit-pet" / "split_zhou_OxfordPets.json").write_text(text)
        with pytest.raises(ValueError, match=r"split_zhou_OxfordPets\.json is not a complete copy"):
            listing("oxford-pets", tmp_path)


def test_the_root_is_the_users_choice(built, monkeypatch):
    monkeypatch.setenv("COPRA_LAB_DATA", str(built[0]))
    assert load_task("dtd", side=16, shots=1, download=False).test.images.shape == (
        SHARE["test"] * 3,
        16,
        16,
        3,
    )
    monkeypatch.delenv("COPRA_LAB_DATA")
    monkeypatch.setenv("COPRA_LAB_CACHE", "elsewhere")
    assert benchmarks.data_folder() == Path("elsewhere/data")


# --- parts ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["train", "test"])), max_size=60),
    st.booleans(),
)
def test_dealing_keeps_every_image_once(labels, told):
    entries = [
        Entry(f"{i}.jpg", str(y), f"{i}.jpg", part if told else "")
        for i, (y, part) in enumerate(labels)
    ]
    out = parted(entries)
    assert [(e.source, e.label) for e in out] == [(e.source, e.label) for e in entries]
    assert parted(entries) == out
    for before, after in zip(entries, out, strict=True):
        assert after.part in PARTS
        assert (
            not told or after.part == before.part or (before.part, after.part) == ("train", "val")
        )
    train, val = (Counter(e.label for e in out if e.part == part) for part in ("train", "val"))
    if told:
        for label, n in Counter(e.label for e in entries if e.part == "train").items():
            assert train[label] >= 1
            assert val[label] == max(round(0.2 * n), n > 1)


def test_a_split_of_its_own_stays_as_it_is():
    entries = [
        Entry(f"{i}", "a", f"{i}", part) for i, part in enumerate(("train", "train", "val", "test"))
    ]
    assert parted(entries) == entries


def test_fit_runs_on_a_data_set(built):
    from tiny import tiny_clip

    import copra_lab as cl

    clip = tiny_clip()
    task = load_task("oxford-pets", clip, root=built[0], shots=4, download=False)
    adapter = cl.fit(clip, task, cl.LoRA(rank=2), steps=3, batch=4, progress=False)
    assert len(cl.Bench(clip, task, precision="float32")) == 18 == 3 * (N - 14)
    assert task.test.images.shape[1:] == (clip.side, clip.side, 3)
    assert task.test.images.dtype == torch.uint8
    assert adapter.provenance["task"] == "oxford-pets"


def test_the_guide_shows_what_runs(built, tmp_path, monkeypatch):
    section = (
        documents.PAGES["usage"].partition("**The field's data sets.**")[2].partition("\n\n")[0]
    )
    assert set(re.findall(r"`([a-z-]+\d*)`", section)) >= set(SETS)
    for name in ("cat", "dog"):
        for i in range(4):
            save(tmp_path / "photos" / name / f"{i}.jpg", name, i)
    (tmp_path / "data").symlink_to(built[0])
    monkeypatch.chdir(tmp_path)
    from tiny import tiny_clip

    import copra_lab as cl

    names: dict = {"cl": cl, "clip": tiny_clip()}
    exec(documents.CODE["images"], names)
    assert names["mine"].classes == ("cat", "dog")
    assert len(names["pets"].test) == 18
