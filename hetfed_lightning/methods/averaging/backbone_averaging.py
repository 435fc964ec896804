"""Averaging of shared states at the end of a round: FedAvg, FedPer, LG-FedAvg, FedProx, server optimizers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from hetfed_lightning.aggregation.shares import MAX_SHARE, check_max_share
from hetfed_lightning.data.name_checks import of_member
from hetfed_lightning.local_training.step_checks import check_follows
from hetfed_lightning.logs.text import listed
from hetfed_lightning.methods.averaging.column_checks import check_columns
from hetfed_lightning.methods.averaging.group_average import (
    aggregated,
    name_of,
    refuse_non_finite,
    weights_by_name,
    weights_by_samples,
)
from hetfed_lightning.methods.averaging.offers import foundation_of, layout_of, offer, parameters_of, samples_of
from hetfed_lightning.methods.averaging.proximal import Proximal
from hetfed_lightning.methods.averaging.server_optimizer import ServerOptimizer
from hetfed_lightning.methods.averaging.sharing_groups import (
    SEPARATOR,
    Foundations,
    SharingGroup,
    personal_state,
    sharing_groups,
    sharing_report,
    split_foundations,
    split_layers,
    tied_lines,
    uneven_foundations,
)
from hetfed_lightning.methods.messages import Combined, Message
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.participant_data import ParticipantData
from hetfed_lightning.methods.server_memory import ServerMemory
from hetfed_lightning.metrics import state_divergence
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

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

OPTIMIZER = "optimizer"
"""Key of the server optimizer in a group's memory."""


