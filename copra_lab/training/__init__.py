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
from copra_lab.training.fitting import (
    Diverged,
    Execution,
    Job,
    Step,
    fit,
    fit_many,
    fit_many_steps,
    fit_steps,
)
from copra_lab.training.settings import DEFAULTS, RATES, TrainingSettings

__all__ = [
    "DEFAULTS",
    "PLAIN",
    "RATES",
    "CopRA",
    "Diverged",
    "Draw",
    "Dropout",
    "Dropping",
    "Execution",
    "Job",
    "ProgressiveDropout",
    "Step",
    "StochasticDepth",
    "TrainingSettings",
    "drawn",
    "fit",
    "fit_many",
    "fit_many_steps",
    "fit_steps",
    "group",
    "masks",
    "ramp",
]
