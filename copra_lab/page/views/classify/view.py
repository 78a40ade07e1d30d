"""The Try view: a visitor's picture, classified by every model of a task side by side."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import gradio as gr

from copra_lab.page.components import controls, sketch_pad, staleness
from copra_lab.page.components.events import EVENT, MODEL, NUMBERED, PICTURES, READ
from copra_lab.page.components.panels import html, trouble
from copra_lab.page.components.staleness import all_of
from copra_lab.page.components.tabs import Entrance, View, refusal
from copra_lab.page.components.updates import Components, Shows, Updates, by_component
from copra_lab.page.state import address
from copra_lab.page.state.classification import Picture, opinions
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.session import Asked, History, Requests, Session
from copra_lab.page.views.classify import html as draw
from copra_lab.page.views.classify import uploaded_task
from copra_lab.tasks.task import IMAGE_FILES, MEGAPIXELS, photo

PART = "view-try"
"""Where answers grow old when another picture is given."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    with controls.menus():
        task = controls.task_menu(
            lab, "try-task", "Task: the class names to choose from", scale=None
        )
    about = controls.about(lab, first, "try")
    with gr.Row(equal_height=True):
        with controls.card(4):
            paper = sketch_pad.paper("try-paper")
            file = controls.upload("Or your picture", IMAGE_FILES, "try-file")
            another = gr.Button("A picture from the test set", size="sm", elem_id="try-another")
            seen = html(draw.seen(None), elem_id="try-seen")
        with controls.card(7):
            answers = html(draw.answers([]), elem_id="try-answers")
    controls.how_to_read("classify")
    uploaded_task.fill(lab)
    components = {"about": about, "seen": seen, "answers": answers, "picture": gr.State(None)}
    components |= {"shown so far": gr.State(0), "task": task, "refused": entrance.refused}
    staleness.watch([task])
    staleness.outdate(PART, [file.upload, file.clear, paper.change, another.click])
    _answer(lab, session, entrance, components, (paper, file, another))


def _answer(
    lab: Lab,
    session: gr.State,
    entrance: Entrance,
    components: Components,
    sources: tuple[gr.HTML, gr.File, gr.Button],
) -> None:
    """Answer whenever there is another picture or task."""
    paper, file, another = sources
    task, picture, so_far = (components[name] for name in ("task", "picture", "shown so far"))
    answered = [components[name] for name in ("about", "seen", "answers", "picture")]
    # Counted apart from the session's: what is asked here is shown on coming back, though the
    # visitor is in another view by then.
    pictures, number = gr.State(Requests()), gr.Number(visible=False)

    def theirs(handle: Callable[..., Updates]) -> Callable[..., Shows]:
        """`handle`, over the visitor's own adapters too; it answers only the newest request."""

        def answer(*values: Any) -> Shows:
            *inputs, session, pictures, number = values

            def found() -> Updates:
                return marked(handle(session.history.lab(lab), *inputs), inputs[0], number)

            return by_component(components, in_turn(pictures, number, found))

        return answer

    def strokes(*values: Any) -> Shows:
        return theirs(sketched)(*values) if values[1] else gr.skip()  # white paper asks for nothing

    def enter(*values: Any) -> Shows:
        task, picture, session, pictures, query, number = values
        updates = opening(lab, task, picture, session, query, number)
        if pictures.overtaken(number):  # by a picture that came meanwhile
            return by_component(components, {n: updates[n] for n in updates if n == "refused"})
        return by_component(components, marked(updates, updates.get("task", task), number))

    entering = [task, picture, session, pictures, *entrance.request]
    arriving = [*answered, task, entrance.refused]
    entrance.opened(enter, entering, arriving, js=entrance.leaves([task]), **MODEL)
    task.change(partial(told, lab), task, entrance.link, **EVENT)
    mine: dict[str, Any] = MODEL | {"js": NUMBERED}
    asking = [session, pictures, number]
    task.input(theirs(chosen), [task, picture, *asking], answered, **mine)
    file.upload(theirs(uploaded), [task, file, *asking], answered, js=NUMBERED, **PICTURES | READ)
    paper.change(strokes, [task, paper, *asking], answered, **mine)
    another.click(theirs(drawn), [task, so_far, *asking], [*answered, so_far], **mine)


