"""Pretrain the bundled CLIP, in stages that resume: ``python recipes/pretrain.py --photos cifar100_train.npz``.

1. The vocabulary: the part of CLIP's byte pairs that captions and prompts need.
2. The text tower learns from a sentence encoder which names are close; then it is locked (locked-text tuning, LiT,
   arXiv:2111.07991), so that every caption is encoded once and the hours go into the image tower.
3. The image tower learns by contrast: an image against every seen name at once (besides its kind, its medium and its
   background), and from an ImageNet network's features of the same drawing or photograph.

Everything is kept in ``--work``; a stage that is done is not done again, and stage 3 goes on from its last
checkpoint. The learning rate warms up, stays, and decays over the last part of ``--steps`` (warm-up, stable, decay),
so a later run may ask for more steps and go on from ``stable.pt``. Where that file is lost, ``--start-from`` an adopted
model takes over its vocabulary, its text tower and its image tower, and warms up again.
"""

import argparse
import json
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from captions import COLOURS, MEDIA, TEMPLATES, cut_merges, emoji_names, icon_names, kind_of_photo, seen, teaching_texts
from photos import load_photos
from safetensors.torch import load_file, save_file
from teachers import image_features, principal, sentence_features
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from copra_lab.concepts import concepts
from copra_lab.gallery import drawings

WIDTH, LAYERS, HEADS, EMBED, CONTEXT, SIDE = 128, 12, 4, 128, 32, 64
TEACHER = 192  # principal axes of the image teacher that are learnt
NAMES_FIRST = 2000  # steps after which kinds weigh more: by then names alone are learnt by heart
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def config(vocab_size: int) -> dict:
    """The model in open_clip's own words."""
    return {
        "embed_dim": EMBED,
        "vision_cfg": {"image_size": SIDE, "patch_size": 16, "width": WIDTH, "layers": LAYERS, "head_width": WIDTH // HEADS, "mlp_ratio": 3.0},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocab_size, "width": WIDTH, "heads": HEADS, "layers": 4},
    }  # fmt: skip


def build(vocab_size: int):
    from open_clip.model import CLIP

    torch.manual_seed(0)
    return CLIP(**config(vocab_size))


def tokenizer(work: Path):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(work / "merges.txt.gz"), context_length=CONTEXT)


def encode_text(model, tokens: torch.Tensor) -> torch.Tensor:
    """Text features (n, EMBED), not normalised. Cuts the padding: attention is causal, so this changes nothing."""
    n = int(tokens.argmax(-1).max()) + 1
    x = model.token_embedding(tokens[:, :n]) + model.positional_embedding[:n]
    x = model.transformer(x, attn_mask=model.attn_mask[:n, :n].to(x.dtype))
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return x @ model.text_projection


class Halves:
    """Gradients of a batch in two halves on two threads, in bfloat16, for float32 master weights."""

    def __init__(self, master: torch.nn.Module, trained: list[str], threads: int):
        self.master, self.threads = master, threads
        params = dict(master.named_parameters())
        self.trained = [params[n] for n in trained]
        import copy

        self.fast_model = copy.deepcopy(master).to(torch.bfloat16)
        fast = dict(self.fast_model.named_parameters())
        self.fast = [fast[n] for n in trained]
        self.pool = ThreadPoolExecutor(threads)

    def step(self, loss_of_half) -> dict[str, float]:
        """Sets ``.grad`` of the master weights. `loss_of_half(model, i)` → (loss, numbers to report)."""
        with torch.no_grad():
            torch._foreach_copy_(self.fast, self.trained)

        def half(i: int):
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's bfloat16 backward is ten times slower on a CPU
                loss, numbers = loss_of_half(self.fast_model, i)
                return torch.autograd.grad(loss, self.fast), numbers

        grads, numbers = zip(*self.pool.map(half, range(self.threads)), strict=True)
        for p, *gs in zip(self.trained, *grads, strict=True):
            p.grad = sum(g.float() for g in gs) / self.threads
        return {k: float(np.mean([n[k] for n in numbers])) for k in numbers[0]}


