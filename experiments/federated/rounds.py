"""Federated averaging of adapters (FedAvg, McMahan et al., arXiv:1602.05629).

Who holds which images, what a client does in a round, and how the server averages adapters. Nothing
here knows about a network. The Flower apps next to this file send the arrays of these functions
back and forth; `rounds` does the same in one process, all clients of a round together, and their
results are compared with it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from copra_lab.adapters import Adapter, LowRank
from copra_lab.adapters.adapter import check_fits
from copra_lab.merging import average_factors, truncate, weighted_sum
from copra_lab.methods import Attached, LoRA
from copra_lab.models import Clip
from copra_lab.tasks import Split, Task
from copra_lab.tasks.emoji import selection as so
from copra_lab.training import PLAIN, CopRA, Job, fit_many
from copra_lab.utils.rng import generator

METHODS = {"lora": PLAIN, "copra": CopRA()}


@dataclass(frozen=True)
class Federation:
    """All settings of a federation, as numbers and strings that a Flower configuration can hold.

    ``aggregation`` is one of `AGGREGATIONS`. With the ``split`` "style" every client has drawings
    of another style, with "classes" every client has other classes. ``steps`` and ``lr`` are those
    of one client in one round: in every round the learning rate decays to 0, and CopRA's schedule
    runs from start to end.
    """

    task: str
    method: str = "lora"
    aggregation: str = "delta"
    split: str = "style"
    clients: int = 2
    seed: int = 0
    rounds: int = 5
    steps: int = 60
    lr: float = 2e-3
    batch: int = 16
    rank: int = 4
    shots: int = 16
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (
            ("method", METHODS),
            ("aggregation", AGGREGATIONS),
            ("split", ("style", "classes")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.clients < 1 or self.rounds < 1:
            raise ValueError(
                f"clients and rounds must be at least 1, got clients={self.clients}, "
                f"rounds={self.rounds}"
            )

    @property
    def lora(self) -> LoRA:
        return LoRA(rank=self.rank, train_a=self.aggregation != "ffa")

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "Federation":
        """From a configuration, which may contain other keys as well."""
        return Federation(
            **{f.name: settings[f.name] for f in fields(Federation) if f.name in settings}
        )


# --- the clients' images


def client_task(task: Task, federation: Federation, client: int) -> Task:
    """The task as client number `client` sees it: all class names, but only its own images.

    That is for training and validation; the clients' parts are disjoint and together complete.
    Raises ValueError if the task cannot be split this way, or if a client would have nothing to
    train on.
    """
    owner = (_by_style if federation.split == "style" else _by_class)(task, federation)

    def own(split: Split) -> Split:
        return split.pick(
            [
                i
                for i, (s, c) in enumerate(zip(split.sources, split.labels.tolist(), strict=True))
                if owner(s, c) == client
            ]
        )

    part = replace(task, train=own(task.train), val=own(task.val))
    if not len(part.train):
        raise ValueError(
            f"client {client} of {federation.clients} has no training image of {task.name}; choose "
            "fewer clients"
        )
    return part


def _by_style(task: Task, federation: Federation) -> Callable[[str, int], int]:
    styles = sorted({s.split(":")[0] for s in task.train.sources})
    if len(styles) != federation.clients:
        raise ValueError(
            f"{task.name} has the drawing styles {', '.join(styles)}; a split by style needs as "
            f"many clients, not {federation.clients}"
        )
    return lambda source, label: styles.index(source.split(":")[0])


def _by_class(task: Task, federation: Federation) -> Callable[[str, int], int]:
    """Classes are assigned in turn, in an order drawn from the seed."""
    dealt = torch.randperm(
        len(task.classes), generator=torch.Generator().manual_seed(federation.seed)
    ).tolist()
    return lambda source, label: dealt.index(label) % federation.clients


# --- a round


def initial(clip: Clip, federation: Federation) -> Adapter:
    """What the server sends first: A drawn from the seed, as in `fit`, and B zero."""
    attached = Attached(
        copy.deepcopy(clip.model), federation.lora, generator(federation.seed, 0, "init")
    )
    return attached.adapter(clip.hash)


def local_seed(federation: Federation, client: int, round: int) -> int:
    """Different batches and masks for every client and round."""
    return so.rank(f"{federation.seed} {client} {round}")


def local_job(part: Task, federation: Federation, client: int, round: int, server: Adapter) -> Job:
    """What a client does: begin with the server's adapter, see its own images alone."""
    return Job.of(
        part,
        federation.lora,
        METHODS[federation.method],
        seed=local_seed(federation, client, round),
        steps=federation.steps,
        lr=federation.lr,
        batch=federation.batch,
        precision=federation.precision,
        start_from=server,
    )


def aggregate(
    federation: Federation, adapters: Sequence[Adapter], images: Sequence[int], start: Adapter
) -> Adapter:
    """The server's next adapter: the clients' average, weighted by their numbers of images.

    `start` is what the server sent first (`initial`).
    """
    return AGGREGATIONS[federation.aggregation](adapters, [n / sum(images) for n in images], start)