class BackboneAveraging(Method):
    """Replaces participants' shared states by their aggregate at the end of a round.

    Participants average in groups of equal keys, shapes and dtypes. A tensor that nobody else has stays as it is, and a
    line of log says so. All joined participants receive the aggregate, also those not sampled in this round; a newcomer
    receives it in its first round. A participant without an optimizer step in a round (its ``training_step`` returned
    None, or fp16's loss scale skipped every step) has nothing to average. It is not quarantined: it receives the
    aggregate, and teaches and learns in rounds that distil.

    With a sample of participants (``Federation(participation=...)``) the shared state is held once for all who wait
    (:mod:`hetfed_lightning.shared_storage.copy_on_write`). Memory then grows with personal tensors alone, and a round
    costs the work of its sample. Momenta are personal: with ``optimizer_state="keep"`` every participant that has ever
    trained keeps an optimizer state, with ``"reset"`` or plain SGD none does.

    Args:
        rule: Aggregation rule: a function ``(states, weights) -> state`` or an :class:`AggregationRule`.
        weighting: ``"samples"`` (training examples), ``"uniform"``, or weights by name.
        max_share: Largest fraction of all weights of one participant, in (0, 1], for ``"samples"`` alone, since counts
            are claims of the participants; logged by name when it applies. Groups of two are not bounded.
        buffers: Running statistics stay ``"local"``, are averaged (``"average"``), or start afresh (``"reset"``).
            Averages across non-identical data break models that rely on them.
        optimizer_state: ``"keep"`` momenta across averaging, or ``"reset"`` them.
        every_n_rounds: Averages at the end of every n-th round, at least 1.
        synchronise_start: Sets all members of a group to the weights of its first before training. Averages of networks
            with different initial weights are poor.
        server_optimizer: Called with the shared parameters; the optimizer steps them along the averaged change, instead
            of replacing them, with torch's formulas: SGD with momentum is FedAvgM. FedAdam as in its paper is
            :class:`~hetfed_lightning.methods.published.fed_adam.FedAdam`; torch's Adam corrects a bias besides.
        proximal: Weight mu of FedProx's term ``mu/2 ||w - w_shared||^2`` in every local loss, at least 0.
        max_update_norm: Largest L2 norm of a participant's update, above 0: longer updates are scaled down to it before
            the rule, and ``federation/clipped`` is the fraction of clipped updates. Bounds the influence of one
            participant; see :func:`~hetfed_lightning.aggregation.clip_updates`. None for no bound.
        name: Distinguishes two instances in one run, in checkpoints and tags.

    Raises:
        ValueError: If a setting is out of its range, or no two participants have a tensor in common.
        RuntimeError: If the rule or the server optimizer returns non-finite tensors.

    Reference:
        McMahan et al. (2017), Communication-Efficient Learning of Deep Networks from Decentralized Data, Algorithm 1;
        Arivazhagan et al. (2019), FedPer; Li et al. (2020), Federated Optimization in Heterogeneous Networks, eq. 2;
        Reddi et al. (2021), Adaptive Federated Optimization, Algorithm 2; Sun et al. (2019), Can you really backdoor
        federated learning?
    """

    replaces_state = True
    needs_steps = True

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
        name: str | None = None,
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
        self.name = name
        self.sharing: dict[str, SharingGroup] = {}
        self.report = ""
        self._foundations: Foundations = {}
        self._proximal = Proximal()
        self._bounded: set[str] = set()

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""
        return "averaging" if self.name is None else f"averaging:{self.name}"

    # Before training

    def begin_run(self, federation: FederationView, *, afresh: bool) -> None:
        """Drop the state of an earlier run, unless its trainer goes on; a checkpoint is read after this."""
        super().begin_run(federation, afresh=afresh)
        if afresh:
            self._bounded, self._foundations = set(), {}

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Form the sharing groups and log who shares what."""
        members = federation.members()
        states = {name: self.shareable(participant) for name, participant in members.items()}
        check_columns(members, states)
        super().prepare(trainer, federation)
        tied = {name: participant.tied_keys() for name, participant in members.items()}
        personal = {name: personal_state(participant, states[name]) for name, participant in members.items()}
        self.tell(states, personal, tied)
        self._proximal.open_round([])

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared state, digests of the frozen weights below it, and number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.
        """
        parameters = {key: one.requires_grad for key, one in participant.named_parameters(remove_duplicate=False)}
        ground = self.foundation(participant, data.optimizers)
        return offer(self.shareable(participant), parameters, ground, data.num_samples)

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Participants that share keys of equal shape and dtype, over equal frozen weights; each may be in several.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If no two participants have a tensor in common, a tensor is complex, a rule needs more
                participants, a weight is missing, or the server optimizer needs a closure.
        """
        states = {name: layout_of(one) for name, one in about.items()}
        # Known participants keep their first description: weights that were frozen may be trained since.
        known = {name: self._foundations[name] for name in about if name in self._foundations}
        foundations = {name: foundation_of(one) for name, one in about.items()} | known
        found = sharing_groups(states, foundations)
        _refuse_complex(states, found)
        self._refuse_directions(found)
        check_follows("BackboneAveraging(server_optimizer=...)", self.server_optimizer)
        if not found:
            offered = "; ".join(
                f"{name} offers {', '.join(list(state)[:2]) or 'nothing'}" for name, state in states.items()
            )
            raise ValueError(
                f"BackboneAveraging has nothing to average: no two participants share a key of one shape ({offered}). "
                + " ".join(split_foundations(states, foundations))
                + "Give them backbones of one kind, change Participant(shared=...), or leave the callback out."
            )
        self._check_least(found)
        if isinstance(self.weighting, dict):
            for name in states:
                if of_member(self.weighting, name) is None:
                    raise ValueError(
                        f"weighting: no weight for participant {name!r}; it has {', '.join(self.weighting)}."
                    )
        self._foundations = foundations
        self.sharing = {group.name: group for group in found}
        return {group.name: group.members for group in found}

    def tell(
        self,
        states: Mapping[str, State],
        personal: Mapping[str, State],
        tied: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Log who shares what with whom; only shapes and dtypes are read, so tensors may be on the device ``"meta"``.

        Args:
            states: Shared state of each participant, by name.
            personal: Personal state of each participant, by name.
            tied: Shared key by tied key, for each participant's name.
        """
        groups = list(self.sharing.values())
        self.report = sharing_report(states, personal, groups, tied)
        log.info("%s", self.report)
        lines = split_layers(states, groups) + split_foundations(states, self._foundations)
        lines += uneven_foundations(groups, self._foundations)
        for line in lines + tied_lines(tied):
            log.warning("%s", line)

    def _check_least(self, groups: Sequence[SharingGroup]) -> None:
        """Refuse a rule that could not be applied, even if all of a group took part."""
        least = self.rule.least_participants() if isinstance(self.rule, AggregationRule) else 1
        for group in groups:
            if len(group.members) < least:
                raise ValueError(
                    f"BackboneAveraging: {name_of(self.rule)} needs at least {least} participants, as it is set, but "
                    f"{listed(group.members)}, who share {group.keys[0]}, are {len(group.members)}: change its "
                    "settings, or take coordinate_median or GeometricMedian, which stand 1 faulty one of 3."
                )

    def is_due(self, round_index: int) -> bool:
        """True if a round averages at its end."""
        return (round_index + 1) % self.every_n_rounds == 0

    def shareable(self, participant: Participant) -> dict[str, Tensor]:
        """Views of a participant's averaged tensors by key, with running statistics only if they are averaged.

        Buffers of parametrized weights are always included.
        """
        return participant.view_of(participant.averaged_keys(buffers=self.buffers == "average"))

    def foundation(self, participant: Participant, optimizers: Sequence[Optimizer]) -> dict[str, str]:
        """Digests of the frozen parameters below a participant's shared weights, by key.

        If participants may begin with different weights, the buffers of parametrized weights are included.

        Args:
            participant: Participant that owns the weights.
            optimizers: Its optimizers; a parameter in none of them counts as frozen.
        """
        keys = participant.averaged_keys(buffers=self.buffers == "average")
        stepped = {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}
        found = foundation(participant, keys, stepped)
        if not self.synchronise_start and (bound := bound_buffers(participant).keys() & keys):
            found |= {key: digest(tensor) for key, tensor in participant.view_of(sorted(bound)).items()}
        return found

    def _refuse_directions(self, groups: Sequence[SharingGroup]) -> None:
        """Vectors that begin apart have no mean; a norm that was measured along it would be anything."""
        for group in groups if not self.synchronise_start else []:
            if found := [key for key in group.keys if is_direction(key, group.keys)]:
                raise ValueError(
                    f"BackboneAveraging(synchronise_start=False): what {listed(group.members)} share has {found[0]}, a "
                    "vector of a spectral norm, and such vectors have no mean unless they began alike. Leave "
                    "synchronise_start at True."
                )

    # The round

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Set the common start, and hand the shared state to newcomers."""
        super().on_round_start(trainer, federation, round_index)
        self._set_anchors(federation)

    def on_round_resume(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Set the anchors of the proximal term again; the shared state came with the checkpoint."""
        del trainer, round_index
        self._set_anchors(federation)

    def _set_anchors(self, federation: FederationView) -> None:
        if self.proximal:
            device = federation.device  # A checkpoint's shared state lies on the CPU.
            states = {group: self.shared_state(group.name) for group in self.sharing.values()}
            here = [
                (group, {key: state[key].to(device) for key in group.keys}) for group, state in states.items() if state
            ]
            self._proximal.open_round(here)

    def shared_state(self, group: str) -> dict[str, Tensor]:
        """Shared tensors of a group by key; empty before its first average or common start."""
        return {} if self.carrier is None else dict(self.carrier.last(group))

    def adds_to_loss(self, federation: FederationView) -> bool:
        """True if there is a proximal term."""
        del federation
        return self.proximal > 0

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """FedProx's proximal term, a scalar; None if it is 0 for all weights."""
        del batch_idx
        return self._proximal.loss(participant, self.proximal, self.context_of(federation, participant).received)

    def loss_is_of_weights(self) -> bool:
        """True; the proximal term does not depend on examples."""
        return type(self).local_loss is BackboneAveraging.local_loss

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """FedProx's proximal term for the members of a fleet; None if it is 0 for all weights."""
        del federation
        return self._proximal.fleet_term(fleet, self.proximal)

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Aggregate each group and hand the result to all joined members."""
        super().on_round_end(trainer, federation, round_index)
        for name in federation.active_names(round_index) if self.is_due(round_index) else ():
            self.tidy(federation, name)

    def inherits(self, group: str, before: ServerMemory) -> ServerMemory | None:
        """Memory of a group that shared all of these keys before; None if there is none.

        Args:
            group: Name of the group.
            before: Memory of a group of that name, or of one with a member in common.
        """
        keys = self.sharing[group].keys
        if not before.last.keys() >= set(keys):
            return None
        if group == before.group and before.last.keys() == set(keys):
            return before
        return before.continued(group, None if before.last.keys() == set(keys) else keys)

    def warn_of_idle(self, name: str) -> None:
        """Warn of a participant without an optimizer step, once in a run."""
        log.warning(
            "%s took no optimizer step in a round: it stays in the round, but its weights, which nothing has "
            "changed, are not averaged. That can be a training_step that returned None, or gradients that fp16's "
            "loss scale skipped.", name,
        )  # fmt: skip

    def state_keys(self, name: str) -> Sequence[str] | None:
        """Keys that a participant averages with another; None for a subclass that sends more than its state."""
        if type(self).send is not Method.send:
            return None
        return tuple(key for group in self.sharing.values() if name in group for key in group.keys)

    def offered_keys(self, participant: Participant) -> Sequence[str]:
        """Keys that a participant would average, whoever shares them.

        Args:
            participant: Participant of this process or site.
        """
        return tuple(self.shareable(participant))

    @property
    def reads_received(self) -> bool:
        """True with a proximal term, and for a subclass with a hook of its own at the participant."""
        hooks = ("send", "receive", "example_loss", "weight_term", "after_step", "local_loss", "plan")
        return self.proximal > 0 or any(
            getattr(type(self), one) is not getattr(BackboneAveraging, one) for one in hooks
        )

    def keys_of(self, group: str, keys: Sequence[str]) -> Sequence[str]:
        """Keys of one group, among those of a member.

        Args:
            group: Name of the group.
            keys: Keys of the member.
        """
        del keys
        return self.sharing[group].keys

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Next shared state of a group, after weights, bounds, rule and server optimizer.

        Args:
            sent: Shared states by participant, tensors of equal keys and shapes.
            asked: Names of all members that were asked.
            about: Descriptions of the group's members.
            server: The group's memory: the last shared state and the server optimizer.
            round_index: Index of the round, from 0.

        Raises:
            ValueError: If the rule returns other keys, shapes or dtypes.
            RuntimeError: If rule or server optimizer return non-finite tensors for finite ones.
        """
        del asked
        names, where = list(sent), f"Round {round_index}"
        states: list[State] = [{key: one[key] for key in self.sharing[server.group].keys} for one in sent.values()]
        weights = self._weights({name: samples_of(about[name]) for name in names})
        check_states(states, weights, names)
        figures: dict[str, Sequence[float]] = {}
        if self.max_update_norm is not None:
            whole = states
            previous = {key: server.last[key].to(tensor.device) for key, tensor in whole[0].items()}
            states = clip_updates(whole, previous, self.max_update_norm, names)
            figures["clipped"] = [float(one is not other) for one, other in zip(states, whole, strict=True)]
        aggregate = aggregated(self.rule, states, weights, where)
        if len(names) > 1:
            figures["divergence"] = [state_divergence(states, centre=aggregate)]
        stepped = about.values() if self.server_optimizer is not None else ()  # Nobody else asks what is a parameter.
        parameters = set().union(*map(parameters_of, stepped))
        return Combined(self._finished(server, aggregate, parameters, names, where), figures)

    def _finished(
        self, server: ServerMemory, aggregate: State, parameters: set[str], names: Sequence[str], where: str
    ) -> dict[str, Tensor]:
        """The next shared state: an aggregate after the server optimizer, with vectors of spectral norms as such."""
        shared = with_unit_directions(self._served(server, dict(aggregate), parameters))
        cause = name_of(self.rule) + ("" if self.server_optimizer is None else " and the server optimizer")
        refuse_non_finite(shared, cause, names, where)
        return shared

    def _weights(self, counts: Mapping[str, float]) -> Tensor:
        if self.weighting == "uniform":
            return torch.ones(len(counts), dtype=torch.float64)
        if not isinstance(self.weighting, str):
            return weights_by_name(self.weighting, list(counts))
        weights, bounded = weights_by_samples(counts, self.max_share)
        for name, (count, weight) in bounded.items():
            if name not in self._bounded:
                self._bounded.add(name)
                log.warning(
                    "BackboneAveraging: %s has %d of %d examples and weighs as %d would, since nobody has more than "
                    "%g of all weights (max_share).",
                    name, count, sum(counts.values()), weight, self.max_share,
                )  # fmt: skip
        return weights

    def _served(self, server: ServerMemory, aggregate: dict[str, Tensor], parameters: set[str]) -> dict[str, Tensor]:
        """The aggregate, its parameters stepped towards by the server optimizer if there is one."""
        factory = self.server_optimizer
        if factory is None or not server.last:
            return aggregate
        keys = [key for key in aggregate if key in parameters]
        # A checkpoint's shared state lies on the CPU.
        here = {key: server.last[key].to(aggregate[key].device) for key in keys}
        return aggregate | server.kept(OPTIMIZER, lambda: ServerOptimizer(here, factory)).step(server.last, aggregate)

    def tidy(self, federation: FederationView, name: str) -> None:
        """Reset running statistics and momenta of a participant, as the settings ask for.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """
        if self.buffers == "reset":
            for module in federation[name].modules():
                if isinstance(module, _NormBase):
                    module.reset_running_stats()
        if self.optimizer_state == "reset":
            for optimizer in federation.local[name].optimizers:
                optimizer.state = defaultdict(dict)

    # Checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._foundations = dict(state_dict.get("foundations", {}))  # Older checkpoints have none.

    def as_saved(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Shared states, server optimizers, and digests of the initial frozen weights of the participants.

        What else a subclass keeps at the server is there if there is any.

        Args:
            found: State of the carrier; empty without one.
        """
        memory = found["server"]["memory"] if found else {}
        further = {group: own for group, one in memory.items() if any((own := _further(one)).values())}
        return ({"further": further} if further else {}) | {
            "shared": {group: one["last"] for group, one in memory.items() if one["last"]},
            "servers": {group: one["kept"][OPTIMIZER] for group, one in memory.items() if OPTIMIZER in one["kept"]},
            "foundations": {name: dict(own) for name, own in self._foundations.items() if own},
            "memory": found.get("memory", {}),
        }

    @staticmethod
    def memory_of(saved: Mapping[str, Any]) -> dict[str, Any]:
        """State of a carrier, from the state in a checkpoint, in which groups are named by their members."""
        memory = {}
        further = saved.get("further", {})
        for group in dict.fromkeys([*saved["shared"], *further]):
            kept = {OPTIMIZER: saved["servers"][group]} if group in saved["servers"] else {}
            own = further.get(group, {"own": {}, "tensors": {}, "kept": {}})
            memory[group] = {**own, "last": saved["shared"].get(group, {}), "kept": own["kept"] | kept}
        groups = {group: group.split(SEPARATOR) for group in memory}
        # Older checkpoints remember nothing of participants.
        return {"server": {"groups": groups, "memory": memory}, "memory": saved.get("memory", {})}


def _further(memory: Mapping[str, Any]) -> dict[str, Any]:
    """Memory of a group beside its last result and its server optimizer."""
    kept = {key: one for key, one in memory["kept"].items() if key != OPTIMIZER}
    return {"own": memory["own"], "tensors": memory["tensors"], "kept": kept}


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
