"""Averages what participants share at the end of a round: FedAvg, FedPer, LG-FedAvg, FedProx, FedOpt."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from hetfed_lightning.aggregation import (
    AggregationFunction,
    AggregationRule,
    State,
    check_states,
    clip_updates,
    weighted_mean,
)
from hetfed_lightning.aggregation.clipping import check_max_norm
from hetfed_lightning.aggregation.shares import MAX_SHARE, bounded_weights, check_max_share, sample_count
from hetfed_lightning.data.name_checks import of_member
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.finite import is_finite
from hetfed_lightning.local_training.step_checks import check_follows
from hetfed_lightning.methods.averaging.column_checks import check_columns
from hetfed_lightning.methods.averaging.proximal import Proximal
from hetfed_lightning.methods.averaging.server_optimizer import ServerOptimizer
from hetfed_lightning.methods.averaging.shared_states import SharedStates
from hetfed_lightning.methods.averaging.sharing_groups import (
    Foundations,
    SharingGroup,
    listed,
    personal_state,
    sharing_groups,
    sharing_report,
    split_foundations,
    split_layers,
    tied_lines,
    uneven_foundations,
)
from hetfed_lightning.metrics import payload_bytes, state_divergence
from hetfed_lightning.participants.inseparable import (
    bound_buffers,
    digest,
    foundation,
    is_direction,
    with_unit_directions,
)

if TYPE_CHECKING:
    import lightning as L
    from torch.optim import Optimizer

    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """What members of a group sent at the end of a round, and what is known of them.

    Attributes:
        round_index: The round.
        states: By name, in the order of the federation.
        counts: Training examples of each sender.
        expected: Who was asked; a participant that is not among the senders was quarantined, or did not answer.
        parameters: Keys that are parameters rather than buffers; there may be others' among them.
    """

    round_index: int
    states: Mapping[str, State]
    counts: Mapping[str, int]
    expected: tuple[str, ...]
    parameters: frozenset[str]


def means(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """Figures of a federation's groups as its own, by tag."""
    return {f"federation/{key}": sum(one) / len(one) for key, one in figures.items()}


