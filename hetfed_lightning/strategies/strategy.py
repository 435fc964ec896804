"""FederatedStrategy: one process, or several that divide participants, batches, or both between them."""

from __future__ import annotations

import atexit
import contextlib
import logging
import secrets
import signal
import subprocess
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.strategy import Strategy

from hetfed_lightning._strategy_name import DESCRIPTION, NAME
from hetfed_lightning.strategies.collectives import Collectives
from hetfed_lightning.strategies.liveness import GRACE, Watch
from hetfed_lightning.strategies.many_ranks import ManyRanks
from hetfed_lightning.strategies.ranks import Ranks

if TYPE_CHECKING:
    import lightning as L
    from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
    from lightning.pytorch.accelerators import Accelerator
    from lightning.pytorch.plugins.precision import Precision
    from torch import Tensor, nn

    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

B = TypeVar("B")


class FederatedStrategy(DDPStrategy):
    """Lightning strategy for a federation on one device, or on several processes with one device each.

    ``Trainer(strategy="federated", devices=4)`` divides the participants among four ranks: each trains its own, and
    nothing is exchanged inside a round. Work is divided by size first, by measured seconds after the first round. On
    one device the results are those of no strategy at all, to the bit, and there is no process group.

    With ``layout="data"`` every rank trains all participants on its part of each batch, and gradients are summed before
    each step. A loss has to be a mean over the examples, as usual. Batch normalisation sees its rank's part alone; at
    the round's end all ranks take its running statistics from the first rank. Evaluation divides the participants in
    every layout.

    With ``groups`` both are combined: groups of ranks divide the participants, and the ranks of a group split their
    batches.

    Args:
        layout: ``"participant"`` or ``"data"``; unused if ``groups`` is given.
        groups: Number of groups of ranks, a divisor of the number of ranks; None for as many as there are ranks
            (``"participant"``) or one (``"data"``).
        stuck_after: Seconds without a sign of life after which a rank's process counts as stuck, above 0. The others
            then end with an error that names it, as they do at once when it dies or raises.
        timeout: Seconds after which a collective fails that all ranks have begun, above 0. Waiting for others to come
            to it has no limit while they live.
        accelerator: Accelerator, as for ``DDPStrategy``; the Trainer sets it and all arguments below.
        parallel_devices: Devices of this node.
        cluster_environment: Launcher of processes: Lightning itself, torchrun, SLURM, ...
        checkpoint_io: Writer of checkpoints.
        precision_plugin: Precision.
        process_group_backend: ``"gloo"``, ``"nccl"``, ...; None for the device's own.

    Raises:
        ValueError: If a setting is out of its range.
    """

    strategy_name = NAME

    # This strategy does nothing around a backward pass; `backward` checks for these very functions.
    pre_backward = Strategy.pre_backward
    post_backward = Strategy.post_backward

    def __init__(
        self,
        layout: Literal["participant", "data"] = "participant",
        groups: int | None = None,
        *,
        stuck_after: float = 60.0,
        timeout: float = 600.0,
        accelerator: Accelerator | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        process_group_backend: str | None = None,
    ) -> None:
        if layout not in {"participant", "data"}:
            raise ValueError(f"layout: expected 'participant' or 'data', got {layout!r}.")
        if groups is not None and groups < 1:
            raise ValueError(f"groups: expected at least 1, got {groups}.")
        for name, seconds in (("stuck_after", stuck_after), ("timeout", timeout)):
            if not seconds > 0:
                raise ValueError(f"{name}: expected seconds above 0, got {seconds}.")
        super().__init__(
            accelerator=accelerator,
            parallel_devices=parallel_devices,
            cluster_environment=cluster_environment,
            checkpoint_io=checkpoint_io,
            precision_plugin=precision_plugin,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout),
        )
        self.layout = layout
        self.groups = groups
        self.stuck_after = stuck_after
        self.timeout = timeout
        self._collectives: Collectives | None = None
        self._watch: Watch | None = None
        self._ranks: ManyRanks | None = None

    # Ranks for the federation

    def ranks_for(self, federation: FederationView) -> Ranks:
        """Ranks of a run that begins."""
        if self._collectives is None:
            return Ranks()
        self._ranks = ManyRanks(federation, self._collectives, self._number_of_groups)
        return self._ranks

    @property
    def _processes(self) -> int:
        return self.num_nodes * self.num_processes

    @property
    def _number_of_groups(self) -> int:
        if self.groups is not None:
            return self.groups
        return self._processes if self.layout == "participant" else 1

    # Processes

    def _configure_launcher(self) -> None:
        if self._processes > 1:  # One process needs no other, and no address in its environment.
            super()._configure_launcher()

    def setup_environment(self) -> None:
        """Start, or find, the other processes.

        Raises:
            MisconfigurationException: If groups do not divide the processes, or ``sync_batchnorm`` is set.
        """
        if self._processes == 1:
            super(DDPStrategy, self).setup_environment()
            return
        if self._processes % self._number_of_groups:
            raise MisconfigurationException(
                f"FederatedStrategy(groups={self.groups}) does not divide {self._processes} processes: choose devices "
                "and num_nodes so that every group has as many ranks."
            )
        if self._layer_sync is not None:
            raise MisconfigurationException(
                "Trainer(sync_batchnorm=True) joins the batches of different participants. Leave it out; running "
                "statistics are made equal at the end of every round."
            )
        super().setup_environment()
        atexit.register(_leave)
        self._connect()

    def _connect(self) -> None:
        timeout = self._timeout
        store = dist.distributed_c10d._get_default_store()
        gloo = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
        size = self._processes // self._number_of_groups
        replicas = None
        if 1 < size < self._processes:
            for first in range(0, self._processes, size):
                group = dist.new_group(list(range(first, first + size)), timeout=timeout)
                replicas = group if first <= self.global_rank < first + size else replicas
        watch = Watch(
            self.global_rank,
            self._processes,
            stuck_after=self.stuck_after,
            describe=self._describe,
            end_children=self._end_children,
        )
        self._collectives = Collectives(self.global_rank, self._processes, gloo, store, self.timeout, replicas, watch)
        here = "127.0.0.1" if self.num_nodes == 1 else self.cluster_environment.main_address  # type: ignore[union-attr]
        mine = None
        if self.global_rank == 0:
            mine = watch.listen(here if self.num_nodes == 1 else ""), secrets.token_hex(16)
        port, token = self._collectives.share(mine)[0]
        watch.start(here, port, token)
        self._watch = watch

    def _describe(self, rank: int) -> str:
        return f"rank {rank}" if self._ranks is None else self._ranks.describe(rank)

    def _end_children(self) -> None:
        """End the processes that this one launched, the stopped ones too."""
        processes: list[subprocess.Popen[bytes]] = getattr(self.launcher, "procs", [])
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGKILL)

    # The model

    def setup(self, trainer: L.Trainer) -> None:
        """Set up the model as on one device, with the weights of the first rank."""
        Strategy.setup(self, trainer)

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        return model

    def model_to_device(self) -> None:
        """Move the model, and load the first rank's weights on all ranks."""
        super().model_to_device()
        if self._collectives is not None and self.model is not None:
            first = self.global_rank == 0
            state = self._collectives.share(self.model.state_dict() if first else None)[0]
            if not first:
                self.model.load_state_dict(state)

    # Collectives that Lightning asks for

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all ranks, without a limit while they live.

        Args:
            args: Arguments of ``DDPStrategy.barrier``.
            kwargs: Keyword arguments of the same.

        Raises:
            RankLostError: If a rank was lost; names it.
        """
        if self._collectives is not None:
            self._collectives.guarded(lambda: super(FederatedStrategy, self).barrier(*args, **kwargs))

    def broadcast(self, obj: B, src: int = 0) -> B:
        """Value of one rank, on all ranks.

        Args:
            obj: The value; only that of rank ``src`` counts.
            src: Rank of the value.
        """
        if self._collectives is None:
            return obj
        return self._collectives.guarded(lambda: super(FederatedStrategy, self).broadcast(obj, src))

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        """Tensor reduced over all ranks, of the same shape.

        Args:
            tensor: Tensor of this rank, of any shape.
            group: Process group; None for all ranks.
            reduce_op: ``"mean"``, ``"sum"``, or an operation of ``torch.distributed``.
        """
        if self._collectives is None:
            return tensor
        return self._collectives.guarded(lambda: super(FederatedStrategy, self).reduce(tensor, group, reduce_op))

    # The end

    def on_exception(self, exception: BaseException) -> None:
        """Announce an exception to the other ranks."""
        if self._watch is None:
            return
        self._watch.announce(exception)
        if self._watch.verdict is not None:
            self._await_children()

    def _await_children(self) -> None:
        """Let launched processes end by themselves, then end them: a stopped one never would."""
        deadline = time.monotonic() + GRACE
        processes: list[subprocess.Popen[bytes]] = getattr(self.launcher, "procs", [])
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._end_children()

    def teardown(self) -> None:
        """Stop watching the other ranks, and free the device."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        super().teardown()

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Register the strategy under the name ``"federated"``."""
        strategy_registry.register(cls.strategy_name, cls, description=DESCRIPTION)


def _leave() -> None:
    """Leave the process group: its threads would otherwise abort a process that ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def ranks_of(federation: FederationView) -> Ranks:
    """Ranks of a federation's trainer; a single one under any other strategy."""
    strategy = federation.trainer.strategy
    return strategy.ranks_for(federation) if isinstance(strategy, FederatedStrategy) else Ranks()
