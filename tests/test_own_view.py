"""The Try view: one's own picture, read with care and classified by every adapter; and in a browser."""

import struct
import zlib

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_app import TINY, TinyLab, Visitor, browser, fresh, independent, url  # noqa: F401 (fixtures)
from test_prune_view import BrokenLab
from tiny import tiny_clip, tiny_task

from copra_lab.lora import merged_weights
from copra_lab.page import own
from copra_lab.page.own import Picture
from copra_lab.page.places import Base
from copra_lab.page.walk import Session
from copra_lab.tasks import photo

LAB = TinyLab()


def png(width: int, height: int) -> bytes:
    """A PNG that claims any size, of next to no bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.fixture
def red(tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGBA", (90, 50), (220, 30, 30, 255)).save(file)
    return str(file)


def test_a_picture_is_its_middle_square_on_white(tmp_path, red):
    assert photo(red, 32).shape == (32, 32, 3) and photo(red, 32)[5, 5].tolist() == [220, 30, 30]
    clear = tmp_path / "clear.webp"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(clear, lossless=True)
    assert photo(clear, 8).eq(255).all()
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half = Image.new("RGB", (400, 400), "white")
    half.paste("black", (0, 0, 400, 200))
    half.save(turned, exif=exif)
    assert photo(turned, 16)[2].float().mean() > 250 and photo(turned, 16)[-3].float().mean() < 5


BAD = {
    "text.png": b"not an image", "empty.jpg": b"", "cut.png": png(64, 64), "bomb.png": png(20000, 20000), "bigger.png": png(2**31 - 1, 2**31 - 1),
    "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_in_words_that_name_no_path(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(BAD[name])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        photo(file)
    _, _, answer, kept = own.given(LAB, "colours", str(file))
    assert 'role="alert"' in answer and "choose a PNG" in answer and str(tmp_path) not in answer and kept is None


def test_every_model_is_asked_and_answers_as_an_independent_forward_pass(red):
    about, seen, answers, picture = own.given(LAB, "colours", red)
    assert about == LAB.about("colours") and 'src="data:image/png' in seen and picture.truth is None and "Your picture" in answers
    clip, task = tiny_clip(), tiny_task()
    models = own.asked(LAB, "colours", picture)
    assert [label for label, *_ in models] == ["No adapter", "One", "Two"]
    text = clip.text_features(task.prompts)
    for (label, p, names), key in zip(models, ("base", "0/one", "0/two"), strict=True):
        weights = merged_weights(clip.model, LAB.adapter("colours", key))
        with torch.no_grad():
            features = torch.func.functional_call(
                _Image(clip.model), {f"model.{n}": w for n, w in weights.items()}, (clip.pixels(picture.pixels[None]),)
            )
        expected = (clip.logit_scale * F.normalize(features, dim=-1) @ text.T).softmax(-1)[0]
        torch.testing.assert_close(p, expected, atol=2e-4, rtol=1e-3)
        assert names == task.classes and f"<th scope=row>{label}</th>" in answers


class _Image(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model.encode_image(pixels)


def test_test_pictures_come_in_order_and_say_what_they_show():
    seen = []
    for turn in range(3):
        *_, picture, turn_after = own.drawn(LAB, "colours", turn)
        assert turn_after == turn + 1 and picture.truth == int(TINY.labels[(turn + 1) % len(TINY)])
        seen.append(picture.pixels)
    assert not seen[0].equal(seen[1])
    _, _, answers, _ = own.shown(LAB, "colours", picture)
    assert f"It shows: <b>{tiny_task().classes[picture.truth]}</b>" in answers and answers.count("<ol>") == 3
    assert answers.count('class="right"') + answers.count("✗") >= 3  # each model is right or wrong


def test_another_task_keeps_ones_own_picture_and_opening_leaves_the_other_views(red):
    *_, mine = own.given(LAB, "colours", red)
    session = Session()
    session.visit(Base("colours"))
    *_, kept = own.opening(LAB, "colours", mine, session)
    assert kept is mine and session.walk.place is None
    *_, fresh_one = own.chosen(LAB, "colours", Picture(mine.pixels, truth=2))
    assert fresh_one.truth is not None and not fresh_one.pixels.equal(mine.pixels)


def test_an_adapter_that_cannot_be_read_is_said_in_its_row(red):
    *_, picture = own.given(LAB, "colours", red)
    _, _, answers, _ = own.shown(BrokenLab(), "colours", picture)
    assert answers.count("<ol>") == 2 and "copy it anew" in answers


@pytest.mark.parametrize("task", ["elsewhere", None, [], {"x": 1}])
def test_junk_is_answered_in_words(task, red):
    for row in (own.chosen(LAB, task, None), own.given(LAB, task, red), own.drawn(LAB, task, 0)):
        assert "choose one of the tasks" in row[2]
    assert "choose a picture first" in own.given(LAB, "colours", None)[2]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_is_uploaded_and_a_broken_one_refused(browser, url, width, tmp_path, red):  # noqa: F811
    visitor = Visitor(browser, url, "try", width=width, height=900)
    page = visitor.page
    page.wait_for_selector("#try-answers table", timeout=120_000)
    assert page.inner_text("#try-answers p").startswith("It shows:")
    before = page.evaluate("() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY")
    page.set_input_files("#try-file input[type=file]", red)
    page.wait_for_function("() => document.querySelector('#try-answers p')?.innerText === 'Your picture'")
    assert page.locator("#try-answers tr").count() >= 5
    assert page.evaluate("() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY") == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#try-another")
    page.wait_for_function("() => document.querySelector('#try-answers p')?.innerText.startsWith('It shows:')")
    page.locator("#try-file button[aria-label='Clear'], #try-file button[title='Clear'], #try-file .icon-button-wrapper button").first.click()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    page.set_input_files("#try-file input[type=file]", str(bad))
    page.wait_for_selector("#try-answers [role=alert]")
    assert "choose a PNG" in page.inner_text("#try-answers")
    visitor.leave()
