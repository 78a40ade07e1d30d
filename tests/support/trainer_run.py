"""A short CopRA training in transformers' Trainer, for tests: what every step drew, and what it
changed. As a program, one process of a data-parallel training, which writes what it saw:
``python trainer_run.py FILE`` under torchrun.
"""

import json
import sys
from pathlib import Path

import torch
from tiny_peft import CLASSES, VOCABULARY, adapted
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from copra_lab.peft_models import CopRACallback


class Words(Dataset):
    """Sixty-four random sentences; the first word tells the class."""

    def __init__(self) -> None:
        self.x = torch.randint(1, VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.x[i], "labels": self.x[i, 0] % CLASSES}


class Watch(TrainerCallback):
    """What is on in every step, and which parameters the step moved that it should have left alone,
    or the other way round.
    """

    def __init__(self, copra: CopRACallback):
        self.copra, self.on, self.wrong = copra, [], []
        self.outside: list[bool] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.on.append([state.global_step, list(self.copra.drops.on.values())])
        self.before = {
            n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad
        }

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, p in model.named_parameters():
            if p.requires_grad and (
                on := [x for unit, x in self.copra.drops.on.items() if f"{unit}." in name]
            ):
                moved = not torch.equal(p, self.before[name])
                if moved != (on[0] and kwargs["optimizer"].param_groups[0]["lr"] > 0):
                    self.wrong.append([state.global_step, name])

    def _look(self, args, state, control, **kwargs):
        self.outside.append(all(self.copra.drops.on.values()))

    on_evaluate = on_save = on_train_end = on_epoch_end = _look


def trainer(
    folder,
    copra: CopRACallback | None = None,
    method: str = "LoRA and a head",
    more=(),
    optimizers=(None, None),
    **args,
) -> tuple[Trainer, Watch]:
    copra = copra or CopRACallback()
    watch = Watch(copra)
    settings = {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "weight_decay": 0.5,
        "save_strategy": "no",
    }
    settings |= {
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    made = Trainer(
        model=adapted(method),
        args=TrainingArguments(str(folder), **{**settings, **args}),
        train_dataset=Words(),
        eval_dataset=Words(),
        callbacks=[copra, watch, *more],
    )
    return made, watch


def main() -> None:
    file = Path(sys.argv[1])
    made, watch = trainer(
        file.parent,
        method="LoRA",
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        max_steps=10,
    )
    made.train()
    rank = made.args.process_index
    sums = [float(p.double().sum()) for p in made.model.parameters() if p.requires_grad]
    said = {"world": made.args.world_size, "on": watch.on, "wrong": watch.wrong, "sums": sums}
    file.with_suffix(f".{rank}").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
