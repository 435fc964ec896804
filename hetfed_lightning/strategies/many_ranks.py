"""Several processes that train one federation: the work of each rank, and the values that ranks exchange."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hetfed_lightning.logs.metric_store import keep_to_oneself, merge_notes
from hetfed_lightning.strategies.checks import check_same_data, check_shares
from hetfed_lightning.strategies.placement import Placement, balanced, rebalanced, share_of
from hetfed_lightning.strategies.ranks import Ranks
from hetfed_lightning.strategies.state_transfer import (
    complete_checkpoint,
    forget_optimizers,
    load_moved_state,
    load_round_state,
    moved_state,
    round_state,
)
from hetfed_lightning.strategies.times import StepTimes, expected_costs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.local_training.local_optimization import Reduction
    from hetfed_lightning.logs.metric_store import Ledger, Reduced
    from hetfed_lightning.participants.participant import Stage
    from hetfed_lightning.strategies.collectives import Collectives

log = logging.getLogger(__name__)

V = TypeVar("V")


class ManyRanks(Ranks):
    """Ranks in groups: a group hosts some participants, its replicas split their batches.

    At a round's end every rank receives the states of all participants that trained. The computation after that is the
    same on every rank, on the same states and in the same order, so that it gives the same bits.

    Args:
        federation: Federation to train.
        collectives: Collectives between the ranks.
        groups: Number of groups, a divisor of the number of ranks.
    """

    def __init__(self, federation: FederationView, collectives: Collectives, groups: int) -> None:
        self._federation = federation
        self._collectives = collectives
        self.rank = collectives.rank
        self._expected = expected_costs(federation)
        self._times = StepTimes()
        for participant in federation.everyone().values():
            keep_to_oneself(participant)
        self.placement = Placement(balanced(self._expected, groups), groups, collectives.world // groups)

    def describe(self, rank: int) -> str:
        """A rank in words, with its participants and the round."""
        hosted = self.placement.hosted_by(rank)
        who = ", ".join(hosted[:5]) + (f" and {len(hosted) - 5} more" if len(hosted) > 5 else "")
        return f"rank {rank} (participants: {who or 'none'}) in round {self._federation.current_round}"

    # Participants of this rank

    def hosts(self, name: str) -> bool:
        """True if a participant (or the student) takes its steps here."""
        return self.rank in self.placement.ranks_of(name)

    def measures(self, name: str) -> bool:
        """True if a participant is evaluated, and run as a teacher, here; true on one rank for each."""
        return self.rank == self.placement.measurer_of(name)

    def is_timed(self, name: str) -> bool:
        """True if a participant's local steps are to be timed: in its first round, if there is more than one group."""
        return self.placement.groups > 1 and not self._times.knows(name)

    def note_seconds(self, name: str, seconds: float) -> None:
        """Record the duration of a local step.

        Args:
            name: Participant that has stepped.
            seconds: Seconds of the step.
        """
        self._times.note(name, seconds)

    # Parts of a batch

    def share(self, indices: Tensor) -> Tensor:
        """This rank's part of a batch's indices, shape ``(B',)`` of ``(B,)``; may be empty."""
        part = share_of(len(indices), self.placement.replicas, self.placement.replica_of(self.rank))
        return indices[part.start : part.stop]

    def weight(self, name: str, batch_idx: int) -> float:
        """Fraction in [0, 1] of a participant's batch on this rank, which weighs its mean in that of the whole batch.

        Args:
            name: The participant.
            batch_idx: Index of the batch in the round.
        """
        if self.placement.replicas == 1:
            return 1.0
        size = self._federation.train_loader().length_of(name, batch_idx)
        return len(share_of(size, self.placement.replicas, self.placement.replica_of(self.rank))) / size

    @property
    def reduction(self) -> Reduction | None:  # type: ignore[override]
        """Function that sums gradients over the replicas; None if no batch is split."""
        return None if self.placement.replicas == 1 else self._reduce

    @torch.no_grad()
    def _reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum all gradients at once. One that no replica has stays None, so that optimizers skip the parameter."""
        dtype = torch.float32
        for parameter in parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        found = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=dtype)
        parts = [
            torch.zeros(parameter.numel(), dtype=dtype, device=parameter.device)
            if parameter.grad is None
            else parameter.grad.reshape(-1).to(dtype)
            for parameter in parameters
        ]
        flat = torch.cat([*parts, found.to(parts[0].device)])
        self._collectives.add(flat)
        *sums, found = flat.split([*(parameter.numel() for parameter in parameters), len(parameters)])
        for parameter, total, count in zip(parameters, sums, found.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(total.view_as(parameter))

    @property
    def stream(self) -> tuple[int, ...]:  # type: ignore[override]
        """Addition to the names of random streams, one per replica, so that dropout differs between batch parts."""
        replica = self.placement.replica_of(self.rank)
        return (replica,) if replica else ()

    # Values of other ranks

    def synchronise(self, names: Sequence[str]) -> None:
        """Share participants' states and step counts with all ranks; buffers are those of the first replica."""
        federation = self._federation
        mine = {
            name: round_state(federation, name) | {"seconds": self._times.round_of(name)}
            for name in names
            if self.placement.owner_of(name) == self.rank
        }
        for rank, reports in enumerate(self._collectives.share(mine)):
            for name, found in reports.items():
                if rank != self.rank:
                    load_round_state(federation, name, found)
                self._times.settle(name, found["seconds"])

    def agreed(self, names: Sequence[str]) -> list[str]:
        """Names given by at least one rank, in the federation's order."""
        given = {name for part in self._collectives.share(list(names)) for name in part}
        return [name for name in self.placement.hosts if name in given]

    def gathered(self, values: Mapping[str, V], order: Sequence[str]) -> dict[str, V]:
        """Values by name, from all ranks; names without a value are left out.

        Args:
            values: Values of this rank; a name has a value on one rank only.
            order: Names, in the order of the result.
        """
        found = {name: value for part in self._collectives.share(dict(values)) for name, value in part.items()}
        return {name: found[name] for name in order if name in found}

    def reduced(self, ledger: Ledger, stage: Stage) -> dict[str, Reduced]:
        """Reduced notes of all ranks, by key; the ledger is empty afterwards.

        Args:
            ledger: Ledger of this rank.
            stage: Stage of the notes.
        """
        if stage == "train" and self.placement.replicas > 1:  # Each replica has noted its own examples.
            return merge_notes(self._collectives.share(ledger.take_notes()))
        return {key: figure for part in self._collectives.share(ledger.reduce()) for key, figure in part.items()}

    # Moments of a run

    def prepare(self) -> None:
        """Check, before training, for things that ranks cannot do together."""
        check_same_data(self._federation, self._collectives)
        if self.placement.replicas > 1:
            check_shares(self._federation, self.placement.replicas)
        log.info("%s", "\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines = [f"{self._collectives.world} processes:"]
        for group in range(self.placement.groups):
            names = [name for name, host in self.placement.hosts.items() if host == group]
            first = group * self.placement.replicas
            last = first + self.placement.replicas - 1
            who = ", ".join(names) or "nobody"
            lines.append(f"  rank {first}: {who}" if first == last else f"  ranks {first}-{last}: {who}")
        return lines

    def begin(self) -> None:
        """Drop the optimizer states that a checkpoint brought for participants of other ranks."""
        forget_optimizers(self._federation, [name for name in self.placement.hosts if not self.hosts(name)])

    def end_round(self) -> None:
        """Move participants to other groups if the first measured steps show that ranks would wait for each other."""
        if self.placement.groups == 1 or not self._times.has_news:
            return
        placement = rebalanced(self._times.costs(self._expected), self.placement)
        moved = [name for name, group in placement.hosts.items() if group != self.placement.hosts[name]]
        if not moved:
            return
        mine = {
            name: moved_state(self._federation, name) for name in moved if self.placement.owner_of(name) == self.rank
        }
        arrived = {name: found for part in self._collectives.share(mine) for name, found in part.items()}
        before, self.placement = self.placement, placement
        for name in moved:
            if self.hosts(name):
                load_moved_state(self._federation, name, arrived[name])
            elif self.rank in before.ranks_of(name):
                forget_optimizers(self._federation, [name])
        log.info("After measured steps %s moved. %s", ", ".join(moved), "\n".join(self._lines()))

    def stops(self, signum: int | None) -> int | None:
        """Signal for which all ranks stop here, or None; called at each place where the run may stop."""
        return self._collectives.stops(signum)

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add other ranks' parts to a checkpoint. Only rank 0's becomes whole, and only that one is written."""
        complete_checkpoint(checkpoint, self._federation, self._collectives, self.placement)

    def resumed(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """This rank's part of a round in progress, from a checkpoint."""
        local = {}
        for name, state in saved["local"].items():
            if not self.hosts(name):
                local[name] = {**state, "pending": 0, "gradients": {}}
            else:  # Gradients that wait for an accumulation to end are the replicas' sum: one of them takes it.
                local[name] = state if self.placement.owner_of(name) == self.rank else {**state, "gradients": {}}
        ledger = {key: notes for key, notes in saved["ledger"].items() if self._notes_here(key)}
        return {**saved, "local": local, "ledger": ledger}

    def _notes_here(self, key: str) -> bool:
        name = key.rpartition("/")[2]
        return self.rank == (self.placement.owner_of(name) if name in self.placement.hosts else 0)
