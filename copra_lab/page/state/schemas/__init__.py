"""The state of each view: one schema, of which address, controls and API are readings."""

from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.classify import TryState
from copra_lab.page.state.schemas.measured import Base, Measured, Model
from copra_lab.page.state.schemas.prompt import PromptState
from copra_lab.page.state.schemas.prune import PruneState
from copra_lab.page.state.schemas.reading import Reading, Source, read
from copra_lab.page.state.schemas.shapley import ShapleyState
from copra_lab.page.state.schemas.train import TrainState
from copra_lab.page.state.schemas.triangle import TriangleState

_ALL = (BlendState, TriangleState, PruneState, ShapleyState, PromptState, TrainState, TryState)

STATES = {state.view: state for state in _ALL}
"""The schema of each view's state, by the view's name in an address."""

__all__ = [
    "STATES", "Base", "BlendState", "Measured", "Model", "PromptState", "PruneState", "Reading",
    "ShapleyState", "Source", "TrainState", "TriangleState", "TryState", "read",
]  # fmt: skip
