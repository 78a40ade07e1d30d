"""The parts of ``tests/long/fuzz.py``."""