class BackboneAveraging(FederatedCallback):
    """Replaces what participants share by its aggregate at the end of a round.

    Participants average within the groups whose keys, shapes and dtypes agree; what nobody else has stays as it
    is, and one line of log says so. Everyone who has joined receives the aggregate, sampled in this round or not,
    as it would when it is sampled next. A newcomer receives it in its first round. A participant without an optimizer
    step in a round (its ``training_step`` returned None, or fp16's loss scale skipped every step) has nothing to
    average and is not quarantined: it receives the aggregate, and answers and learns where the round distils.

    Where not everyone is sampled (``Federation(participation=...)``) the shared state is held once, and lent to all who
    wait (:mod:`hetfed_lightning.shared_storage.copy_on_write`): memory grows by what participants have of their own,
    and a round costs what those cost who train. Momenta are among the former: with ``optimizer_state="keep"`` every
    participant that has ever trained keeps an optimizer's state, none with ``"reset"`` or plain SGD.

    Args:
        rule: Aggregation rule: a function ``(states, weights) -> state`` or an :class:`AggregationRule`.
        weighting: ``"samples"`` (training examples), ``"uniform"``, or weights by name.
        max_share: Fraction in (0, 1] of all weights that one participant has at most where they are numbers of
            examples, which are its own word; said by name where it applies. Two alone are not bounded, weights by name
            and ``"uniform"`` neither.
        buffers: Running statistics stay ``"local"``, take part (``"average"``), or start afresh (``"reset"``).
            Averaging them across non-identical data breaks models that rely on them.
        optimizer_state: ``"keep"`` momenta across averaging, or ``"reset"`` them.
        every_n_rounds: Averages at the end of every n-th round.
        synchronise_start: Whether all members of a group begin with the weights of its first. Averages of networks
            that began elsewhere are poor.
        server_optimizer: Steps the shared state along the averaged change, instead of replacing it; called with
            the shared parameters. SGD with momentum is FedAvgM, Adam FedAdam, both with torch's formulas (Adam's
            bias correction, which the paper leaves out, included).
        proximal: Weight mu of FedProx's term ``mu/2 ||w - w_shared||^2`` in every local loss.
        max_update_norm: Largest L2 norm of what a participant adds to the shared state: longer updates are scaled down
            to it before the rule sees them, and ``federation/clipped`` tells the fraction of updates that were. Bounds
            what one participant can do, whatever it claims; see :func:`~hetfed_lightning.aggregation.clip_updates`.

    Raises:
        ValueError: If a setting is out of its range, or nobody has anything in common.
        RuntimeError: If the rule or the server optimizer makes something that is not finite.

    Reference:
        McMahan et al. (2017), Communication-Efficient Learning of Deep Networks from Decentralized Data,
        Algorithm 1; Arivazhagan et al. (2019), FedPer; Li et al. (2020), Federated Optimization in Heterogeneous
        Networks, eq. 2; Reddi et al. (2021), Adaptive Federated Optimization, Algorithm 2; Sun et al. (2019), Can you
        really backdoor federated learning?
    """

    phase = Phase.AVERAGING
    gives_finite = True

    def __init__(
        self,
        rule: AggregationRule | AggregationFunction = weighted_mean,
        *,
        weighting: Literal["samples", "uniform"] | dict[str, float] = "samples",
        max_share: float = MAX_SHARE,
        buffers: Literal["local", "average", "reset"] = "local",
        optimizer_state: Literal["keep", "reset"] = "keep",
        every_n_rounds: int = 1,
        synchronise_start: bool = True,
        server_optimizer: OptimizerCallable | None = None,
        proximal: float = 0.0,
        max_update_norm: float | None = None,
    ) -> None:
        if not callable(rule):
            raise TypeError(f"rule: expected a function (states, weights) -> state, got {rule!r}.")
        if every_n_rounds < 1:
            raise ValueError(f"every_n_rounds: expected at least 1, got {every_n_rounds}.")
        if not 0 <= proximal < float("inf"):
            raise ValueError(f"proximal: expected a finite weight of at least 0, got {proximal}.")
        _check_weighting(weighting)
        check_max_share(max_share)
        if buffers not in {"local", "average", "reset"}:
            raise ValueError(f"buffers: expected 'local', 'average' or 'reset', got {buffers!r}.")
        if optimizer_state not in {"keep", "reset"}:
            raise ValueError(f"optimizer_state: expected 'keep' or 'reset', got {optimizer_state!r}.")
        if max_update_norm is not None:
            check_max_norm(max_update_norm, "max_update_norm")
            if not synchronise_start:
                raise ValueError(
                    "max_update_norm bounds changes of the shared state, and with synchronise_start=False the first "
                    "round has none. Leave out one of the two."
                )
        self.rule = rule
        self.weighting = weighting
        self.max_share = max_share
        self.buffers = buffers
        self.optimizer_state = optimizer_state
        self.every_n_rounds = every_n_rounds
        self.synchronise_start = synchronise_start
        self.server_optimizer = server_optimizer
        self.proximal = proximal
        self.max_update_norm = max_update_norm
        self.groups: list[SharingGroup] = []
        self.report = ""
        self.shared = SharedStates()
        self._servers: dict[str, ServerOptimizer] = {}
        self._server_states: dict[str, Any] = {}
        self._foundations: Foundations = {}
        self._proximal = Proximal()
        self._bounded: set[str] = set()
        self._idle: set[str] = set()

    # Before training

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Forget an earlier run, unless its trainer goes on; a checkpoint is read after this."""
        del pl_module
        if stage == "fit" and trainer.current_epoch == 0:
            self.load_state_dict({"shared": {}, "servers": {}})
            self._bounded, self._idle = set(), set()

    def prepare(self, trainer: L.Trainer, federation: Federation) -> None:
        """Find who shares what with whom, and say so once."""
        del trainer
        members = federation.members()
        states = {name: self.shareable(participant) for name, participant in members.items()}
        tied = {name: participant.tied_keys() for name, participant in members.items()}
        personal = {name: personal_state(participant, states[name]) for name, participant in members.items()}
        frozen = {name: self.foundation(one, federation.local[name].optimizers) for name, one in members.items()}
        check_columns(members, states)
        self.arrange(states, personal, tied, frozen)
        self._proximal.open_round(0, [])
        self._server_states, self._servers = self.state_dict()["servers"], {}

    def arrange(
        self,
        states: Mapping[str, State],
        personal: Mapping[str, State],
        tied: Mapping[str, Mapping[str, str]] | None = None,
        foundations: Foundations | None = None,
    ) -> None:
        """Find the groups, and say so; tensors may be on the device ``"meta"``, since only their layout is looked at.

        Args:
            states: What each participant would share, by name.
            personal: The rest of each participant's state.
            tied: Keys that are shared since their tensor is that of a shared key, with that key, by name.
            foundations: What each participant's shared weights lie on, as :meth:`foundation` tells, by name.

        Raises:
            ValueError: If nobody has anything in common, what they have is complex, a rule needs more participants, a
                weight is missing, or the server optimizer needs a closure.
        """
        # Of who is known already what it told first: frozen weights may have thawed since, on the way to a checkpoint.
        known = {name: self._foundations[name] for name in states if name in self._foundations}
        foundations = dict(foundations or {}) | known
        self._foundations = foundations
        self.groups = sharing_groups(states, foundations)
        _refuse_complex(states, self.groups)
        self._refuse_directions()
        check_follows("BackboneAveraging(server_optimizer=...)", self.server_optimizer)
        if not self.groups:
            offered = "; ".join(
                f"{name} offers {', '.join(list(state)[:2]) or 'nothing'}" for name, state in states.items()
            )
            raise ValueError(
                f"BackboneAveraging has nothing to average: no two participants share a key of one shape ({offered}). "
                + " ".join(split_foundations(states, foundations))
                + "Give them backbones of one kind, change Participant(shared=...), or leave the callback out."
            )
        self._check_least()
        if isinstance(self.weighting, dict):
            for name in states:
                if of_member(self.weighting, name) is None:
                    raise ValueError(
                        f"weighting: no weight for participant {name!r}; it has {', '.join(self.weighting)}."
                    )
        self.report = sharing_report(states, personal, self.groups, tied)
        log.info("%s", self.report)
        lines = split_layers(states, self.groups) + split_foundations(states, foundations)
        lines += uneven_foundations(self.groups, foundations)
        for line in lines + tied_lines(tied or {}):
            log.warning("%s", line)

    def _check_least(self) -> None:
        """Refuse a rule that could not be applied, even if all of a group took part."""
        least = self.rule.least_participants() if isinstance(self.rule, AggregationRule) else 1
        for group in self.groups:
            if len(group.members) < least:
                raise ValueError(
                    f"BackboneAveraging: {self._rule_name} needs at least {least} participants, as it is set, but "
                    f"{listed(group.members)}, who share {group.keys[0]}, are {len(group.members)}: change its "
                    "settings, or take coordinate_median or GeometricMedian, which stand 1 faulty one of 3."
                )

    def is_due(self, round_index: int) -> bool:
        """Whether a round averages at its end."""
        return (round_index + 1) % self.every_n_rounds == 0

    def shareable(self, participant: Participant) -> dict[str, Tensor]:
        """What a participant offers to average: views of what it shares, running statistics only if they take part.

        Buffers that belong to a parametrized weight take part always.
        """
        return participant.view_of(participant.averaged_keys(buffers=self.buffers == "average"))

    def foundation(self, participant: Participant, optimizers: Sequence[Optimizer]) -> dict[str, str]:
        """What a participant's shared weights lie on and does not travel: digests of frozen parameters, by key.

        Where participants do not begin alike, what parametrized weights are computed from is part of it.

        Args:
            participant: Whose weights they are.
            optimizers: Its own; what none of them steps counts as frozen.
        """
        keys = participant.averaged_keys(buffers=self.buffers == "average")
        stepped = {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}
        found = foundation(participant, keys, stepped)
        if not self.synchronise_start and (bound := bound_buffers(participant).keys() & keys):
            found |= {key: digest(tensor) for key, tensor in participant.view_of(sorted(bound)).items()}
        return found

    def _refuse_directions(self) -> None:
        """Vectors that begin apart have no mean; a norm that was measured along it would be anything."""
        for group in self.groups if not self.synchronise_start else []:
            if found := [key for key in group.keys if is_direction(key, group.keys)]:
                raise ValueError(
                    f"BackboneAveraging(synchronise_start=False): what {listed(group.members)} share has {found[0]}, a "
                    "vector of a spectral norm, and such vectors have no mean unless they began alike. Leave "
                    "synchronise_start at True."
                )

    # The round

    def on_round_start(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Give one start to all, and the shared state to newcomers."""
        del trainer
        for group in self.groups:
            if group in self.shared:
                receivers = [name for name in federation.newcomers(round_index) if name in group]
                federation.bytes_down += payload_bytes(self.shared[group]) * len(receivers)
            elif self.synchronise_start:
                receivers = [name for name in federation.joined(round_index) if name in group]
                if not receivers:
                    continue
                self.shared.begin(group, federation[receivers[0]].state_of(group.keys))
                federation.bytes_down += payload_bytes(self.shared[group]) * (len(receivers) - 1)
            else:
                continue
            self.shared.hand_out(federation, group, receivers, round_index)
        self.set_anchors(federation)

    def on_round_resume(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Find the anchors again; the shared state came with the checkpoint."""
        del trainer, round_index
        self.set_anchors(federation)

    def set_anchors(self, federation: Federation) -> None:
        """Hold participants near what is shared now, if there is a proximal term."""
        groups = [group for group in self.groups if group in self.shared] if self.proximal else []
        device = federation.device  # A checkpoint's shared state lies on the CPU.
        self._proximal.open_round(
            self.proximal,
            [(group, {key: tensor.to(device) for key, tensor in self.shared[group].items()}) for group in groups],
        )

    def adds_to_loss(self, federation: Federation) -> bool:
        """Whether there is a proximal term."""
        del federation
        return self.proximal > 0

    def local_loss(self, federation: Federation, participant: Participant, batch_idx: int) -> Tensor | None:
        """FedProx's proximal term."""
        del federation, batch_idx
        return self._proximal.loss(participant)

    def loss_is_of_weights(self) -> bool:
        """True: the proximal term does not see examples."""
        return type(self).local_loss is BackboneAveraging.local_loss

    def fleet_term(self, federation: Federation, fleet: Fleet) -> FleetTerm | None:
        """The same for the members of a fleet."""
        del federation
        return self._proximal.fleet_term(fleet)

    def on_round_end(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Aggregate each group and give the result to all of it who have joined."""
        del trainer
        if not self.is_due(round_index):
            return
        active = federation.active_names(round_index)
        contributors = self.stepped({name: federation.local[name].landed > 0 for name in federation.contributors()})
        figures: dict[str, list[float]] = defaultdict(list)
        for group in self.groups:
            senders = [name for name in contributors if name in group]
            shared = self.combine(group, self._sent(federation, group, senders, round_index), figures)
            if shared is None:
                continue
            self.shared.replace(federation, group, shared, round_index)
            size = payload_bytes(shared)
            federation.bytes_up += size * len(senders)
            federation.bytes_down += size * sum(name in group for name in active)
        if figures:
            federation.log_round(means(figures))
        for name in active:
            self.tidy(federation, name)

    def stepped(self, changed: Mapping[str, bool]) -> list[str]:
        """Participants that have something to average; of each that has not, a warning says so once in a run.

        Args:
            changed: Whether an optimizer step of the round changed its weights, by participant.
        """
        for name in [name for name, has_changed in changed.items() if not has_changed and name not in self._idle]:
            self._idle.add(name)
            log.warning(
                "%s took no optimizer step in a round: it stays in the round, but its weights, which nothing has "
                "changed, are not averaged. That can be a training_step that returned None, or gradients that fp16's "
                "loss scale skipped.", name,
            )  # fmt: skip
        return [name for name, has_changed in changed.items() if has_changed]

    def _sent(self, federation: Federation, group: SharingGroup, senders: list[str], round_index: int) -> Sent:
        """What members have to share. Views: a rule leaves states as they are, and copies cost what their mean does."""
        first = federation[group.members[0]]
        return Sent(
            round_index,
            federation.fleets.views(federation, senders, group.keys),
            {name: federation.federated_data.num_samples(name) for name in senders},
            tuple(senders),
            frozenset(name for name, _ in first.named_parameters(remove_duplicate=False)),
        )

    def combine(self, group: SharingGroup, sent: Sent, figures: dict[str, list[float]]) -> dict[str, Tensor] | None:
        """What a group shares next, wherever its members are: weights, bounds, rule and server optimizer.

        Args:
            group: Whose members they are.
            sent: What they sent; every state has the group's keys.
            figures: Receives ``"clipped"`` and ``"divergence"``.

        Returns:
            Tensors of their own by key; None where nobody sent anything.

        Raises:
            ValueError: If the rule does not give what it is to give.
            RuntimeError: If something that is not finite comes of what is finite.
        """
        aggregate = self._merged(group, sent, figures)
        if aggregate is None:
            return None
        shared = with_unit_directions(self._served(group, aggregate, sent.parameters))
        self._refuse_non_finite(shared, list(sent.states), sent.round_index)
        return shared

    def _merged(self, group: SharingGroup, sent: Sent, figures: dict[str, list[float]]) -> dict[str, Tensor] | None:
        """What the rule makes of the senders' states; None where there is nothing to share."""
        senders, states = list(sent.states), list(sent.states.values())
        if not senders:
            return None
        weights = self._weights(sent)
        check_states(states, weights, senders)
        if self.max_update_norm is not None:
            whole = states
            states = clip_updates(whole, self._previous(group, whole[0]), self.max_update_norm, senders)
            figures["clipped"] += [float(one is not other) for one, other in zip(states, whole, strict=True)]
        aggregate = self._aggregate(states, weights, sent.round_index)
        if len(senders) > 1:
            figures["divergence"].append(state_divergence(states, centre=aggregate))
        return aggregate

    def _previous(self, group: SharingGroup, like: State) -> dict[str, Tensor]:
        """What the group last shared; a checkpoint's lies on the CPU."""
        return {key: self.shared[group][key].to(tensor.device) for key, tensor in like.items()}

    def _weights(self, sent: Sent) -> Tensor:
        if self.weighting == "uniform":
            weights = [1.0] * len(sent.states)
        elif self.weighting == "samples":
            return self._by_samples(sent)
        else:
            assert isinstance(self.weighting, dict)  # noqa: S101 - narrows the type; the constructor checked it
            weights = [float(of_member(self.weighting, name) or 0.0) for name in sent.states]
        return torch.tensor(weights, dtype=torch.float64)

    def _by_samples(self, sent: Sent) -> Tensor:
        """Numbers of examples, none more than ``max_share`` of all; said once by name."""
        names = list(sent.states)
        counts = [sample_count(sent.counts[name], name) for name in names]
        claimed = torch.tensor(counts, dtype=torch.float64)
        weights = bounded_weights(claimed, self.max_share)
        for name, count, weight in zip(names, claimed.tolist(), weights.tolist(), strict=True):
            if weight < count and name not in self._bounded:
                self._bounded.add(name)
                log.warning(
                    "BackboneAveraging: %s has %d of %d examples and weighs as %d would, since nobody has more than "
                    "%g of all weights (max_share).",
                    name, count, sum(counts), round(weight), self.max_share,
                )  # fmt: skip
        return weights

    def _served(
        self, group: SharingGroup, aggregate: dict[str, Tensor], parameters: frozenset[str]
    ) -> dict[str, Tensor]:
        if self.server_optimizer is None or group not in self.shared:
            return aggregate
        previous = self.shared[group]
        if group.name not in self._servers:
            # A checkpoint's shared state lies on the CPU.
            here = {key: previous[key].to(aggregate[key].device) for key in group.keys if key in parameters}
            server = ServerOptimizer(here, self.server_optimizer)
            if group.name in self._server_states:
                server.optimizer.load_state_dict(self._server_states.pop(group.name))
            self._servers[group.name] = server
        return aggregate | self._servers[group.name].step(previous, aggregate)

    def _aggregate(self, states: list[State], weights: Tensor, round_index: int) -> dict[str, Tensor]:
        aggregate = self.rule(states, weights)
        if not isinstance(aggregate, Mapping):
            raise ValueError(  # noqa: TRY004 - the same kind of error as for another fault of the rule
                f"Round {round_index}: expected of {self._rule_name} a state, got {type(aggregate).__name__}."
            )
        expected = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in states[0].items()}
        found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in aggregate.items()}
        if found != expected:
            key = next(key for key in expected | found if expected.get(key) != found.get(key))
            raise ValueError(
                f"Round {round_index}: expected of {self._rule_name} a state like the participants', with {key} of "
                f"shape and dtype {expected.get(key)}, got {found.get(key)}."
            )
        # A rule of the user's may hand back one of the states itself, which changes with its participant.
        return {key: tensor.clone() for key, tensor in aggregate.items()}

    @property
    def _rule_name(self) -> str:
        return getattr(self.rule, "__name__", type(self.rule).__name__)

    def _refuse_non_finite(self, shared: dict[str, Tensor], senders: list[str], round_index: int) -> None:
        """What the senders sent was finite, so the fault is the rule's or the server optimizer's."""
        if is_finite(shared.values()):
            return
        key = next(key for key, tensor in shared.items() if not is_finite([tensor]))
        cause = self._rule_name if self.server_optimizer is None else f"{self._rule_name} and the server optimizer"
        raise RuntimeError(
            f"Round {round_index}: what {cause} made of {', '.join(senders)} is not finite at {key}, though what they "
            "sent was; nobody received it. Lower the server optimizer's learning rate, or mend the rule."
        )

    def tidy(self, federation: Federation, name: str) -> None:
        """Have running statistics and momenta of a participant start afresh, if that is asked for."""
        if self.buffers == "reset":
            for module in federation[name].modules():
                if isinstance(module, _NormBase):
                    module.reset_running_stats()
        if self.optimizer_state == "reset":
            for optimizer in federation.local[name].optimizers:
                optimizer.state = defaultdict(dict)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The shared states, the server optimizers, and the frozen weights that participants began with."""
        servers = {name: server.optimizer.state_dict() for name, server in self._servers.items()}
        return {
            "shared": self.shared.state_dict(),
            "servers": self._server_states | servers,
            "foundations": {name: dict(own) for name, own in self._foundations.items() if own},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.shared.load_state_dict(state_dict["shared"])
        self._server_states = dict(state_dict["servers"])
        self._servers = {}
        self._foundations = dict(state_dict.get("foundations", {}))


def _refuse_complex(states: Mapping[str, State], groups: list[SharingGroup]) -> None:
    for group in groups:
        name = group.members[0]
        for key in group.keys:
            if states[name][key].is_complex():
                kind = states[name][key].dtype
                raise ValueError(
                    f"participant {name!r}: {key} is of {kind}, and no rule averages complex numbers. Keep it as a "
                    "real tensor of shape (..., 2) and compute with torch.view_as_complex of it, or leave it out of "
                    "Participant(shared=...)."
                )


def _check_weighting(weighting: str | Mapping[str, float]) -> None:
    if isinstance(weighting, str) and weighting not in {"samples", "uniform"}:
        raise ValueError(f"weighting: expected 'samples', 'uniform' or weights by name, got {weighting!r}.")
    if not isinstance(weighting, str):
        for name, weight in weighting.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"weighting: expected a finite weight of at least 0 for {name!r}, got {weight}.")
        if not any(weighting.values()):
            raise ValueError("weighting: expected at least one weight above 0.")
