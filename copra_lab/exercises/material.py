"""What several exercises are done on: shipped adapters, and random numbers."""

from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.models.loading import load_clip
from copra_lab.zoo import shipped


@cache
def adapters(task: str = "digits") -> tuple[Adapter, ...]:
    """The shipped adapters of a task; of digits, the first two are LoRA's."""
    return tuple(s.load(load_clip()) for s in shipped(task))


def seeded(seed: int) -> torch.Generator:
    """A generator of the same random numbers at every call."""
    return torch.Generator().manual_seed(seed)


def largest_gap(a: Tensor, b: Tensor) -> str:
    """The largest absolute difference of two tensors, as a praise says it."""
    return f"{float((a - b).abs().max()):.0e}"
