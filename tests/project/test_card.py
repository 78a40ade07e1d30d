"""The model card's rows on photographs, and what `rebuild.py --check` calls stale."""

import json
from types import SimpleNamespace

import bases  # recipes/
import card
import curve
import numpy as np
import pytest
import rebuild
import torch
from photos import Photos
from PIL import Image
from tiny import tiny_clip

from copra_lab.tasks import Split


def photos(names=("banana", "tabby", "trout"), each=6, part="card") -> Photos:
    r = np.random.default_rng(0)
    n = each * len(names)
    images = r.integers(0, 255, (n, 64, 64, 3), np.uint8)
    labels = np.repeat(np.arange(len(names)), each)
    return Photos("some", images, labels, names, np.full(n, part, "<U6"))


def test_seen_and_held_out_photographs_are_told_apart_among_their_own():
    clip, some = tiny_clip(), photos()
    rows = card.photographs(clip, "Some", some)
    assert [r["what"] for r in rows] == [
        "zero-shot, Some, 2 seen classes",
        "zero-shot, Some, 1 held-out classes",  # the banana
    ]
    assert [(r["n"], r["data"]) for r in rows] == [(12, "Some"), (6, "Some")]
    assert rows[1]["value"] == 1.0  # among one
    text = card.classifier(clip, some.names[1:])
    f = clip.image_features(torch.from_numpy(some.images[6:]))
    right = (f @ text.T).argmax(-1).numpy() + 1 == some.labels[6:]
    assert rows[0]["value"] == round(float(right.mean()), 4)


def test_only_what_was_kept_back_is_measured():
    some = photos()
    some.part[:] = ["train", "card", "choice"] * 6
    assert [r["n"] for r in card.photographs(tiny_clip(), "Some", some)] == [4, 2]


class Known:
    """A data set as torchvision has them: 10 images of each of two classes, in turn."""

    classes = ("T-shirt/top", "Bag")

    def __init__(self, folder, train, download):
        self.train, self.targets = train, torch.arange(20) % 2

    def __len__(self):
        return 20

    def __getitem__(self, i):
        shade = 60 + 120 * int(self.targets[i]) + i
        return Image.fromarray(np.full((28, 28), shade, np.uint8)), int(self.targets[i])


@pytest.mark.slow
def test_a_probe_is_trained_and_chosen_on_different_images(monkeypatch):
    asked = []
    first = card._first

    def few(data, skip, n):
        asked.append((data.train, skip, n))
        return first(data, skip // 20, min(5, n) if data.train else n)

    monkeypatch.setattr(card, "_first", few)
    rows = card.well_known(tiny_clip(), "Known", Known, "nowhere")
    assert asked == [(True, 0, 100), (True, 100, 50), (False, 0, 20)]
    assert [r["what"] for r in rows] == [
        "zero-shot, Known, 2 classes",
        "linear probe on features, Known, 2 classes",
        "linear probe on pixels, Known, 2 classes",
    ]
    assert rows[2]["value"] == 1.0  # a class is darker than the other
    split = first(Known("", True, False), 2, 3)
    assert split.sources == ("True:4", "True:5", "True:6", "True:7", "True:8", "True:9")
    assert split.images.shape == (6, 64, 64, 3)


def test_a_photograph_option_needs_its_title():
    a = SimpleNamespace(kept_back=["some.npz"], validation=[], cifar10=None, fashion_mnist=None)
    with pytest.raises(SystemExit, match="TITLE=SOURCE"):
        list(card.measured(tiny_clip(), a))


def test_two_bases_are_compared_on_classes_of_both_kinds(monkeypatch):
    monkeypatch.setattr(bases, "CLASSES", 1)
    train, val = photos(part="train"), photos()
    train.part[::2] = "choice"
    found = list(bases.tasks(train, val))
    assert [(kind, draw) for kind, draw, _ in found] == [
        (kind, draw) for kind in ("seen", "held out") for draw in range(bases.DRAWS)
    ]
    for kind, _, task in found:
        assert (task.classes == ("banana",)) == (kind == "held out")
        parts: list[Split] = [task.train, task.val, task.test]
        assert [len(p) for p in parts] == [3, 3, 6]
        assert len({s for p in parts for s in p.sources}) == 12
    with pytest.raises(SystemExit, match="same classes"):
        list(bases.tasks(photos(("tabby",)), val))


def test_the_curve_has_a_row_for_each_note(tmp_path):
    lines = [
        {"images": 10, "name": 5.0},
        {"images": 20, "choice": {"a, 2 seen": 0.5, "a, 1 held out": 0.25}},
        {"images": 30, "choice": {"a, 2 seen": 0.75, "a, 1 held out": 0.25}},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows = curve.noted(tmp_path / "log.jsonl")
    assert [(r["images"], r["accuracy"]) for r in rows] == [
        (20, 0.5),
        (20, 0.25),
        (30, 0.75),
        (30, 0.25),
    ]


def test_whatever_is_missing_is_stale(monkeypatch, tmp_path):
    clip = SimpleNamespace(hash="0")
    monkeypatch.setattr(rebuild, "RESULTS", tmp_path)
    assert rebuild.results_are_stale(clip, "lines.csv") == "lines.csv is missing"
    gone = rebuild.adapters.kept()[0]
    left = tuple(s for s in rebuild.shipped() if s.folder.name != rebuild.folder_name(gone))
    monkeypatch.setattr(rebuild, "shipped", lambda: left)
    assert rebuild.adapters_are_stale(clip).endswith(
        f"{gone.task}/{rebuild.folder_name(gone)} is missing"
    )
