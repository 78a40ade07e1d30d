"""Structured tasks: the label is what the picture shows, and nothing else tells it."""

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chi2_contingency

from copra_lab.tasks import TASKS, load_task
from copra_lab.tasks.emoji import catalogue
from copra_lab.tasks.emoji import corruptions as nu
from copra_lab.tasks.emoji.concepts import concepts
from copra_lab.tasks.emoji.selection import near_copies, part_of_concepts
from copra_lab.tasks.scenes import questions as qu
from copra_lab.tasks.scenes import sources
from copra_lab.tasks.scenes.catalogue import SCENES
from copra_lab.tasks.scenes.stamps import cut, stamp

BY_KEY = {c.key: c for c in concepts()}


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def square(*colour):
    """A drawing: a square of one colour with a margin."""
    rgba = torch.zeros(72, 72, 4, dtype=torch.uint8)
    rgba[20:60, 10:50] = torch.tensor([*colour, 255], dtype=torch.uint8)
    return rgba


def some(name, n=12):
    """(drawings, rest of the source) of the first images that test a task."""
    entries = [e for e in catalogue._entries(name) if e.part == "test"][:n]
    return [catalogue._drawings(e.source) for e in entries]


def asked(name, drawings, label, seed, side=64):
    return SCENES[name].scene(drawings, label, g(seed), side)


def middle(weight):
    """(x, y) of the centre of mass of (side, side), in shares of the side."""
    at = (torch.arange(len(weight)) + 0.5) / len(weight)
    return (weight.sum(0) @ at / weight.sum()).item(), (weight.sum(1) @ at / weight.sum()).item()


def corners(alpha):
    """The four quarters of (…, side, side), in the order of `CORNERS`."""
    return [half for row in alpha.chunk(2, -2) for half in row.chunk(2, -1)]


# --- stamps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 160])
@pytest.mark.parametrize("size", [0.2, 0.5, 0.9])
def test_a_stamp_has_the_size_and_place_that_were_asked_for(side, size):
    alpha = stamp(square(200, 0, 0), side, size=size, at=(0.45, 0.52))[3]
    assert alpha.sum().sqrt().item() / side == pytest.approx(size, abs=1.5 / side)
    assert middle(alpha) == pytest.approx((0.45, 0.52), abs=0.5 / side)


def test_a_stamp_turns_clockwise():
    bar = torch.zeros(72, 72, 4, dtype=torch.uint8)
    bar[:, 30:42] = 255
    bar[:20, :, :] = 255  # a T: its bar is the top
    x, y = middle(stamp(bar, 64, size=0.6, angle=90)[3])
    assert x > 0.55
    assert y == pytest.approx(0.5, abs=0.02)


def test_cut_removes_margins_and_keeps_the_shape():
    wide = torch.zeros(72, 72, 4, dtype=torch.uint8)
    wide[30:40, 5:65] = 255
    assert cut(wide).shape == (4, 60, 60)
    assert cut(wide)[3].sum() == 600


# --- the label is what the picture shows ----------------------------------------------------------


