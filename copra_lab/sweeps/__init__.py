"""Many trainings: methods × tasks × seeds × settings, each done once."""

from copra_lab.sweeps.grid import METHODS, Grid, grid, read_grid
from copra_lab.sweeps.runner import rows_of, run_all
from copra_lab.sweeps.runs import PromptRun, Run, trained

__all__ = [
    "METHODS",
    "Grid",
    "PromptRun",
    "Run",
    "grid",
    "read_grid",
    "rows_of",
    "run_all",
    "trained",
]
