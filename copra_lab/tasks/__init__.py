"""Image classification problems: drawings that come with the package, the field's data sets, and your own images."""

from copra_lab.tasks.benchmarks import SETS, data_folder
from copra_lab.tasks.emoji.catalogue import TASKS
from copra_lab.tasks.task import (
    IMAGE_FILES,
    MEGAPIXELS,
    Split,
    Task,
    image_folder,
    load_task,
    photo,
    task_names,
)

__all__ = [
    "IMAGE_FILES",
    "MEGAPIXELS",
    "SETS",
    "TASKS",
    "Split",
    "Task",
    "data_folder",
    "image_folder",
    "load_task",
    "photo",
    "task_names",
]
