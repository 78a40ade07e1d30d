"""CopRA in transformers' Trainer with peft: ``python experiments/trainer.py``.

It writes ``trainer.csv``. `emoji-groups`, a text task: tell which of Unicode's eight groups an
emoji belongs to from its name, with MiniLM (all-MiniLM-L6-v2). `digits`, an image task: the
library's task of that name, with the bundled CLIP's image tower as transformers'
CLIPForImageClassification. Heads are new, start from the same random numbers in every training, and
are trained too. A method's rate is the best of three for seed 0 on validation data.
"""

import copy
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from common import arguments, finish
from minilm import folder as minilm
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CLIPForImageClassification,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from copra_lab.adapters.peft_folder import WEIGHTS
from copra_lab.models import load_clip, to_hugging_face
from copra_lab.peft_models import CopRACallback, PeftAdapter, average, keep
from copra_lab.shapley import SwitchGame, estimate
from copra_lab.tasks import load_task
from copra_lab.tasks.emoji.concepts import concepts
from copra_lab.tasks.emoji.selection import rank
from copra_lab.utils.statistics import Accuracy

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "lr", "split")
METHODS = ("lora", "copra")
RATES = (1e-3, 3e-3, 1e-2)
SEEDS, STEPS, BATCH, LORA_RANK, SHOTS, EVALUATIONS = 3, 300, 16, 4, 16, 24

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """A task for the Trainer.

    ``base()`` makes a fresh model with a new head, ``parts`` are rows to train, validate and test
    on, and ``collate(rows, training)`` makes a batch of rows.
    """

    name: str
    base: Callable[[], nn.Module]
    targets: tuple[str, ...]
    parts: dict[str, Sequence[Any]]
    collate: Callable[..., Batch]

    def batches(self, part: str) -> Iterator[Batch]:
        rows = self.parts[part]
        for i in range(0, len(rows), 128):
            yield self.collate(rows[i : i + 128], training=False)


@cache
def emoji_groups() -> Work:
    by_group = defaultdict(set)
    for c in concepts():
        if c.category not in ("Flags", "Component"):
            by_group[c.category].add(c.name)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    parts: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, group in enumerate(sorted(by_group)):
        names = sorted(by_group[group], key=lambda n: rank(f"trainer/{n}"))
        for part, some in (
            ("train", names[:SHOTS]),
            ("val", names[SHOTS : 2 * SHOTS]),
            ("test", names[2 * SHOTS :]),
        ):
            parts[part] += [(name, label) for name in some]
    for part in ("val", "test"):
        parts[part].sort(key=lambda row: len(row[0]))  # less padding

    def collate(rows: Sequence[tuple[str, int]], training: bool = True) -> Batch:
        names, labels = zip(*rows, strict=True)
        return {
            **tokenizer(list(names), padding=True, return_tensors="pt"),
            "labels": torch.tensor(labels),
        }

    model = seeded(
        lambda: AutoModelForSequenceClassification.from_pretrained(
            minilm(), num_labels=len(by_group)
        )
    )
    return Work(
        "emoji-groups", partial(copy.deepcopy, model), ("query", "key", "value"), parts, collate
    )


