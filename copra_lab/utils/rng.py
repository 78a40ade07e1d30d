"""Random numbers that depend only on the seed and the step, so an interrupted run can resume."""

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, step: int, use: str) -> torch.Generator:
    """A fresh random generator for one step of one run.

    There is no state to save: a run that resumes at a step draws what an unbroken run would.

    Args:
        seed: The run's seed.
        step: Number of the training step.
        use: What the numbers are for, so that different uses in one step are independent.
    """
    digest = hashlib.blake2b(f"{use} {seed} {step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
