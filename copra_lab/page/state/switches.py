"""What the switches of an adapter say together: equal models become equal states."""

from collections.abc import Sequence

from copra_lab.adapters.adapter import Adapter
from copra_lab.models.sites import KINDS, site_of


def matrices_of(adapter: Adapter) -> tuple[tuple[int, str], ...]:
    """(layer, kind) of each site that an adapter has in the image tower, layer by layer."""
    found = [
        (layer, kind) for tower, layer, kind in map(site_of, adapter.deltas) if tower == "vision"
    ]
    return tuple(sorted(found, key=lambda m: (m[0], KINDS.index(m[1]))))


def switches_of(adapter: Adapter) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and the kinds of site that an adapter has in the image tower, in order."""
    return groups_of(matrices_of(adapter))


def groups_of(
    matrices: Sequence[tuple[int, str]],
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and the kinds of site of some matrices, in order."""
    kinds = {kind for _, kind in matrices}
    return tuple(sorted({layer for layer, _ in matrices})), tuple(k for k in KINDS if k in kinds)


def named(matrix: tuple[int, str]) -> str:
    """(3, "q") → ``q3``, as its switch is called."""
    return f"{matrix[1]}{matrix[0]}"


def kept_sites(
    have: Sequence[tuple[int, str]],
    layers: Sequence[int] | None,
    kinds: Sequence[str] | None,
    single: Sequence[tuple[int, str]] | None,
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None, tuple[tuple[int, str], ...]]:
    """The layers and kinds that are kept, and the single matrices that are off.

    Of three groups of switches that keep these (None: all). A matrix stays if all three agree.
    Equal selections give equal answers, however they were switched: what has lost its last matrix
    counts as off.
    """
    all_layers, all_kinds = groups_of(have)
    on_layers = all_layers if layers is None else layers
    on_kinds = all_kinds if kinds is None else kinds
    on_single = have if single is None else single
    kept = [m for m in have if m[0] in on_layers and m[1] in on_kinds and m in on_single]
    if not kept:
        return (), None, ()
    rows, columns = groups_of(kept)
    off = tuple(m for m in have if m[0] in rows and m[1] in columns and m not in kept)
    return None if rows == all_layers else rows, None if columns == all_kinds else columns, off
