"""Lessons: the notebooks are what the sources make, and each exercise's check knows right from
wrong.
"""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "lessons"))

import build  # noqa: E402
from IPython.core.inputtransformer2 import TransformerManager  # noqa: E402

import copra_lab  # noqa: E402
from copra_lab.exercises import CheckFailed, Exercise  # noqa: E402

pytestmark = pytest.mark.lessons

SOURCES = build.sources()
EXERCISES = [
    (s, i)
    for s in SOURCES
    for i, c in enumerate(build.read(s).cells)
    if "exercise" in build.tags(c)
]
each_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
each_exercise = pytest.mark.parametrize(
    ("source", "cell"), EXERCISES, ids=lambda x: x.stem if isinstance(x, Path) else str(x)
)

# Of each lesson, in ``tests/exercises/mistakes_NN.py``: (a part of the solution, what stands there
# instead, words of the check's answer).
MISTAKES = [
    (s.stem[:2], *m) for s in SOURCES for m in import_module(f"mistakes_{s.stem[:2]}").MISTAKES
]


def cells(nb) -> list[str]:
    return [c.source for c in nb.cells if c.cell_type == "code"]


def attempt(nb, cell: int, exercise: str):
    """Run the setup, `exercise` in place of a cell and the check after it, as IPython would, and
    give what the check gives.
    """
    setup = next(c.source for c in nb.cells if "setup" in build.tags(c))
    check = next(
        c.source
        for c in nb.cells
        if "check" in build.tags(c) and int(c.id.removeprefix("cell-")) > cell
    )
    scope: dict = {}
    for code in (setup, exercise):
        exec(TransformerManager().transform_cell(code), scope)
    return eval(check, scope)


def solution(source: Path, cell: int) -> str:
    return build.solved(source).cells[cell].source


def test_the_notebooks_are_what_the_sources_make():
    assert build.check(build.LESSONS) == []


@each_lesson
def test_a_sheet_is_made_the_same_way_twice_and_tells_no_solution(source):
    once, again = (build.text(build.sheet(source, 20)) for _ in range(2))
    assert once == again
    assert not re.search(r"# BLANK|# END|\{\{", once)
    assert all(
        not c.get("outputs") and c.get("execution_count") is None for c in json.loads(once)["cells"]
    )
    for blank, full in zip(cells(build.sheet(source, 20)), cells(build.read(source)), strict=True):
        hidden = [
            line
            for found in build.BLANK.finditer(full + "\n")
            for line in found[0].splitlines()[1:-1]
        ]
        assert not [line for line in hidden if line in blank]


@each_lesson
def test_a_lesson_says_what_colab_shall_install(source):
    assert re.findall(r"copra-lab\[lessons\]==([^\"]+)", source.read_text(encoding="utf-8")) == [
        copra_lab.__version__
    ]


