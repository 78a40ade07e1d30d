"""What the page measures, for programs: typed endpoints of plain JSON.

They are also the tools of the MCP server.
"""

import base64
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import gradio as gr
import torch

from copra_lab.page.api import schemas
from copra_lab.page.components.events import PICTURES, PROGRAMS, WATCHING
from copra_lab.page.server.limits import ASKED_SECONDS, UPLOAD_MB
from copra_lab.page.state.adapter_size import left
from copra_lab.page.state.classification import Picture, opinions
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.layer_game import onward, solving
from copra_lab.page.state.measurement import FIRST, PATIENCE, firsts, traffic
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.fields import within
from copra_lab.page.state.schemas.measured import Base, Measured
from copra_lab.page.state.schemas.prompt import PromptState
from copra_lab.page.state.schemas.prune import ALL, PruneState, Switches
from copra_lab.page.state.schemas.reading import Reading, read
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.switches import switches_of
from copra_lab.tasks.task import MEGAPIXELS, photo
from copra_lab.utils.statistics import Accuracy

S = TypeVar("S")

LARGEST = 1_000_000 * UPLOAD_MB
"""Bytes that a picture may have."""


def in_words(f: Callable[..., Any]) -> Callable[..., Any]:
    """What is wrong with a request reaches its sender as a sentence."""

    @wraps(f)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return f(*given, **named)
        except (ValueError, OSError) as e:  # AdapterError and PromptError are ValueErrors
            raise gr.Error(str(e), print_exception=False) from e

    return call