def rounds(clip: Clip, task: Task, federation: Federation) -> Iterator[Adapter]:
    """The server's adapter before the first round and after each round."""
    server = start = initial(clip, federation)
    yield server
    parts = [client_task(task, federation, c) for c in range(federation.clients)]
    for r in range(1, federation.rounds + 1):
        jobs = [local_job(part, federation, c, r, server) for c, part in enumerate(parts)]
        trained = fit_many(clip, jobs, progress=False)
        server = aggregate(federation, trained, [len(p.train) for p in parts], start)
        yield server


# --- averages


def average_deltas(
    adapters: Sequence[Adapter], weights: Sequence[float], start: Adapter
) -> Adapter:
    """The average of ΔW, of rank up to clients × rank, truncated to the rank that clients train."""
    return going_on(truncate(weighted_sum(adapters, weights), start.rank), start)


def going_on(adapter: Adapter, start: Adapter) -> Adapter:
    """The same deltas, up to rounding, with the sites, ranks and scales of `start`, as `fit` needs.

    A direction in which A and B are both zero could never learn again, since the gradient of each
    is a multiple of the other. So a direction that is missing, or negligible next to the largest,
    takes A from `start`, and B zero.
    """
    deltas = {}
    for name, first in start.deltas.items():
        a, b = torch.zeros_like(first.A), torch.zeros_like(first.B)
        if d := adapter.deltas.get(name):
            a[: d.rank], b[:, : d.rank] = d.A, d.B * (d.scale / first.scale)
        size = a.norm(dim=1) * b.norm(dim=0)
        alive = size > 1e-6 * size.max()
        deltas[name] = LowRank(
            torch.where(alive[:, None], a, first.A), torch.where(alive, b, 0), first.scale
        )
    return Adapter(deltas, adapter.base, adapter.provenance)


def average_both_factors(
    adapters: Sequence[Adapter], weights: Sequence[float], start: Adapter
) -> Adapter:
    """Average A and B separately, as FedAvg does with LoRA: this is not the average of ΔW."""
    return average_factors(adapters, weights)


def average_aligned(
    adapters: Sequence[Adapter], weights: Sequence[float], start: Adapter
) -> Adapter:
    """Average A and B after they were aligned, of the rank that clients train, without truncation.

    FLoRG (arXiv:2602.17095) and GLoRA (arXiv:2605.06733) take the gauge into account, too, each in
    its own way.
    """
    return going_on(average_factors(adapters, weights, aligned=True), start)


def average_b(adapters: Sequence[Adapter], weights: Sequence[float], start: Adapter) -> Adapter:
    """FFA-LoRA (Sun et al., arXiv:2403.12313): A is frozen and shared.

    So the average of B gives the average of ΔW exactly. Raises ValueError if a client has another
    A.
    """
    if any(
        not torch.equal(d.A, start.deltas[name].A)
        for adapter in adapters
        for name, d in adapter.deltas.items()
    ):
        raise ValueError(
            "FFA-LoRA averages adapters that share A; train with LoRA(train_a=False), from the "
            "server's adapter"
        )
    mean = average_factors(adapters, weights)  # its A is off by a rounding error
    return Adapter(
        {name: LowRank(start.deltas[name].A, d.B, d.scale) for name, d in mean.deltas.items()},
        mean.base,
        mean.provenance,
    )


AGGREGATIONS: dict[str, Callable[[Sequence[Adapter], Sequence[float], Adapter], Adapter]] = {
    "delta": average_deltas,
    "factors": average_both_factors,
    "aligned": average_aligned,
    "ffa": average_b,
}
"""(clients' adapters, weights, what the server sent first) → the server's next adapter."""


# --- what travels


def to_arrays(adapter: Adapter) -> dict[str, np.ndarray]:
    """A and B of every site. The scale is not sent: a federation's settings determine it."""
    return {
        f"{name}.{half}": getattr(d, half).numpy()
        for name, d in adapter.deltas.items()
        for half in "AB"
    }


def from_arrays(
    arrays: Mapping[str, np.ndarray], base: str, clip: Clip, federation: Federation
) -> Adapter:
    """The adapter of such arrays.

    Raises ValueError for another base or other sites, or numbers that are not finite.
    """
    names = dict.fromkeys(key.rpartition(".")[0] for key in arrays)
    if wrong := set(arrays) ^ {f"{name}.{half}" for name in names for half in "AB"}:
        raise ValueError(
            f"every site comes with A and B and nothing else, got or missed {sorted(wrong)[0]!r}"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(
            "an adapter with numbers that are not finite came in; lower the learning rate"
        )
    tensors = {
        key: torch.from_numpy(np.array(array)) for key, array in arrays.items()
    }  # copied: what arrives is read-only
    pairs = {n: LowRank(tensors[f"{n}.A"], tensors[f"{n}.B"], federation.lora.scale) for n in names}
    adapter = Adapter(pairs, base, {"clip": clip.name, "federation": federation.settings()})
    check_fits(adapter, clip.sites, clip.hash)
    return adapter
