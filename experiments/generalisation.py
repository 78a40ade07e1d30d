"""Generalisation beyond the training distribution: ``python experiments/generalisation.py``.

From the first half of the classes to the second (with the harmonic mean), and under corruptions
that neither pretraining nor fine-tuning had. Writes ``generalisation.csv``. (From one drawing style
to the other is a task, ``style-shift``, and is in every other table.)
"""

from dataclasses import replace

from common import METHODS, adapters, arguments, finish, headline, reported, row
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.sweeps import Run
from copra_lab.tasks import Task, load_task
from copra_lab.tasks.emoji import corruptions as nu

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy")
CORRUPTIONS = {
    "corrupted: noise": lambda x, g: nu.noise(x, g, sigma=(0.08, 0.12), dead=0.02),
    "corrupted: waves": lambda x, g: nu.waves(x, g, reach=(0.03, 0.06)),
    "corrupted: patches": lambda x, g: nu.patches(x, g, share=0.15),
    "corrupted: blur": lambda x, g: nu.blur(x, g, sigma=0.02),
}


def corrupted(task: Task, how: str) -> Task:
    """The task with its test images corrupted, each with its own seed."""
    images = task.test.images.permute(0, 3, 1, 2).float() / 255
    return replace(
        task,
        test=replace(
            task.test,
            images=nu.to_bytes(CORRUPTIONS[how](images, nu.generators(range(len(images))))),
        ),
    )


def main() -> None:
    a = arguments(__doc__, methods=METHODS).parse_args()
    tasks, methods = a.tasks or reported(), a.methods or METHODS
    runs = headline(tasks, methods, seeds=3)
    halves = [
        Run.of(t, s, dropping=METHODS[m], part="base")
        for t in tasks
        for m in methods
        for s in range(3)
        if len(load_task(t).classes) > 3
    ]
    clip, found, _ = adapters(runs + halves, a.work, a.jobs)
    rows = []
    for t in tqdm(tasks, desc="tasks"):
        task = load_task(t)
        shifted = {how: Bench(clip, corrupted(task, how)) for how in CORRUPTIONS}
        for r in (r for r in runs if r.task == t):
            rows += [row(r, how, b.accuracy(found[r])) for how, b in shifted.items()]
        base, new = (Bench(clip, part) for part in task.base_and_new())
        for r in (r for r in halves if r.task == t):
            seen, unseen = base.accuracy(found[r]), new.accuracy(found[r])
            rows += [row(r, "base classes", seen), row(r, "new classes", unseen)]
            harmonic = 2 * seen.value * unseen.value / max(1e-9, seen.value + unseen.value)
            rows.append(row(r, "harmonic mean", unseen) | {"accuracy": round(harmonic, 4), "n": ""})
    finish(a, "generalisation.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
