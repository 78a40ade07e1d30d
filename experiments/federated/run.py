"""Federated averaging in Flower's simulation: ``python experiments/federated/run.py``.

It averages ΔW, factors, aligned factors, or B with A frozen (FFA-LoRA), for LoRA and CopRA, over
clients that hold different drawing styles or different classes, and writes
``results/federated.csv``. A federation is computed once and stored; an interrupted run continues
where it stopped. ``--check`` writes nothing and compares small federations with the same rounds
without Flower.
"""

import hashlib
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rounds import AGGREGATIONS, METHODS, Federation, rounds
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter
from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import load_task
from copra_lab.utils.files import write_atomically
from copra_lab.utils.statistics import Accuracy

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import arguments, finish

from copra_lab.training import RATES

# No telemetry. Flower and Ray read these when they are imported, so `simulate` imports them. The
# last one selects the way to say that there is no GPU that gives no warning.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

PLAN = {
    "people-occluded": (("style", 2), ("classes", 2), ("classes", 4)),
    "travel-solarised": (("style", 2),),
    "digits": (("classes", 4),),
}
"""How many clients share a task, and how it is split.

On these tasks CLIP learns much in few steps. Digits have only one style, but a thousand test
images.
"""

SEEDS = 3
COLUMNS = ("task", "method", "seed", "setting", "clients", "split", "round", "n", "accuracy")

Served = list[tuple[Adapter, Accuracy]]
"""The server's adapter and its accuracy, before the first round and after each round."""


def federations(tasks: Sequence[str], seeds: int) -> list[Federation]:
    """For each task a single client with all the data, for comparison, and then the plan."""
    return [
        Federation(task, method, aggregation, split, clients, seed, lr=RATES[method])
        for task in tasks
        for split, clients in (("classes", 1), *PLAN[task])
        for aggregation in (AGGREGATIONS if clients > 1 else ("delta",))
        for method in METHODS
        for seed in range(seeds)
    ]


def simulate(
    todo: Sequence[Federation], clip: Clip, cores: int, done: Callable[[Federation, Served], object]
) -> None:
    """Run federations with the same number of clients in one simulation; `done` is told of each."""
    from client_app import app as client_app
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation
    from server_app import serve

    logging.getLogger("flwr").setLevel(logging.ERROR)
    server_app, benches = ServerApp(), dict[str, Bench]()

    @server_app.main()
    def main(grid: Grid, context: object) -> None:
        torch.set_num_threads(1)
        with tqdm(
            total=sum(f.rounds + 1 for f in todo), desc=f"rounds of {todo[0].clients}"
        ) as bar:
            for f in todo:
                bar.set_postfix_str(
                    f"{f.task} {f.method} {f.aggregation} by {f.split}, seed {f.seed}"
                )
                if f.task not in benches:
                    benches[f.task] = Bench(
                        clip, load_task(f.task, shots=f.shots), precision=f.precision
                    )
                done(f, serve(grid, benches[f.task], f, bar.update))

    # Flower prefers ``flwr run`` to this function, but that leaves a service behind; the README
    # shows it.
    machine, client = {"num_cpus": cores, "log_to_driver": False}, {"num_cpus": 1, "num_gpus": 0}
    run_simulation(
        server_app,
        client_app,
        todo[0].clients,
        backend_config={"init_args": machine, "client_resources": client},
    )


def simulate_all(
    todo: Sequence[Federation], clip: Clip, cores: int, done: Callable[[Federation, Served], object]
) -> None:
    for clients in dict.fromkeys(f.clients for f in todo):
        simulate([f for f in todo if f.clients == clients], clip, cores, done)


def kept(federation: Federation, clip: Clip, work: Path) -> Path:
    """Where a federation's accuracies are stored: one file for each base and choice of settings."""
    key = hashlib.blake2b(
        json.dumps([clip.hash, federation.settings()], sort_keys=True).encode(), digest_size=6
    ).hexdigest()
    return (
        work
        / "federated"
        / f"{Path(federation.task).name}-{federation.method}-{federation.aggregation}"
        f"-{federation.seed}-{key}.json"
    )


