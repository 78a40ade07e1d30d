"""LoRA's dropout (Hu et al., arXiv:2106.09685): each element of the branch's input by itself.

A LoRA layer with dropout computes y = x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ: the frozen path sees all of x.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from copra_lab.models.sites import Site
from copra_lab.utils.devices import Process

__all__ = ["InputDropout"]


@dataclass(frozen=True, eq=False)
class InputDropout:
    """Dropout of one training step, with masks that a generator draws as they are needed.

    Args:
        rate: The probability that an element of the input is zeroed, 0 ≤ rate < 1.
        generator: What draws the masks. It belongs to the processor, whatever the device.
        process: The device, and which processes share the batch. Every process draws the masks of
            the whole batch and takes its own rows, so that one process learns what several do.
        images: The size of the whole batch; needed where several processes share it.
    """

    rate: float
    generator: torch.Generator
    process: Process = Process(torch.device("cpu"))  # noqa: RUF009 (frozen)
    images: int | None = None

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """Zero random elements and divide the others by 1 − rate.

        Args:
            x: The input of the branch at `site`, (n, …, width); n counts images or texts.
            site: Where the branch is.
        """
        return x * self.kept(x.shape, site).to(x) / (1 - self.rate)

    def kept(self, shape: torch.Size, site: Site) -> Tensor:
        """Draw which elements of an input of this shape are kept: a mask of True and False."""
        shared = (
            self.process.world_size > 1 and site.tower == "vision"
        )  # every process encodes all texts
        whole = (self.images or shape[0], *shape[1:]) if shared else tuple(shape)
        mask = torch.rand(whole, generator=self.generator) >= self.rate
        return self.process.share(mask) if shared else mask.to(self.process.device)
