"""State of the round in progress: its number, its bytes, who was taken out of it, and who changes its losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hetfed_lightning.federation.finite_guard import FiniteGuard
from hetfed_lightning.methods.byte_count import ByteCount

if TYPE_CHECKING:
    import torch

    from hetfed_lightning.federated_callback import FederatedCallback
    from hetfed_lightning.federation.log_writer import LogBook
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.participants.participant import Participant


class RoundState:
    """Round in progress, or the last one.

    Attributes:
        index: Number of the round, from 0; -1 before the first.
        is_open: True between its first batch and the end of its exchanges.
        byte_count: Bytes of its messages.
        guard: Last finite state of each participant, and who was taken out of this round.
        adding: Callbacks that add terms to its losses.
        shaping: Callbacks that change the loss of each of its examples.
    """

    def __init__(self) -> None:
        self.index = -1
        self.is_open = False
        self.byte_count = ByteCount()
        self.guard = FiniteGuard()
        self.adding: list[FederatedCallback] = []
        self.shaping: list[FederatedCallback] = []

    def __getstate__(self) -> dict[str, Any]:
        """Callbacks belong to a Trainer, and do not go with a copy."""
        return vars(self) | {"adding": [], "shaping": []}

    def open(self, index: int, trained: dict[str, Participant]) -> None:
        """Begin a round: no bytes are counted, everyone is released, and the states of those who train are remembered.

        Args:
            index: Number of the round, from 0.
            trained: Participants that train in it, and the student, by name.
        """
        self.byte_count = ByteCount()
        self.guard.open_round(trained)
        self.index, self.is_open = index, True

    def close(self) -> None:
        """End the round; its figures stay until the next one opens."""
        self.is_open = False

    def hear(self, callbacks: Iterable[FederatedCallback], federation: FederationView) -> None:
        """Keep those callbacks that add to the losses of the round's steps, or shape them.

        Args:
            callbacks: Callbacks that act between participants, in the order in which they are asked.
            federation: Federation in a fit.
        """
        found = list(callbacks)
        self.adding = [one for one in found if one.adds_to_loss(federation)]
        self.shaping = [one for one in found if one.shapes_loss()]

    def state_dict(self, local: Mapping[str, LocalOptimization], logbook: LogBook) -> dict[str, Any]:
        """Counters and logged values of the round, for a checkpoint.

        Args:
            local: Optimizers of those who train in it, by name.
            logbook: Log of the federation.
        """
        return {
            "round": self.index,
            "bytes": self.byte_count.state_dict(),
            "quarantined": dict(self.guard.quarantined),
            "local": {name: one.round_state() for name, one in local.items()},
            "ledger": logbook.ledgers["train"].state_dict(),
            "logged": dict(logbook.rows["train"]),
        }

    def load_state_dict(
        self,
        saved: Mapping[str, Any],
        local: Mapping[str, LocalOptimization],
        logbook: LogBook,
        device: torch.device,
    ) -> None:
        """Go on with the round of a checkpoint; rows of loggers follow at its end.

        Args:
            saved: Result of :meth:`state_dict` for the round that is open.
            local: Optimizers by name.
            logbook: Log of the federation.
            device: Device of logged values.
        """
        self.byte_count.load_state_dict(saved["bytes"])
        self.guard.leave_out(saved["quarantined"])
        for name, state in saved["local"].items():
            local[name].load_round_state(state)
        logbook.ledgers["train"].load_state_dict(saved["ledger"], device)
