"""A configuration of `hetfed` beside a plain loop that trains its participants on the same batches.

Distillation is left out on both sides, and so is a participant's transform: what is compared is local steps and
averages.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning as L
import torch

from hetfed_lightning import BackboneAveraging
from hetfed_lightning.cli.compare import CompareCLI
from scripts.benchmark.ours import How, order_of, train
from scripts.benchmark.plain import Group, PlainLoop
from scripts.benchmark.rounds import Record
from scripts.benchmark.workloads import Network


def train_configured(config: str, how: How) -> tuple[int, Record]:
    """Ours and the plain loop on a configuration.

    Args:
        config: File with a federation, data, and a BackboneAveraging among the callbacks.
        how: The run's settings.

    Returns:
        The number of participants, and what the run gave.

    Raises:
        ValueError: If there is no BackboneAveraging.
    """
    cli = CompareCLI(["-c", config, "--threads", str(torch.get_num_threads())], run=False)
    L.seed_everything(0, verbose=False)
    made = cli.parser.instantiate(cli.config)
    configured = made.trainer.callbacks or []
    averaging = next((one for one in configured if isinstance(one, BackboneAveraging)), None)
    if averaging is None:
        raise ValueError(f"{config} has no BackboneAveraging among its callbacks, so there is nothing to compare.")
    clock = train(made.model, made.data, [averaging], how, lambda host: loop_of(host, averaging, how.device))
    return len(made.model.participants), clock.record


def loop_of(federation: Any, averaging: BackboneAveraging, device: str) -> PlainLoop:
    """The plain loop of a federation that is about to train."""
    members = federation.members()
    sources = {name: federation.federated_data.source(name) for name in members}
    return PlainLoop(
        {name: Network(deepcopy(one.backbone), deepcopy(one.head)) for name, one in members.items()},
        {name: (one.dataset.inputs.to(device), one.dataset.targets.to(device)) for name, one in sources.items()},
        optimizers={name: one.optimizer_factory or torch.optim.Adam for name, one in members.items()},
        batch_sizes={name: one.batch_size for name, one in sources.items()},
        groups=[Group(group.members, group.keys) for group in averaging.sharing.values()],
        order=order_of(federation.seed),
        local_epochs={name: one.local_epochs for name, one in members.items()},
        forgets=averaging.optimizer_state == "reset",
    )
