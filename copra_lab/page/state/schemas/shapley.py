"""The state of the Shapley view: an adapter, and the layer that is looked at."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from typing_extensions import override

from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import AdapterKey, TaskName, switched_on
from copra_lab.page.state.schemas.measured import Measured, Model, WithoutSlider
from copra_lab.page.state.schemas.reading import Field, Known, Reading
from copra_lab.page.state.switches import switches_of


class Layer(Field):
    """A layer of the adapter; −1 as long as none was chosen."""

    needs: ClassVar[tuple[str, ...]] = ("task", "key")

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> int:
        adapter = reading.lab.adapter(known["task"], known["key"])
        have = {str(i): i for i in switches_of(adapter)[0]}
        switched_on([value], tuple(have), "layer")
        return have[value]


@dataclass(frozen=True)
class ShapleyState(WithoutSlider):
    """An adapter whose layers are valued, and the layer that is looked at; −1 for none yet."""

    view: ClassVar = "shapley"

    task: Annotated[str, TaskName()]
    key: Annotated[str, AdapterKey("adapter")]
    layer: Annotated[int, Layer("layer", usual=-1)] = -1

    references: ClassVar[tuple[Measured, ...]] = ()

    @property
    def game(self) -> "ShapleyState":
        """The same for all layers."""
        return ShapleyState(self.task, self.key)

    subject = game

    def model(self, lab: Lab) -> Model:
        """The whole adapter."""
        return Model(lab.adapter(self.task, self.key))
