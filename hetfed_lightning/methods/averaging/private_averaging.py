"""Averages with differential privacy: what is released depends little on whether any one participant was there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from hetfed_lightning.aggregation import AggregationFunction, AggregationRule, State, check_states, weighted_mean
from hetfed_lightning.aggregation.clipping import check_max_norm
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.offers import parameters_of
from hetfed_lightning.methods.averaging.private_checks import check_company, check_settings
from hetfed_lightning.methods.averaging.sharing_groups import listed
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

    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


class Calendar(Protocol):
    """Whoever knows who takes part when."""

    def active_names(self, round_index: int) -> list[str]:
        """Participants that train in a round."""


class PrivateAveraging(BackboneAveraging):
    """Averaging with participant-level differential privacy: updates are clipped, and their sum is noised.

    Whoever sees all shared states of a run can hardly tell whether a participant was in it, with all of its data:
    ``epsilon`` says how hardly, ``delta`` with which probability that may fail. Neighbours differ by one participant
    whose updates are zero. With few institutions this is costly: see `docs/privacy.md` for what noise does to accuracy,
    and for what is not protected (metrics, logs, personal parts and checkpoints, and nothing from who averages).

    Every release is a Gaussian mechanism. Who takes part in a round is drawn with a seed that everybody knows, so being
    left out gives no amplification: a participant pays for every release that it was expected in, one for each of its
    sharing groups. Who was expected and did not come (quarantined, without a step) counts as an update of zero, so that
    neither the denominator nor the noise tells. Frozen parameters are not released.

    Everyone starts with the weights of the first: those must not have been learned from anybody's private data.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum of updates, in units of ``max_update_norm``.
        max_update_norm: Largest L2 norm of what a participant adds to the shared state, above 0.
        delta: In (0, 1); well below one over the number of participants.
        max_epsilon: Training ends, with a sentence, before a release would bring a participant above it. None for no
            limit, and for a first release that costs no more than 100.
        noise_seed: For rehearsals that have to be repeated: who knows the seed knows the noise, which protects nobody.
            ``federation/epsilon_rehearsed`` takes the place of ``federation/epsilon``.
        rule: :func:`~hetfed_lightning.aggregation.weighted_mean`; how far one participant moves another rule's result
            is not known.
        weighting: ``"uniform"``: noise is made for participants of equal weight.
        buffers: ``"local"`` or ``"reset"``: running statistics are no updates that can be clipped.
        settings: As :class:`BackboneAveraging` takes them. A server optimizer works on what was released, and a
            proximal term on what a participant received: neither costs privacy.

    Raises:
        ValueError: If a setting is out of its range or would void the guarantee; before training, if something beside
            it would, or if the first release exceeds ``max_epsilon`` (100 without one).
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

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Forget an earlier run's shared state, but none of its releases: those were made."""
        ledgers, rehearsed = self._ledgers, self._was_rehearsed
        super().setup(trainer, pl_module, stage)
        self._ledgers, self._was_rehearsed = ledgers, rehearsed

    def prepare(self, trainer: L.Trainer, federation: Federation) -> None:
        """Refuse what would void the guarantee."""
        super().prepare(trainer, federation)
        check_company(trainer.callbacks, self)  # type: ignore[attr-defined]  # the Trainer sets it at run time
        self._ranks, self._draws, self._device = federation.ranks, trainer.is_global_zero, federation.device
        self.check_promise(len(federation.members()))

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Groups as of any average; refuses vectors of a spectral norm, which are no updates.

        Raises:
            ValueError: Naming a participant and the key.
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
        """Say what weakens the guarantee for so many participants, and refuse a run whose noise anybody can draw.

        Raises:
            ValueError: If a rehearsal is to become earnest.
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

    def on_round_start(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """As the base class, once what went before is known to have been private."""
        if round_index > 0:
            self._check_shared(federation, round_index - 1)
        self.check_first(federation, round_index)
        super().on_round_start(trainer, federation, round_index)

    def on_round_resume(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """As the base class, where the checkpoint holds a shared state."""
        self._check_shared(federation, round_index)
        self.check_first(federation, round_index)
        super().on_round_resume(trainer, federation, round_index)

    def _check_shared(self, federation: Federation, round_index: int) -> None:
        joined = federation.joined(round_index)
        begun = [group for group in self.sharing.values() if any(name in group for name in joined)]
        missing = [group for group in begun if not self.shared_state(group.name)]
        if missing:
            raise ValueError(
                f"The checkpoint has no noised state of {listed(missing[0].members)}: it was made without "
                "PrivateAveraging, or by another group of participants. Start a new run without ckpt_path."
            )

    def check_first(self, calendar: Calendar, round_index: int) -> None:
        """As training begins or is resumed; from then on a budget that is spent ends it.

        Raises:
            ValueError: If the next release exceeds the budget, or there is none and it alone protects nobody.
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
        """Let go of the run's processes: a copy of this must not bring them along."""
        super().teardown(trainer, pl_module, stage)
        self._ranks = Ranks()

    # The round

    def may_exchange(self, federation: Federation, round_index: int) -> bool:
        """True if the budget allows the release of a round; if not, training is told to stop."""
        if self.exceeds(federation, round_index):  # A Trainer with min_epochs goes on after it was told to stop.
            log.warning("Round %d: nothing is shared, since max_epsilon=%g is spent.", round_index, self.max_epsilon)
            federation.trainer.should_stop = True
            return False
        # Who holds still for a while, as newcomers may, trains less than it described.
        self._trained = {name: _trained_keys(federation[name]) for name in federation.active_names(round_index)}
        self._released_in = round_index
        return True

    def on_round_end(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Hand out each group's noised mean, log its cost, and stop where the next one would exceed the budget."""
        super().on_round_end(trainer, federation, round_index)
        if self._released_in == round_index:
            federation.log_round(self.figures())
            if self.is_spent(federation, round_index):
                trainer.should_stop = True

    def figures(self) -> dict[str, float]:
        """What the releases so far have cost, by tag."""
        named = "epsilon" if self.noise_seed is None else "epsilon_rehearsed"
        return {f"federation/{named}": self.epsilon}

    def is_spent(self, calendar: Calendar, round_index: int) -> bool:
        """Whether no release may follow that of a round; if so, that is said."""
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
        """Say what it came to."""
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
        """The noised mean over all who were asked; figures of what was sent would tell of it without noise.

        Frozen parameters are not released.
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
        """Of the participant that has been in most releases so far, at ``delta``."""
        return max((ledger.epsilon(self.delta) for ledger in self._ledgers.values()), default=0.0)

    @property
    def releases(self) -> dict[str, int]:
        """In how many releases each participant has been, those who have left included."""
        return {name: ledger.releases for name, ledger in self._ledgers.items()}

    def _next_release(self, round_index: int) -> int:
        """The first round from this one that averages."""
        return round_index + (-(round_index + 1)) % self.every_n_rounds

    def exceeds(self, calendar: Calendar, round_index: int) -> bool:
        """Whether the release of a round would bring a participant above ``max_epsilon``."""
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
        """State of a checkpoint, with the account.

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
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        for name, saved in accounts_of(state_dict.get("releases", [])).items():
            # What this object has released since the checkpoint was made was released.
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
