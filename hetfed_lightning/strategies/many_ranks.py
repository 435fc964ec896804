"""Several processes that train one federation: what each does alone, and what they tell each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hetfed_lightning.ledger import keep_to_oneself, merge_notes
from hetfed_lightning.strategies.checks import check_same_data, check_shares
from hetfed_lightning.strategies.layout import Layout, balanced, rebalanced, share_of
from hetfed_lightning.strategies.moving import (
    complete_checkpoint,
    deliver,
    forget_optimizers,
    luggage,
    report,
    take_report,
)
from hetfed_lightning.strategies.ranks import Ranks
from hetfed_lightning.strategies.times import StepTimes, expected_costs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hetfed_lightning.federation import Federation
    from hetfed_lightning.ledger import Ledger, Reduced
    from hetfed_lightning.optimization import Reduction
    from hetfed_lightning.participant import Stage
    from hetfed_lightning.strategies.exchange import Exchange

log = logging.getLogger(__name__)

V = TypeVar("V")


class ManyRanks(Ranks):
    """Ranks in groups: a group hosts some participants, its replicas split their batches.

    At a round's end every rank receives the state of everyone who trained. What participants then do together is the
    same computation on the same states on every rank, in the same order, so that it ends in the same bits.

    Args:
        federation: Who is trained.
        exchange: Carries values between the ranks.
        groups: Number of groups; the ranks are a multiple of it.
    """

    def __init__(self, federation: Federation, exchange: Exchange, groups: int) -> None:
        self._federation = federation
        self._exchange = exchange
        self.rank = exchange.rank
        self._expected = expected_costs(federation)
        self._times = StepTimes()
        for participant in federation.everyone().values():
            keep_to_oneself(participant)
        self.layout = Layout(balanced(self._expected, groups), groups, exchange.world // groups)

    def describe(self, rank: int) -> str:
        """A rank in words, with those it trains."""
        hosted = self.layout.hosted_by(rank)
        who = ", ".join(hosted[:5]) + (f" and {len(hosted) - 5} more" if len(hosted) > 5 else "")
        return f"rank {rank} (participants: {who or 'none'}) in round {self._federation.current_round}"

    # Who is here

    def hosts(self, name: str) -> bool:
        """Whether a participant (or the student) takes its steps here."""
        return self.rank in self.layout.ranks_of(name)

    def measures(self, name: str) -> bool:
        """Whether a participant is evaluated, and asked as a teacher, here. One rank does for each."""
        return self.rank == self.layout.measurer_of(name)

    def is_timed(self, name: str) -> bool:
        """Whether its local steps are to be timed: in its first round, where there is somewhere to move."""
        return self.layout.groups > 1 and not self._times.knows(name)

    def note_seconds(self, name: str, seconds: float) -> None:
        """Remember how long a local step took."""
        self._times.note(name, seconds)

    # Parts of a batch

    def share(self, indices: Tensor) -> Tensor:
        """The part of a batch's indices that is this rank's; may be empty."""
        part = share_of(len(indices), self.layout.replicas, self.layout.replica_of(self.rank))
        return indices[part.start : part.stop]

    def weight(self, name: str, batch_idx: int) -> float:
        """This rank's part of a participant's batch, in [0, 1]: what the mean over its examples weighs in the whole."""
        if self.layout.replicas == 1:
            return 1.0
        size = self._federation.train_loader().length_of(name, batch_idx)
        return len(share_of(size, self.layout.replicas, self.layout.replica_of(self.rank))) / size

    @property
    def reduction(self) -> Reduction | None:  # type: ignore[override]
        """Sums gradients over the replicas; None where no batch is split."""
        return None if self.layout.replicas == 1 else self._reduce

    @torch.no_grad()
    def _reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """One sum for all gradients. Where no replica has one there stays none: optimizers skip such parameters."""
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
        self._exchange.add(flat)
        *sums, found = flat.split([*(parameter.numel() for parameter in parameters), len(parameters)])
        for parameter, total, count in zip(parameters, sums, found.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(total.view_as(parameter))

    @property
    def stream(self) -> tuple[int, ...]:  # type: ignore[override]
        """Another one for each part of a batch, whose dropout would else fall on the same places."""
        replica = self.layout.replica_of(self.rank)
        return (replica,) if replica else ()

    # What the others have

    def synchronise(self, names: Sequence[str]) -> None:
        """Give everybody's state, and what was counted of it, to all ranks; buffers are those of the first replica."""
        federation = self._federation
        mine = {
            name: report(federation, name) | {"seconds": self._times.round_of(name)}
            for name in names
            if self.layout.owner_of(name) == self.rank
        }
        for rank, reports in enumerate(self._exchange.share(mine)):
            for name, found in reports.items():
                if rank != self.rank:
                    take_report(federation, name, found)
                self._times.settle(name, found["seconds"])

    def agreed(self, names: Sequence[str]) -> list[str]:
        """Names that any rank gives, in order."""
        given = {name for part in self._exchange.share(list(names)) for name in part}
        return [name for name in self.layout.hosts if name in given]

    def gathered(self, values: Mapping[str, V], order: Sequence[str]) -> dict[str, V]:
        """Values by name that one rank each has, in ``order``; names without a value are left out."""
        found = {name: value for part in self._exchange.share(dict(values)) for name, value in part.items()}
        return {name: found[name] for name in order if name in found}

    def reduced(self, ledger: Ledger, stage: Stage) -> dict[str, Reduced]:
        """All ranks' notes, reduced; the ledger is empty afterwards."""
        if stage == "train" and self.layout.replicas > 1:  # Each replica has noted its own examples.
            return merge_notes(self._exchange.share(ledger.take_notes()))
        return {key: figure for part in self._exchange.share(ledger.reduce()) for key, figure in part.items()}

    # Moments of a run

    def prepare(self) -> None:
        """Before training: refuse what ranks cannot do together."""
        check_same_data(self._federation, self._exchange)
        if self.layout.replicas > 1:
            check_shares(self._federation, self.layout.replicas)
        log.info("%s", "\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines = [f"{self._exchange.world} processes:"]
        for group in range(self.layout.groups):
            names = [name for name, host in self.layout.hosts.items() if host == group]
            first = group * self.layout.replicas
            last = first + self.layout.replicas - 1
            who = ", ".join(names) or "nobody"
            lines.append(f"  rank {first}: {who}" if first == last else f"  ranks {first}-{last}: {who}")
        return lines

    def begin(self) -> None:
        """Drop the optimizer states that a checkpoint brought for participants of other ranks."""
        forget_optimizers(self._federation, [name for name in self.layout.hosts if not self.hosts(name)])

    def end_round(self) -> None:
        """Move participants where the first measured steps say that ranks would wait for each other."""
        if self.layout.groups == 1 or not self._times.has_news:
            return
        layout = rebalanced(self._times.costs(self._expected), self.layout)
        moved = [name for name, group in layout.hosts.items() if group != self.layout.hosts[name]]
        if not moved:
            return
        mine = {name: luggage(self._federation, name) for name in moved if self.layout.owner_of(name) == self.rank}
        arrived = {name: found for part in self._exchange.share(mine) for name, found in part.items()}
        before, self.layout = self.layout, layout
        for name in moved:
            if self.hosts(name):
                deliver(self._federation, name, arrived[name])
            elif self.rank in before.ranks_of(name):
                forget_optimizers(self._federation, [name])
        log.info("After measured steps %s moved. %s", ", ".join(moved), "\n".join(self._lines()))

    def stops(self, signum: int | None) -> int | None:
        """Come to a place where the run may stop; the signal for which all ranks stop here, or None."""
        return self._exchange.stops(signum)

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Put into a checkpoint what other ranks have of it. Only rank 0's is whole, which is the one written."""
        complete_checkpoint(checkpoint, self._federation, self._exchange, self.layout)

    def resumed(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of a round in progress, as a checkpoint has it, that belongs here."""
        local = {}
        for name, state in saved["local"].items():
            if not self.hosts(name):
                local[name] = {**state, "pending": 0, "gradients": {}}
            else:  # What waits for an accumulation to end is the replicas' sum: one of them takes it.
                local[name] = state if self.layout.owner_of(name) == self.rank else {**state, "gradients": {}}
        ledger = {key: notes for key, notes in saved["ledger"].items() if self._notes_here(key)}
        return {**saved, "local": local, "ledger": ledger}

    def _notes_here(self, key: str) -> bool:
        name = key.rpartition("/")[2]
        return self.rank == (self.layout.owner_of(name) if name in self.layout.hosts else 0)
