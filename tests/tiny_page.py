"""A page on a tiny CLIP: what it offers, who is on it, and its handlers as plain functions."""

import asyncio
from dataclasses import dataclass
from xml.etree import ElementTree

from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.bench import Bench
from copra_lab.lora import NONE
from copra_lab.page import build
from copra_lab.page.lab import BASE, Lab
from copra_lab.page.measure import first_numbers, remaining
from copra_lab.page.places import Blended
from copra_lab.page.walk import Session
from copra_lab.storage import AdapterError


@dataclass(frozen=True)
class TinyLab(Lab):
    """Two random adapters on a tiny CLIP."""

    def tasks(self):
        return {"colours": "Colours"}

    def menu(self, task):
        return [("One", "0/one"), ("Two", "0/two"), ("No adapter", BASE)]

    def about(self, task):
        return "Noise of four colours."

    def adapter(self, task, key):
        return NONE if key == BASE else random_adapter(tiny_clip(), seed=1 + (key == "0/two"), towers=("vision",), size=0.3)

    def bench(self, task):
        return TINY


TINY = Bench(tiny_clip(), tiny_task(), precision="float32")
LAB = TinyLab()
ONE, TWO = (LAB.adapter("colours", key) for key in ("0/one", "0/two"))


def at(weight: float) -> Blended:
    return Blended("colours", "0/one", "0/two", weight)


def walked(*places, lab: Lab = LAB) -> Session:
    session = Session()
    for place in places:
        list(first_numbers(lab, session, place))
        assert remaining(lab, session)
    return session


@dataclass(frozen=True)
class BrokenLab(TinyLab):
    """Whose second adapter cannot be read."""

    def adapter(self, task, key):
        if key == "0/two":
            raise AdapterError("copy it anew")
        return super().adapter(task, key)


def handler(lab: TinyLab, name: str, view: str):
    """A view's handler as the page calls it, found by what it draws on."""

    async def built():
        return build(lab)

    page = asyncio.run(built())  # outside of a loop gradio makes one and never closes it
    return next(f.fn for f in page.fns.values() if f.name == name and str(f.outputs[0].elem_id).startswith(f"{view}-"))


def cells(table: str) -> list[list[str]]:
    """What stands in the body of a table."""
    root = ElementTree.fromstring(table.replace("scope=row", 'scope="row"').replace("scope=col", 'scope="col"'))
    return [[cell.text or "" for cell in row] for row in root.iter("tr")][1:]
