"""Flower's client, in a module that Ray's workers can import.

It is idiomatic: it loads the arrays it was sent into a network, trains, and sends arrays and the number of its
examples back. Workers keep everybody's data, so that no round reads any.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional

from scripts.benchmark.workloads import Data, Network, named


@functools.cache
def everybody(name: str) -> tuple[Network, list[Data]]:
    """A network and everybody's data, once per worker."""
    workload = named(name)
    return next(iter(workload.networks().values())), list(workload.data().values())


def client_of(name: str) -> Any:
    """The client of a workload."""
    app = ClientApp()

    @app.train()
    def train_one(message: Any, context: Any) -> Any:
        torch.set_num_threads(1)
        workload = named(name)
        network, data = everybody(name)
        inputs, targets = data[int(context.node_config["partition-id"])]
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = workload.optimizer(network.parameters())
        for batch in torch.randperm(len(targets)).split(workload.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({"num-examples": len(targets)}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    return app
