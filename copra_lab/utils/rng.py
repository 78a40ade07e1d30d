"""Randomness that an interruption cannot lose."""

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, step: int, use: str) -> torch.Generator:
    """Randomness for one step of one run: it depends on nothing that an interruption could lose."""
    words = hashlib.blake2b(f"{use} {seed} {step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(words, "little") >> 1)
