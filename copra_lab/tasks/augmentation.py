"""Training augmentation, as in CoOp (arXiv:2109.01134) and its followers."""

import math

import torch
import torch.nn.functional as F


def random_crop(
    images: torch.Tensor, generator: torch.Generator, *, flip: bool, least: float = 0.5
) -> torch.Tensor:
    """Random resized crops, each image its own.

    CoOp's keep 0.5–1 of the area at an aspect ratio of 3/4–4/3.

    Args:
        images: Float (n, c, h, w) of any range.
        generator: Source of randomness, on the CPU.
        flip: Whether to mirror half of the images.
        least: Least share of the area that is kept; the nearer to 1, the closer to a square.

    Returns:
        The crops, in the same shape.
    """
    n = len(images)
    u = torch.rand(n, 5, generator=generator)
    area = least + (1 - least) * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * (math.log(4 / 3) * (1 - least) / 0.5))
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = (1 - wide) * (2 * u[:, 2] - 1), (1 - high) * (2 * u[:, 3] - 1)
    mirror = torch.where((u[:, 4] < 0.5) & flip, -1.0, 1.0)
    zero = torch.zeros(n)
    rows = [torch.stack([wide * mirror, zero, x], -1), torch.stack([zero, high, y], -1)]
    theta = torch.stack(rows, 1).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
