"""What does the work of a sweep: processes of this machine, or a Ray or Dask cluster."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from copra_lab.utils.checks import one_of
from copra_lab.utils.devices import cores
from copra_lab.utils.extras import needs

BACKENDS = ("loky", "ray", "dask")


@contextmanager
def engine(backend: str, jobs: int, address: str | None) -> Iterator[int]:
    """Joblib with this engine.

    Args:
        backend: "loky", "ray" or "dask".
        jobs: Workers side by side; -1 for as many as there are cores.
        address: Of a cluster; None for one that is started here.

    Yields:
        How many workers there are.

    Raises:
        ValueError: For an unknown backend, or an address for loky.
        MissingExtra: The engine is not installed.
    """
    one_of("backend", backend, BACKENDS)
    if address and backend == "loky":
        raise ValueError("loky has no address; choose ray or dask for a cluster")
    with needs("sweeps"):
        from joblib import parallel_config
    workers = jobs if jobs > 0 else max(1, cores() + 1 + jobs)
    cluster: AbstractContextManager[int] = nullcontext(workers)
    if backend != "loky":
        cluster = (_ray if backend == "ray" else _dask)(workers, address)
    with cluster as found, parallel_config(backend):
        yield found if jobs < 0 else workers


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[int]:
    """Ray, and how many cores its cluster has."""
    with needs("ray"):
        import ray
        from ray.util.joblib import register_ray
    started = not ray.is_initialized()
    if started:
        # so that workers see the GPUs, which `spread` shares out
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = address or os.environ.get("RAY_ADDRESS")
        ray.init(address=address, **({} if address else {"num_cpus": max(2, workers)}))
    register_ray()
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _dask(workers: int, address: str | None) -> Iterator[int]:
    """Dask, and how many threads its workers have."""
    with needs("dask"):
        from distributed import Client
    here = {} if address else {"n_workers": workers, "threads_per_worker": 1}
    with Client(address, **here) as client:
        yield max(1, sum(client.nthreads().values()))
