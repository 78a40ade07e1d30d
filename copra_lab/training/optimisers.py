"""Optimisers for stacks of parameters, of which any part may be off in a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MaskedAdamW"]

BETAS = (0.9, 0.999)
EPS = 1e-8


class MaskedAdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) that leaves alone what is off.

    `torch.optim.AdamW` skips a whole tensor that has no gradient. Here tensors hold many matrices
    of many runs, and a mask says which elements take part in a step. The others keep value, moments
    and count, as if each had a tensor of its own without a gradient.

    Args:
        parameters: What is moved.
        counts: For each parameter the shape in which its steps are counted, which broadcasts to
            the parameter's: elements that are always on and off together share a count.
    """

    def __init__(self, parameters: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> None:
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(p) for p in parameters]
        self.squares = [torch.zeros_like(p) for p in parameters]
        self.counts = [
            p.new_zeros(tuple(shape)) for p, shape in zip(parameters, counts, strict=True)
        ]

    @torch.no_grad()
    def step(self, rate: Tensor, decay: Tensor, masks: Sequence[tuple[Tensor, Tensor]]) -> None:
        """One update from the parameters' gradients.

        Args:
            rate: The learning rate, in a shape that broadcasts to the counts'.
            decay: Likewise the weight decay.
            masks: For each parameter, boolean: in the shape of its count what is on, and in its
                own shape (or one that broadcasts to it) which elements take part.
        """
        one, two = BETAS
        for p, m, v, t, (on, mask) in zip(
            self.parameters, self.means, self.squares, self.counts, masks, strict=True
        ):
            if p.grad is None:
                continue
            t += on
            g = torch.where(mask, p.grad, 0)  # no product: what is off need not be finite
            m.mul_(torch.where(on, one, 1.0)).add_(g, alpha=1 - one)
            v.mul_(torch.where(on, two, 1.0)).addcmul_(g, g, value=1 - two)
            steps = t.clamp(min=1)
            spread = v.sqrt().div_((1 - two**steps).sqrt()).add_(EPS)
            p.mul_(torch.where(on, 1 - rate * decay, 1.0))
            p.sub_(torch.where(on, rate / (1 - one**steps), 0) * m / spread)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; the tensors themselves, to read or to write."""
        return {
            f"{name}.{i}": x
            for name in ("parameters", "means", "squares", "counts")
            for i, x in enumerate(t.detach() for t in getattr(self, name))
        }
