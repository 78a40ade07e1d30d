"""The parts of ``tests/fuzz.py``."""
