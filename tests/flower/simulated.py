"""The engine's simulation in this process: its grid, its nodes and its queues, and where Ray would be, a call."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_dir
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from hetfed_lightning.flower import client_app, server_app

RUN, TASK, SUPERLINK = 7, 8, 1


class Here(Backend):
    """Has messages worked on by whoever brings them, one after another."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked: list[int] = []

    def build(self, app_fn: Any) -> None:
        self.app: ClientApp = app_fn()

    @property
    def num_workers(self) -> int:
        return 1

    def is_worker_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        pass

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        self.asked.append(int(str(context.node_config["partition-id"])))
        return self.app(message=message, context=context), context


def simulate(deployment: Path, nodes: int, **settings: Any) -> Here:
    """Run a deployment's app to its end, as `flwr run` does with a simulation of so many nodes.

    Args:
        deployment: As `hetfed deploy init` writes it.
        nodes: How many.
        settings: Of the run's configuration.
    """
    run = Run.create_empty(run_id=RUN)
    run.primary_task_id, run.federation_id, run.override_config = TASK, NOOP_FEDERATION_ID, settings
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, TASK, SUPERLINK
    states = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = states.state()
    assert isinstance(state, InMemoryLinkState)
    state.run_ids[RUN] = RunRecord(run=run)
    state.task_store[TASK] = Task(task_id=TASK, run_id=RUN)
    grid = InMemoryGrid(states)
    grid.set_run(run)
    app = deployment / "app"
    mapping = vce_api._register_nodes(nodes, states)
    contexts = vce_api._register_node_info_stores(mapping, run, str(app))
    stop, backend = threading.Event(), Here()
    fleet = threading.Thread(
        target=vce_api.run_api,
        args=(lambda: client_app.app, lambda: backend, mapping, states, contexts, stop, VceMetrics()),
    )
    fleet.start()
    try:
        context = Context(RUN, SUPERLINK, {}, RecordDict(), get_fused_config_from_dir(app, settings))
        server_app.app(grid, context)
    finally:
        stop.set()
        fleet.join()
    return backend
