"""Soft prompts: learned vectors in place of a prompt's words, their corruption, and Nemesis."""

from copra_lab.prompts.corruption import replace, rescale
from copra_lab.prompts.nemesis import Nemesis, omega, pan, pun
from copra_lab.prompts.soft_prompt import VPT, CoOp, PromptError, SoftPrompt, norms, word_norm

__all__ = [
    "VPT",
    "CoOp",
    "Nemesis",
    "PromptError",
    "SoftPrompt",
    "norms",
    "omega",
    "pan",
    "pun",
    "replace",
    "rescale",
    "word_norm",
]
