"""Where to train: the CPU, a GPU, or several processes that share each batch."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from copra_lab.utils.checks import reason


@dataclass(frozen=True)
class Process:
    """One of the processes that train together, and its device.

    Attributes:
        device: The device to compute on.
        rank: Number of this process, from 0.
        world_size: How many processes train together.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (n, …) that is the same in every process."""
        return batch[self.rank :: self.world_size].to(self.device)

    def weighted(self, loss: Tensor, own: int, whole: int) -> Tensor:
        """Scale this process's loss so that averaged gradients are those of the whole batch.

        Args:
            loss: Mean loss over this process's images.
            own: How many images this process has.
            whole: How many images the batch has.
        """
        return loss if self.world_size == 1 else loss * (own * self.world_size / whole)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over the processes."""
        if self.world_size > 1:
            from accelerate.utils import reduce

            for t in tensors:
                t.copy_(reduce(t, "mean"))


def spread(device: str, key: str) -> str:
    """Choose a GPU for a piece of work, if there are several and `device` is "auto".

    The choice depends on `key` alone, and over many keys uses all GPUs about equally.
    """
    gpus = torch.cuda.device_count() if device == "auto" else 0
    if gpus < 2:
        return device
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return f"cuda:{int.from_bytes(digest) % gpus}"


def cores(most: int | None = None) -> int:
    """How many CPU cores this process may use, at most `most`."""
    some = hasattr(os, "sched_getaffinity")  # there is none but on Linux
    found = len(os.sched_getaffinity(0)) if some else os.cpu_count() or 1
    return found if most is None else min(found, most)


@cache
def this_process(device: str = "cpu") -> Process:
    """This process, and the device that it trains on.

    Under ``accelerate launch``, each process gets the device that accelerate assigns to it, and
    all processes train together.

    Args:
        device: A torch device name, or "auto" for a GPU if there is one, else the CPU.

    Raises:
        ValueError: If the device does not exist.
    """
    gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not gpu)
        return Process(state.device, state.process_index, state.num_processes)
    try:
        found = torch.device(("cuda" if gpu else "cpu") if device == "auto" else device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ValueError(f"no device {device!r} here ({reason(e)}); choose cpu or auto") from e
    return Process(found)
