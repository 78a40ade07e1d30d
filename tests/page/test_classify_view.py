"""The Try view: one's own picture, read with care and classified by every adapter; and in a
browser.
"""

import base64
import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import close_to
from pictures import claiming_png
from PIL import Image
from tiny import tiny_clip, tiny_task
from tiny_page import TINY, BrokenLab, TinyLab, cells, handler
from visitor import Visitor

from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.models import load_clip
from copra_lab.page.components import sketch_pad
from copra_lab.page.state.classification import Picture
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Base
from copra_lab.page.state.session import Requests, Session
from copra_lab.page.views.classify import uploaded_task
from copra_lab.page.views.classify import view as classify
from copra_lab.tasks import Split, Task, photo
from copra_lab.tasks.zip_upload import zip_task

LAB = TinyLab()


@pytest.fixture
def red(tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGBA", (90, 50), (220, 30, 30, 255)).save(file)
    return str(file)


def test_a_picture_is_its_middle_square_on_white(tmp_path, red):
    assert photo(red, 32).shape == (32, 32, 3)
    assert photo(red, 32)[5, 5].tolist() == [220, 30, 30]
    clear = tmp_path / "clear.webp"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(clear, lossless=True)
    assert photo(clear, 8).eq(255).all()
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half = Image.new("RGB", (400, 400), "white")
    half.paste("black", (0, 0, 400, 200))
    half.save(turned, exif=exif)
    assert photo(turned, 16)[2].float().mean() > 250
    assert photo(turned, 16)[-3].float().mean() < 5


BAD = {
    "text.png": b"not an image", "empty.jpg": b"", "cut.png": claiming_png(64, 64), "bomb.png": claiming_png(20000, 20000), "bigger.png": claiming_png(2**31 - 1, 2**31 - 1),
    "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_in_words_that_name_no_path(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(BAD[name])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        photo(file)
    shown = classify.uploaded(LAB, "colours", str(file))
    answer, kept = shown["answers"], shown["picture"]
    assert 'role="alert"' in answer
    assert "choose a PNG" in answer
    assert str(tmp_path) not in answer
    assert kept is None


def test_every_model_is_asked_and_answers_as_an_independent_forward_pass(red):
    shown = classify.uploaded(LAB, "colours", red)
    answers, picture = shown["answers"], shown["picture"]
    assert shown["about"] == LAB.about("colours")
    assert 'src="data:image/png' in shown["seen"]
    assert picture.truth is None
    assert "Your picture" in answers
    clip, task = tiny_clip(), tiny_task()
    models = classify.opinions(LAB, "colours", picture)
    assert [label for label, *_ in models] == ["No adapter", "One", "Two"]
    text = clip.text_features(task.prompts)
    for (label, p, names), key in zip(models, ("base", "0/one", "0/two"), strict=True):
        weights = merged_weights(clip.model, LAB.adapter("colours", key))
        with torch.no_grad():
            features = torch.func.functional_call(
                _Image(clip.model),
                {f"model.{n}": w for n, w in weights.items()},
                (clip.pixels(picture.pixels[None]),),
            )
        expected = (clip.logit_scale * F.normalize(features, dim=-1) @ text.T).softmax(-1)[0]
        torch.testing.assert_close(p, expected, atol=2e-4, rtol=1e-3)
        assert names == task.classes
        assert f"<th scope=row>{label}</th>" in answers


class _Image(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model.encode_image(pixels)


def test_test_pictures_come_in_order_and_say_what_they_show():
    seen = []
    for number in range(3):
        shown = classify.drawn(LAB, "colours", number)
        picture = shown["picture"]
        assert shown["shown so far"] == number + 1
        assert picture.truth == int(TINY.labels[(number + 1) % len(TINY)])
        seen.append(picture.pixels)
    assert not seen[0].equal(seen[1])
    answers = classify.shown(LAB, "colours", picture)["answers"]
    assert f"It shows: <b>{tiny_task().classes[picture.truth]}</b>" in answers
    assert answers.count("<ol>") == 3
    assert answers.count('class="right"') + answers.count("✗") >= 3  # each model is right or wrong


def test_another_task_keeps_ones_own_picture_and_opening_leaves_the_other_views(red):
    mine = classify.uploaded(LAB, "colours", red)["picture"]
    session = Session()
    session.visit(Base("colours"))
    assert classify.opening(LAB, "colours", mine, session)["picture"] is mine
    assert session.history.state is None
    other = Picture(mine.pixels, truth=2)
    fresh_one = classify.chosen(LAB, "colours", other)["picture"]
    assert fresh_one.truth is not None
    assert not fresh_one.pixels.equal(mine.pixels)


@pytest.mark.slow
def test_the_newest_request_wins_however_long_the_others_take(red):
    pictures, answer, enter = (
        Requests(),
        handler(LAB, "answer", "try"),
        handler(LAB, "enter", "try"),
    )

    def slow():
        pictures.take(3.0)  # a picture from the test set
        return classify.uploaded(LAB, "colours", red)

    assert classify.in_turn(pictures, 2.0, slow) == {}
    assert answer("colours", None, Session(), pictures, 2.5) == {}
    assert "It shows" in answer("colours", None, Session(), pictures, 4.0)["try-answers"]
    late = enter("colours", None, Session(), pictures, "?view=try&task=none", 1.0)
    assert list(late) == ["refused-try"]
    assert "choose one of the tasks" in late["refused-try"]
    # And it sets no menu that it was not asked to.
    assert "try-task" not in enter("colours", None, Session(), pictures, "?", 5.0)
    assert handler(LAB, "strokes", "try")("colours", "", Session(), pictures, 6.0) == {}
    assert not pictures.overtaken(5.0)


def test_an_adapter_that_cannot_be_read_is_said_in_its_row(red):
    picture = classify.uploaded(LAB, "colours", red)["picture"]
    answers = classify.shown(BrokenLab(), "colours", picture)["answers"]
    assert answers.count("<ol>") == 2
    assert "copy it again" in answers


@pytest.mark.parametrize("task", ["elsewhere", None, [], {"x": 1}])
def test_junk_is_answered_in_words(task, red):
    for row in (
        classify.chosen(LAB, task, None),
        classify.uploaded(LAB, task, red),
        classify.drawn(LAB, task, 0),
    ):
        assert "choose one of the tasks" in row["answers"]
        assert "<img" not in row["seen"]
        assert row["picture"] is None
    assert "choose a picture first" in classify.uploaded(LAB, "colours", None)["answers"]


# --- a drawing ---------------------------------------------------------------------------------------------------------


def drawing(colour=(220, 30, 30), side: int = 256) -> str:
    """White paper with a bar, as the page sends it."""
    image = Image.new("RGB", (side, side), "white")
    image.paste(colour, (40, 100, 210, 150))
    file = io.BytesIO()
    image.save(file, "PNG")
    return sketch_pad.START + base64.b64encode(file.getvalue()).decode()


def test_a_drawing_is_asked_like_a_picture():
    shown = classify.sketched(LAB, "colours", drawing())
    answers, picture = shown["answers"], shown["picture"]
    assert shown["about"] == LAB.about("colours")
    assert "Your picture" in answers
    assert answers.count("<ol>") == 3
    assert picture.truth is None
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels[15, 15].tolist() == [220, 30, 30]
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert classify.sketched(LAB, "colours", "") == {}
    assert classify.sketched(LAB, "colours", None) == {}


BAD_DRAWINGS = [
    17, ["x"], "file:///etc/passwd", "/etc/passwd", "https://example.org/a.png", "data:image/svg+xml;base64,PHN2Zy8+", sketch_pad.START, sketch_pad.START + "%%%", sketch_pad.START + "aGVsbG8=",
    sketch_pad.START + "A" * sketch_pad.LONGEST, sketch_pad.START + base64.b64encode(claiming_png(20_000, 20_000)).decode(), drawing()[:-400],
]  # fmt: skip


@pytest.mark.parametrize("sent", BAD_DRAWINGS, ids=lambda sent: str(sent)[:30])
def test_what_is_no_drawing_is_answered_in_words(sent):
    with pytest.raises(ValueError, match="draw it again"):
        sketch_pad.pixels(sent, 32)
    shown = classify.sketched(LAB, "colours", sent)
    answer, kept = shown["answers"], shown["picture"]
    assert 'role="alert"' in answer
    assert "draw it again" in answer
    assert kept is None


# --- a task of one's own -----------------------------------------------------------------------------------------------


@pytest.fixture
def own_zip(tmp_path):
    """Squares of two colours, by class: (file, the same images as (class, PNG))."""
    made = [
        (name, png_of(colour, i))
        for name, colour in (("red thing", (200, 40, 40)), ("blue_thing", (50, 60, 200)))
        for i in range(4)
    ]
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as z:
        for i, (name, data) in enumerate(made):
            z.writestr(f"{name}/{i}.png", data)
    return str(tmp_path / "mine.zip"), made


def png_of(colour, i: int) -> bytes:
    image = Image.effect_noise((40, 40), 10 + 20 * i).convert("RGB")
    image.paste(colour, (0, 0, 40, 10 + 5 * i))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_zip_is_asked_of_the_base_and_every_adapter(own_zip):
    steps = list(uploaded_task.classified(LAB, own_zip[0]))
    assert 'data-done="0"' in steps[0]["result"]
    assert "<img" not in steps[0]["result"]
    html, table = steps[-1]["result"], steps[-1]["table"]
    bench = Bench(tiny_clip(), zip_task(own_zip[0], 32), precision="float32")
    assert bench.task.classes == ("blue thing", "red thing")
    right = [
        int((bench.predictions(LAB.adapter("colours", key)) == bench.labels).sum())
        for key in ("base", "0/one", "0/two")
    ]
    assert [int(n) for n in re.findall(r'data-correct="(\d+)"', html)] == right
    assert 'data-done="1"' in html
    assert "Made for: Colours" in html
    assert [(row[0], row[1], int(row[5])) for row in cells(table)] == [
        (group, label, n)
        for group, label, n in zip(
            ("base", "Colours", "Colours"),
            ("No adapter (the base)", "One", "Two"),
            right,
            strict=True,
        )
    ]
    assert html.count("<li>") == sum(len(bench) - n for n in right)
    assert html.count("<details>") == sum(n < len(bench) for n in right)
    broken = list(uploaded_task.classified(BrokenLab(), own_zip[0]))[-1]
    assert "copy it again" in broken["result"]
    assert len(cells(broken["table"])) == 2


def test_a_zip_says_what_was_passed_over(own_zip):
    with zipfile.ZipFile(own_zip[0], "a") as z:
        z.writestr("red thing/<b>.heic", b"x")
        z.writestr("red thing/9.png", b"x")
    html = list(uploaded_task.classified(LAB, own_zip[0]))[-1]["result"]
    assert "8 images of 2 classes" in html
    assert "<b>.heic" not in html
    assert "&lt;b&gt;.heic" in html
    assert "Passed over: 2 files, the first" in html


def test_a_picture_that_is_refused_says_why(tmp_path):
    file = tmp_path / "deep.tif"
    Image.fromarray(np.zeros((20, 20), np.int32)).save(file)
    answer = classify.uploaded(LAB, "colours", str(file))["answers"]
    assert "it is unknown which one is white: save it with 8 or 16 bits" in answer
    assert "choose a PNG" in answer


@pytest.mark.slow
def test_another_zip_ends_the_one_before(own_zip):
    zips, begins, run = Requests(), handler(LAB, "begins", "try"), handler(LAB, "run", "try")
    assert "Waiting" in begins(zips, 1.0)
    steps = run(own_zip[0], zips, 1.1)
    assert next(steps) == {}
    assert 'data-done="0"' in next(steps)["try-models"]
    begins(zips, 2.0)
    assert list(steps) == [{}]
    assert list(run(None, zips, 1.1)) == [{}] * 2
    assert 'data-done="1"' in list(run(own_zip[0], zips, 2.1))[-1]["try-models"]


def test_many_wrong_images_are_counted_and_names_are_text():
    labels = torch.zeros(40, dtype=torch.int64)
    empty = Split(torch.zeros(0, 32, 32, 3, dtype=torch.uint8), labels[:0], ())
    task = Task(
        "zip",
        "Your zip",
        "",
        ("<b>x</b>", "y"),
        "a {}",
        empty,
        empty,
        Split(tiny_task().test.images[:40], labels, ("s",) * 40),
        0,
        0,
        True,
    )
    bench = Bench(tiny_clip(), task, precision="float32")
    html = uploaded_task.drawn(
        bench, [uploaded_task.Answer("", "base", torch.ones(40, dtype=torch.int64))], done=True
    )
    assert html.count("<li>") == uploaded_task.TILES
    assert f"and {40 - uploaded_task.TILES} more" in html
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html


def test_what_a_zip_says_of_itself_is_shown():
    """Such as which of its files were passed over."""
    task = replace(tiny_task(), about="Passed over: 1 file, <first>.png.")
    html = uploaded_task.drawn(
        Bench(tiny_clip(), task, precision="float32"),
        [uploaded_task.Answer("", "base", TINY.labels)],
    )
    assert "Passed over: 1 file, &lt;first&gt;.png." in html


@pytest.mark.parametrize(
    ("data", "words"), [(b"no zip", "not a whole zip"), (None, "choose a zip first")]
)
def test_a_bad_zip_is_answered_in_words(tmp_path, data, words):
    file = None if data is None else tmp_path / "bad.zip"
    if file:
        file.write_bytes(data)
    shown, *more = uploaded_task.classified(LAB, file and str(file))
    answer = shown["result"]
    assert 'role="alert"' in answer
    assert words in answer
    assert str(tmp_path) not in answer
    assert not more


@pytest.mark.browser
def test_strokes_are_classified_and_a_zip_becomes_a_task(browser, url, own_zip):
    visitor = Visitor(browser, url, "try", width=390, height=844)
    page = visitor.page
    page.wait_for_selector("#try-answers table", timeout=120_000)
    paper = page.locator("#try-paper canvas")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    before = page.evaluate(
        "() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY"
    )

    def stroke(*states) -> None:
        for i, (x, y) in enumerate(states):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
            if i == 0:
                page.mouse.down()
        page.mouse.up()

    def answered(other_than: str = "") -> str:
        """What the CLIP was shown, once it is another picture; its answers are those of an offline
        run.
        """
        shown = """old => { const img = document.querySelector('#try-seen img');
          return document.querySelector('#try-answers p')?.innerText === 'Your picture' && img && img.src !== old ? img.src : null; }"""
        address = page.wait_for_function(shown, arg=other_than).json_value()
        seen = torch.from_numpy(
            np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
        )
        lab = Lab(precision="float32")
        task = next(iter(lab.tasks()))
        label, p, names = classify.opinions(lab, task, Picture(seen))[0]
        first = (
            page.locator("#try-answers tr").filter(has_text=label).locator("li").first.inner_text()
        )
        assert names[int(p.argmax())] in first
        return address

    stroke((0.2, 0.2), (0.8, 0.3), (0.5, 0.8))
    one = answered()
    page.locator("#try-paper label[title=red] input").check()
    stroke((0.5, 0.5))
    two = answered(one)
    page.get_by_role("button", name="Undo").click()
    assert answered(two) == one
    paper.focus()
    for key in ("ArrowLeft", "ArrowLeft", "Space", "ArrowDown", "ArrowDown", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert answered(one) not in (one, two)
    assert page.evaluate(
        "() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY"
    ) == pytest.approx(before, abs=1)
    page.set_input_files("#try-zip input[type=file]", own_zip[0])
    page.wait_for_selector("#try-models [data-done='1']")
    bench = Bench(load_clip(), zip_task(own_zip[0], load_clip().side), precision="float32")
    correct = page.locator("#try-models [data-correct]")
    assert int(correct.first.get_attribute("data-correct")) == close_to(bench.accuracy().correct)
    assert (
        correct.count() == 1 + sum(len(Lab().adapters(task)) for task in Lab().tasks()) + 1
    )  # and the fresh one, but not the broken
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.leave()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_is_uploaded_and_a_broken_one_refused(browser, url, width, tmp_path, red):
    visitor = Visitor(browser, url, "try", width=width, height=900)
    page = visitor.page
    page.wait_for_selector("#try-answers table", timeout=120_000)
    assert page.inner_text("#try-answers p").startswith("It shows:")
    before = page.evaluate(
        "() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY"
    )
    page.set_input_files("#try-file input[type=file]", red)
    page.wait_for_function(
        "() => document.querySelector('#try-answers p')?.innerText === 'Your picture'"
    )
    assert page.locator("#try-answers tr").count() >= 5
    assert page.evaluate(
        "() => document.querySelector('#try-answers').getBoundingClientRect().top + scrollY"
    ) == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#try-another")
    page.wait_for_function(
        "() => document.querySelector('#try-answers p')?.innerText.startsWith('It shows:')"
    )
    page.locator(
        "#try-file button[aria-label='Clear'], #try-file button[title='Clear'], #try-file "
        ".icon-button-wrapper button"
    ).first.click()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    page.set_input_files("#try-file input[type=file]", str(bad))
    page.wait_for_selector("#try-answers [role=alert]")
    assert "choose a PNG" in page.inner_text("#try-answers")
    visitor.leave()
