"""Prompt: the learned vectors of a soft prompt, longer and shorter."""
