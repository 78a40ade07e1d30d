"""A page on a tiny CLIP: what it offers, who is on it, and its handlers as plain functions."""

import asyncio
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import torch
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters import NONE, AdapterError
from copra_lab.bench import Bench
from copra_lab.page import build
from copra_lab.page.state.lab import BASE, Lab, Own
from copra_lab.page.state.measurement import first_numbers, remaining
from copra_lab.page.state.schemas import BlendState, PruneState, TriangleState
from copra_lab.page.state.schemas.prune import Kept
from copra_lab.page.state.session import Session
from copra_lab.prompts import PromptError, SoftPrompt
from copra_lab.zoo import Shipped


@dataclass(frozen=True)
class TinyLab(Lab):
    """Two random adapters on a tiny CLIP."""

    def tasks(self):
        return {"colours": "Colours"}

    def offers(self, task):
        return task in self.tasks()

    def menu(self, task):
        return [("One", "0/one"), ("Two", "0/two"), ("No adapter", BASE)]

    def about(self, task):
        return "Noise of four colours."

    def adapter(self, task, key):
        return (
            NONE
            if key == BASE
            else random_adapter(
                tiny_clip(), seed=1 + (key == "0/two"), towers=("vision",), size=0.3
            )
        )

    def bench(self, task):
        return TINY


TINY = Bench(tiny_clip(), tiny_task(), precision="float32")
LAB = TinyLab()
ONE, TWO = (LAB.adapter("colours", key) for key in ("0/one", "0/two"))


def at(weight: float) -> BlendState:
    return BlendState("colours", "0/one", "0/two", weight)


def walked(*states, lab: Lab = LAB) -> Session:
    session = Session()
    for state in states:
        list(first_numbers(lab, session, state))
        assert remaining(lab, session)
    return session


@dataclass(frozen=True)
class BrokenLab(TinyLab):
    """Whose second adapter cannot be read."""

    def adapter(self, task, key):
        if key == "0/two":
            raise AdapterError("copy it again")
        return super().adapter(task, key)


def handler(lab: TinyLab, name: str, view: str):
    """A view's handler as the page calls it, found by what it draws on; its answers by the
    elements' ids.
    """

    async def built():
        return build(lab)

    page = asyncio.run(built())  # outside of a loop gradio makes one and never closes it
    fn = next(
        f.fn
        for f in page.fns.values()
        if f.name == name and str(f.outputs[0].elem_id).startswith(f"{view}-")
    )
    if not inspect.isgeneratorfunction(fn):
        return lambda *values: by_id(fn(*values))

    def answers(*values):
        yield from map(by_id, fn(*values))

    return answers


def by_id(shows) -> dict:
    """The updates that a handler gives to Gradio, by the elements' ids."""
    if isinstance(shows, str) or shows == gr.skip():
        return {} if isinstance(shows, dict) else shows
    return {c.elem_id: update for c, update in shows.items()}


def prune_state(task, key, layers=None, kinds=None, percent=0, off=()) -> PruneState:
    return PruneState(task, key, Kept(layers, kinds, off), percent)


def triangle_state(task, keys, b=0, c=0) -> TriangleState:
    return TriangleState(task, *keys, (b, c))


def cells(table: str) -> list[list[str]]:
    """What stands in the body of a table."""
    root = ElementTree.fromstring(
        table.replace("scope=row", 'scope="row"').replace("scope=col", 'scope="col"')
    )
    return [[cell.text or "" for cell in row] for row in root.iter("tr")][1:]


@dataclass(frozen=True)
class PromptLab(TinyLab):
    """Two random prompts on a tiny CLIP, one of four and one of three vectors; a third cannot be
    read.
    """

    def prompt_shelf(self, task):
        return {"four": None, "three": None, "broken": None}

    def prompt_menu(self, task):
        return [("Four", "four"), ("Three", "three")]

    def longest_prompt(self):
        return 4

    def prompt(self, task, key):
        if key == "broken":
            raise PromptError("copy it again")
        g = torch.Generator().manual_seed(len(key))
        return SoftPrompt(0.4 * torch.randn(4 if key == "four" else 3, 32, generator=g))


@dataclass(frozen=True)
class TrainLab(TinyLab):
    """A tiny lab whose menus are made of shelves, as the real one's are."""

    def shelf(self, task):
        return {"0/one": SHIPPED[0], "0/two": SHIPPED[1]} | {
            o.key: o for o in self.own if o.task == task
        }

    menu, few_shot = Lab.menu, lambda self, task, shots: tiny_task()

    def adapter(self, task, key):
        return (
            Lab.adapter(self, task, key) if key.startswith("own/") else super().adapter(task, key)
        )


SHIPPED = [Own("colours", 0, replace(a, provenance={"method": "lora"}), 0) for a in (ONE, TWO)]


@dataclass(frozen=True)
class SeedsLab(TinyLab):
    """Two seeds of LoRA and of CopRA, and one of each that lacks its counterpart."""

    def shelf(self, task):
        return {
            label: Shipped(task, label.partition(",")[0].lower(), int(label[-1]), Path(label), None)
            for label, key in self.menu(task)
            if key != BASE
        }

    def menu(self, task):
        labels = (
            "LoRA, seed 0",
            "LoRA, seed 1",
            "LoRA, seed 7",
            "CopRA, seed 0",
            "CopRA, seed 1",
            "Mine, seed 0",
        )
        return [*((label, label) for label in labels), ("No adapter", BASE)]

    def adapter(self, task, key):
        seed = [key for _, key in self.menu(task)].index(key)
        rank = 2 if key == "LoRA, seed 7" else 3
        return (
            NONE
            if key == BASE
            else random_adapter(tiny_clip(), rank=rank, seed=seed, towers=("vision",), size=0.3)
        )


SEEDS = SeedsLab()

EVERY = ("q", "k", "v", "out", "fc1", "fc2")
ALL = [f"{kind}{layer}" for layer in range(3) for kind in EVERY]
