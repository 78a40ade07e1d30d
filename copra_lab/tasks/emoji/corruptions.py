"""Image operations of the tasks: laying a drawing on a ground, and the nuisances that make it harder to recognise.

Two layouts of tensor. A *drawing* is float (n, 4, side, side): colour premultiplied with alpha, then alpha. An *image*
is float (n, 3, side, side). Both lie in [0, 1]. Every function is pure and takes one generator an image, so that a
picture depends on its own seed and never on its neighbours in the batch. Sizes are shares of the side, so that a
nuisance looks the same at any resolution.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F

Generators = Sequence[torch.Generator]
Nuisance = Callable[[torch.Tensor, Generators], torch.Tensor]


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One generator a seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _uniform(gens: Generators, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Numbers of [low, high), (n, *shape): row i from generator i."""
    return torch.stack([torch.rand(shape, generator=g) for g in gens]) * (high - low) + low


def place(
    rgba: torch.Tensor,
    gens: Generators,
    side: int,
    *,
    zoom: tuple[float, float] = (0.7, 1.0),
    turn: float = 12.0,
) -> torch.Tensor:
    """Drawings from uint8 (n, h, h, 4), straight alpha, at a random size (share of the side), angle (± `turn` degrees)
    and position within the frame."""
    drawing = rgba.permute(0, 3, 1, 2).float() / 255
    drawing = torch.cat([drawing[:, :3] * drawing[:, 3:], drawing[:, 3:]], 1)
    if 2 * side < drawing.shape[-1]:  # bilinear sampling alone would skip thin lines
        drawing = F.interpolate(drawing, size=(side, side), mode="bilinear", antialias=True)
    scale = _uniform(gens, low=zoom[0], high=zoom[1])
    angle = _uniform(gens, low=-math.radians(turn), high=math.radians(turn))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    x, y = (_uniform(gens, 2, low=-1, high=1) * (1 / scale - 0.96).unsqueeze(-1)).unbind(-1)
    theta = torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], 1)
    grid = F.affine_grid(theta, [len(drawing), 4, side, side], align_corners=False)
    return F.grid_sample(drawing, grid, align_corners=False).clamp(0, 1)


def silhouette(drawing: torch.Tensor, gens: Generators, *, left: float = 0.0) -> torch.Tensor:
    """The drawings' shapes in one dark colour each, through which a share `left` of their own colours shows."""
    alpha = drawing[:, 3:]
    return torch.cat(
        [(1 - left) * _uniform(gens, 3, 1, 1, high=0.35) * alpha + left * drawing[:, :3], alpha], 1
    )


def on_ground(drawing: torch.Tensor, gens: Generators, *, white: float = 0.4) -> torch.Tensor:
    """Images: the drawings on a plain ground, white for a share `white` of them, else pastel."""
    pastel = _uniform(gens, 3, 1, 1, low=0.6)
    ground = torch.where(_uniform(gens, 1, 1, 1) < white, torch.ones(()), pastel)
    return drawing[:, :3] + ground * (1 - drawing[:, 3:])


def copies(rgba: torch.Tensor, counts: Sequence[int], gens: Generators, side: int) -> torch.Tensor:
    """Drawings: `counts[i]` (1 to 9) small copies of drawing i, none over another. Their size varies, so that the
    amount of ink does not give the number away."""
    cell = side // 3
    small = place(rgba, gens, cell - 1, zoom=(0.7, 1.0))
    cells = _uniform(gens, 9).argsort(-1)
    out = torch.zeros(len(rgba), 4, side, side)
    for i, count in enumerate(counts):
        for c in cells[i, :count].tolist():
            y, x = c // 3 * cell + 1, c % 3 * cell + 1
            out[i, :, y : y + cell - 1, x : x + cell - 1] = small[i]
    return out


def sketch(images: torch.Tensor, gens: Generators, *, tint: float = 0.0) -> torch.Tensor:
    """Grey pencil lines where colour changes, on paper, and a share `tint` of the colours as a wash."""
    pixels = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = pixels[..., 1:-1, 2:] - pixels[..., 1:-1, :-2]
    down = pixels[..., 2:, 1:-1] - pixels[..., :-2, 1:-1]
    edge = (across**2 + down**2).sqrt().amax(1, keepdim=True)
    pencil = _uniform(gens, 1, 1, 1, low=0.7)
    lines = 1 - pencil * (1.6 * edge - 0.08).clamp(0, 1)
    return lines * (1 - tint * (1 - images))