def told(lab: Lab, task: Any) -> Any:
    """The address of a task that was chosen."""
    known = isinstance(task, str) and task in lab.tasks()
    return address.write(lab, TryState(task)) if known else gr.skip()


def marked(updates: Updates, task: Any, number: Any) -> Updates:
    """The picture that is seen and the answers, marked as of this task and request."""
    return all_of(Asked({"try-task": task}, number, PART), updates, ("seen", "answers"))


def in_turn(pictures: Requests, number: Any, answer: Callable[[], Updates]) -> Updates:
    """The `answer` to the request of this number, unless a newer one came.

    Before it, or while it was found.
    """
    found = answer() if pictures.take(number) else {}
    return {} if pictures.overtaken(number) else found


def opening(
    lab: Lab,
    task: Any,
    picture: Picture | None,
    session: Session,
    query: Any = "",
    number: Any = None,
) -> Updates:
    """What is shown when the view opens, perhaps with the task of an address.

    What was there before, or else the first picture of the test set.
    """
    if not session.requests.take(number):
        return {}
    session.change(History.nowhere)  # what other views were measuring is not looked at
    asked, refused = address.read(lab, "try", query)
    updates = chosen(session.history.lab(lab), asked.task if asked else task, picture)
    if asked:
        updates["task"] = asked.task
    return updates | {"refused": refusal(refused)}


def _checked(answer: Callable[..., Updates]) -> Callable[..., Updates]:
    """`answer`, or why there is none: the task does not exist, or it raises ValueError."""

    @wraps(answer)
    def checked(lab: Lab, task: Any, *values: Any) -> Updates:
        try:
            lab.check(task)
            return answer(lab, task, *values)
        except ValueError as e:
            return no_picture(e)

    return checked


@_checked
def chosen(lab: Lab, task: str, picture: Picture | None) -> Updates:
    """Another task. One's own picture stays; one of the former task's test set is exchanged."""
    if picture is None or picture.truth is not None:
        picture = from_test_set(lab, task, 0)
    return shown(lab, task, picture)


@_checked
def uploaded(lab: Lab, task: str, file: Any) -> Updates:
    """A file of the visitor's."""
    if not isinstance(file, str):
        raise ValueError("choose a picture first")
    try:
        pixels = photo(file, _side(lab, task), fit=lab.clip.fit)
    except ValueError as e:
        kinds, why = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF", getattr(e, "reason", "damaged")
        raise ValueError(
            f"this file cannot be read as a picture ({why}); choose a {kinds} of at most "
            f"{MEGAPIXELS} megapixels"
        ) from e
    return shown(lab, task, Picture(pixels))


@_checked
def sketched(lab: Lab, task: str, drawing: Any) -> Updates:
    """The visitor's drawing, after each stroke; white paper is no picture."""
    if drawing in (None, ""):
        return {}
    return shown(lab, task, Picture(sketch_pad.pixels(drawing, _side(lab, task))))


def _side(lab: Lab, task: str) -> int:
    """Pixels of the task's images, across and down."""
    return lab.bench(task).split.images.shape[1]


@_checked
def drawn(lab: Lab, task: str, shown_so_far: Any) -> Updates:
    """The next picture of the test set, in its shuffled order."""
    picture = from_test_set(lab, task, shown_so_far + 1)
    return shown(lab, task, picture) | {"shown so far": shown_so_far + 1}


def no_picture(error: Exception) -> Updates:
    """Why there are no answers, and no picture: what was seen before was another one."""
    return {"seen": draw.seen(None), "answers": trouble(error), "picture": None}


def from_test_set(lab: Lab, task: str, number: int) -> Picture:
    """A picture of the task's test set, by its number in the bench's order."""
    bench = lab.bench(task)
    i = int(bench.order[number % len(bench)])
    return Picture(bench.split.images[i], int(bench.split.labels[i]))


def shown(lab: Lab, task: str, picture: Picture) -> Updates:
    """What is seen of a picture, and what every model takes it for."""
    return {
        "about": lab.about(task),
        "seen": draw.seen(picture.pixels),
        "answers": draw.answers(opinions(lab, task, picture), picture.truth),
        "picture": picture,
    }


VIEW = View(
    "try",
    "Try",
    "Show it a picture of your own",
    "Draw something, or upload a picture, and see what each fine-tuned CLIP takes it for, side by "
    "side with the original.",
    fill,
)