def rows(federation: Federation, file: Path) -> list[dict]:
    """One row per round; round 0 is before the first."""
    f = federation
    about = {
        "task": f.task,
        "method": f.method,
        "seed": f.seed,
        "setting": f.aggregation,
        "clients": f.clients,
        "split": f.split,
    }
    accuracies = [Accuracy(*a) for a in json.loads(file.read_text(encoding="utf-8"))["accuracies"]]
    return [
        {**about, "round": r, "n": a.n, "accuracy": round(a.value, 4)}
        for r, a in enumerate(accuracies)
    ]


def run(a: Namespace) -> None:
    clip, wanted = load_clip(), federations(a.tasks or list(PLAN), a.seeds or SEEDS)

    def keep(f: Federation, served: Served) -> None:
        record = {
            "settings": f.settings(),
            "adapter": served[-1][0].hash,
            "accuracies": [(x.correct, x.n) for _, x in served],
        }
        write_atomically(kept(f, clip, a.work), json.dumps(record).encode())

    if todo := [f for f in wanted if not kept(f, clip, a.work).exists()]:
        simulate_all(todo, clip, a.jobs, keep)
    finish(a, "federated.csv", COLUMNS, [r for f in wanted for r in rows(f, kept(f, clip, a.work))])


def check(a: Namespace) -> None:
    """Exit with an error if any adapter differs from that of the loop without Flower.

    By more than rounding, that is: the loop trains the clients of a round together.
    """
    clip, task = load_clip(), "people-occluded"
    small = {"rounds": 2, "steps": 3, "shots": 4}
    wanted = [
        Federation(task, m, x, s, c, **small)
        for s, c in (("style", 2), ("classes", 3))
        for x in AGGREGATIONS
        for m in METHODS
    ]
    found: dict[Federation, Served] = {}
    simulate_all(wanted, clip, a.jobs, found.__setitem__)
    torch.set_num_threads(1)
    worst = 0.0
    for f in wanted:
        direct = list(rounds(clip, load_task(f.task, shots=f.shots), f))
        far = [distance(x, y) for (x, _), y in zip(found[f], direct, strict=True)]
        same = [x.hash == y.hash for (x, _), y in zip(found[f], direct, strict=True)]
        worst = max(worst, *far)
        what = f"{f.method:5} {f.aggregation:7} by {f.split:7} of {f.clients}"
        print(
            f"{what}: {sum(same)} of {len(same)} adapters are byte-identical; ΔW differs by at "
            f"most {max(far):.1g}"
        )
    if worst > 1e-4:
        sys.exit(f"Flower's simulation and the loop without it differ by {worst:.1g} in ΔW")


def distance(one: Adapter, other: Adapter) -> float:
    """The largest difference in any entry of ΔW."""
    return max(
        (d.delta() - other.deltas[name].delta()).abs().max().item()
        for name, d in one.deltas.items()
    )


def main() -> None:
    p = arguments(__doc__)
    p.add_argument(
        "--seeds",
        type=int,
        help=f"number of seeds (prints, and writes nothing; default: all {SEEDS})",
    )
    p.add_argument(
        "--check",
        action="store_true",
        help="compare small federations with the same rounds without Flower",
    )
    a = p.parse_args()
    if unknown := set(a.tasks or ()) - set(PLAN):
        p.error(f"no plan for {sorted(unknown)[0]}; choose from {', '.join(PLAN)}")
    try:
        (check if a.check else run)(a)
    except KeyboardInterrupt:
        print("interrupted; finished federations are stored", file=sys.stderr)
        os._exit(
            130
        )  # a plain exit waits for Flower's server, and that one up to an hour for its clients


if __name__ == "__main__":
    main()
