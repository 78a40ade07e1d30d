"""What all tests share: two threads, no hub, no clock on hypothesis, a seed before each test, a browser for those that
ask. Drawings come from the user's cache (or ``$COPRA_LAB_CACHE``), rendered at most once."""

import os
import random
import shutil
import sys

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "2")  # read when torch is imported; subprocesses inherit it
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile("copra-lab", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("copra-lab")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The library reads no global randomness; a test that does by oversight still repeats."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium. Without one a test is skipped, but in continuous integration it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium on PATH; on Debian: apt install chromium")
