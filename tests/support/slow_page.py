"""A page on a tiny CLIP whose server answers late and in any order, and what a visitor sees of it,
frame by frame.
"""

import asyncio
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from tiny import random_adapter, tiny_clip
from tiny_page import TINY, PromptLab, TrainLab

from copra_lab.adapters import NONE
from copra_lab.page import build, launch
from copra_lab.page.state.lab import BASE, Lab
from copra_lab.prompts import SoftPrompt

TASKS = {"colours": "Colours", "shapes": "Shapes"}
SHIPPED = {"0/one": "One", "0/two": "Two", "0/three": "Three"}


@cache
def _adapter(task: str, key: str):
    return random_adapter(
        tiny_clip(),
        seed=10 * list(TASKS).index(task) + list(SHIPPED).index(key),
        towers=("vision",),
        size=0.05,
    )


@dataclass(frozen=True)
class SlowLab(PromptLab, TrainLab):
    """Two tasks, each with three adapters and two prompts of its own: the same key means another
    model in each.
    """

    def tasks(self):
        return TASKS

    def menu(self, task):
        own = [(o.label, o.key) for o in self.own if o.task == task]
        return [(label, key) for key, label in SHIPPED.items()] + own + [("No adapter", BASE)]

    def adapter(self, task, key):
        if key.startswith("own/"):
            return Lab.adapter(self, task, key)
        return NONE if key == BASE else _adapter(task, key)

    def prompt(self, task, key):
        length = {"four": 4, "three": 3}[key]
        g = torch.Generator().manual_seed(length + 10 * list(TASKS).index(task))
        return SoftPrompt(0.4 * torch.randn(length, 32, generator=g))

    def few(self, task, images):
        return TINY


LAB = SlowLab()


@contextmanager
def served(most: float = 0.0, seed: int = 0) -> Iterator[tuple[str, "Slowness"]]:
    """The page at an address of its own; each answer, and each part of one, takes up to `most`
    seconds on its way there and again on its way back. What it takes can be changed meanwhile.
    """
    with ThreadPoolExecutor(1) as beside:  # a browser may have a loop of its own here
        page = beside.submit(lambda: asyncio.run(_built())).result()
    slow, answer = Slowness(most, random.Random(seed)), page.process_api

    async def late(*values, **named):
        await asyncio.sleep(slow.draw())
        answered = await answer(*values, **named)
        await asyncio.sleep(slow.draw())
        return answered

    page.process_api = late
    with (
        socket.socket() as free
    ):  # Gradio tries one port after the other, and leaves those that are taken unclosed
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, url, _ = launch(page, server_port=port)
    try:
        yield url.rstrip("/"), slow
    finally:
        page.close()


async def _built():  # outside of a loop gradio makes one and never closes it
    return build(LAB)


@dataclass
class Slowness:
    most: float
    rng: random.Random

    def draw(self) -> float:
        return self.rng.uniform(0, self.most)


FRAMES = """() => {
  const shown = (id, root = document) => {
    const block = root.querySelector('#' + CSS.escape(id));
    if (!block) return null;
    const range = block.querySelector('input[type=range]'), boxes = [...block.querySelectorAll('input[type=checkbox], input[type=radio]')];
    if (range) return Number(range.value);
    if (block.querySelector('fieldset') || block.matches('fieldset') || boxes.length > 1)
      return [...block.querySelectorAll('label')].filter(l => l.querySelector('input')?.checked).map(l => l.innerText.trim());
    if (boxes.length) return boxes[0].checked;
    const input = block.querySelector('input, textarea');
    return input && input.value;
  };
  const views = {blend: 'blend', triangle: 'triangle', prune: 'prune', shapley: 'shapley', prompt: 'prompt', train: 'train', try: 'try'};
  const seen = window.seenFrames = [];
  let last = '';
  window.framesSoFar = () => seen;
  const look = () => {
    const view = document.querySelector('.view[data-open]');
    if (view) {
      const name = view.id.slice(5), prefix = views[name], controls = {};
      for (const e of view.querySelectorAll(`[id^="${prefix}-"]`)) {
        if (e.querySelector('input, textarea') && !e.matches('button') && !e.querySelector(`[id^="${prefix}-"]`)) controls[e.id.slice(prefix.length + 1)] = shown(e.id, view);
      }
      const figures = [...view.querySelectorAll('.now[data-n], .now[data-asked], .race section[data-n], .asked table, .against td:nth-of-type(3), .trouble')]
        .filter(e => e.getClientRects().length && !e.closest('[hidden]'));
      const numbers = figures.map(e => ({kind: e.className, text: e.innerText.trim().slice(0, 120), ...e.dataset, stale: !!e.closest('.stale')}));
      const frame = {view: name, controls, numbers}, text = JSON.stringify(frame);
      if (text !== last) { last = text; seen.push({at: Math.round(performance.now()), address: location.search, ...frame}); }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""
"""Notes whatever is painted: of the open view, what its controls say and its numbers, each with
whether it is dimmed.
"""
