"""Image operations of the tasks: placing drawings on a background, and corruptions.

There are two tensor layouts. A *drawing* is float (n, 4, side, side): colour premultiplied with
alpha, then alpha. An *image* is float (n, 3, side, side). Both are in [0, 1]. Every function is
pure and takes one generator per image, so that an image depends on its own seed and not on the rest
of the batch. Sizes are shares of the side, so that a corruption looks the same at any resolution.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F

Generators = Sequence[torch.Generator]
Nuisance = Callable[[torch.Tensor, Generators], torch.Tensor]


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One generator per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _uniform(gens: Generators, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Numbers in [low, high), (n, *shape): row i from generator i."""
    return torch.stack([torch.rand(shape, generator=g) for g in gens]) * (high - low) + low


def place(
    rgba: torch.Tensor,
    gens: Generators,
    side: int,
    *,
    zoom: tuple[float, float] = (0.7, 1.0),
    turn: float = 12.0,
) -> torch.Tensor:
    """Place drawings at a random size, angle and position within the frame.

    Args:
        rgba: uint8 (n, h, h, 4) with straight alpha.
        gens: One generator per drawing.
        side: Width and height of the result in pixels.
        zoom: Smallest and largest size, as shares of the side.
        turn: Largest angle to either side, in degrees.

    Returns:
        Drawings.
    """
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
    """The drawings' shapes in one dark colour each, with a share `left` of their own colours."""
    alpha = drawing[:, 3:]
    dark = _uniform(gens, 3, 1, 1, high=0.35)
    return torch.cat([(1 - left) * dark * alpha + left * drawing[:, :3], alpha], 1)


def on_ground(drawing: torch.Tensor, gens: Generators, *, white: float = 0.4) -> torch.Tensor:
    """Drawings on a plain background, white for a share `white` of them, else pastel."""
    pastel = _uniform(gens, 3, 1, 1, low=0.6)
    ground = torch.where(_uniform(gens, 1, 1, 1) < white, torch.ones(()), pastel)
    return drawing[:, :3] + ground * (1 - drawing[:, 3:])


def copies(rgba: torch.Tensor, counts: Sequence[int], gens: Generators, side: int) -> torch.Tensor:
    """`counts[i]` (1 to 9) small copies of drawing i, none over another.

    Their size varies, so that the amount of ink does not give the number away.
    """
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
    """Grey pencil lines where colour changes, with a share `tint` of the colours as a wash."""
    pixels = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = pixels[..., 1:-1, 2:] - pixels[..., 1:-1, :-2]
    down = pixels[..., 2:, 1:-1] - pixels[..., :-2, 1:-1]
    edge = (across**2 + down**2).sqrt().amax(1, keepdim=True)
    pencil = _uniform(gens, 1, 1, 1, low=0.7)
    lines = 1 - pencil * (1.6 * edge - 0.08).clamp(0, 1)
    return lines * (1 - tint * (1 - images))


def negative(images: torch.Tensor, gens: Generators, *, above: float = 0.0) -> torch.Tensor:
    """Invert colours that are brighter than `above`.

    0 looks like a film negative; more looks solarised, like a print that saw light too early.
    """
    return torch.where(images > above, 1 - images, images)


def noise(
    images: torch.Tensor,
    gens: Generators,
    *,
    sigma: tuple[float, float] = (0.15, 0.3),
    dead: float = 1 / 12,
) -> torch.Tensor:
    """Gaussian noise, its deviation from `sigma`; a share `dead` of pixels is black or white."""
    shape = images.shape[1:]
    normal = torch.stack([torch.randn(shape, generator=g) for g in gens])
    noisy = images + normal * _uniform(gens, 1, 1, 1, low=sigma[0], high=sigma[1])
    u = _uniform(gens, 1, *shape[1:])
    noisy = torch.where(u > 1 - dead / 2, torch.ones(()), noisy)
    return torch.where(u < dead / 2, torch.zeros(()), noisy).clamp(0, 1)


def patches(
    images: torch.Tensor, gens: Generators, *, share: float = 0.35, cells: int = 7
) -> torch.Tensor:
    """Hide a share of the squares of a `cells` × `cells` grid behind one flat colour per image."""
    hidden = _uniform(gens, cells * cells).argsort(-1).argsort(-1) < round(share * cells * cells)
    grid = hidden.view(-1, 1, cells, cells).float()
    mask = F.interpolate(grid, size=images.shape[-2:], mode="nearest")
    return torch.where(mask > 0, _uniform(gens, 3, 1, 1), images)


def mosaic(
    images: torch.Tensor, gens: Generators, *, cells: tuple[int, int] = (12, 15)
) -> torch.Tensor:
    """Coarse pixels, per side at least the first number of `cells` and at most the last."""
    out, sizes = torch.empty_like(images), _uniform(gens, low=cells[0], high=cells[1] + 1).int()
    for c in sizes.unique().tolist():
        rows = sizes == c
        small = F.interpolate(images[rows], size=(c, c), mode="area")
        out[rows] = F.interpolate(small, size=images.shape[-2:], mode="nearest")
    return out


def waves(
    images: torch.Tensor, gens: Generators, *, reach: tuple[float, float] = (0.06, 0.1)
) -> torch.Tensor:
    """Rippling water: rows and columns swing as far as `reach`, where half the side is 1."""
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
    weight = weight / weight.sum(1, keepdim=True)  # at the edge too
    # Two products are much faster than a depthwise convolution.
    return (weight @ images @ weight.T).clamp(0, 1)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Float (n, 3, h, w) in [0, 1] → uint8 (n, h, w, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous()
