"""Random crops, rotations and colours for a batch of images, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Random numbers between two others, on the generator's device."""
    return torch.rand(shape, generator=g, device=g.device) * (high - low) + low


def jitter(x: Tensor, g: torch.Generator, grey: float) -> Tensor:
    """Brightness, contrast, saturation and mild channel mixing of (n, 3, h, w) in 0…1.

    A share `grey` loses its colour.
    """
    n = len(x)
    luma = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)).sum(
        1, keepdim=True
    )
    saturation = torch.where(
        uniform(g, 0, 1, n, 1, 1, 1) < grey, 0, uniform(g, 0.6, 1.3, n, 1, 1, 1)
    )
    x = luma + (x - luma) * saturation
    mix = torch.eye(3, device=x.device) + torch.randn(n, 3, 3, generator=g, device=g.device) * 0.06
    x = torch.einsum("ncd,ndhw->nchw", mix / mix.sum(-1, keepdim=True), x)
    return (
        (x - 0.5) * uniform(g, 0.6, 1.3, n, 1, 1, 1) + 0.5 + uniform(g, -0.15, 0.15, n, 1, 1, 1)
    ).clamp(0, 1)


def warp(
    x: Tensor,
    g: torch.Generator,
    zoom: tuple[float, float],
    turn: float,
    flip: Tensor,
    shift: float | None = None,
    outside: str = "zeros",
    side: int = 64,
) -> Tensor:
    """Random zoom, rotation (degrees), shift and flip of (n, c, h, w) → (n, c, side, side).

    ``shift`` is the largest one, in units of half an image; None allows any that keeps the crop
    inside the image. ``outside`` is the padding, in the terms of ``grid_sample``.
    """
    n = len(x)
    angle = uniform(g, -math.radians(turn), math.radians(turn), n)
    scale = torch.exp(uniform(g, math.log(zoom[0]), math.log(zoom[1]), n))
    aspect = torch.exp(uniform(g, -0.15, 0.15, n))
    sx, sy = (1 - 2 * flip.float()) / (scale * aspect), aspect / scale
    most = (1 - 1 / scale).clamp_min(0) if shift is None else torch.full_like(scale, shift)
    at = uniform(g, -1, 1, n, 2) * most[:, None]
    rows = (
        [angle.cos() * sx, -angle.sin() * sy, at[:, 0]],
        [angle.sin() * sx, angle.cos() * sy, at[:, 1]],
    )
    theta = torch.stack([torch.stack(row, -1) for row in rows], 1)
    grid = F.affine_grid(theta, [n, x.shape[1], side, side], align_corners=False)
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=False)
