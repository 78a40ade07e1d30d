"""The structured tasks: where, how large, which way, which one, and what time it is."""
