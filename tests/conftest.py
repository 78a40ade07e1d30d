"""What all tests share: two threads, no hub, no clock on hypothesis, a seed before each test, and
for those that ask a browser, the page in a process of its own, and its visitors. Drawings come
from the user's cache (or ``$COPRA_LAB_CACHE``), rendered at most once.
"""

import os
import random
import shutil
import sys

import numpy as np
import pytest
from hypothesis import settings

# read when torch is imported; subprocesses inherit it
os.environ.setdefault("OMP_NUM_THREADS", "2")
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
    """The path of a Chromium. Without one a test is skipped, but in continuous integration it
    fails.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    (pytest.fail if os.environ.get("CI") else pytest.skip)(
        "no chromium on PATH; on Debian: apt install chromium"
    )


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """An adapter that was trained just now, in a folder of its own: (folder, task, adapter)."""
    import copra_lab as cl
    from copra_lab.adapters import save_adapter
    from copra_lab.adapters.peft_folder import WEIGHTS
    from copra_lab.page.state.lab import Lab

    clip, folder = cl.load_clip(), tmp_path_factory.mktemp("mine")
    name = next(iter(Lab().tasks()))
    task = cl.load_task(name, clip)
    adapter = cl.fit(
        clip, task, cl.LoRA(rank=2), seed=77, steps=4, lr=1e-2, batch=16, progress=False
    )
    save_adapter(adapter, folder / name / "lora-fresh")
    save_adapter(adapter, broken := folder / name / "lora-unfinished")
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    return folder, task, adapter


@pytest.fixture(scope="session")
def url(fresh):
    """The address of one page for all, in float32, so that numbers can be compared."""
    from served import served  # recipes/served.py

    with (
        open(fresh[0] / "log", "w+b") as log,
        served("--precision", "float32", "--adapters", str(fresh[0]), log=log) as (address, _),
    ):
        yield address
        assert b"Traceback" not in (fresh[0] / "log").read_bytes()


@pytest.fixture
def visit(browser, url):
    """Visitors come by ``visit(view)``; when they leave, nothing was asked of elsewhere and nothing
    went wrong.
    """
    from visitor import Visitor

    visitors: list[Visitor] = []

    def come(view: str | None = None, **size: int) -> Visitor:
        visitors.append(visitor := Visitor(browser, url, view, **size))
        visitor.pruned() if view == "prune" else visitor.settled(0.0)
        return visitor

    yield come
    for visitor in visitors:
        visitor.leave()


@pytest.fixture(scope="module")
def truth(fresh):
    """Right answers between the first task's first two shipped adapters, by an independent forward
    pass.
    """
    from by_hand import independent

    from copra_lab.models import load_clip
    from copra_lab.page.state.lab import Lab

    _, task, _ = fresh
    lab, clip = Lab(), load_clip()
    a, b = (lab.adapter(task.name, key) for key in lab.first(task.name, 2))
    return lambda weight: independent(clip, task, (a, 1 - weight), (b, weight))


@pytest.fixture(scope="module")
def pruned_truth(fresh):
    """Right answers of the first task's first adapter as the Prune view says it is pruned, by an
    independent forward pass.
    """
    from by_hand import cut, independent

    from copra_lab.models import load_clip
    from copra_lab.page.state.lab import Lab

    _, task, _ = fresh
    lab, clip = Lab(), load_clip()
    adapter = lab.adapter(task.name, lab.one(task.name, None))
    return lambda shown: independent(
        clip,
        task,
        (
            cut(
                adapter,
                list(map(int, shown["layers"].split())),
                shown["kinds"].split(),
                int(shown["sparsity"]),
            ),
            1,
        ),
    )
