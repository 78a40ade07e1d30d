"""The lab bench: measures adapters on a task, fast, and never changes a model."""

from copra_lab.bench.bench import Bench, Path
from copra_lab.bench.prompt_survey import Corruption, Occurrences, occurrences, survey

__all__ = ["Bench", "Corruption", "Occurrences", "Path", "occurrences", "survey"]
