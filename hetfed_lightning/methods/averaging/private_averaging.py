"""Averaging with participant-level differential privacy: results depend little on any one participant."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from hetfed_lightning.aggregation import AggregationFunction, AggregationRule, State, check_states, weighted_mean
from hetfed_lightning.aggregation.clipping import check_max_norm
from hetfed_lightning.logs.text import listed
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.offers import parameters_of
from hetfed_lightning.methods.averaging.private_checks import check_company, check_settings
from hetfed_lightning.methods.messages import Combined, Message
from hetfed_lightning.methods.method import About
from hetfed_lightning.methods.server_memory import ServerMemory
from hetfed_lightning.participants.inseparable import is_direction
from hetfed_lightning.privacy import PrivacyAccount, private_mean, private_noise, seeded_noise
from hetfed_lightning.privacy.accountant import (
    LARGEST_UNSAID,
    accounts_of,
    check_budget,
    least_epsilon,
    state_of_accounts,
)
from hetfed_lightning.seeding import stream_seed
from hetfed_lightning.strategies.ranks import Ranks

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


class Calendar(Protocol):
    """Interface to the participation plan of a run."""

    def active_names(self, round_index: int) -> list[str]:
        """Names of the participants that train in a round."""


class PrivateAveraging(BackboneAveraging):
    """Averaging with participant-level differential privacy: updates are clipped, and their sum is noised.

    An observer of all shared states of a run can hardly tell if a participant was in it, with all of its data:
    ``epsilon`` bounds how well, ``delta`` is the probability with which the bound may fail. Neighbours differ by one
    participant whose updates are zero. With few institutions this is costly: see `docs/privacy.md` for the accuracy
    under noise, and for what is not protected (metrics, logs, personal parts and checkpoints, and nothing from the
    server).

    Every release is a Gaussian mechanism. The sample of a round is drawn with a public seed, so sampling gives no
    amplification. A participant pays for every release of its sharing groups in rounds that expected it. A participant
    that was expected and absent (quarantined, without a step) counts as an update of zero, so that neither the
    denominator nor the noise reveals it. Frozen parameters are not released.

    All participants start with the weights of the first: those must not have been learned from private data.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum of updates, in units of ``max_update_norm``; above
            0.
        max_update_norm: Largest L2 norm of a participant's update, above 0.
        delta: Failure probability in (0, 1); well below one over the number of participants.
        max_epsilon: Budget: training ends, with a message, before a release would bring a participant above it. None
            for no limit; the first release must then cost no more than 100.
        noise_seed: Seed of the noise, for repeatable rehearsals alone: a known seed protects nobody.
            ``federation/epsilon_rehearsed`` takes the place of ``federation/epsilon``.
        rule: :func:`~hetfed_lightning.aggregation.weighted_mean`; the sensitivity of other rules is not known.
        weighting: ``"uniform"``; the noise is computed for participants of equal weight.
        buffers: ``"local"`` or ``"reset"``; running statistics cannot be clipped like updates.
        settings: Further arguments of :class:`BackboneAveraging`. A server optimizer works on released states and a
            proximal term on received ones: neither costs privacy.

    Raises:
        ValueError: If a setting is out of its range or would void the guarantee; before training, if another callback
            would, or if the first release exceeds ``max_epsilon`` (100 without one).
        ImportError: If dp-accounting is not installed.

    Reference:
        McMahan, Ramage, Talwar, Zhang (2018), Learning differentially private recurrent language models, Algorithm 1;
        Geyer, Klein, Nabi (2017), Differentially private federated learning: a client level perspective.
    """

    combines_silence = True

    def __init__(
        self,
        *,
        noise_multiplier: float,
        max_update_norm: float,
        delta: float,
        max_epsilon: float | None = None,
        noise_seed: int | None = None,
        rule: AggregationRule | AggregationFunction = weighted_mean,
        weighting: Literal["samples", "uniform"] | dict[str, float] = "uniform",
        buffers: Literal["local", "average", "reset"] = "local",
        **settings: Any,
    ) -> None:
        check_max_norm(max_update_norm, "max_update_norm")
        check_settings(rule, weighting, buffers)
        check_budget(noise_multiplier, delta, max_epsilon)
        super().__init__(rule, weighting=weighting, buffers=buffers, max_update_norm=max_update_norm, **settings)
        self.noise_multiplier = noise_multiplier
        self.delta = delta
        self.max_epsilon = max_epsilon
        self.noise_seed = noise_seed
        self._bound = float(max_update_norm)
        self._ledgers: dict[str, PrivacyAccount] = {}
        self._was_rehearsed = False
        self._is_checked = False
        self._trained: dict[str, set[str]] = {}
        self._released_in = -1
        self._ranks, self._draws, self._device = Ranks(), True, torch.device("cpu")

    # Before training

    def begin_run(self, federation: FederationView, *, afresh: bool) -> None:
        """Drop an earlier run's shared states, but keep its releases in the account."""
        ledgers, rehearsed = self._ledgers, self._was_rehearsed
        super().begin_run(federation, afresh=afresh)
        self._ledgers, self._was_rehearsed = ledgers, rehearsed

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Refuse settings and callbacks that would void the guarantee."""
        super().prepare(trainer, federation)
        check_company(trainer.callbacks, self)  # type: ignore[attr-defined]  # the Trainer sets it at run time
        self._ranks, self._draws, self._device = federation.ranks, trainer.is_global_zero, federation.device
        self.check_promise(len(federation.members()))

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Groups of participants as in any averaging; refuses singular vectors of a spectral norm.

        Raises:
            ValueError: If there are some; names a participant and the key.
        """
        found = super().groups(about)
        for group in self.sharing.values():
            if strange := [key for key in group.keys if is_direction(key, group.keys)]:
                raise ValueError(
                    f"PrivateAveraging: what participant {group.members[0]!r} shares has {strange[0]}, a vector of a "
                    "spectral norm, which follows private data and is no update that can be clipped. Take another "
                    "normalisation, such as weight_norm."
                )
        return found

    def check_promise(self, count: int) -> None:
        """Warn of settings that weaken the guarantee for ``count`` participants.

        Raises:
            ValueError: If a rehearsal with seeded noise would continue as a run without.
        """
        if self.delta * count >= 1:
            log.warning(
                "PrivateAveraging: delta=%g allows that one of %d participants is given away altogether; choose it "
                "well below 1/%d.", self.delta, count, count,
            )  # fmt: skip
        if self.noise_seed is not None:
            log.warning(
                "PrivateAveraging: noise_seed=%d makes this a rehearsal. Who knows the seed can take the noise away: "
                "nobody is protected, whatever federation/epsilon_rehearsed says.", self.noise_seed,
            )  # fmt: skip
        if self._was_rehearsed and self.noise_seed is None:
            raise ValueError(
                "The checkpoint was rehearsed with a noise_seed: what it shares was noised by numbers that anybody can "
                "draw. Start a new run without ckpt_path, or go on rehearsing with a noise_seed."
            )
        self._is_checked = False

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Check the budget, then set the common start and hand the shared state to newcomers."""
        if round_index > 0:
            self._check_shared(federation, round_index - 1)
        self.check_first(federation, round_index)
        super().on_round_start(trainer, federation, round_index)

    def on_round_resume(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Set the anchors of the proximal term, for a checkpoint with a shared state."""
        self._check_shared(federation, round_index)
        self.check_first(federation, round_index)
        super().on_round_resume(trainer, federation, round_index)

    def _check_shared(self, federation: FederationView, round_index: int) -> None:
        joined = federation.joined(round_index)
        begun = [group for group in self.sharing.values() if any(name in group for name in joined)]
        missing = [group for group in begun if not self.shared_state(group.name)]
        if missing:
            raise ValueError(
                f"The checkpoint has no noised state of {listed(missing[0].members)}: it was made without "
                "PrivateAveraging, or by another group of participants. Start a new run without ckpt_path."
            )

    def check_first(self, calendar: Calendar, round_index: int) -> None:
        """Check the budget as training begins or resumes; from then on a spent budget ends training.

        Args:
            calendar: Participation plan of the run.
            round_index: Index of the round, from 0.

        Raises:
            ValueError: If the next release exceeds the budget, or costs more than 100 without one.
        """
        following = self._next_release(round_index)
        if not self._is_checked and self.max_epsilon is None:
            self._check_unsaid(calendar, following)
        if not self._is_checked and self.exceeds(calendar, following):
            after = self._epsilon_after(calendar, following)
            raise ValueError(
                f"max_epsilon={self.max_epsilon:g} does not allow the next release: epsilon is {self.epsilon:.3g} at "
                f"delta={self.delta:g} and would be {after:.3g} after it. Raise noise_multiplier or max_epsilon."
            )
        self._is_checked = True

    def _check_unsaid(self, calendar: Calendar, round_index: int) -> None:
        """Refuse noise that protects nobody, unless it was asked for."""
        names = calendar.active_names(round_index)
        count = max((sum(name in group for group in self.sharing.values()) for name in names), default=0)
        cost = least_epsilon(1.0, self.noise_multiplier, self.delta)
        found = f"at least {cost:.3g}"
        if cost <= LARGEST_UNSAID:
            cost = PrivacyAccount().after(self.noise_multiplier, count).epsilon(self.delta)
            found = f"{cost:.3g}"
        if count and cost > LARGEST_UNSAID:
            raise ValueError(
                f"PrivateAveraging(noise_multiplier={self.noise_multiplier:g}): the first average alone would cost an "
                f"epsilon of {found} at delta={self.delta:g}, which protects nobody. Raise noise_multiplier (1 to 10 "
                "are common), or set max_epsilon to what may be spent if that is meant."
            )

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Drop references to the run, which a copy would bring along."""
        super().teardown(trainer, pl_module, stage)
        self._ranks = Ranks()

    # The round

    def may_exchange(self, federation: FederationView, round_index: int) -> bool:
        """True if the budget allows the release of a round; if not, training is told to stop.

        Args:
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        if self.exceeds(federation, round_index):  # A Trainer with min_epochs goes on after it was told to stop.
            log.warning("Round %d: nothing is shared, since max_epsilon=%g is spent.", round_index, self.max_epsilon)
            federation.trainer.should_stop = True
            return False
        # A newcomer with frozen rounds trains fewer parameters than it described.
        self._trained = {name: _trained_keys(federation[name]) for name in federation.active_names(round_index)}
        self._released_in = round_index
        return True

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Hand out each group's noised mean, log its cost, and stop if the next one would exceed the budget."""
        super().on_round_end(trainer, federation, round_index)
        if self._released_in == round_index:
            federation.log_round(self.figures())
            if self.is_spent(federation, round_index):
                trainer.should_stop = True

    def figures(self) -> dict[str, float]:
        """Privacy cost of the releases so far, by tag."""
        named = "epsilon" if self.noise_seed is None else "epsilon_rehearsed"
        return {f"federation/{named}": self.epsilon}

    def is_spent(self, calendar: Calendar, round_index: int) -> bool:
        """True if the budget allows no release after that of a round; says so in the log.

        Args:
            calendar: Participation plan of the run.
            round_index: Index of the round, from 0.
        """
        following = self._next_release(round_index + 1)
        if self.exceeds(calendar, following):
            log.warning(
                "Training ends after round %d: epsilon is %.3g at delta=%g, and would be %.3g after the next release; "
                "max_epsilon=%g.",
                round_index, self.epsilon, self.delta, self._epsilon_after(calendar, following), self.max_epsilon,
            )  # fmt: skip
            return True
        return False

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Log the privacy cost of the run."""
        del trainer, pl_module
        most = max(self.releases.values(), default=0)
        log.info(
            "Participants: epsilon %.3g at delta=%g after %d releases with a noise multiplier of %g%s.",
            self.epsilon, self.delta, most, self.noise_multiplier,
            "" if self.noise_seed is None else ", rehearsed: nobody is protected",
        )  # fmt: skip

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Noised mean over all asked participants, with no figures, which would reveal updates without noise.

        Frozen parameters are not released.

        Args:
            sent: Shared states by participant, tensors of equal keys and shapes.
            asked: Names of all expected participants; an absent one counts as an update of zero.
            about: Descriptions of the group's members.
            server: The group's memory: the last shared state.
            round_index: Index of the round, from 0.
        """
        group = self.sharing[server.group]
        before = {key: tensor.to(self._device) for key, tensor in server.last.items()}
        trained = set().union(*(self._trained.get(name, parameters_of(about[name], trained=True)) for name in asked))
        previous = {key: before[key] for key in group.keys if key in trained}
        senders = list(sent)
        states: list[State] = [{key: state[key] for key in previous} for state in sent.values()]
        if states:
            check_states([previous, *states], torch.ones(len(states) + 1), ["what was shared", *senders])
        size = sum(tensor.numel() for tensor in previous.values())
        noise = _Cut(self._noise(group, size, round_index))
        released = private_mean(
            states,
            previous,
            participants=len(asked),
            max_norm=self._bound,
            noise_multiplier=self.noise_multiplier,
            noise=noise,
            names=senders,
        )
        for name in asked:
            self._ledgers.setdefault(name, PrivacyAccount()).add(self.noise_multiplier)
        self._was_rehearsed |= self.noise_seed is not None
        whole = {key: released.get(key, before[key]) for key in group.keys}
        return Combined(self._finished(server, whole, trained, senders, f"Round {round_index}"))

    def _noise(self, group: SharingGroup, count: int, round_index: int) -> Tensor:
        """One draw for all processes: two would tell more than their mean."""
        if self.noise_seed is not None:
            return seeded_noise(count, stream_seed(self.noise_seed, "noise", round_index, group.name))
        drawn = {"noise": private_noise(count)} if self._draws else {}
        return self._ranks.gathered(drawn, ["noise"])["noise"]

    # The account

    @property
    def epsilon(self) -> float:
        """Epsilon, at ``delta``, of the participant with the most releases so far."""
        return max((ledger.epsilon(self.delta) for ledger in self._ledgers.values()), default=0.0)

    @property
    def releases(self) -> dict[str, int]:
        """Number of releases of each participant by name, including those that have left."""
        return {name: ledger.releases for name, ledger in self._ledgers.items()}

    def _next_release(self, round_index: int) -> int:
        """The first round from this one that averages."""
        return round_index + (-(round_index + 1)) % self.every_n_rounds

    def exceeds(self, calendar: Calendar, round_index: int) -> bool:
        """True if the release of a round would bring a participant above ``max_epsilon``.

        Args:
            calendar: Participation plan of the run.
            round_index: Index of the round, from 0.
        """
        return self.max_epsilon is not None and self._epsilon_after(calendar, round_index) > self.max_epsilon

    def _epsilon_after(self, calendar: Calendar, round_index: int) -> float:
        """What epsilon will be once a round has averaged."""
        found = self.epsilon
        for name in calendar.active_names(round_index):
            more = sum(name in group for group in self.sharing.values())
            after = self._ledgers.get(name, PrivacyAccount()).after(self.noise_multiplier, more)
            found = max(found, after.epsilon(self.delta))
        return found

    # Checkpoints

    def as_saved(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """State for a checkpoint, with the privacy account.

        Args:
            found: State of the carrier; empty without one.
        """
        # Pairs and not a mapping: when a participant is taken out of a checkpoint, what stands under its name goes
        # with it, and its releases were made all the same.
        return super().as_saved(found) | {
            "releases": state_of_accounts(self._ledgers),
            "rehearsed": self._was_rehearsed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint; releases made since then stay in the account."""
        super().load_state_dict(state_dict)
        for name, saved in accounts_of(state_dict.get("releases", [])).items():
            # Releases after the checkpoint was made stay in the account: they cannot be taken back.
            self._ledgers[name] = saved.at_least(self._ledgers.get(name, PrivacyAccount()))
        self._was_rehearsed = state_dict.get("rehearsed", False)


def _trained_keys(participant: Participant) -> set[str]:
    return {key for key, one in participant.named_parameters(remove_duplicate=False) if one.requires_grad}


class _Cut:
    """Hands out one vector piece by piece."""

    def __init__(self, whole: Tensor) -> None:
        self._whole, self._next = whole, 0

    def __call__(self, count: int) -> Tensor:
        self._next += count
        return self._whole[self._next - count : self._next]
