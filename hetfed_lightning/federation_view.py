"""The federation as callbacks, methods and engines see it: who takes part, which round it is, and what they may ask.

:class:`~hetfed_lightning.Federation` satisfies :class:`FederationView`. Whoever needs less of it names :class:`Company`
or :class:`Run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import lightning as L
    import torch
    from torch import Tensor, nn

    from hetfed_lightning.data.loaders import LocalWork, RoundLoader
    from hetfed_lightning.data.module import FederatedDataModule
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.local_training.step_hooks import StepHooks
    from hetfed_lightning.logs.metric_store import Ledger
    from hetfed_lightning.logs.undefined import UndefinedFigures
    from hetfed_lightning.methods.plans import Part, Span
    from hetfed_lightning.participants.batch_result import Evaluated
    from hetfed_lightning.participants.participant import Participant, Stage
    from hetfed_lightning.strategies.ranks import Ranks
    from hetfed_lightning.supervised import Supervised


class Company(Protocol):
    """Participants of a federation, and who of them takes part in a round."""

    @property
    def participants(self) -> nn.ModuleDict:
        """Participants by name, the student not among them."""

    @property
    def student(self) -> Participant | None:
        """Unified model that learns from the participants; None without one."""

    @property
    def participation(self) -> float:
        """Fraction in (0, 1] of the joined participants sampled for each round."""

    @property
    def min_participants(self) -> int:
        """Participants that a round needs to go on, at least 1."""

    def __getitem__(self, name: str) -> Participant:
        """A participant, or the student."""

    def members(self) -> dict[str, Participant]:
        """Every participant by name, the student not among them."""

    def everyone(self) -> dict[str, Participant]:
        """Every participant by name, and the student if there is one."""

    def joined(self, round_index: int) -> list[str]:
        """Participants that have joined by a round and have not left."""

    def newcomers(self, round_index: int) -> list[str]:
        """Participants whose first round this is, later than the first of all."""

    def active_names(self, round_index: int) -> list[str]:
        """Participants that train in a round."""

    def trained(self, round_index: int) -> list[str]:
        """Active participants of a round, and the student if there is one."""

    def trained_here(self, round_index: int) -> list[str]:
        """Participants that train in a round in this process."""

    def measured_here(self) -> list[str]:
        """Participants, the student among them, that this process evaluates."""

    def contributors(self) -> list[str]:
        """Active participants of the current round that are not quarantined."""

    @staticmethod
    def prefix_of(name: str) -> str:
        """Prefix of a participant's keys in the federation's ``state_dict``."""


class Run(Protocol):
    """A federation's run: its Trainer, its data, and the round in progress."""

    @property
    def trainer(self) -> L.Trainer:
        """Trainer of the run."""

    @property
    def device(self) -> torch.device:
        """Device of the participants."""

    @property
    def seed(self) -> int:
        """Seed of the run's random streams."""

    @property
    def current_round(self) -> int:
        """Round in progress, from 0; 0 outside of a run."""

    @property
    def batches_done(self) -> int:
        """Batches of the round already trained."""

    @property
    def federated_data(self) -> FederatedDataModule:
        """Data module in use."""

    def train_loader(self) -> RoundLoader:
        """Loader of the run's training data."""

    def limit_batches(self, batches: int) -> int:
        """``limit_train_batches`` applied to one participant's batches."""

    @property
    def local(self) -> Mapping[str, LocalOptimization]:
        """Optimizers and schedulers by participant; empty outside of a fit."""

    @property
    def ranks(self) -> Ranks:
        """Ranks that train the federation."""

    @property
    def step_hooks(self) -> StepHooks:
        """Callbacks that hear of gradients and steps."""

    @property
    def plans(self) -> PlansView:
        """Plans of the participants' local work."""

    @property
    def guard(self) -> GuardView:
        """Last finite states, and who is quarantined."""

    @property
    def fleets(self) -> FleetsView:
        """Participants computed together."""

    @property
    def logbook(self) -> LogsView:
        """Figures of the run."""

    @property
    def adding(self) -> Sequence[LossCallback]:
        """Callbacks that add to the local losses of the round."""

    @property
    def shaping(self) -> Sequence[LossCallback]:
        """Callbacks that shape the local losses of the round, example by example."""

    def log_round(self, values: Mapping[str, float], *, prog_bar: bool = False) -> None:
        """Log the federation's own figures of the round."""

    def count_bytes(self, method: str, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of a method's messages in this round.

        Args:
            method: Title of the method.
            up: Bytes from participants.
            down: Bytes to participants.
        """

    @property
    def bytes_up(self) -> int:
        """Bytes that participants have sent in this round."""

    @property
    def bytes_down(self) -> int:
        """Bytes that participants have received in this round."""


class FederationView(Company, Run, Protocol):
    """A federation in a run, as callbacks and methods see it."""

    def work_of(self, name: str, round_index: int) -> LocalWork:
        """A participant's local work in a round."""

    def quarantine(self, name: str, reason: str) -> None:
        """Leave a participant out of the rest of this round, back in the state it began it with."""

    def backward_of(self, participant: Participant, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """A participant's backward pass, with everything that ``manual_backward`` does."""


class GuardView(Protocol):
    """Last finite states of the participants, and who is quarantined in this round."""

    @property
    def quarantined(self) -> dict[str, str]:
        """Reasons by name of those who are quarantined."""

    def hold(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Take other states for those that the round began with."""

    def safe_state(self, name: str) -> dict[str, Tensor] | None:
        """A participant's last finite state; None if it never had one."""


class LogsView(Protocol):
    """Ledgers of noted figures, and figures of the round.

    Attributes:
        batch: Batch that a participant sees now, whose length weighs a value logged without one.
    """

    batch: Any

    @property
    def ledgers(self) -> Mapping[Stage, Ledger]:
        """Noted values by stage."""

    @property
    def rows(self) -> Mapping[Stage, dict[str, float]]:
        """Figures that loggers are still to be given, by stage."""

    @property
    def undefined(self) -> UndefinedFigures:
        """Figures that the participants' data do not define."""

    def withdraw(self, trainer: L.Trainer, keys: Iterable[str]) -> None:
        """Take back figures of an earlier round."""


class PlansView(Protocol):
    """Plans of local work, looked up by participant, round and batch."""

    @property
    def is_empty(self) -> bool:
        """True if no method plans."""

    def of(self, federation: FederationView, name: str, round_index: int) -> tuple[Part, ...]:
        """Parts of a participant's local work in a round; none without a plan."""

    def span_at(self, federation: FederationView, name: str, batch_idx: int) -> Span | None:
        """Part that a batch of the current round belongs to; None without a plan."""

    def spans_of(self, federation: FederationView, name: str, round_index: int) -> tuple[Span, ...]:
        """Parts of a round with their first and last batches; none without a plan."""


class LookaheadView(Protocol):
    """Evaluations of members' own validation sets, computed ahead."""

    def evaluated(self, owner: str, batch: Any, index: int) -> dict[str, Evaluated]:
        """Evaluation of a batch by its owner, by name; empty if it was not computed."""


class FleetsView(Protocol):
    """Participants that are computed together, asked by their names."""

    @property
    def has_bystanders(self) -> bool:
        """True if any code of the user's runs in the round."""

    @property
    def lookahead(self) -> LookaheadView:
        """Evaluations computed ahead."""

    def open_round(self, federation: FederationView, names: Sequence[str], *, terms: bool = True) -> None:
        """Seat participants that train in this round; ``terms`` asks callbacks for what they add to the losses."""

    def views(
        self, federation: FederationView, names: Sequence[str], keys: Sequence[str] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Tensors of each participant, as views by name and key, of the parameters' shapes."""

    def load(self, federation: FederationView, names: Iterable[str], state: Mapping[str, Tensor]) -> None:
        """Copy one state, of the parameters' shapes, into several participants."""

    def learners(self, names: Iterable[str]) -> list[Fleet]:
        """Fleets in which two or more of ``names`` can distil together."""

    def outputs(self, names: Sequence[str], inputs: Any) -> dict[str, Tensor]:
        """Outputs on common raw inputs of shape ``(B, ...)``, shape ``(B, C)`` each, of those computed together."""

    def evaluated(self, names: Sequence[str], batch: Any) -> dict[str, Evaluated]:
        """Evaluations of a common batch, by name, of those computed together."""


class LossCallback(Protocol):
    """A callback that adds to local losses or shapes them; see :class:`~hetfed_lightning.FederatedCallback`."""

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """A scalar to add to the loss of a local step; None for nothing."""

    def loss_is_of_weights(self) -> bool:
        """True if :meth:`local_loss` depends on weights alone."""

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """:meth:`local_loss` for a fleet's members at once; None for nothing."""

    def shaped_losses(
        self, federation: FederationView, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Loss of each example of a local step, shape ``(B,)``, in the place of ``losses``."""

    def fleet_shape(self, federation: FederationView, fleet: Fleet) -> LossShape | None:
        """:meth:`shaped_losses` for a fleet's members at once; None for nothing."""
