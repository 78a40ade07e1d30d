"""The server, as Flower runs it: send the adapter, average the results, measure on test images."""

from collections.abc import Callable, Iterable

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from rounds import Federation, aggregate, from_arrays, initial, to_arrays

from copra_lab.adapters import Adapter, save_adapter
from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import load_task
from copra_lab.utils.statistics import Accuracy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One federation with the run's configuration; Flower logs the accuracies.

    ``save`` is a folder for the adapter.
    """
    torch.set_num_threads(1)
    federation, clip = Federation.of(context.run_config), load_clip()
    bench = Bench(
        clip, load_task(federation.task, shots=federation.shots), precision=federation.precision
    )
    adapter = serve(grid, bench, federation)[-1][0]
    if folder := context.run_config.get("save"):
        save_adapter(adapter, folder)


def serve(
    grid: Grid,
    bench: Bench,
    federation: Federation,
    after_round: Callable[[], object] = lambda: None,
) -> list[tuple[Adapter, Accuracy]]:
    """The server's adapter and its accuracy, before the first round and after each round."""
    clip, found = bench.clip, list[tuple[Adapter, Accuracy]]()

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        adapter = received(arrays, clip, federation)
        found.append((adapter, bench.accuracy(adapter)))
        after_round()
        return MetricRecord({"accuracy": found[-1][1].value, "images": found[-1][1].n})

    AdapterAverage(clip, federation).start(
        grid,
        sent(initial(clip, federation)),
        num_rounds=federation.rounds,
        train_config=ConfigRecord(federation.settings() | {"base": clip.hash}),
        evaluate_fn=evaluate,
    )
    return found


class AdapterAverage(FedAvg):
    """Flower's FedAvg with the averages of `rounds`.

    All clients take part in every round, and one that fails stops the run: an average without its
    images would look like one with them.
    """

    def __init__(self, clip: Clip, federation: Federation):
        super().__init__(
            fraction_evaluate=0.0,
            min_train_nodes=federation.clients,
            min_available_nodes=federation.clients,
        )
        self.clip, self.federation, self.first = clip, federation, initial(clip, federation)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        if failed := next((m for m in replies if m.has_error()), None):
            raise RuntimeError(f"a client failed in round {server_round}: {failed.error.reason}")
        # In the clients' order, since a sum of floats depends on it, and answers come in any.
        contents = sorted((m.content for m in replies), key=lambda c: c["metrics"]["client"])
        clients = [c["metrics"]["client"] for c in contents]
        if clients != list(range(self.federation.clients)):
            wanted = f"one answer each from clients 0 to {self.federation.clients - 1}"
            raise RuntimeError(
                f"expected {wanted}, got {clients}; give every node its own partition-id"
            )
        adapters = [received(c["arrays"], self.clip, self.federation) for c in contents]
        return sent(
            aggregate(
                self.federation,
                adapters,
                [c["metrics"]["num-examples"] for c in contents],
                self.first,
            )
        ), None


def sent(adapter: Adapter) -> ArrayRecord:
    return ArrayRecord({name: Array(a) for name, a in to_arrays(adapter).items()})


def received(arrays: ArrayRecord, clip: Clip, federation: Federation) -> Adapter:
    return from_arrays(
        {name: array.numpy() for name, array in arrays.items()}, clip.hash, clip, federation
    )