def negative(images: torch.Tensor, gens: Generators, *, above: float = 0.0) -> torch.Tensor:
    """Colours inverted where they are brighter than `above`: 0 as on a film negative, more as on a print that saw light
    while it was developed."""
    return torch.where(images > above, 1 - images, images)


def noise(
    images: torch.Tensor,
    gens: Generators,
    *,
    sigma: tuple[float, float] = (0.15, 0.3),
    dead: float = 1 / 12,
) -> torch.Tensor:
    """Gaussian noise of a deviation from `sigma`, and a share `dead` of the pixels turned black or white."""
    shape = images.shape[1:]
    grain = torch.stack([torch.randn(shape, generator=g) for g in gens]) * _uniform(
        gens, 1, 1, 1, low=sigma[0], high=sigma[1]
    )
    u = _uniform(gens, 1, *shape[1:])
    noisy = torch.where(
        u < dead / 2, torch.zeros(()), torch.where(u > 1 - dead / 2, torch.ones(()), images + grain)
    )
    return noisy.clamp(0, 1)


def patches(
    images: torch.Tensor, gens: Generators, *, share: float = 0.35, cells: int = 7
) -> torch.Tensor:
    """A share of the squares of a grid of `cells` × `cells` hidden behind one flat colour an image."""
    hidden = _uniform(gens, cells * cells).argsort(-1).argsort(-1) < round(share * cells * cells)
    mask = F.interpolate(
        hidden.view(-1, 1, cells, cells).float(), size=images.shape[-2:], mode="nearest"
    )
    return torch.where(mask > 0, _uniform(gens, 3, 1, 1), images)


def mosaic(
    images: torch.Tensor, gens: Generators, *, cells: tuple[int, int] = (12, 15)
) -> torch.Tensor:
    """Coarse pixels: so many a side, from the first number to the last."""
    out, sizes = torch.empty_like(images), _uniform(gens, low=cells[0], high=cells[1] + 1).int()
    for c in sizes.unique().tolist():
        rows = sizes == c
        out[rows] = F.interpolate(
            F.interpolate(images[rows], size=(c, c), mode="area"),
            size=images.shape[-2:],
            mode="nearest",
        )
    return out


def waves(
    images: torch.Tensor, gens: Generators, *, reach: tuple[float, float] = (0.06, 0.1)
) -> torch.Tensor:
    """As through rippling water: rows and columns swing to and fro, as far as `reach` (half the side is 1)."""
    n, _, h, w = images.shape
    grid = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, h, w], align_corners=False)
    far, pace, phase = (
        _uniform(gens, 1, 1, 2, low=a, high=b) for a, b in (reach, (4.0, 8.0), (0.0, 2 * math.pi))
    )
    grid = grid + far * torch.sin(pace * grid.flip(-1) + phase)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def blur(images: torch.Tensor, gens: Generators, *, sigma: float = 0.04) -> torch.Tensor:
    """Gaussian blur, `sigma` a share of the side."""
    at = torch.arange(images.shape[-1]) / images.shape[-1]
    weight = torch.exp(-((at - at.unsqueeze(1)) ** 2) / (2 * sigma**2))
    weight = weight / weight.sum(
        1, keepdim=True
    )  # at the edge too; two products are far faster than a depthwise convolution
    return (weight @ images @ weight.T).clamp(0, 1)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Float (n, 3, h, w) in [0, 1] → uint8 (n, h, w, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def random_crop(images: torch.Tensor, generator: torch.Generator, *, flip: bool) -> torch.Tensor:
    """Random resized crop of float (n, c, h, w) of any range, same shape: area 0.5–1 of the image, aspect 3/4–4/3, mirrored
    half the time if `flip`: the training augmentation of CoOp and its followers."""
    n = len(images)
    u = torch.rand(n, 5, generator=generator)
    area, aspect = 0.5 + 0.5 * u[:, 0], torch.exp((2 * u[:, 1] - 1) * math.log(4 / 3))
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = (1 - wide) * (2 * u[:, 2] - 1), (1 - high) * (2 * u[:, 3] - 1)
    mirrored = torch.where((u[:, 4] < 0.5) & flip, -1.0, 1.0)
    zero = torch.zeros(n)
    theta = torch.stack(
        [torch.stack([wide * mirrored, zero, x], -1), torch.stack([zero, high, y], -1)], 1
    )
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
