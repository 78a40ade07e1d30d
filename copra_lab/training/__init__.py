"""Fine-tuning: `fit`, its settings, and CopRA with its baselines."""

from copra_lab.training.dropping import (
    DROPPINGS,
    PLAIN,
    CopRA,
    Draw,
    Dropout,
    Dropping,
    ProgressiveDropout,
    StochasticDepth,
    drawn,
    group,
    masks,
    ramp,
)
from copra_lab.training.fitting import DEFAULTS, RATES, Step, fit

__all__ = [
    "DEFAULTS",
    "DROPPINGS",
    "PLAIN",
    "RATES",
    "CopRA",
    "Draw",
    "Dropout",
    "Dropping",
    "ProgressiveDropout",
    "Step",
    "StochasticDepth",
    "drawn",
    "fit",
    "group",
    "masks",
    "ramp",
]
