"""Values between ranks: from each to all, or to the first. Errors name a rank that was lost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from hetfed_lightning.strategies.liveness import RankLostError
from hetfed_lightning.strategies.packing import cloned, pack, unpack

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.strategies.stopping import Stopping

R = TypeVar("R")

SHORTEST_LOOK, LONGEST_LOOK = 1e-4, 0.004
"""Seconds between two looks of a waiting rank for the others, at first and in the end."""

_meetings = itertools.count()
"""Numbers of the exchanges of this process, over all its runs; every rank counts the same ones."""


class Watching(Protocol):
    """Liveness of the other ranks, as an exchange needs to know it."""

    @property
    def stopping(self) -> Stopping:
        """State of the agreement on where the run stops."""

    def tell_of_stop(self) -> None:
        """Tell the others, once, that a rank was told to stop."""

    @property
    def is_over(self) -> bool:
        """True if the ranks are no longer watched, as between two runs."""

    def check(self) -> None:
        """Raise if a rank was lost.

        Raises:
            RankLostError: If a rank was lost; names it.
        """

    def finished(self) -> str | None:
        """Description of a rank that has left the run; None without one."""

    def explain(self, error: Exception) -> Exception:
        """Error to raise in place of one that a collective raised."""


class Collectives:
    """Collectives on nested values, over the CPU.

    Objects travel by pickle between processes of one job, tensors as bytes beside them. Tensors on a GPU go by way of
    the CPU; gradients, which are exchanged at every step, are reduced on their device.

    Args:
        rank: Rank of this process, from 0.
        world: Number of processes.
        group: Process group on the CPU (gloo).
        store: Store through which the processes met.
        timeout: Seconds that a rank waits for others between two runs, when their liveness is not watched.
        replicas: Process group of the ranks that split the batches of the same participants; None for a single group.
        watch: Liveness of the other ranks.
    """

    def __init__(
        self, rank: int, world: int, group: Any, store: Any, timeout: float, replicas: Any, watch: Watching
    ) -> None:
        self.rank = rank
        self.world = world
        self._group = group
        self._store = store
        self._timeout = timeout
        self._replicas = replicas
        self._watch = watch

    def share(self, value: Any) -> list[Any]:
        """Values of all ranks, by rank, on every rank. Tensors, of any shape, are on the CPU in shared storage."""
        return self.guarded(lambda: self._share(value))

    def collect(self, value: Any) -> list[Any] | None:
        """Values of all ranks, by rank, on rank 0; None on the others. Tensors, of any shape, are copies on the CPU."""
        return self.guarded(lambda: self._collect(value))

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor, of any shape, by its sum over the replicas, which take the same steps together."""
        self._watch.check()
        try:
            dist.all_reduce(tensor, group=self._replicas)
        except RuntimeError as error:
            raise self._watch.explain(error) from error

    def stops(self, signum: int | None) -> int | None:
        """Signal for which all ranks stop here, or None; called at each place where the run may stop.

        Args:
            signum: Signal that this rank has received, or None.
        """
        stopping = self._watch.stopping
        if signum is not None:
            stopping.ask(signum)
            self._watch.tell_of_stop()
        if not stopping.arrive():
            return None
        while stopping.place is None:
            self._watch.check()
            if self._watch.is_over or self._watch.finished():
                return None
            time.sleep(LONGEST_LOOK)
        return stopping.signal if stopping.passed == stopping.place else None

    def guarded(self, call: Callable[[], R]) -> R:
        """Result of a collective, which is run once all ranks have come to it.

        Waiting has no limit, since ranks may come hours apart if some participants take longer: the watch tells whether
        the missing ranks live. The collective itself has a time limit.

        Raises:
            RankLostError: If a rank was lost; names it.
        """
        try:
            self._await_everyone()
            return call()
        except RuntimeError as error:
            raise self._watch.explain(error) from error

    def _await_everyone(self) -> None:
        self._watch.check()
        number = next(_meetings)
        here, all_here = f"hetfed/{number}/here", f"hetfed/{number}/all"
        if self._store.add(here, 1) == self.world:
            self._store.set(all_here, "")
            for old in ("here", "all"):  # All ranks have left the exchange before.
                self._store.delete_key(f"hetfed/{number - 1}/{old}")
            return
        pause, began = SHORTEST_LOOK, time.monotonic()
        while not self._store.check([all_here]):
            self._watch.check()
            left = self._watch.finished()
            late = self._watch.is_over and time.monotonic() - began > self._timeout
            # The last rank may have come, and left, since the look above.
            if (left or late) and not self._store.check([all_here]):
                raise RankLostError(
                    f"Rank {self.rank} waits for {left or 'others'}, which {'has' if left else 'have'} finished. Every "
                    "rank has to make the same calls of the Trainer: look for what is done on one of them alone."
                )
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_LOOK)

    def _share(self, value: Any) -> list[Any]:
        packed = pack(value)
        heads: list[Any] = [None] * self.world
        dist.all_gather_object(heads, (packed.skeleton, packed.length), group=self._group)
        values = []
        for rank, (skeleton, length) in enumerate(heads):
            flat = packed.bytes() if rank == self.rank else torch.empty(length, dtype=torch.uint8)
            if length:
                dist.broadcast(flat, src=rank, group=self._group)
            values.append(unpack(skeleton, flat))
        return values

    def _collect(self, value: Any) -> list[Any] | None:
        packed = pack(value)
        heads: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object((packed.skeleton, packed.length), heads, dst=0, group=self._group)
        if heads is None:
            if packed.length:
                dist.send(packed.bytes(), dst=0, group=self._group)
            return None
        values = []
        for rank, (skeleton, length) in enumerate(heads):
            flat = packed.bytes() if rank == 0 else torch.empty(length, dtype=torch.uint8)
            if length and rank:
                dist.recv(flat, src=rank, group=self._group)
            values.append(cloned(unpack(skeleton, flat)))
        return values
