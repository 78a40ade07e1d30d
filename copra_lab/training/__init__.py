"""Fine-tuning: `fit`, its settings, and CopRA with its baselines."""

from copra_lab.training.dropping import (
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
from copra_lab.training.fitting import Execution, Step, fit, fit_steps
from copra_lab.training.settings import DEFAULTS, RATES, TrainingSettings

__all__ = [
    "DEFAULTS",
    "PLAIN",
    "RATES",
    "CopRA",
    "Draw",
    "Dropout",
    "Dropping",
    "Execution",
    "ProgressiveDropout",
    "Step",
    "StochasticDepth",
    "TrainingSettings",
    "drawn",
    "fit",
    "fit_steps",
    "group",
    "masks",
    "ramp",
]