@pytest.mark.parametrize("label", range(9))
def test_where_is_the_cell_of_the_centre_of_mass(label):
    for i, drawings in enumerate(some("where")):
        alpha = asked("where", drawings, label, i)[3]
        x, y = middle(alpha)
        assert (int(3 * x), int(3 * y)) == (label % 3, label // 3)
        row, column = (alpha > 0.1).any(1).nonzero(), (alpha > 0.1).any(0).nonzero()
        assert {int(3 * (v + 0.5) / 64) for v in row.flatten().tolist()} == {label // 3}
        assert {int(3 * (v + 0.5) / 64) for v in column.flatten().tolist()} == {label % 3}
    words = qu.CELLS[label].replace("centre", "middle")
    down, across = words.split() if " " in words else ("middle", "middle")
    assert (label % 3, label // 3) == (
        ("left", "middle", "right").index(across),
        ("top", "middle", "bottom").index(down),
    )


def test_the_area_grows_with_the_size():
    for i, drawings in enumerate(some("size")):
        areas = [asked("size", drawings, label, i)[3].sum() for label in range(5)]
        assert all(a * 1.5 < b for a, b in zip(areas, areas[1:], strict=False))


@pytest.mark.parametrize("label", range(4))
def test_turning_back_makes_it_upright(label):
    fits = []
    for i, drawings in enumerate(some("turn")):
        turned = (asked("turn", drawings, label, i, 128) * 255).round().byte().permute(1, 2, 0)
        upright = stamp(drawings[0], 64, size=0.6)
        # Straight alpha is not needed: both are as bright as what is drawn.
        back = [stamp(turned, 64, size=0.6, angle=-90 * way) for way in range(4)]
        back = [stamp(_bytes(b), 64, size=0.6) for b in back]  # the same box as the upright one's
        fits.append(min(range(4), key=lambda way: (back[way][3] - upright[3]).abs().sum()))
    assert fits.count(label) >= 10, "round things may fit another way"


def _bytes(drawing):
    return (drawing * 255).round().byte().permute(1, 2, 0)


@pytest.mark.parametrize("label", range(4))
def test_the_odd_one_is_where_the_label_says(label):
    red, blue = square(200, 0, 0), square(0, 0, 200)
    picture = asked("odd-one-out", [red, blue], label, 1)
    blues = [c[2].sum() > c[0].sum() for c in corners(picture)]
    assert blues == [i == label for i in range(4)]


@pytest.mark.parametrize("label", range(4))
def test_the_largest_is_where_the_label_says(label):
    for i, drawings in enumerate(some("largest")):
        areas = [c.sum() for c in corners(asked("largest", drawings, label, i)[3])]
        assert areas.index(max(areas)) == label


@pytest.mark.parametrize("label", range(4))
def test_the_dot_is_beside_the_drawing_as_the_label_says(label):
    for seed in range(20):
        picture = asked("beside", [square(0, 0, 200)], label, seed)
        assert picture[3].sum() > 64 * 64 * 0.06
        (dot_x, dot_y), (x, y) = middle(picture[0]), middle(picture[2] - picture[0].clamp(max=0.2))
        sides = {"to the left of": x - dot_x, "to the right of": dot_x - x}
        sides |= {"above": y - dot_y, "below": dot_y - y}
        assert max(sides, key=sides.get) == qu.SIDES[label]


def test_the_same_shows_one_drawing_twice_and_different_two():
    red, blue = square(200, 0, 0), square(0, 0, 200)
    for drawings, label in (([red], 0), ([red, blue], 1)):
        left, right = asked("same-or-different", drawings, label, 2).chunk(2, -1)
        assert left[0].sum() > 100 > left[2].sum()
        assert (right[2].sum() > right[0].sum()) == (label == 1)
    for e in catalogue._entries("same-or-different"):
        assert (sources.BETWEEN in e.source) == (e.label == "different")


@pytest.mark.parametrize("seed", range(4))
def test_the_hour_hand_points_to_the_hour(seed):
    faces = torch.stack([asked("clock", [], label, seed, 160) for label in range(12)])
    bare = faces.median(0).values  # without the hand that moves
    x, y = middle(bare[3])
    for label, face in enumerate(faces):
        hand_x, hand_y = middle((face - bare).abs().sum(0))
        points = math.degrees(math.atan2(hand_x - x, y - hand_y))
        off = (points - 30 * (label + 1) + 180) % 360 - 180
        assert abs(off) < 8, qu.HOURS[label]


# --- nothing else tells it ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_labels_are_balanced_and_have_nothing_to_do_with_kinds(name):
    entries = catalogue._entries(name)
    for part in ("train", "val", "test"):
        counts = Counter(e.label for e in entries if e.part == part)
        assert set(counts) == set(TASKS[name].deal)
        assert max(counts.values()) - min(counts.values()) <= 1
    if name == "clock":
        return
    kinds = [BY_KEY[e.source.split(sources.BETWEEN)[0].split(":")[1]].kind for e in entries]
    common = [k for k, n in Counter(kinds).items() if n >= 20]
    told = Counter((k, e.label) for k, e in zip(kinds, entries, strict=True) if k in common)
    table = [[told[k, label] for label in TASKS[name].deal] for k in common]
    assert chi2_contingency(table).pvalue > 1e-3


def test_the_label_in_one_task_tells_nothing_about_that_in_another():
    label = {
        n: {e.source: e.label for e in catalogue._entries(n)} for n in ("where", "size", "beside")
    }
    for one, other in (("where", "size"), ("where", "beside"), ("size", "beside")):
        told = Counter((label[one][s], label[other][s]) for s in label[one])
        rows = [[told[a, b] for b in TASKS[other].deal] for a in TASKS[one].deal]
        assert chi2_contingency(rows).pvalue > 1e-3


@pytest.mark.parametrize("name", SCENES)
def test_enough_drawings_test(name):
    tested = [e.source for e in catalogue._entries(name) if e.part == "test"]
    drawn = [d for source in tested for d in source.split(sources.BETWEEN)]
    assert len(drawn) == len(set(drawn)) >= 300, "a drawing is in one picture only"


def test_a_concept_is_in_one_part_everywhere():
    part = part_of_concepts()
    for name in SCENES:
        if name == "clock":
            continue
        for e in catalogue._entries(name):
            names = {near_copies(BY_KEY[d.split(":")[1]]) for d in e.source.split(sources.BETWEEN)}
            assert {part[n] for n in names} == {e.part}


def test_what_has_no_upright_is_named_as_unicode_names_it():
    known = {c.name: c.kind for c in concepts()}
    assert set(known.values()) >= sources.UPRIGHT
    assert {known[name] for name in sources.NOT_UPRIGHT} <= sources.UPRIGHT


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize("name", SCENES)
def test_pictures_are_the_same_bytes_twice_and_mind_their_own_entry(name, side):
    entries = [e for e in catalogue._entries(name) if e.part == "val"][:5]
    images = catalogue._paint(name, entries, side)
    assert images.shape == (5, side, side, 3)
    assert images.equal(catalogue._paint(name, entries, side))
    assert images[3:].equal(catalogue._paint(name, entries[3:], side))


def test_a_picture_looks_the_same_at_any_side():
    for name in SCENES:
        entries = [e for e in catalogue._entries(name) if e.part == "val"][:4]
        small, large = (catalogue._paint(name, entries, s).float() for s in (64, 128))
        shrunk = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        assert (shrunk - small).abs().mean() < 6, name


@pytest.mark.slow
def test_structured_tasks_crop_little_and_mirror_only_where_it_keeps_the_label():
    assert {n for n in SCENES if TASKS[n].flip} == {"size", "same-or-different"}
    task = load_task("same-or-different", shots=1)
    assert task.crop == SCENES["where"].crop == 0.85
    assert task.group == "structured"
    ground = nu.on_ground(torch.zeros(3, 4, 16, 16), nu.generators(range(3)))
    assert ground.flatten(2).std(-1).max() == 0
