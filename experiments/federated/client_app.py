"""A client, as Flower runs it: take the server's adapter, train it, send back the result."""

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from rounds import Federation, client_task, from_arrays, local_job, to_arrays

from copra_lab.models import load_clip
from copra_lab.tasks import Task, load_task
from copra_lab.training import fit_many

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round on this client's images.

    It uses one thread, so that the same round gives the same bytes anywhere.
    """
    torch.set_num_threads(1)
    config = message.content["config"]
    federation, clip = Federation.of(config), load_clip()
    client, part = int(context.node_config["partition-id"]), images(context, federation)
    arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
    server = from_arrays(arrays, config["base"], clip, federation)
    job = local_job(part, federation, client, config["server-round"], server)
    (adapter,) = fit_many(clip, [job], progress=False)
    return Message(
        RecordDict({
            "arrays": ArrayRecord({name: Array(a) for name, a in to_arrays(adapter).items()}),
            "metrics": MetricRecord({"num-examples": len(part.train), "client": client}),
        }),
        reply_to=message,
    )  # fmt: skip


def images(context: Context, federation: Federation) -> Task:
    """The node's own ``folder`` of images, or else its share of the federation's task."""
    if "folder" in context.node_config:
        return load_task(str(context.node_config["folder"]), shots=federation.shots)
    return client_task(
        load_task(federation.task, shots=federation.shots),
        federation,
        int(context.node_config["partition-id"]),
    )
