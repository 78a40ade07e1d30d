"""The text tower of the bundled CLIP.

It learns from a sentence encoder which names are close, and is then locked (locked-text tuning,
LiT, arXiv:2111.07991), so that every caption is encoded once.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import COLOURS, MEDIA, TEMPLATES
from safetensors.torch import load_file, save_file
from student import EMBED, Replicas, atomic, build, optimisers, tokenizer
from teachers import principal, sentence_features
from torch import Tensor, nn
from tqdm.auto import tqdm


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Text features (n, EMBED), not normalised.

    Padding is cut off; attention is causal, so this changes nothing.
    """
    n = int(tokens.argmax(-1).max()) + 1
    x = model.token_embedding(tokens[:, :n]) + model.positional_embedding[:n]
    x = model.transformer(x, attn_mask=model.attn_mask[:n, :n].to(x.dtype))
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return x @ model.text_projection


def train_text(work: Path, texts: list[str], epochs: int, threads: int, device: str) -> None:
    """Write ``text.safetensors`` into the folder `work`."""
    teacher_file = work / "sentence.safetensors"
    if not teacher_file.exists():
        save_file({"features": sentence_features(texts).half()}, teacher_file)
    target = F.normalize(principal(load_file(teacher_file)["features"], EMBED), dim=-1).to(device)
    tok = tokenizer(work)
    tokens = tok(texts)
    model = build(tok.vocab_size).to(device)
    named = {
        n: p
        for n, p in model.named_parameters()
        if not n.startswith("visual") and n != "logit_scale"
    }
    replicas, opts = Replicas(named, threads, device), optimisers(named, 2e-3)
    lengths, rng = tokens.argmax(-1).numpy(), np.random.default_rng(0)
    tokens = tokens.to(device)
    batch, total = 512, epochs * (len(texts) // 512)
    with tqdm(total=total, desc="text tower", mininterval=5) as bar:
        for step in range(total):
            if step % 32 == 0:  # batches of like lengths waste no padding
                pool = rng.choice(len(texts), 32 * batch, replace=False)
                batches = rng.permutation(
                    pool[np.argsort(lengths[pool], kind="stable")].reshape(32, batch)
                )
            rows = batches[step % 32].reshape(threads, -1)
            for o in opts:
                for g in o.param_groups:
                    g["lr"] = 2e-3 * min(1, step / 100, (total - step) / (0.5 * total))

            def loss_of(i: int, rows: np.ndarray = rows) -> tuple[Tensor, dict[str, float]]:
                f = F.normalize(encode_text(model, tokens[rows[i]]).float(), dim=-1)
                t = target[rows[i]]
                cosine = (f * t).sum(-1).mean()
                contrast = F.cross_entropy(f @ t.T / 0.05, torch.arange(len(t), device=device))
                return 4 * (1 - cosine) + 0.5 * contrast, {
                    "cosine": cosine.item(),
                    "contrast": contrast.item(),
                }

            numbers = replicas.gradients(loss_of)
            for o in opts:
                o.step()
            if step % 20 == 0:
                bar.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()}, refresh=False)
            bar.update()
    atomic(
        {k: v for k, v in model.state_dict().items() if not k.startswith("visual")},
        work / "text.safetensors",
    )


@torch.no_grad()
def encoded(model: nn.Module, work: Path, texts: Sequence[str]) -> Tensor:
    """The locked tower's normalised features (n, EMBED) of texts, stored in the folder `work`."""
    own = (
        p for n, p in model.named_parameters() if not n.startswith("visual") and n != "logit_scale"
    )
    weights = b"".join(p.detach().cpu().numpy().tobytes() for p in own)
    name = hashlib.blake2b(weights + "\n".join(texts).encode(), digest_size=8).hexdigest()
    file = work / f"captions-{name}.safetensors"
    if not file.exists():
        tok = tokenizer(work)
        parts = [
            tok(list(texts[i : i + 512]))
            for i in tqdm(range(0, len(texts), 512), desc="captions", leave=False)
        ]
        atomic(
            {"features": torch.cat([F.normalize(encode_text(model, t), dim=-1) for t in parts])},
            file,
        )
    return load_file(file)["features"]


def tables(
    model: nn.Module, work: Path, names: list[str], kinds: list[str], device: str
) -> dict[str, list[Tensor]]:
    """Features of every caption that the loss contrasts an image with, one table per template."""
    templates = sorted({t for ts in TEMPLATES.values() for t in ts})
    texts = {
        "name": [[t.format(n) for n in names] for t in templates],
        "kind": [[t.format(k) for k in kinds] for t in templates],
        "ground": [[f"{m} on a {c} background" for c in COLOURS] for m in MEDIA.values()],
        "medium": [list(MEDIA.values())],
    }
    flat = [text for tables in texts.values() for table in tables for text in table]
    left = iter(
        encoded(model, work, flat)
        .to(device)
        .split([len(table) for tables in texts.values() for table in tables])
    )
    return {what: [next(left) for _ in tables] for what, tables in texts.items()}
