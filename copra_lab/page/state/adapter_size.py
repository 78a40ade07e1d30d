"""What is left of an adapter where layers are off and entries are zero, in numbers and in bytes."""

import io
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import WEIGHTS, weights_file
from copra_lab.models.sites import site_of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.switches import switches_of


@dataclass(frozen=True)
class Left:
    """What is left of an adapter, in numbers and in bytes.

    How many entries of A and B are not zero, ``of`` how many that the whole adapter has, the share
    in each layer of the image tower, and the bytes of the file that it would be saved as, as it is
    and zipped; 0 where nothing is to be saved.
    """

    count: int
    of: int
    layers: tuple[tuple[int, float], ...]
    bytes: int
    zipped: int

    @property
    def share(self) -> float:
        """How many of the entries are left, as a share of 1."""
        return self.count / self.of


@lru_cache(1024)
def left(lab: Lab, state: PruneState) -> Left:
    """What is left of the adapter at `place`."""
    whole = lab.adapter(state.task, state.key)
    of = _entries(whole, Tensor.numel)
    kept = state.adapter(lab)
    count = _entries(kept, lambda t: int(t.count_nonzero()))
    layers = tuple(
        (layer, count["vision", layer] / of["vision", layer]) for layer in switches_of(whole)[0]
    )
    file = weights_file(kept) if kept.deltas else b""
    return Left(count.total(), of.total(), layers, len(file), _zipped(file) if file else 0)


def _zipped(data: bytes) -> int:
    """Bytes of a zip of it: runs of zeros take no room there, as they do in the file itself."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(WEIGHTS, data)
    return len(out.getvalue())


def _entries(adapter: Adapter, count: Callable[[Tensor], int]) -> "Counter[tuple[str, int]]":
    """`count` over A and B, by tower and layer."""
    found: Counter[tuple[str, int]] = Counter()
    for name, d in adapter.deltas.items():
        found[site_of(name)[:2]] += count(d.A) + count(d.B)
    return found
