"""Where to train: the processor, a GPU, or several processes that share each batch."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A device, and which process this is (``rank``, from 0) of how many that train together (``world``)."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """What this process computes of a batch (n, …), which is the same in every process."""
        return batch[self.rank :: self.world].to(self.device)

    def weighted(self, loss: Tensor, own: int, whole: int) -> Tensor:
        """This process's mean loss over `own` of a batch's `whole` images, weighted so that gradients average to those of the whole batch."""
        return loss if self.world == 1 else loss * (own * self.world / whole)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over processes in the place of each of these tensors."""
        if self.world > 1:
            from accelerate.utils import reduce

            for t in tensors:
                t.copy_(reduce(t, "mean"))


def spread(device: str, key: str) -> str:
    """Of several GPUs one for the work called `key`, if `device` is "auto": the same whenever it is asked for, and all of them about equally often."""
    many = torch.cuda.device_count() if device == "auto" else 0
    return (
        f"cuda:{int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % many}"
        if many > 1
        else device
    )


def cores(most: int | None = None) -> int:
    """How many of the processor's cores this process may use, at most `most`."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return found if most is None else min(found, most)


@cache
def find_place(device: str = "cpu") -> Place:
    """With "auto" a GPU if there is one, else the processor; anything else is torch's name of a device. Under ``accelerate launch`` each
    process has the device that accelerate gives it, and all of them train together.

    Raises ValueError for a device that is not there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        return Place(state.device, state.process_index, state.num_processes)
    try:
        found = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ValueError(
            f"there is no device {device!r} here ({str(e).splitlines()[0]}); choose cpu, or auto"
        ) from e
    return Place(found)
