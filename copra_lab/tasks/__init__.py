"""Image classification tasks: bundled drawings, the field's data sets, and your own images."""

from copra_lab.tasks.benchmarks import SETS, data_folder
from copra_lab.tasks.data import Split, Task
from copra_lab.tasks.decoding import MEGAPIXELS
from copra_lab.tasks.emoji.catalogue import TASKS
from copra_lab.tasks.emoji.recipe import TASK_GROUPS
from copra_lab.tasks.photos import IMAGE_FILES, photo
from copra_lab.tasks.task import image_folder, load_task, task_names

__all__ = [
    "IMAGE_FILES",
    "MEGAPIXELS",
    "SETS",
    "TASKS",
    "TASK_GROUPS",
    "Split",
    "Task",
    "data_folder",
    "image_folder",
    "load_task",
    "photo",
    "task_names",
]