@cache
def digits() -> Work:
    clip = load_clip()
    task = load_task("digits", clip)

    def build() -> nn.Module:
        whole = to_hugging_face(clip)
        whole.config.num_labels = len(task.classes)
        model = CLIPForImageClassification(whole.config)
        model.vision_model.load_state_dict(whole.vision_model.state_dict())
        return model

    def collate(rows: Sequence[tuple[Tensor, Tensor]], training: bool = True) -> Batch:
        images, labels = (torch.stack(x) for x in zip(*rows, strict=True))
        pixels = clip.pixels(images)
        # torch's own generator: the Trainer seeds it, and restores it with a checkpoint.
        return {
            "pixel_values": task.augment(pixels, torch.default_generator) if training else pixels,
            "labels": labels,
        }

    parts = {
        p: list(zip(s.images, s.labels, strict=True))
        for p, s in (("train", task.train), ("val", task.val), ("test", task.test))
    }
    return Work(
        "digits",
        partial(copy.deepcopy, seeded(build)),
        ("q_proj", "k_proj", "v_proj"),
        parts,
        collate,
    )


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def train(
    work: Work, method: str, seed: int, lr: float, place: Path, steps: int = STEPS
) -> PeftAdapter:
    """A training in the Trainer, loaded from `place` or continued from where it stopped there."""
    place = (
        place / f"trainer-{work.name}-{method}-{seed}-{lr:g}-{steps}-{BATCH}-{LORA_RANK}-{SHOTS}"
    )
    if (place / WEIGHTS).exists():
        return PeftAdapter.load(place)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_RANK,
        target_modules=list(work.targets),
        modules_to_save=["classifier"],
    )
    settings = TrainingArguments(
        str(place / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=lr,
        weight_decay=1e-2,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": steps // 4, "decay_type": "linear"},
        seed=seed,
        save_steps=100,
        save_total_limit=1,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=get_peft_model(work.base(), lora),
        args=settings,
        train_dataset=work.parts["train"],
        data_collator=work.collate,
        callbacks=[CopRACallback()] if method == "copra" else [],
    )
    trainer.train(
        resume_from_checkpoint=get_last_checkpoint(settings.output_dir)
        if (place / "checkpoints").exists()
        else None
    )
    adapter = PeftAdapter.of(trainer.model)
    adapter.save(place)
    shutil.rmtree(settings.output_dir)
    return adapter


def loaded(work: Work, adapter: PeftAdapter) -> PeftModel:
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        return PeftModel.from_pretrained(work.base(), folder).eval()


@torch.no_grad()
def accuracy(work: Work, part: str, model: nn.Module) -> Accuracy:
    hits = [
        model(**{k: v for k, v in b.items() if k != "labels"}).logits.argmax(-1) == b["labels"]
        for b in work.batches(part)
    ]
    return Accuracy(int(torch.cat(hits).sum()), sum(map(len, hits)))


def head_alone(work: Work) -> Accuracy:
    """Logistic regression on the base's features; its penalty is also chosen on validation data."""
    model, seen = work.base().eval(), []
    model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = {}
    for part in ("train", "val", "test"):
        seen.clear()
        with torch.no_grad():
            labels = torch.cat([(model(**b), b["labels"])[1] for b in work.batches(part)])
        data[part] = torch.cat(seen).numpy(), labels.numpy()
    probes = [LogisticRegression(C=c, max_iter=2000).fit(*data["train"]) for c in (0.1, 1, 10, 100)]
    best = max(probes, key=lambda p: p.score(*data["val"]))
    return Accuracy(
        int((best.predict(data["test"][0]) == data["test"][1]).sum()), len(data["test"][1])
    )


def best_half(work: Work, adapter: PeftAdapter) -> PeftAdapter:
    """The half of the blocks with the highest sampled Shapley values, on validation data."""
    game = SwitchGame(loaded(work, adapter), lambda m: accuracy(work, "val", m).value)
    worth = dict(
        zip(game.names, estimate(game, game.n_players, budget=EVALUATIONS).values, strict=True)
    )
    return keep(adapter, sorted(worth, key=lambda b: -worth[b])[: len(worth) // 2])


def row(
    work: Work,
    method: str,
    seed: object,
    setting: str,
    a: Accuracy,
    lr: object = "",
    split: str = "test",
) -> dict:
    return dict(
        zip(
            COLUMNS,
            (work.name, method, seed, setting, a.n, round(a.value, 4), lr, split),
            strict=True,
        )
    )


def measured(work: Work, place: Path, steps: int) -> list[dict]:
    rows = [row(work, "head alone", "", "alone", head_alone(work))]
    for method in METHODS:
        tried = {}
        for lr in tqdm(RATES, desc=f"{work.name}, {method}: rates"):
            tried[lr] = accuracy(
                work, "val", loaded(work, train(work, method, 0, lr, place, steps))
            )
            rows.append(row(work, method, 0, "alone", tried[lr], lr, "val"))
        lr = max(tried, key=lambda x: tried[x].value)
        found = [
            train(work, method, seed, lr, place, steps)
            for seed in tqdm(range(SEEDS), desc=f"{work.name}, {method}: seeds")
        ]
        parts = {
            (seed, setting): adapter
            for seed, x in enumerate(found)
            for setting, adapter in (
                ("alone", x),
                ("layers even", keep(x, "even")),
                ("layers odd", keep(x, "odd")),
                ("best half", best_half(work, x)),
            )
        }
        for seed, (x, y) in enumerate(zip(found, [*found[1:], found[0]], strict=True)):
            for setting, space in (("middle, ΔW", "delta"), ("middle, factors", "parameters")):
                parts[f"{seed}-{(seed + 1) % SEEDS}", setting] = average([x, y], space=space)
        rows += [
            row(work, method, s, setting, accuracy(work, "test", loaded(work, x)), lr)
            for (s, setting), x in tqdm(parts.items(), desc="measuring")
        ]
    return rows


def main() -> None:
    p = arguments(__doc__, tasks=False, jobs=False)
    p.add_argument(
        "--quick",
        action="store_true",
        help="few steps, to see that it runs (prints, and writes nothing)",
    )
    a = p.parse_args()
    tasks, steps = (emoji_groups(), digits()), STEPS
    if a.quick:
        tasks, steps = (
            tuple(
                replace(t, parts=t.parts | {p: t.parts[p][::20] for p in ("val", "test")})
                for t in tasks
            ),
            3,
        )
    rows = [r for task in tasks for r in measured(task, a.work, steps)]
    finish(a, "trainer.csv", COLUMNS, rows, f"all-MiniLM-L6-v2, {load_clip().hash}")


if __name__ == "__main__":
    main()
