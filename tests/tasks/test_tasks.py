"""Tasks: what may never leak, what must never change, and what a user's own folder can get wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from copra_lab.models import load_clip
from copra_lab.tasks import TASK_GROUPS, TASKS, image_folder, load_task, task_names
from copra_lab.tasks.augmentation import random_crop
from copra_lab.tasks.emoji import corruptions as nu
from copra_lab.tasks.emoji.concepts import concepts, held_out_names, mentions, plain
from copra_lab.tasks.emoji.selection import GROUPS, near_copies
from copra_lab.tasks.scenes.sources import BETWEEN

HELD_OUT = {"novel-kinds", "novel-names", "style-shift", "count"}
BY_KEY = {c.key: c for c in concepts()}
PARTS = ("train", "val", "test")


def concept(source):
    style, key = source.split(":", 1)
    return BY_KEY[key] if style in ("openmoji", "twemoji") else None


def drawings(sources):
    """The drawings that images show: some show two."""
    return {drawing for source in sources for drawing in source.split(BETWEEN)}


def parts(task):
    splits = [(part, getattr(task, part)) for part in PARTS]
    return [
        (part, source, label)
        for part, s in splits
        for source, label in zip(s.sources, s.labels.tolist(), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", task_names())
def test_every_task_is_well_formed(name):
    task = load_task(name)
    n = len(task.classes)
    assert len(task.prompts) == n == len(set(task.prompts))
    for part in PARTS:
        split = getattr(task, part)
        assert split.images.shape == (len(split), 64, 64, 3)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert len(split.labels) == len(split)
        assert split.labels.min() >= 0
        assert split.labels.max() < n
        assert len(set(split.sources)) == len(split)
        assert split.images.float().flatten(1).std(1).min() > 1, "an empty picture"
    assert (
        task.train.labels.unique().tolist() == task.test.labels.unique().tolist() == list(range(n))
    )
    assert task.train.labels.bincount().max() <= 16
    assert task.val.labels.bincount().max() <= 16
    assert len(task.test) <= 1200


@pytest.mark.parametrize("name", [n for n in task_names() if not n.startswith("same-drawings")])
def test_no_drawing_is_in_two_splits(name):
    where = {}
    for part, source, label in parts(load_task(name, shots=10**6)):
        for drawing in source.split(BETWEEN):
            assert where.setdefault(drawing, part) == part
            c = concept(drawing)
            if c and name != "novel-names":  # there the other artist's drawing of a thing tests it
                assert where.setdefault(c.key, part) == part
                dealt = name in task_names("structured")
                assert where.setdefault((near_copies(c), None if dealt else label), part) == part


@pytest.mark.parametrize("name", ["same-drawings", "same-drawings-occluded"])
def test_a_task_that_repeats_drawings_says_so(name):
    task = load_task(name)
    assert set(task.train.sources) == set(task.test.sources)
    assert "same" in task.name
    assert "very drawings" in task.about


@pytest.mark.parametrize("name", task_names())
def test_held_out_means_held_out(name):
    hidden = held_out_names()
    task = load_task(name)
    for source in drawings(task.train.sources + task.val.sources + task.test.sources):
        c = concept(source)
        told = c.held_out if c else mentions(plain(source.split(":")[1]), hidden)
        assert told == (name in HELD_OUT), source


def test_held_out_drawings_have_no_seen_near_copy():
    seen = {near_copies(c) for c in concepts() if not c.held_out and c.category != "Flags"}
    for name in HELD_OUT:
        assert not seen & {
            near_copies(c) for _, s, _ in parts(load_task(name)) if (c := concept(s))
        }


def test_groups_are_of_kinds_that_exist():
    kinds = {c.kind for c in concepts()}
    grouped = [k for g in GROUPS.values() for k in g.split(";")]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= kinds
    assert set(load_task("known-groups").classes) <= set(GROUPS)


def test_style_shift_changes_the_style():
    task = load_task("style-shift")
    assert {s.split(":")[0] for s in task.train.sources + task.val.sources} == {"openmoji"}
    assert {s.split(":")[0] for s in task.test.sources} == {"twemoji"}


@pytest.mark.parametrize("name", ["novel-kinds", "count", "same-drawings-occluded"])
def test_shots_and_seed_choose_training_images_only(name):
    one, other = load_task(name, shots=16, seed=0), load_task(name, shots=1, seed=1)
    assert one.test.sources == other.test.sources
    assert one.test.images.equal(other.test.images)
    assert len(other.train) == len(other.classes)
    assert len(other.val) <= len(other.classes)
    assert set(load_task(name, shots=2).train.sources) <= set(one.train.sources), (
        "more shots should keep the fewer"
    )
    assert load_task(name, shots=1, seed=2).train.sources != other.train.sources


def test_equal_arguments_give_equal_bytes():
    from copra_lab.tasks.emoji import catalogue

    first = load_task("symbols-waves")
    catalogue.drawn.cache_clear()
    again = catalogue.drawn(first.name, 64)
    assert again.images["test"].equal(first.test.images)
    assert load_task(first.name, shots=16) is first


@pytest.mark.slow
def test_side():
    task = load_task("things-shadows", shots=1, side=96)
    assert (
        task.test.images.shape[1:]
        == (96, 96, 3)
        == load_task("things-shadows", replace(load_clip(), side=96), shots=1).test.images.shape[1:]
    )
    assert task.test.sources == load_task("things-shadows").test.sources


def test_every_task_is_of_a_group():
    assert {TASKS[n].group for n in task_names()} == set(TASK_GROUPS)
    assert sorted(n for g in TASK_GROUPS for n in task_names(g)) == sorted(task_names())
    assert load_task("digits").group == "real"
    with pytest.raises(ValueError, match="unknown group 'far'; choose one of near, novel"):
        task_names("far")


def test_what_structured_tasks_train_on_tests_none_of_them():
    tested = {n: drawings(load_task(n).test.sources) for n in task_names("structured")}
    for name in tested:
        trained = drawings(load_task(name, shots=10**6).train.sources)
        assert not any(trained & other for other in tested.values()), name


def test_three_tasks_are_large():
    assert sum(len(set(load_task(n).test.sources)) >= 300 for n in task_names()) >= 3


def test_base_and_new_share_out_the_classes():
    task = load_task("icons")
    base, new = task.base_and_new()
    assert base.classes + new.classes == task.classes
    assert len(base.classes) - len(new.classes) in (
        0,
        1,
    )
    assert len(base.test) + len(new.test) == len(task.test)
    assert not set(base.test.sources) & set(new.test.sources)
    assert len({task.name, base.name, new.name}) == 3
    for half in (base, new):
        assert half.train.labels.unique().tolist() == list(range(len(half.classes)))


def test_with_classes_relabels():
    task = load_task("count")
    sub = task.with_classes([2, 0])
    assert sub.classes == ("three", "one")
    label = dict(zip(task.test.sources, task.test.labels.tolist(), strict=True))
    assert [label[s] for s in sub.test.sources] == [[2, 0][i] for i in sub.test.labels.tolist()]
    for wrong in ([], [0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="classes 0 to 4"):
            task.with_classes(wrong)


def test_augment():
    task = load_task("count")
    pixels = task.train.images[:8].permute(0, 3, 1, 2).float() / 255
    one, two = (task.augment(pixels, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == pixels.shape
    assert one.equal(two)
    assert one.min() >= 0
    assert one.max() <= 1
    assert not one.equal(task.augment(pixels, torch.Generator().manual_seed(4)))
    # Linear in the pixels, so that it may be done before or after they are normalised.
    torch.testing.assert_close(
        2 * one - 1,
        task.augment(2 * pixels - 1, torch.Generator().manual_seed(3)),
        atol=1e-5,
        rtol=0,
    )


def test_a_crop_mirrors_only_where_allowed():
    ramp = torch.linspace(0, 1, 64).expand(40, 3, 64, 64)
    rising = [
        (
            random_crop(ramp, torch.Generator().manual_seed(0), flip=flip)
            .diff(dim=3)
            .mean((1, 2, 3))
            > 0
        )
        for flip in (True, False)
    ]
    assert 8 < rising[0].sum() < 32
    assert rising[1].all()


@pytest.mark.parametrize(("least", "lost"), [(1.0, 0.0), (0.85, 0.12), (0.5, 0.4)])
def test_a_crop_keeps_its_least_share(least, lost):
    """Of a ramp from 0 to 1 a crop that keeps a share s of the width keeps a range of s."""
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64)
    out = random_crop(ramp, torch.Generator().manual_seed(0), flip=False, least=least)
    kept = out.amax((1, 2, 3)) - out.amin((1, 2, 3))
    assert kept.min() == pytest.approx(1 - lost, abs=0.1 * lost + 1e-5)


@pytest.mark.parametrize("wrong", ["novel-kidns", "digit"])
def test_an_unknown_name_is_told_the_closest(wrong):
    with pytest.raises(ValueError, match=r"did you mean '(novel-kinds|digits)'"):
        load_task(wrong)


@pytest.mark.parametrize("wrong", ["", "x" * 5000, "???"])
def test_a_name_like_no_task_lists_them(wrong):
    with pytest.raises(
        ValueError,
        match=r"unknown task .*: give the path of a folder \(there is none of this name\) or one of known-groups, ",
    ):
        load_task(wrong)


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"shots": -1}, {"side": 8}])
def test_impossible_numbers(wrong, tmp_path):
    for load in (lambda: load_task("count", **wrong), lambda: image_folder(tmp_path, **wrong)):
        with pytest.raises(ValueError, match="at least 1 and side at least 16"):
            load()


# --- nuisances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nuisance",
    [nu.sketch, nu.negative, nu.noise, nu.patches, nu.mosaic, nu.waves, nu.blur],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("side", [32, 64])
def test_a_nuisance_keeps_the_layout_and_minds_its_own_image(nuisance, side):
    images = torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    out = nuisance(images, nu.generators(range(5)))
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert images.equal(before)
    assert not out.equal(images)
    assert out.equal(nuisance(images, nu.generators(range(5))))
    assert torch.allclose(out[3:4], nuisance(images[3:4], nu.generators([3])), atol=1e-6)


def test_patches_hide_their_share():
    white = torch.ones(4, 3, 70, 70)
    assert (nu.patches(white, nu.generators(range(4)), share=0.5) < 1).any(1).float().mean(
        (1, 2)
    ).sub(0.5).abs().max() < 0.02


def test_copies_are_as_many_as_asked():
    blob = torch.zeros(5, 72, 72, 4, dtype=torch.uint8)
    blob[:, 26:46, 26:46] = 255
    alpha = nu.copies(blob, [1, 2, 3, 4, 5], nu.generators([7] * 5), 63)[:, 3]
    ink = alpha.sum((1, 2))
    assert torch.allclose(ink / ink[0], torch.arange(1.0, 6), rtol=1e-3)


def test_a_silhouette_has_one_colour():
    drawing = nu.place(
        (torch.rand(2, 72, 72, 4, generator=torch.Generator().manual_seed(0)) * 255).byte(),
        nu.generators([0, 1]),
        64,
    )
    dark = nu.silhouette(drawing, nu.generators([0, 1]))
    solid = dark[0, :, dark[0, 3] > 0.2]
    assert (solid[:3] / solid[3]).std(1).max() < 1e-5
    assert dark[:, 3].equal(drawing[:, 3])


# --- a folder of images ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "red_panda"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(
                tmp_path / name / f"{i}.png"
            )
    return tmp_path


def test_a_folder_is_a_task(folder):
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    task = load_task(str(folder), shots=2)
    assert task.classes == ("cat", "red panda")
    assert task.prompts[1] == "a photo of a red panda"
    assert len(task.train) == 4
    assert task.train.images.shape == (4, 64, 64, 3)
    assert not set(task.train.sources) & set(task.val.sources)
    assert not set(task.train.sources + task.val.sources) & set(task.test.sources)
    other = image_folder(folder, shots=1, seed=5)
    assert other.test.sources == task.test.sources
    assert other.test.images.equal(task.test.images)


def test_folders_inside_a_class_are_of_it(folder):
    for where in (folder / "cat" / "at home" / "asleep", folder / "cat" / ".thumbnails"):
        where.mkdir(parents=True)
        Image.new("RGB", (30, 30), "red").save(where / "tom.png")
    task = image_folder(folder)
    sources = [s for part in (task.train, task.val, task.test) for s in part.sources]
    assert "cat/at home/asleep/tom.png" in sources
    assert len(sources) == 21


def test_equal_files_stay_together(folder):
    for i in range(10):
        (folder / "cat" / f"copy {i}.png").write_bytes((folder / "cat" / f"{i}.png").read_bytes())
    task = image_folder(folder)
    part = {source: p for p, source, _ in parts(task)}
    assert all(
        part.get(f"cat/{i}.png", p) == p for i in range(10) if (p := part.get(f"cat/copy {i}.png"))
    )


def test_transparent_and_grey_images(folder):
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(folder / "cat" / "clear.png")
    Image.new("L", (30, 30), 7).save(folder / "red_panda" / "grey.png")
    task = image_folder(folder)
    images = {
        s: x
        for p in PARTS
        for s, x in zip(getattr(task, p).sources, getattr(task, p).images, strict=True)
    }
    if "cat/clear.png" in images:
        assert images["cat/clear.png"].float().mean() == 255
    if "red_panda/grey.png" in images:
        assert images["red_panda/grey.png"].float().mean() == 7


def test_folder_errors_name_the_fix(folder):
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        image_folder(folder / "gone")
    with pytest.raises(ValueError, match="needs two or more, one for a class"):
        image_folder(folder / "cat")
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty has no readable image"):
        image_folder(folder)
    for i in range(2):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(empty / f"{i}.png")
    with pytest.raises(ValueError, match="empty has 2 different images: it needs three, to train"):
        image_folder(folder)


@pytest.mark.parametrize("damage", [b"", b"not an image", None], ids=["empty", "text", "cut short"])
def test_a_class_of_damaged_files_is_refused_by_name(folder, damage):
    for f in (folder / "cat").iterdir():
        f.write_bytes(f.read_bytes()[:500] if damage is None else damage + f.name.encode())
    found = r"cat has no readable image \(cat/0.png: not a supported image format\)"
    with pytest.raises(
        ValueError,
        match=found
        if damage is not None
        else r"cat.\d.png cannot be read as an image .*; nor can \d more: .*cat.\d.png$",
    ) as e:
        image_folder(folder)
    _, _, more = str(e.value).partition("nor can ")
    assert damage is not None or more.count(".png") == int(more[0]) >= 2


@pytest.mark.parametrize("damage", [b"", b"not an image", None], ids=["empty", "text", "cut short"])
def test_a_damaged_file_is_passed_over_and_another_is_taken(folder, damage):
    whole = image_folder(folder, shots=2)
    broken = next(s for s in whole.train.sources if s.startswith("cat/"))
    data = (folder / broken).read_bytes()
    (folder / broken).write_bytes(data[: len(data) // 2] if damage is None else damage)
    task = image_folder(folder, shots=2)
    assert f"Passed over: {broken} (" in task.about
    assert task.notes
    assert not whole.notes
    assert len(task.train) == 4
    assert broken not in task.train.sources
    before = dict(zip(whole.train.sources, whole.train.images, strict=True))
    assert all(
        image.equal(before[s])
        for s, image in zip(task.train.sources, task.train.images, strict=True)
        if s in before
    )
