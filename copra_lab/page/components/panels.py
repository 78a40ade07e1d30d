"""Pieces of HTML that all views share: pure functions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar

import gradio as gr

from copra_lab.page.components.numbers import interval, percent
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import History, Point
from copra_lab.utils.statistics import Accuracy

State = TypeVar("State", bound=Measured)


def html(value: str, **options: Any) -> gr.HTML:
    """A piece of HTML without Gradio's own styles."""
    return gr.HTML(value, apply_default_css=False, **options)


def standing(history: History, kind: type[State]) -> State | None:
    """Where the visitor stands, if that is a state of this kind: of one view."""
    return history.state if isinstance(history.state, kind) else None


def same_subject(history: History, here: State) -> dict[State, Point]:
    """What was measured of the subject of `here`, a state of one view."""
    return {
        state: point
        for state, point in history.points.items()
        if isinstance(state, type(here)) and state.subject == here.subject
    }


def accuracy(point: Point | None) -> Accuracy | None:
    """Of a point, if it was measured."""
    return point.accuracy if point else None


def number(history: History, recipe: str, data: Mapping[str, object], measuring: str) -> str:
    """The accuracy where the visitor stands, with its interval.

    `recipe`: what the model is made of, as HTML; `data`: the same for programs.
    """
    if history.here is None:
        doing = (
            f"{measuring} The very first start also draws all images, which takes about a minute."
            if history.state
            else "Loading the model."
        )
        return figure("…", "", recipe, doing, {}, "waiting")
    a = history.here.accuracy
    part = a.n < history.total
    images = (
        f"first {a.n} of {history.total} images" if part else f"{a.correct} of {a.n} images right"
    )
    words = f'95\u202f% <span class="long">interval</span> <b>{interval(a)}</b><br>{images}'
    data = {**data, "correct": a.correct, "n": a.n, "total": history.total}
    return figure(f"{100 * a.value:.1f}", "%", recipe, words, data, "first" if part else "")


def figure(
    value: str, unit: str, recipe: str, words: str, data: Mapping[str, object], kind: str
) -> str:
    """A large number, what it is of, and words about it, as HTML; `data` is for programs."""
    attributes = "".join(f' data-{name}="{escape(str(said))}"' for name, said in data.items())
    return (
        f'<div class="now {kind}" role="status"{attributes}><div '
        f'class="figure">{value}<small>{unit}</small></div>'
        f'<div class="words"><div class="recipe">{recipe}</div>{words}</div></div>'
    )


def trouble(error: Exception) -> str:
    """In place of the number, why there is none."""
    return f'<div class="trouble" role="alert"><b>No number here.</b> {escape(str(error))}</div>'


def facts(*cells: str) -> str:
    """A row of facts."""
    return f'<dl class="facts">{"".join(cells)}</dl>'


def fact(name: str, value: str, kind: str, title: str = "") -> str:
    """A name and its value, as HTML; `title` is shown when it is pointed at."""
    return f'<div class="{kind}" title="{escape(title)}"><dt>{name}</dt><dd>{value}</dd></div>'


def measured(name: str, point: Point | None, kind: str) -> str:
    """The fact that a point is, or will be."""
    if point is None:
        return fact(name, "…", kind)
    return fact(name, percent(point.accuracy.value), kind, str(point.accuracy))


def table(
    heads: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Accuracy]],
    base: Accuracy | None = None,
    base_name: str = "base",
) -> str:
    """Accuracies with their intervals, that of the `base` first, if it is known.

    `heads` names what stands before them in each row, whose first cell is HTML.
    """
    first = [((base_name, *[""] * (len(heads) - 1)), base)] if base else []
    return grid(
        (*heads, "accuracy %", "from %", "to %", "right", "images"),
        (
            (
                *(name, *map(escape, others)),
                *(f"{100 * share:.2f}" for share in (a.value, *a.interval)),
                *(str(a.correct), str(a.n)),
            )
            for (name, *others), a in (*first, *rows)
        ),
    )


def grid(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML, the first cell of each row its head."""
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"
        for first, *others in rows
    )
    return (
        f'<div class="numbers" tabindex="0"><table><thead><tr>{columns(heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def columns(heads: Iterable[str]) -> str:
    """The heads of a table's columns."""
    return "".join(f"<th scope=col>{head}</th>" for head in heads)


def spans(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 → ``0–2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs)


@contextmanager
def folded(title: str, view: str) -> Iterator[None]:
    """Lay out a table, ``<view>-table``, which is folded away, and a button that copies it."""
    with gr.Accordion(title, open=False, elem_id=f"{view}-more"):
        yield
        copy_button(f"{view}-table")


def copy_button(table: str) -> None:
    """A button that copies the table in the element of that id."""
    gr.Button("Copy the table", size="sm", scale=0, min_width=140).click(
        None, js=f"() => copra.copyTable('{table}')"
    )
