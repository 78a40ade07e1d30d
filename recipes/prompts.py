"""Learn the soft prompts that the app opens with, CoOp and Nemesis on each task that ships
adapters: ``python recipes/prompts.py``. An interrupted run goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes"), str(ROOT / "experiments")]

from adapters import SHIPPED, ship  # noqa: E402 (after the path)
from nemesis import chosen  # noqa: E402

from copra_lab.models import load_clip  # noqa: E402
from copra_lab.sweeps import Run, run_all, trained  # noqa: E402
from copra_lab.utils.devices import cores  # noqa: E402
from copra_lab.zoo import PROMPTS  # noqa: E402

METHODS = ("coop", "pun", "pan")


def kept() -> list[Run]:
    """The runs whose prompts ship."""
    return [chosen(task, method, 0) for task in SHIPPED for method in METHODS]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        "--work",
        type=Path,
        default=user_cache_path("copra-lab") / "experiments",
        help="where trained prompts are kept",
    )
    p.add_argument(
        "--jobs", type=int, default=cores(), help="trainings side by side, one core each"
    )
    a = p.parse_args()
    clip, runs = load_clip(), kept()
    run_all(runs, a.work, jobs=a.jobs, measure=False, retry_failed=True)
    ship(PROMPTS, {run: trained(run, clip, a.work)[0] for run in runs})


if __name__ == "__main__":
    main()
