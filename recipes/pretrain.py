"""Pretrain the bundled CLIP, in stages that can be resumed.

``python recipes/pretrain.py --photos tiny-imagenet-200 --photos cifar`` runs three of them:

1. The vocabulary: the part of CLIP's byte pairs that captions and prompts need.
2. The text tower learns from a sentence encoder which names are close, and is then locked.
3. The image tower learns by contrasting each image with every known name at once (and with kinds,
   media and backgrounds), and from an ImageNet network's features of the same image.

``--photos`` can be given several times: Tiny ImageNet's archive, CIFAR-100 (a folder that
torchvision downloads it into), any folder of class folders, or an .npz (see `photos.load_photos`).
Everything is stored in ``--work``; a finished stage is not repeated.

The learning rate warms up, stays constant, and decays over the last part of the images (warm-up,
stable, decay). In the stable part half of an image's tokens are left out; in the decay all are
there. A run stops at ``--images``, ``--minutes`` or Ctrl-C, saves its state, and continues when it
is started again. ``--decay`` starts the last part now, from the current state of the stable part.
``--hand-on FOLDER`` writes the state of the stable part in half precision, for another machine's
``--start-from``.
"""

import argparse
import copy
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # one for each of --threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from captions import TEMPLATES, cut_merges, seen_photo, teaching_texts
from photos import Photos, load_photos
from pretraining_data import TEACHER, Data, normalised, planes
from safetensors import safe_open
from safetensors.torch import load_file
from student import Replicas, Student, atomic, build, optimisers, tokenizer
from text_tower import encoded, tables, train_text
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

DROPPED = 0.5
"""Share of the image tokens that are left out in the stable part."""

WEIGHTS = {"name": 1.0, "kind": 0.5, "ground": 0.1, "medium": 0.1, "teacher": 2.0}
"""Weights of the losses."""

WARM_UP, AVERAGED = 300, 0.999
"""Warm-up steps, and the decay of the running average of the weights.

The running average is what is measured and exported.
"""

STATE = ("state.safetensors", "merges.txt.gz", "log.jsonl")
"""The state to hand on."""