@each_lesson
def test_each_exercise_has_its_check_and_nothing_else_needs_it(source):
    nb = build.read(source)
    marks = [t for c in nb.cells for t in build.tags(c) if t in ("exercise", "check")]
    assert marks
    assert marks == ["exercise", "check"] * (len(marks) // 2)
    for i, cell in enumerate(nb.cells):
        for name in (
            re.findall(r"^def (\w+)", cell.source, re.MULTILINE)
            if "exercise" in build.tags(cell)
            else ()
        ):
            assert not [
                c.id
                for c in nb.cells[i + 2 :]
                if c.cell_type == "code" and re.search(rf"\b{name}\(", c.source)
            ]


@each_exercise
def test_a_solution_passes_and_a_blank_fails(source, cell):
    nb = build.solved(source)
    assert repr(attempt(nb, cell, nb.cells[cell].source)).startswith("✓")
    nb = build.sheet(source, 20)
    blank = next(c.source for c in nb.cells if c.id == f"cell-{cell:02d}")
    with pytest.raises(CheckFailed, match="Nothing to check yet"):
        attempt(nb, cell, blank)


@pytest.mark.parametrize(("lesson", "right", "wrong", "words"), MISTAKES)
def test_each_mistake_is_told_apart(lesson, right, wrong, words):
    source, cell = next(
        (s, c) for s, c in EXERCISES if s.stem.startswith(lesson) and right in solution(s, c)
    )
    with pytest.raises(CheckFailed, match=words):
        attempt(build.solved(source), cell, solution(source, cell).replace(right, wrong))


def test_two_mistakes_at_once_are_both_named():
    source, cell = EXERCISES[0]
    code = (
        solution(source, cell)
        .replace("template.format(name)", "name")
        .replace("clip.logit_scale * ", "")
    )
    with pytest.raises(CheckFailed, match=r"template.*Also:.*almost flat"):
        attempt(build.solved(source), cell, code)


@each_lesson
def test_every_mistake_a_check_knows_has_its_own_words_and_outcome(source):
    module = import_module(f"copra_lab.exercises.{source.stem[3:]}")
    exercises = [e for e in vars(module).values() if isinstance(e, Exercise)]
    assert len(exercises) == sum(s == source for s, _ in EXERCISES)
    for e in exercises:
        assert len(e.mistakes) >= 2
        for name, message in e.mistakes.items():
            with pytest.raises(CheckFailed) as failed:
                e(lambda *a, e=e, name=name: e._run(name))
            assert str(failed.value) == message


def test_a_check_asks_for_the_function_itself_and_shows_no_traceback():
    from copra_lab.exercises.meet_clip import zero_shot

    with pytest.raises(CheckFailed, match="without calling it") as failed:
        zero_shot(3)
    assert failed.value._render_traceback_() == [f"✗ {failed.value}"]
    with pytest.raises(CheckFailed, match=r"expected the shape \(12, 28\)|shape"):
        zero_shot(lambda clip, images, names, template: (clip.image_features(images), images))


# --- the build itself, on a lesson that takes no time

LESSON = """# ---
# jupyter:
#   copra_lab:
#     question: How much?
# ---
# %% [markdown]
# # 99. Divide
# {{time}}

# %% tags=["setup"]
import ipywidgets

# %% tags=["exercise"]
def half(x):
    # BLANK: divide
    return x / 2
    # END

# %% tags=["check"]
half(4)
"""


@pytest.fixture
def lesson(tmp_path) -> Path:
    source = tmp_path / "99_divide.py"
    source.write_text(LESSON, encoding="utf-8")
    return source


def test_a_lesson_is_built_checked_and_found_stale(lesson, monkeypatch, capsys):
    folder = lesson.parent
    (folder / "README.md").write_text("<!-- lessons -->\n<!-- /lessons -->\n", encoding="utf-8")
    assert "is missing" in build.check(folder)[0]
    assert build.main([], folder) == 0
    assert build.check(folder) == []
    assert build.main(["--check"], folder) == 0
    assert "|  | [99. Divide](99_divide.ipynb) | How much? |" in (folder / "README.md").read_text(
        encoding="utf-8"
    )

    notebook, sheet = lesson.with_suffix(".ipynb"), folder / "exercises" / "99_divide.ipynb"
    good, blank = notebook.read_text(encoding="utf-8"), sheet.read_text(encoding="utf-8")
    assert '"2.0"' in good
    assert "x / 2" in good
    assert "5 seconds" in good
    assert "{{" not in blank
    assert "x / 2" not in blank

    def broken(path: Path, content: str, *words: str) -> None:
        was = path.read_text(encoding="utf-8")
        path.write_text(content, encoding="utf-8")
        found = build.check(folder)
        assert all(any(w in line for line in found) for w in words), found
        path.write_text(was, encoding="utf-8")

    broken(sheet, blank + " ", "exercises/99_divide.ipynb is not what the source makes")
    broken(notebook, good.replace("x / 2", "x / 3"), "edited by hand")
    broken(notebook, good[:100], "damaged")
    broken(notebook, re.sub(r'"execution_count": \d', '"execution_count": null', good), "never ran")
    broken(
        notebook,
        good.replace(
            '"output_type": "execute_result"',
            '"output_type": "error", "ename": "", "evalue": "", "traceback": []',
        ),
        "an error",
    )
    broken(lesson, LESSON + "\n# %%\n1\n", "the source has changed", "is not what the source makes")
    broken(folder / "README.md", "<!-- lessons -->\n<!-- /lessons -->\n", "table of lessons")
    monkeypatch.setattr(build, "ASSETS", folder)
    (folder / "clip").mkdir()
    (folder / "clip" / "w.safetensors").write_bytes(b"\0other weights")
    assert build.check(folder) == [
        "99_divide: the outputs are stale, assets/clip has changed since"
    ]
    assert build.main(["--check"], folder) == 1
    assert "--stale" in capsys.readouterr().out


def test_a_failing_lesson_is_not_written(lesson, capsys):
    lesson.write_text(LESSON + "\n# %%\n1 / 0\n", encoding="utf-8")
    assert build.main([], lesson.parent) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [p.name for p in lesson.parent.iterdir()] == ["99_divide.py"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # END\n", ""),
        ("    # BLANK: divide\n", ""),
        ("    # END", "  # END"),
        ('tags=["exercise"]', ""),
    ],
)
def test_a_badly_marked_exercise_is_refused(lesson, old, new):
    lesson.write_text(LESSON.replace(old, new), encoding="utf-8")
    with pytest.raises(build.BuildError, match=r"99_divide\.py, cell 2"):
        build.sheet(lesson, 1)


def test_a_header_that_is_no_yaml_is_refused(lesson):
    lesson.write_text(LESSON.replace("question: How", "question: {How"), encoding="utf-8")
    assert build.problems(lesson)[0].startswith("99_divide.py: its header cannot be read")


def test_a_control_redraws_and_leaves_its_picture():
    from ipywidgets import IntSlider
    from matplotlib.figure import Figure

    from copra_lab.plots import Picture
    from copra_lab.plots.widgets import live

    def draw(size):
        if size > 5:
            raise ValueError("too <large>")
        return Picture(Figure(figsize=(1, 1)), f"a picture of size {size}")

    slider = IntSlider(1, 0, 10)
    shown = live(draw, size=slider)
    frame = shown.children[1]
    assert "a picture of size 1" in frame.value
    slider.value = 4
    assert "a picture of size 4" in frame.value
    data, about = shown._repr_mimebundle_()
    assert {build.WIDGET, "image/png"} <= set(data)
    assert about["image/png"]["alt"] == "a picture of size 4"
    slider.value = 7
    assert "too &lt;large&gt;" in frame.value
