"""Training data of the bundled CLIP's image tower: named drawings, icons and photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from augment import jitter, uniform, warp
from captions import COLOURS, emoji_names, icon_names, kind_of_photo, names_of_photo, seen_photo
from photos import SIDE, Photos, fingerprint
from safetensors.torch import load_file, save_file
from teachers import image_features, principal
from torch import Tensor

from copra_lab.tasks.emoji.concepts import concepts
from copra_lab.tasks.emoji.drawings import drawings

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

SHARES = {"drawing": 0.32, "icon": 0.12, "photo": 0.56}
"""Shares of a batch."""

TEACHER = 192
"""Principal axes of the image teacher's features that are learned."""

NOT_MIRRORED = {"Symbols", "Flags"}


class Data:
    """Every image that pretraining sees, with its names, its kind and the teacher's features.

    The loss contrasts an image with all ``names`` and ``kinds``. A drawing or photograph has
    several names (a tabby is also a cat): in a batch one of them is its caption, and the others
    count neither as right nor as wrong.
    """

    def __init__(
        self, work: Path, sources: Sequence[Photos], device: str = "cpu", threads: int = 1
    ):
        by_key = {c.key: c for c in concepts()}
        keys = [*drawings("openmoji").keys, *drawings("twemoji").keys]
        twice = [*emoji_names(), *emoji_names()]
        self.device = torch.device(device)
        rgba = np.concatenate([drawings(s).rgba for s in ("openmoji", "twemoji")])
        emoji = np.array([i for i, names in enumerate(twice) if names])
        icons = [
            (drawings(s).rgba[i, ..., 3], name)
            for s in ("mdi", "fa")
            for i, name in enumerate(icon_names(s))
            if name
        ]
        classes = [
            (source, label, name)
            for source in sources
            for label, name in enumerate(source.names)
            if seen_photo(name)
        ]
        shown = [
            np.flatnonzero(
                (s.part == "train")
                & np.isin(s.labels, [label for of, label, _ in classes if of is s])
            )
            for s in sources
        ]

        all_names = {n for names in twice for n in names} | {n for _, n in icons}
        self.names = sorted(all_names | {n for *_, name in classes for n in names_of_photo(name)})
        self.kinds = sorted(
            {c.kind for c in concepts()}
            | {kind for *_, name in classes if (kind := kind_of_photo(name))}
        )
        row, kind_row = (
            {n: i for i, n in enumerate(self.names)},
            {k: i for i, k in enumerate(self.kinds)},
        )

        self.emoji = torch.from_numpy(rgba[emoji]).to(device)
        self.icons = torch.from_numpy(np.stack([alpha for alpha, _ in icons])).to(device)
        self.photos = torch.from_numpy(
            np.concatenate([s.images[rows] for s, rows in zip(sources, shown, strict=True)])
        ).to(device)
        of_photo = {
            (s.name, label): [row[n] for n in names_of_photo(name)] for s, label, name in classes
        }
        self.emoji_names = [[row[n] for n in twice[i]] for i in emoji]
        self.icon_names = [row[n] for _, n in icons]
        self.photo_names = [
            of_photo[s.name, label]
            for s, rows in zip(sources, shown, strict=True)
            for label in s.labels[rows]
        ]
        self.emoji_kinds = np.array([kind_row[by_key[keys[i]].kind] for i in emoji])
        self.photo_kinds = np.array(
            [
                kind_row.get(kind_of_photo(s.names[label]) or "", -1)
                for s, rows in zip(sources, shown, strict=True)
                for label in s.labels[rows]
            ]
        )
        concept = [by_key[keys[i]] for i in emoji]
        flips = [
            c.category not in NOT_MIRRORED and not {"left", "right"} & set(c.name.split())
            for c in concept
        ]
        self.may_flip = torch.tensor(flips, device=device)

        on_white = rgba[emoji].astype(np.float32)
        alpha = on_white[..., 3:] / 255
        taught = [(on_white[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)]
        taught += [s.images[rows] for s, rows in zip(sources, shown, strict=True)]
        axes = principal(
            torch.cat([kept_features(work, images, threads, device) for images in taught]), TEACHER
        )
        spread = axes.std(0).clamp_min(1e-6)
        self.teacher = F.normalize(axes / spread * (spread / spread[0]) ** 0.5, dim=-1).to(
            device
        )  # between raw and white

    def batch(self, n: int, seed: Sequence[int]) -> dict[str, Tensor]:
        """`n` augmented images (n, 3, 64, 64), normalised, and what the loss needs for each.

        That is the rows of its name, kind, medium and background (-1 for none), the teacher's
        features, and ``hide`` (m, 2): images, and other names of theirs.
        """
        rng = np.random.default_rng(seed)
        g = torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62)))
        n_photo, n_icon = round(n * SHARES["photo"]), round(n * SHARES["icon"])
        n_emoji = n - n_photo - n_icon
        e, i, p = (
            rng.integers(len(of), size=k)
            for of, k in ((self.emoji, n_emoji), (self.icons, n_icon), (self.photos, n_photo))
        )
        image, on_scene, colour = self._pictures(e, i, p, rng, g)

        names = [
            *(self.emoji_names[k] for k in e),
            *([self.icon_names[k]] for k in i),
            *(self.photo_names[k] for k in p),
        ]
        name = [own[0] if rng.random() < 0.6 else own[rng.integers(len(own))] for own in names]
        hide = [(k, other) for k, own in enumerate(names) for other in own if other != name[k]]
        ground = np.concatenate([np.where(on_scene, -1, colour), np.full(n_photo, -1)])
        rows = {
            "name": name, "hide": np.array(hide).reshape(-1, 2), "ground": ground,
            "kind": np.concatenate([self.emoji_kinds[e], np.full(n_icon, -1), self.photo_kinds[p]]),
            "medium": np.repeat([0, 1, 2], [n_emoji, n_icon, n_photo]),
            "taught": np.concatenate([e, np.full(n_icon, -1), len(self.emoji) + p]),
        }  # fmt: skip
        return {"image": image} | {
            k: torch.as_tensor(v, device=self.device) for k, v in rows.items()
        }

    def _pictures(
        self,
        e: np.ndarray,
        i: np.ndarray,
        p: np.ndarray,
        rng: np.random.Generator,
        g: torch.Generator,
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """The images, and the background of each drawing and icon: a photograph or a colour."""
        at = lambda rows: torch.as_tensor(rows, device=self.device)  # noqa: E731
        photo = planes(self.photos[at(p)])
        photo = warp(photo, g, (1.0, 2.0), 10, uniform(g, 0, 1, len(p)) < 0.5, outside="reflection")

        drawing = planes(self.emoji[at(e)])
        drawing = torch.cat([drawing[:, :3] * drawing[:, 3:], drawing[:, 3:]], 1)
        flip = (uniform(g, 0, 1, len(e)) < 0.5) & self.may_flip[at(e)]
        drawing = warp(drawing, g, (0.6, 1.15), 22, flip, shift=0.2)
        mask = warp(
            self.icons[at(i)].unsqueeze(1).float() / 255,
            g,
            (0.6, 1.1),
            22,
            torch.zeros(len(i), device=self.device),
            shift=0.2,
        )
        icon = torch.cat([mask * uniform(g, 0, 0.5, len(i), 3, 1, 1), mask], 1)
        drawn = torch.cat([drawing, icon])

        palette = torch.tensor(list(COLOURS.values()), device=self.device).float() / 255
        colour = rng.integers(len(COLOURS), size=len(drawn))
        colour[rng.random(len(drawn)) < 0.25] = 0  # much of what is drawn is drawn on white
        ground = palette[at(colour)].view(-1, 3, 1, 1)
        on_scene = rng.random(len(drawn)) < 0.2
        scene = planes(self.photos[at(rng.integers(len(self.photos), size=int(on_scene.sum())))])
        behind = ground.expand(-1, -1, SIDE, SIDE).clone()
        behind[at(on_scene)] = scene
        dark = (palette[at(colour[len(e) :])].mean(-1) < 0.35).float()
        light = torch.cat([torch.zeros(len(e), device=self.device), dark]).view(-1, 1, 1, 1)
        front = (
            drawn[:, :3] + light * drawn[:, 3:] * 0.5
        )  # an icon's ink stands out from a dark ground
        image = jitter(torch.cat([front + behind * (1 - drawn[:, 3:]), photo]), g, 0.12)
        return normalised(image), on_scene, colour


def planes(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, c) → (n, c, h, w) in 0…1."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def normalised(x: Tensor) -> Tensor:
    """CLIP's input from (n, 3, h, w) in 0…1."""
    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


def kept_features(work: Path, images: np.ndarray, threads: int, device: str) -> Tensor:
    """The image teacher's features, computed once and stored in the folder `work`."""
    file = work / f"teacher-{fingerprint(images)}.safetensors"
    if not file.exists():
        part = file.with_suffix(".part")
        save_file({"features": image_features(images, threads=threads, device=device)}, part)
        part.replace(file)
    return load_file(file)["features"]