def optimisers(named: dict[str, torch.nn.Parameter], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest."""
    inside = {n: p for n, p in named.items() if p.ndim == 2 and "resblocks" in n}
    plain = [p for n, p in named.items() if n not in inside and p.ndim >= 2]
    bare = [p for n, p in named.items() if p.ndim < 2]
    return [
        torch.optim.Muon(inside.values(), lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": plain, "weight_decay": 0.05}, {"params": bare, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98)),
    ]


# --- stage 2 -------------------------------------------------------------------------------------------------------


def train_text(work: Path, photo_names: list[str], epochs: int, threads: int) -> None:
    texts = teaching_texts(photo_names)
    teacher_file = work / "sentence.safetensors"
    if not teacher_file.exists():
        save_file({"features": sentence_features(texts).half()}, teacher_file)
    target = F.normalize(principal(load_file(teacher_file)["features"], EMBED), dim=-1)
    tok = tokenizer(work)
    tokens = tok(texts)
    model = build(tok.vocab_size)
    names = [n for n, _ in model.named_parameters() if not n.startswith("visual") and n != "logit_scale"]
    halves = Halves(model, names, threads)
    opts = optimisers({n: p for n, p in model.named_parameters() if n in names}, 2e-3)
    lengths, rng = tokens.argmax(-1).numpy(), np.random.default_rng(0)
    batch, total = 512, epochs * (len(texts) // 512)
    with tqdm(total=total, desc="text tower") as bar:
        for step in range(total):
            if step % 32 == 0:  # batches of like lengths waste no padding
                pool = rng.choice(len(texts), 32 * batch, replace=False)
                batches = rng.permutation(pool[np.argsort(lengths[pool], kind="stable")].reshape(32, batch))
            rows = batches[step % 32].reshape(threads, -1)
            for o in opts:
                for g in o.param_groups:
                    g["lr"] = 2e-3 * min(1, step / 100, (total - step) / (0.5 * total))

            def loss_of(model, i, rows=rows):
                f = F.normalize(encode_text(model, tokens[rows[i]]).float(), dim=-1)
                t = target[rows[i]]
                cosine = (f * t).sum(-1).mean()
                contrast = F.cross_entropy(f @ t.T / 0.05, torch.arange(len(t)))
                return 4 * (1 - cosine) + 0.5 * contrast, {"cosine": cosine.item(), "contrast": contrast.item()}

            numbers = halves.step(loss_of)
            for o in opts:
                o.step()
            if step % 20 == 0:
                bar.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()})
            bar.update()
    atomic({k: v for k, v in model.state_dict().items() if not k.startswith("visual")}, work / "text.safetensors")


def atomic(tensors: dict[str, torch.Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, part)
    os.replace(part, path)


# --- stage 3 -------------------------------------------------------------------------------------------------------


def jitter(x: torch.Tensor, g: torch.Generator, grey: float) -> torch.Tensor:
    """Brightness, contrast, saturation and a mild mixing of channels; a share `grey` loses its colour. x: (n, 3, h, w)."""
    n = len(x)

    def r(lo: float, hi: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, generator=g) * (hi - lo) + lo

    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = torch.where(torch.rand(n, 1, 1, 1, generator=g) < grey, torch.zeros(()), r(0.6, 1.3))
    x = luma + (x - luma) * saturation
    mix = torch.eye(3) + torch.randn(n, 3, 3, generator=g) * 0.06
    x = torch.einsum("ncd,ndhw->nchw", mix / mix.sum(-1, keepdim=True), x)
    return ((x - 0.5) * r(0.6, 1.3) + 0.5 + r(-0.15, 0.15)).clamp(0, 1)


def warp(x: torch.Tensor, g: torch.Generator, zoom: tuple[float, float], turn: float, shift: float, flip: torch.Tensor) -> torch.Tensor:
    """Random zoom, turn (degrees), shift and flip of (n, c, h, w) → (n, c, SIDE, SIDE); empty outside."""
    n = len(x)
    angle = (torch.rand(n, generator=g) * 2 - 1) * math.radians(turn)
    scale = torch.exp(torch.rand(n, generator=g) * math.log(zoom[1] / zoom[0]) + math.log(zoom[0]))
    aspect = torch.exp((torch.rand(n, generator=g) * 2 - 1) * 0.15)
    sx, sy = (1 - 2 * flip.float()) / (scale * aspect), aspect / scale
    at = (torch.rand(n, 2, generator=g) * 2 - 1) * shift
    theta = torch.stack(
        [torch.stack([angle.cos() * sx, -angle.sin() * sy, at[:, 0]], -1), torch.stack([angle.sin() * sx, angle.cos() * sy, at[:, 1]], -1)], 1
    )
    return F.grid_sample(x, F.affine_grid(theta, [n, x.shape[1], SIDE, SIDE], align_corners=False), align_corners=False)


class Data:
    """Every image pretraining sees, its names, kind, and the teacher's features."""

    def __init__(self, work: Path, photos):
        by_key = {c.key: c for c in concepts()}
        emoji = emoji_names()
        self.rgba = torch.from_numpy(np.concatenate([drawings(s).rgba for s in ("openmoji", "twemoji")]))
        twice = [*emoji, *emoji]
        self.emoji = [i for i, n in enumerate(twice) if n]
        icons = [(s, i, n) for s in ("mdi", "fa") for i, n in enumerate(icon_names(s)) if n]
        self.icons = torch.from_numpy(np.stack([drawings(s).rgba[i, ..., 3] for s, i, _ in icons]))
        self.photo_rows = [i for i, label in enumerate(photos.labels) if photos.train[i] and seen(photos.names[label])]
        self.photos = torch.from_numpy(photos.images)
        self.photo_labels, self.photo_names = photos.labels, photos.names

        names = sorted({n for ns in twice for n in ns} | {n for _, _, n in icons} | {n for n in photos.names if seen(n)})
        self.names, row = names, {n: i for i, n in enumerate(names)}
        self.emoji_rows = {i: [row[n] for n in twice[i]] for i in self.emoji}
        self.icon_rows = [row[n] for _, _, n in icons]
        self.photo_row = [row.get(n, -1) for n in photos.names]
        keys = [*drawings("openmoji").keys, *drawings("twemoji").keys]
        self.kinds = sorted({c.kind for c in concepts()} | {k for k in map(kind_of_photo, photos.names) if k})
        self.emoji_kind = {i: self.kinds.index(by_key[keys[i]].kind) for i in self.emoji}
        self.photo_kind = [self.kinds.index(k) if (k := kind_of_photo(n)) else -1 for n in photos.names]
        mirrored = {"Symbols", "Flags"}
        self.may_flip = torch.tensor([by_key[k].category not in mirrored and not {"left", "right"} & set(by_key[k].name.split()) for k in keys])

        file = work / "imagenet.safetensors"
        if not file.exists():
            on_white = self.rgba[self.emoji].float()
            alpha = on_white[..., 3:] / 255
            on_white = (on_white[..., :3] * alpha + 255 * (1 - alpha)).byte().numpy()
            halves = [on_white, photos.images[self.photo_rows]]
            save_file({"drawings": image_features(halves[0]), "photos": image_features(halves[1])}, file)
        features = load_file(file)
        both = torch.cat([features["drawings"], features["photos"]])
        both = principal(both, TEACHER)
        both = both / both.std(0).clamp_min(1e-6) * (both.std(0) / both.std(0)[0]) ** 0.5  # between raw and white
        self.teacher = F.normalize(both, dim=-1)

    def batch(self, n: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """`n` augmented images (n, 3, SIDE, SIDE), normalised, in bfloat16, with the rows of their captions."""
        g = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        n_photo, n_icon = int(n * 0.42), int(n * 0.13)
        n_emoji = n - n_photo - n_icon
        e, i, p = (
            rng.integers(len(self.emoji), size=n_emoji),
            rng.integers(len(self.icons), size=n_icon),
            rng.integers(len(self.photo_rows), size=n_photo),
        )
        rows = torch.tensor(self.photo_rows)[p]
        photo = warp(self.photos[rows].permute(0, 3, 1, 2).float() / 255, g, (1.0, 1.7), 10, 0.25, torch.rand(n_photo, generator=g) < 0.5)

        index = torch.tensor(self.emoji)[e]
        drawing = self.rgba[index].permute(0, 3, 1, 2).float() / 255
        drawing = torch.cat([drawing[:, :3] * drawing[:, 3:], drawing[:, 3:]], 1)
        flip = (torch.rand(n_emoji, generator=g) < 0.5) & self.may_flip[index]
        drawing = warp(drawing, g, (0.6, 1.15), 22, 0.2, flip)
        ink = torch.rand(n_icon, 3, 1, 1, generator=g) * 0.5
        mask = warp(self.icons[i].unsqueeze(1).float() / 255, g, (0.6, 1.1), 22, 0.2, torch.zeros(n_icon))
        drawn = torch.cat([drawing, torch.cat([mask * ink, mask], 1)])

        colour = torch.from_numpy(rng.integers(len(COLOURS), size=len(drawn)))
        palette = torch.tensor(list(COLOURS.values())).float() / 255
        colour[torch.rand(len(drawn), generator=g) < 0.25] = 0  # much of what is drawn is drawn on white
        ground = palette[colour].view(-1, 3, 1, 1).expand(-1, -1, SIDE, SIDE)
        other = torch.from_numpy(rng.integers(len(self.photo_rows), size=len(drawn)))
        scene = F.interpolate(self.photos[torch.tensor(self.photo_rows)[other]].permute(0, 3, 1, 2).float() / 255, size=(SIDE, SIDE), mode="bilinear")
        on_scene = torch.rand(len(drawn), 1, 1, 1, generator=g) < 0.2
        light = torch.cat([torch.zeros(n_emoji), (palette[colour[n_emoji:]].mean(-1) < 0.35).float()]).view(-1, 1, 1, 1)
        front = drawn[:, :3] + light * drawn[:, 3:] * 0.5  # an icon's ink stands out from a dark ground
        image = torch.cat([front + torch.where(on_scene, scene, ground) * (1 - drawn[:, 3:]), photo])
        image = jitter(image, g, 0.12)
        image = (image - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)

        synonyms = [self.emoji_rows[int(k)] for k in index]
        labels = self.photo_labels[rows]
        name = [r[rng.integers(len(r))] for r in synonyms] + [self.icon_rows[k] for k in i] + [self.photo_row[k] for k in labels]
        kind = [self.emoji_kind[int(k)] for k in index] + [-1] * n_icon + [self.photo_kind[k] for k in labels]
        ground_row = torch.where(on_scene.flatten(), -1, colour)
        medium = torch.cat([torch.zeros(n_emoji), torch.ones(n_icon), torch.full((n_photo,), 2.0)]).long()
        taught = torch.cat([torch.from_numpy(e), torch.full((n_icon,), -1), len(self.emoji) + torch.from_numpy(p)])
        hide = [(row, other) for row, r in enumerate(synonyms) for other in r if other != name[row]]
        return {
            "image": image.to(torch.bfloat16), "name": torch.tensor(name), "kind": torch.tensor(kind), "medium": medium,
            "ground": torch.cat([ground_row, torch.full((n_photo,), -1)]), "taught": taught,
            "hide": torch.tensor(hide).reshape(-1, 2),
        }  # fmt: skip


@torch.no_grad()
def banks(model, tok, data: Data) -> dict[str, list[torch.Tensor]]:
    """The text features of every caption the loss contrasts against, one table a template."""

    def encode(texts: list[str]) -> torch.Tensor:
        return torch.cat([F.normalize(encode_text(model, tok(texts[i : i + 512])), dim=-1) for i in range(0, len(texts), 512)])

    templates = sorted({t for ts in TEMPLATES.values() for t in ts})
    return {
        "name": [encode([t.format(n) for n in data.names]) for t in templates],
        "kind": [encode([t.format(k) for k in data.kinds]) for t in templates],
        "ground": [encode([f"{m} on a {c} background" for c in COLOURS]) for m in MEDIA.values()],
        "medium": [encode(list(MEDIA.values()))],
    }


class Student(torch.nn.Module):
    def __init__(self, visual):
        super().__init__()
        self.visual = visual
        self.head = torch.nn.Linear(EMBED, TEACHER)
        self.scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x):
        f = self.visual(x)
        return F.normalize(f.float(), dim=-1), F.normalize(self.head(f).float(), dim=-1), self.scale.float().exp().clamp(max=100)


def train_image(
    work: Path, data: Data, steps: int, batch: int, lr: float, threads: int, decay: float, minutes: float, restart: bool, begin_with: Path | None
) -> None:
    tok = tokenizer(work)
    clip = build(tok.vocab_size)
    clip.load_state_dict(load_file(work / "text.safetensors"), strict=False)
    table = banks(clip, tok, data)
    student = Student(clip.visual)
    names_first = NAMES_FIRST
    if begin_with:
        adopted = load_file(begin_with / "open_clip_model.safetensors")
        clip.load_state_dict({k: v.float() for k, v in adopted.items()})
        student.scale.data.copy_(clip.logit_scale)
        names_first = 0
    named = dict(student.named_parameters())
    opts = optimisers(named, lr)
    state, stable, start = work / "state.pt", work / "stable.pt", 0
    if restart and stable.exists():
        os.replace(stable, state)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        student.load_state_dict(saved["student"])
        for o, s in zip(opts, saved["optimisers"], strict=True):
            o.load_state_dict(s)
        start = saved["step"]
    halves = Halves(student, list(named), threads)
    begin, began = time.time(), start

    def save(step: int, path: Path) -> None:
        torch.save({"student": student.state_dict(), "optimisers": [o.state_dict() for o in opts], "step": step}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    log = open(work / "log.jsonl", "a", encoding="utf-8")
    with tqdm(total=steps, initial=start, desc="image tower", mininterval=5) as bar:
        for step in range(start, steps):
            if step == int(steps * (1 - decay)):
                save(step, stable)
            rate = lr * min(1, (step + 1) / 300, 1 - math.sqrt(max(0, step / steps - (1 - decay)) / decay) if decay else 1)
            for o in opts:
                for group in o.param_groups:
                    group["lr"] = max(rate, 1e-6)

            def loss_of(model, i, step=step):
                rng = np.random.default_rng([step, i])
                b = data.batch(batch // threads, rng)
                f, taught, scale = model(b["image"])
                losses = {}
                for what, tables in table.items():
                    logits = scale * (f @ tables[rng.integers(len(tables))].T)
                    if what == "name" and len(b["hide"]):
                        logits[b["hide"][:, 0], b["hide"][:, 1]] = -1e4
                    losses[what] = F.cross_entropy(logits, b[what], ignore_index=-1)
                rows = b["taught"] >= 0
                losses["teacher"] = 1 - (taught[rows] * data.teacher[b["taught"][rows]]).sum(-1).mean()
                kind = 0.25 if step < names_first else 0.6
                loss = losses["name"] + kind * losses["kind"] + 0.1 * losses["ground"] + 0.1 * losses["medium"] + 2 * losses["teacher"]
                return loss, {k: v.item() for k, v in losses.items()} | {"scale": scale.item()}

            numbers = halves.step(loss_of)
            torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
            for o in opts:
                o.step()
            bar.update()
            if step % 50 == 0:
                bar.set_postfix({k: f"{v:.2f}" for k, v in numbers.items()}, refresh=False)
                rate_now = (step + 1 - began) * batch / (time.time() - begin)
                log.write(
                    json.dumps({"step": step, "lr": rate, "images_per_second": round(rate_now), **{k: round(v, 4) for k, v in numbers.items()}})
                    + "\n"
                )
                log.flush()
            if (step + 1) % 500 == 0:
                save(step + 1, state)
                clip.logit_scale.data.copy_(student.scale.data.clamp(max=math.log(100)))
                atomic(clip.state_dict(), work / "clip.safetensors")
            if time.time() - begin > minutes * 60:
                save(step + 1, state)
                return
    save(steps, state)
    clip.logit_scale.data.copy_(student.scale.data.clamp(max=math.log(100)))
    atomic(clip.state_dict(), work / "clip.safetensors")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", required=True, help="CIFAR-100: an .npz of JPEGs, a folder for torchvision's download, or a folder of class folders")
    p.add_argument("--work", type=Path, default=Path.home() / ".cache" / "copra-lab-pretrain", help="where stages and checkpoints are kept")
    p.add_argument("--text-epochs", type=int, default=8)
    p.add_argument("--steps", type=int, default=9000, help="of the image tower, in all")
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--decay", type=float, default=0.3, help="share of the steps over which the rate decays")
    p.add_argument("--minutes", type=float, default=math.inf, help="stop stage 3 after this time (it resumes)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--start-from", type=Path, help="a folder written by export_clip.py whose towers to go on with")
    p.add_argument("--longer", action="store_true", help="go on from the end of the stable part, for more --steps")
    a = p.parse_args()
    torch.set_num_threads(1)
    a.work.mkdir(parents=True, exist_ok=True)
    photos = load_photos(a.photos)
    if a.start_from and not (a.work / "text.safetensors").exists():
        shutil.copyfile(a.start_from / "merges.txt.gz", a.work / "merges.txt.gz")
        adopted = load_file(a.start_from / "open_clip_model.safetensors")
        atomic({k: v.float() for k, v in adopted.items() if not k.startswith("visual")}, a.work / "text.safetensors")
    if not (a.work / "merges.txt.gz").exists():
        cut_merges(teaching_texts(photos.names), a.work / "merges.txt.gz")
    if not (a.work / "text.safetensors").exists():
        train_text(a.work, photos.names, a.text_epochs, a.threads)
    train_image(a.work, Data(a.work, photos), a.steps, a.batch, a.lr, a.threads, a.decay, a.minutes, a.longer, a.start_from)


if __name__ == "__main__":
    main()