class Run:
    """Stage 3: the student, its running average, its optimisers, and its count of images."""

    def __init__(self, work: Path, data: Data, sources: Sequence[Photos], a: argparse.Namespace):
        self.work, self.data, self.sources, self.a = work, data, sources, a
        self.clip = build(tokenizer(work).vocab_size, DROPPED)
        self.clip.load_state_dict(load_file(work / "text.safetensors"), strict=False)
        self.tables = tables(self.clip, work, data.names, data.kinds, a.device)
        self.student = (
            Student(copy.deepcopy(self.clip.visual), TEACHER).to(a.device).train()
        )  # the CLIP itself is what is written
        self.named = dict(self.student.named_parameters())
        self.opts = optimisers(self.named, a.lr)
        self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
        self.images = self.began = 0
        self.decay_from: int | None = None
        self._resume()
        self.replicas = Replicas(self.named, a.threads, a.device)

    def _resume(self) -> None:
        if (file := self.work / "run.pt").exists():
            saved = torch.load(file, map_location=self.a.device, weights_only=True)
            self.student.load_state_dict(saved["student"])
            self.average.load_state_dict(saved["average"])
            for o, s in zip(self.opts, saved["optimisers"], strict=True):
                o.load_state_dict(s)
            self.images, self.decay_from = saved["images"], saved["decay_from"]
        elif (file := self.work / "state.safetensors").exists():
            with safe_open(file, "pt") as f:
                self.images = self.began = int(f.metadata()["images"])
            weights = {
                k.removeprefix("student."): w.float()
                for k, w in load_file(file).items()
                if k.startswith("student.")
            }
            self.student.load_state_dict(weights)
            self.average.module.load_state_dict(weights)

    def save(self) -> None:
        """Write the state atomically, like everything here."""
        part = self.work / "run.part"
        saved = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.opts],
            "images": self.images,
            "decay_from": self.decay_from,
        }
        torch.save(saved, part)
        os.replace(part, self.work / "run.pt")
        averaged = self.average.module
        self.clip.visual.load_state_dict(averaged.visual.state_dict())
        self.clip.logit_scale.data.copy_(averaged.scale.detach().clamp(max=math.log(100)))
        atomic(self.clip.state_dict(), self.work / "clip.safetensors")
        if self.decay_from is None:
            text = load_file(self.work / "text.safetensors")
            halves = {f"student.{k}": v.half() for k, v in self.student.state_dict().items()} | {
                f"text.{k}": v.half() for k, v in text.items()
            }
            atomic(halves, self.work / "state.safetensors", {"images": str(self.images)})

    def rate(self) -> float:
        """The factor of the learning rate at this image."""
        warm = min(1.0, (self.images - self.began) / (WARM_UP * self.a.batch) + 1 / WARM_UP)
        if self.decay_from is None:
            return warm
        return max(
            1e-3,
            warm
            * (
                1
                - math.sqrt(
                    min(
                        1, (self.images - self.decay_from) / max(1, self.a.images - self.decay_from)
                    )
                )
            ),
        )

    def step(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """One optimiser step on a batch, in as many parts as there are threads."""
        rate = self.rate()
        for o in self.opts:
            for group in o.param_groups:
                group["lr"] = self.a.lr * rate
        self.student.visual.patch_dropout.prob = DROPPED if self.decay_from is None else 0.0
        torch.manual_seed(
            self.images
        )  # open_clip draws the tokens that are left out from the global generator
        numbers = self.replicas.gradients(
            lambda i: self.loss(batches[i], np.random.default_rng([self.images, i]))
        )
        torch.nn.utils.clip_grad_norm_(self.named.values(), 1.0)
        with torch.autocast(self.replicas.device, torch.bfloat16, enabled=self.replicas.half):
            for o in self.opts:
                o.step()
        self.average.update_parameters(self.student)
        self.images += self.a.batch
        return numbers | {"rate": rate}

    def loss(
        self, b: dict[str, Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of one part of a batch, and its terms."""
        f, taught, scale = self.student(b["image"])
        with torch.autocast(
            self.replicas.device, enabled=False
        ):  # logits of up to 100 need their digits
            return self._losses(f, taught, scale, b, rng)

    def _losses(
        self,
        f: Tensor,
        taught: Tensor,
        scale: Tensor,
        b: dict[str, Tensor],
        rng: np.random.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        losses, numbers = {}, {"scale": scale.item()}
        for what, choice in self.tables.items():
            logits = scale * (f @ choice[rng.integers(len(choice))].T)
            if what == "name":
                logits[b["hide"][:, 0], b["hide"][:, 1]] = -1e4
                for k, medium in enumerate(("drawing", "icon", "photo")):
                    own = b["medium"] == k
                    numbers[f"right {medium}"] = (
                        (logits[own].argmax(-1) == b["name"][own]).float().mean().item()
                    )
            losses[what] = F.cross_entropy(logits, b[what], ignore_index=-1)
        rows = b["taught"] >= 0
        losses["teacher"] = 1 - (taught[rows] * self.data.teacher[b["taught"][rows]]).sum(-1).mean()
        loss = torch.stack([WEIGHTS[k] * v for k, v in losses.items()]).sum()
        return loss, numbers | {k: v.item() for k, v in losses.items()}

    @torch.no_grad()
    def choice(self) -> dict[str, float]:
        """The running average's zero-shot accuracy on the photographs for decisions.

        By source, for known and held-out classes.
        """
        model, found = copy.deepcopy(self.average.module).eval(), {}
        for source in self.sources:
            texts = [t.format(n) for n in source.names for t in TEMPLATES["photo"]]
            text = (
                encoded(self.clip, self.work, texts)
                .to(self.a.device)
                .unflatten(0, (len(source.names), -1))
                .mean(1)
            )
            rows = source.rows("choice")
            parts = [
                torch.from_numpy(source.images[rows[i : i + 500]]).to(self.a.device)
                for i in range(0, len(rows), 500)
            ]
            with torch.autocast(self.replicas.device, torch.bfloat16, enabled=self.replicas.half):
                logits = torch.cat([model(normalised(planes(x)))[0] for x in parts]) @ text.T
            seen = torch.tensor([seen_photo(n) for n in source.names], device=self.a.device)
            labels = torch.from_numpy(source.labels[rows]).to(self.a.device)
            for what, among in (("seen", seen), ("held out", ~seen)):
                if (own := among[labels]).any():
                    right = (
                        logits[own].float().masked_fill(~among, -math.inf).argmax(-1) == labels[own]
                    )
                    found[f"{source.name}, {int(among.sum())} {what}"] = round(
                        right.float().mean().item(), 4
                    )
        return found

    def train(self) -> None:
        """Train until the images or minutes are used up, or Ctrl-C."""
        stopped: list[int] = []
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, lambda *got: stopped.append(got[0]))
        if self.a.decay and self.decay_from is None:
            self.decay_from = self.images
        start, first = time.monotonic(), self.images
        bar = tqdm(
            total=self.a.images,
            initial=self.images,
            desc="image tower",
            unit="image",
            unit_scale=True,
            mininterval=10,
        )
        with bar, open(self.work / "log.jsonl", "a", encoding="utf-8", buffering=1) as log:
            batches = self.batches()
            while (
                self.images < self.a.images
                and not stopped
                and time.monotonic() - start < 60 * self.a.minutes
            ):
                numbers = self.step(next(batches))
                bar.update(self.a.batch)
                step = self.images // self.a.batch
                if step % 50 == 0:
                    numbers["images_per_second"] = (self.images - first) / (
                        time.monotonic() - start
                    )
                    bar.set_postfix(
                        {k: f"{numbers[k]:.2f}" for k in ("name", "teacher", "right photo")},
                        refresh=False,
                    )
                    line = {
                        "images": self.images,
                        **{k: float(f"{v:.4g}") for k, v in numbers.items()},
                    }
                    if step % 500 == 0:
                        self.save()
                        line["choice"] = self.choice()
                    log.write(json.dumps(line) + "\n")
            batches.close()
            self.save()
            log.write(json.dumps({"images": self.images, "choice": self.choice()}) + "\n")

    def batches(self) -> Generator[list[dict[str, Tensor]], None, None]:
        """Batches in parts; the next is made while the last is trained on."""
        size = self.a.batch // self.a.threads
        make = lambda images: [self.data.batch(size, [images, i]) for i in range(self.a.threads)]  # noqa: E731
        with ThreadPoolExecutor(1) as ahead:
            at = self.images
            coming = ahead.submit(make, at)
            while True:
                at += self.a.batch
                batch, coming = coming.result(), ahead.submit(make, at)
                yield batch


def begin_from(folder: Path, work: Path) -> None:
    """Take over the state that another machine handed on."""
    for name in STATE:
        shutil.copyfile(folder / name, work / name)
    state = load_file(work / "state.safetensors")
    atomic(
        {k.removeprefix("text."): w.float() for k, w in state.items() if k.startswith("text.")},
        work / "text.safetensors",
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--photos",
        action="append",
        required=True,
        metavar="SOURCE",
        help="photographs; repeat it for several sources",
    )
    p.add_argument(
        "--all-of",
        action="append",
        default=[],
        metavar="SOURCE",
        help="one of these that keeps none for the model card",
    )
    p.add_argument(
        "--work",
        type=Path,
        default=Path.home() / ".cache" / "copra-lab-pretrain",
        help="folder of stages and checkpoints",
    )
    p.add_argument("--text-epochs", type=int, default=8)
    p.add_argument(
        "--images",
        type=lambda x: int(float(x)),
        default=15_000_000,
        help="total images that the image tower sees (default 15e6)",
    )
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument(
        "--decay", action="store_true", help="let the learning rate decay from now to --images"
    )
    p.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after this time (it can be resumed)"
    )
    p.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="parts of a batch, one core each; 1 on a GPU",
    )
    p.add_argument("--device", default="cpu")
    p.add_argument("--start-from", type=Path, metavar="FOLDER", help="what --hand-on wrote")
    p.add_argument(
        "--hand-on",
        type=Path,
        metavar="FOLDER",
        help="write the stable part's state there and stop",
    )
    a = p.parse_args()
    if a.batch % a.threads:
        p.error(
            f"a batch of {a.batch} does not divide into {a.threads} parts; choose --threads that "
            "divides it"
        )
    torch.set_num_threads(1)
    a.work.mkdir(parents=True, exist_ok=True)
    if a.hand_on:
        a.hand_on.mkdir(parents=True, exist_ok=True)
        for name in STATE:
            shutil.copyfile(a.work / name, a.hand_on / name)
        return
    sources = [load_photos(s, card=0) if s in a.all_of else load_photos(s) for s in a.photos]
    if a.start_from and not (a.work / "text.safetensors").exists():
        begin_from(a.start_from, a.work)
    texts = teaching_texts(sorted({n for s in sources for n in s.names}))
    if not (a.work / "merges.txt.gz").exists():
        cut_merges(texts, a.work / "merges.txt.gz")
    if not (a.work / "text.safetensors").exists():
        train_text(a.work, texts, a.text_epochs, a.threads, a.device)
    Run(a.work, Data(a.work, sources, a.device, a.threads), sources, a).train()


if __name__ == "__main__":
    main()
