"""Many trainings: methods × tasks × seeds × settings, each done once."""

from copra_lab.sweeps.grid import Grid, grid, read_grid
from copra_lab.sweeps.results import rows_of
from copra_lab.sweeps.runner import run_all
from copra_lab.sweeps.runs import Run, TaskOptions, trained

__all__ = ["Grid", "Run", "TaskOptions", "grid", "read_grid", "rows_of", "run_all", "trained"]