@dataclass(frozen=True)
class Api:
    """The endpoints over a lab.

    Every method answers for itself: nothing is kept for a caller, and a call takes seconds at most
    (the first one of a task prepares its images). What it is given is checked as the page's
    controls are.
    """

    lab: Lab

    @in_words
    def tasks(self) -> list[schemas.Task]:
        """The tasks that there are adapters for; the other tools take a task's name."""
        return [
            schemas.Task(name=name, title=title, about=self.lab.about(name))
            for name, title in self.lab.tasks().items()
        ]

    @in_words
    def adapters(self, task: str) -> list[schemas.AdapterEntry]:
        """The fine-tuned adapters of a task: their keys, layers and matrices.

        The other tools take the keys.

        Args:
            task: name of a task, as "tasks" lists them
        """
        self.lab.check(task)
        found = []
        for label, key in self.lab.adapters(task):
            entry = schemas.AdapterEntry(key=key, label=label, layers=[], kinds=[], trouble=None)
            try:
                layers, kinds = switches_of(self.lab.adapter(task, key))
                entry["layers"], entry["kinds"] = list(layers), list(kinds)
            except (ValueError, OSError) as e:
                entry["trouble"] = str(e)
            found.append(entry)
        return found

    @in_words
    def prompts(self, task: str) -> list[schemas.PromptEntry]:
        """The soft prompts of a task: their keys, and how many learned vectors each has.

        "prompt" takes the keys. Not all tasks have some.

        Args:
            task: name of a task, as "tasks" lists them
        """
        self.lab.check(task)
        found = []
        for label, key in self.lab.prompt_menu(task):
            entry = schemas.PromptEntry(key=key, label=label, vectors=0, trouble=None)
            try:
                entry["vectors"] = self.lab.prompt(task, key).length
            except (ValueError, OSError) as e:
                entry["trouble"] = str(e)
            found.append(entry)
        return found

    @in_words
    def base(self, task: str) -> schemas.Number:
        """Accuracy of the CLIP on a task's test images without any adapter.

        This is what the others are held against.

        Args:
            task: name of a task, as "tasks" lists them
        """
        self.lab.check(task)
        return self._measured(Base(task))

    @in_words
    def blend(self, task: str, a: str, b: str, weight: float) -> schemas.BlendAnswer:
        """Accuracy of a blend of two adapters: (1 − weight)·ΔW of a + weight·ΔW of b.

        Args:
            task: name of a task, as "tasks" lists them
            a: key of an adapter, as "adapters" lists them, or "base" for none
            b: key of another one
            weight: λ from -0.5 to 1.5, in steps of 0.02: 0 is a, 1 is b, and beyond them the line
                goes on
        """
        state = self._read(BlendState, {"task": task, "a": a, "b": b, "weight": weight})
        return schemas.BlendAnswer(**self._measured(state), weight=state.weight)

    @in_words
    def prune(
        self,
        task: str,
        adapter: str,
        layers: list[int] | None = None,
        kinds: list[str] | None = None,
        sparsity: float = 0,
    ) -> schemas.PruneAnswer:
        """Accuracy of an adapter of which only some layers and matrices are kept.

        Then the smallest of its numbers are set to zero.

        Args:
            task: name of a task, as "tasks" lists them
            adapter: key of an adapter, as "adapters" lists them
            layers: the layers of the image tower that keep theirs, counted from 0; without it all
                do
            kinds: the matrices that keep theirs, out of those that "adapters" lists, such as q, k
                and v; without it all do
            sparsity: percent of what is left that is set to zero, from 0 to 100
        """
        switches = Switches(*(ALL if on is None else on for on in (layers, kinds)))
        values = {"task": task, "key": adapter, "kept": switches, "percent": sparsity}
        state = self._read(PruneState, values)
        all_layers, all_kinds = switches_of(self.lab.adapter(task, adapter))
        return schemas.PruneAnswer(
            **self._measured(state),
            layers=[i for i in all_layers if layers is None or i in layers],
            kinds=[k for k in all_kinds if kinds is None or k in kinds],
            sparsity=state.percent,
            left=left(self.lab, state).share,
        )

    @in_words
    def shapley(self, task: str, adapter: str, seconds: float = 5) -> schemas.ShapleyAnswer:
        """What each layer of an adapter is worth: its Shapley value in accuracy.

        Measured on a sample of the test images. Values are sampled at first and exact once all
        coalitions were measured; ask again to go on from where this call stopped.

        Args:
            task: name of a task, as "tasks" lists them
            adapter: key of an adapter, as "adapters" lists them
            seconds: for how long to go on sharpening, from 0 to 60
        """
        state = self._read(ShapleyState, {"task": task, "key": adapter})
        until = time.monotonic() + within(seconds, 0, ASKED_SECONDS, "seconds")
        game = solving(self.lab, task, state.key)
        values = game.advance()
        while not values.exact and time.monotonic() < until:
            values = onward(game)
        halves = [float(h) if h < float("inf") else None for h in values.halves]
        return schemas.ShapleyAnswer(
            layers=list(values.layers),
            values=values.values.tolist(),
            halves=halves,
            none=values.empty,
            all=values.full,
            images=values.of_images.shape[1],
            coalitions=values.asked,
            of_coalitions=values.every,
            exact=values.exact,
        )

    @in_words
    def prompt(
        self, task: str, prompt: str, percents: list[int] | None = None
    ) -> schemas.PromptAnswer:
        """Accuracy of a learned soft prompt, each vector set to a share of its learned length.

        Args:
            task: name of a task, as "tasks" lists them
            prompt: key of a soft prompt, as "prompts" lists them
            percents: for each of its vectors the percent of its learned length, from 0 to 200;
                without it all stay as learned
        """
        said = {} if percents is None else {"percents": percents}
        state = self._read(PromptState, {"task": task, "key": prompt, **said})
        length = self.lab.prompt(task, prompt).length
        return schemas.PromptAnswer(
            **self._measured(state),
            percents=list(state.percents or [100] * length),
        )

    @in_words
    def classify(self, task: str, image: str) -> list[schemas.Opinion]:
        """What every model of a task takes a picture for: the task's names, likeliest first.

        The CLIP without an adapter comes first, then each of the task's adapters.

        Args:
            task: name of a task, whose names there are to choose from
            image: a picture (PNG, JPEG, WebP, GIF, BMP or TIFF of at most 10 MB), base64-encoded,
                with or without "data:image/png;base64," before it
        """
        self.lab.check(task)
        side = self.lab.bench(task).split.images.shape[1]
        try:
            pixels = photo(io.BytesIO(_decoded(image)), side, fit=self.lab.clip.fit)
        except ValueError as e:
            raise ValueError(
                "image must be a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or PPM of at most 10 MB "
                f"and {MEGAPIXELS} megapixels, base64-encoded"
            ) from e
        found = []
        for label, p, names in opinions(self.lab, task, Picture(pixels)):
            opinion = schemas.Opinion(model=label, names=[], probabilities=[], trouble=None)
            if isinstance(p, str):
                opinion["trouble"] = p
            else:
                order = p.argsort(descending=True)
                opinion["names"] = [names[i] for i in order.tolist()]
                opinion["probabilities"] = p[order].tolist()
            found.append(opinion)
        return found

    def _read(self, state: type[S], values: dict[str, Any]) -> S:
        return read(state, Reading(self.lab), values)

    def _measured(self, state: Measured) -> schemas.Number:
        """The model at `place`, run on all test images; the first numbers of visitors go before."""
        bench, model = self.lab.bench(state.task), state.model(self.lab)
        found = []
        with traffic:
            for start in range(0, len(bench), FIRST):
                firsts.give_way(PATIENCE)
                found.append(model.predictions(bench, start, start + FIRST))
        a: Accuracy = bench.score(torch.cat(found))
        return schemas.Number(accuracy=a.value, correct=a.correct, n=a.n, interval=list(a.interval))


def _decoded(image: object) -> bytes:
    """Raises ValueError for what is no base64, and for more than `LARGEST` bytes."""
    if not isinstance(image, str):
        raise ValueError("not a text")
    data = image.partition(",")[2] if image.startswith("data:") else image
    if len(data) > LARGEST * 4 / 3 + 4:
        raise ValueError("too large")
    return base64.b64decode(data, validate=True)


ENDPOINTS = tuple("tasks adapters prompts base blend prune shapley prompt classify".split())


def serve(lab: Lab) -> None:
    """Add the endpoints to the page that is being built.

    They wait in its queue and share its limits.
    """
    api = Api(lab)
    for name in ENDPOINTS:
        event = {"shapley": WATCHING, "classify": PICTURES}.get(name, PROGRAMS)
        limits = {k: event[k] for k in ("concurrency_limit", "concurrency_id")}
        gr.api(getattr(api, name), api_name=name, **limits)
