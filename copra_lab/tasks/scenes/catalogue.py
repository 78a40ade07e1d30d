"""The table of structured tasks, one per row."""

from collections.abc import Callable
from functools import partial

from copra_lab.tasks import difficulty as di
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.emoji.recipe import Recipe
from copra_lab.tasks.scenes import questions as qu
from copra_lab.tasks.scenes import sources

UNASKED = "Pretraining saw these drawings with their names, and was never asked this."


def _scene(
    title: str,
    question: str,
    template: str,
    scene: qu.Question,
    classes: tuple[str, ...],
    entries: Callable[[], list[so.Entry]],
    knew: str = UNASKED,
    flip: bool = False,
) -> Recipe:
    about = f"{question} {knew}"
    return Recipe(
        title, about, entries, template, "structured",
        flip=flip, deal=classes, scene=scene, crop=di.CROP,
    )  # fmt: skip


def _dealt(
    task: str, classes: tuple[str, ...], drawings: Callable[[], list[so.Entry]] = sources.drawings
) -> Callable[[], list[so.Entry]]:
    """Lists drawings with labels that this task deals them."""
    return partial(sources.labelled, drawings, classes, task)


# Every drawing is in one picture of a task at most.
SCENES: dict[str, Recipe] = {
    "where": _scene(
        "Where?", "Tell in which cell of a three by three grid a drawing stands.",
        "a drawing at the {}", partial(qu.where, sizes=di.WHERE),
        qu.CELLS, _dealt("where", qu.CELLS),
    ),
    "size": _scene(
        "How large?", "Tell how large a drawing is, of five sizes.",
        "a {} drawing", partial(qu.size, ratio=di.SIZES),
        qu.SIZES, _dealt("size", qu.SIZES), flip=True,
    ),
    "turn": _scene(
        "Which way up?",
        "Tell which way the top of a drawing points, of four directions. Only drawings with a top "
        "and a bottom; pretraining turned them by 22 degrees at most.",
        "a drawing whose top points {}", partial(qu.turn, tilt=di.TILT),
        qu.WAYS, _dealt("turn", qu.WAYS, partial(sources.drawings, upright=True)),
    ),
    "same-or-different": _scene(
        "The same or different?",
        "Tell whether two drawings show the same, at other sizes and angles, or different things.",
        "two pictures that are {}", partial(qu.same_or_different, sizes=di.SAME),
        qu.SAMENESS, partial(sources.same_or_different, "same-or-different"), flip=True,
    ),
    "odd-one-out": _scene(
        "Which one is different?", "Of four drawings three are the same: tell where the other is.",
        "the different one is at the {}", partial(qu.odd_one_out, sizes=di.ODD),
        qu.CORNERS, _dealt("odd-one-out", qu.CORNERS, sources.pairs),
    ),
    "largest": _scene(
        "Which one is the largest?", "Of four copies of a drawing, tell where the largest is.",
        "the largest one is at the {}", partial(qu.largest, ratio=di.LARGEST),
        qu.CORNERS, _dealt("largest", qu.CORNERS),
    ),
    "beside": _scene(
        "On which side?",
        "Tell on which side of a drawing a red dot is, wherever in the picture the two are.",
        "a red dot {} a drawing", partial(qu.beside, sizes=di.BESIDE),
        qu.SIDES, _dealt("beside", qu.SIDES),
    ),
    "clock": _scene(
        "What time is it?",
        "Read the full hour from a clock with two hands. No drawing is behind the clocks: each has "
        "colours, marks, a size and a place of its own.",
        "a clock that shows {} o'clock", partial(qu.clock, hands=di.HANDS),
        qu.HOURS, _dealt("clock", qu.HOURS, sources.clocks),
        "Pretraining saw next to no clock faces.",
    ),
}  # fmt: skip
