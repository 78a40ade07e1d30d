"""The state of the Prune view: an adapter, what of it is kept, and how sparse that is."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

from typing_extensions import override

from copra_lab.adapters.adapter import Adapter
from copra_lab.models.sites import site_of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import AdapterKey, Number, TaskName, switched_on
from copra_lab.page.state.schemas.measured import Base, Measured, Model
from copra_lab.page.state.schemas.reading import Field, Known, Reading
from copra_lab.page.state.switches import groups_of, kept_sites, matrices_of, named, switches_of
from copra_lab.pruning import keep, layers_of, sparsify


class Kept(NamedTuple):
    """What of an adapter is kept in the image tower.

    Attributes:
        layers: the layers that are kept; None for all.
        kinds: the kinds of site that are kept; None for all.
        off: single matrices, (layer, kind) each, that are off although their layer and kind are
            kept.

    See `copra_lab.page.state.switches.kept_sites` for how to say that in one way only.
    """

    layers: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    off: tuple[tuple[int, str], ...] = ()


WHOLE = Kept()

ALL: Any = object()
"""All of a group of switches."""


@dataclass(frozen=True)
class Switches:
    """What a program or the controls say of what is kept: lists of what is on, or `ALL`.

    Attributes:
        layers: layers that are on.
        kinds: kinds of site that are on.
        single: names of matrices that are on.
        others: the switches may be those of another adapter; what this one lacks is left out.
        first: the adapter was not seen before, so where nothing of a group is on, all of it is.
    """

    layers: Any = ALL
    kinds: Any = ALL
    single: Any = ALL
    others: bool = field(default=False, kw_only=True)
    first: bool = field(default=False, kw_only=True)

    def on(self, matrices: Sequence[tuple[int, str]]) -> list[tuple[Any, ...] | None]:
        """The layers, kinds and names of matrices that are on, None for all. Raises ValueError."""
        groups = zip(
            (self.layers, self.kinds, self.single),
            (*groups_of(matrices), tuple(map(named, matrices))),
            ("layer", "kind", "matrix"),
            strict=True,
        )
        on = [
            None if chosen is ALL else switched_on(chosen, have, name, others=self.others)
            for chosen, have, name in groups
        ]
        return [some or None for some in on] if self.first else on


class KeptField(Field):
    """`Kept`, of `Switches`; an address says what is off.

    ``0,q,v7``: the layer 0, the kind q, and of layer 7 the v.
    """

    needs: ClassVar[tuple[str, ...]] = ("task", "key")

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> Kept:
        adapter = reading.lab.adapter(known["task"], known["key"])
        matrices = matrices_of(adapter)
        if reading.is_address:
            return Kept(*kept_sites(matrices, *_without(adapter, value)))
        layers, kinds, single = value.on(matrices)
        by_name = {named(m): m for m in matrices}
        return Kept(
            *kept_sites(
                matrices, layers, kinds, None if single is None else [by_name[m] for m in single]
            )
        )

    @override
    def text(self, value: Kept, state: Any, lab: Lab) -> str:
        off = [named(matrix) for matrix in value.off]
        if value.layers is not None or value.kinds is not None:
            have = switches_of(lab.adapter(state.task, state.key))
            off = [
                str(h)
                for all_, kept in zip(have, (value.layers, value.kinds), strict=True)
                if kept is not None
                for h in all_
                if h not in kept
            ] + off
        return ",".join(off)


def _without(adapter: Adapter, text: str) -> tuple[list[int], list[str], list[tuple[int, str]]]:
    matrices = matrices_of(adapter)
    layers, kinds = groups_of(matrices)
    off = text.split(",") if text else []
    if unknown := [o for o in off if o not in (*map(str, layers), *kinds, *map(named, matrices))]:
        raise ValueError(f"the adapter has no layer, kind or matrix {unknown[0]!r:.40}")
    return (
        [i for i in layers if str(i) not in off],
        [k for k in kinds if k not in off],
        [m for m in matrices if named(m) not in off],
    )


@dataclass(frozen=True)
class PruneState:
    """An adapter of which some is ``kept``, ``percent`` of whose entries are zero.

    The smallest of A's and of B's entries that are left.
    """

    view: ClassVar = "prune"

    task: Annotated[str, TaskName()]
    key: Annotated[str, AdapterKey("adapter")]
    kept: Annotated[Kept, KeptField("off", usual=WHOLE)] = WHOLE
    percent: Annotated[int, Number("sparsity", "the sparsity", 0, 100)] = 0

    @property
    def position(self) -> float:
        """The sparsity in percent."""
        return self.percent

    @property
    def line(self) -> Hashable:
        """The same for all sparsities."""
        return replace(self, percent=0)

    @property
    def whole(self) -> "PruneState":
        """The adapter as it was."""
        return PruneState(self.task, self.key)

    subject = whole

    @property
    def references(self) -> tuple[Measured, ...]:
        """The base and the whole adapter."""
        return Base(self.task), self.whole

    def model(self, lab: Lab) -> Model:
        """What is left of the adapter."""
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        """What is left of the adapter."""
        adapter = lab.adapter(self.task, self.key)
        # An adapter without sites in the image tower has nothing to choose from, but can be made
        # sparse.
        kept = keep(adapter, self.kept.layers, self.kept.kinds) if layers_of(adapter) else adapter
        if self.kept.off:
            gone = {("vision", *matrix) for matrix in self.kept.off}
            kept = kept.keep([name for name in kept.deltas if site_of(name) not in gone])
        return sparsify(kept, self.percent / 100)
