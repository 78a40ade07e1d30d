"""The lab bench: how accurate is this adapter on this task, measured fast and without ever changing a model."""

from copra_lab.bench.bench import Bench, Path
from copra_lab.bench.prompt_survey import Corruption, Occurrences, occurrences, survey

__all__ = ["Bench", "Corruption", "Occurrences", "Path", "occurrences", "survey"]
