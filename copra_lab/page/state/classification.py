"""A picture, and what every model of a task takes it for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.page.state.lab import Lab
from copra_lab.tasks.task import Split


@dataclass(frozen=True, eq=False)
class Picture:
    """What the CLIP sees, uint8 (side, side, 3), and which class it shows, if that is known."""

    pixels: Tensor
    truth: int | None = None


def opinions(
    lab: Lab, task: str, picture: Picture
) -> list[tuple[str, Tensor | str, Sequence[str]]]:
    """What each model of the menu takes a picture for, the base first.

    (label, probabilities (classes,), names); for an adapter that cannot be read, why not, in place
    of the probabilities.
    """
    whole = lab.bench(task)
    one = Split(picture.pixels[None], torch.zeros(1, dtype=torch.int64), ("yours",))
    bench = Bench(whole.clip, replace(whole.task, test=one), precision="float32")

    def answer(key: str) -> Tensor | str:
        try:
            return bench.logits(lab.adapter(task, key))[0].float().softmax(-1)
        except (ValueError, OSError) as e:  # AdapterError is a ValueError
            return str(e)

    *adapters, base = lab.menu(task)
    return [(label, answer(key), whole.task.classes) for label, key in (base, *adapters)]
