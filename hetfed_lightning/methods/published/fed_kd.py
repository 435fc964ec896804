"""FedKD: a small common network and the own one teach each other, and updates travel at low rank (Wu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from hetfed_lightning.methods.common_network import CommonNetwork, common_features, common_parts
from hetfed_lightning.methods.common_start import SAMPLES, samples, weighted_mean_of
from hetfed_lightning.methods.low_rank import factors, longest_rank
from hetfed_lightning.methods.messages import Combined, Message, Work
from hetfed_lightning.methods.published.fml import divergence
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.schedules import RoundSchedule, value_in

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant
    from hetfed_lightning.supervised import Supervised

TRANSFORM = "transform"
LEFT, RIGHT = "/left", "/right"


class FedKD(CommonNetwork):
    """Participants of any architecture with a small common network; the two distil to each other, and it travels.

    Both networks learn from the task, from each other's probabilities and from each other's features, the common ones
    through a linear map that stays with the participant. The terms of the other network are divided by the sum of both
    task losses of the batch: who is often wrong is followed less. Updates of the common network's matrices travel as
    factors of the rank that holds the wanted share of their energy; convolutions are matrices of a row for each output
    channel, and tensors of one dimension travel as they are.

    Args:
        backbone: Common backbone, of features ``(B, D)``; None for copies of the participants' own networks.
        head: Common head for these features.
        energy: Share of the sum of squared singular values that is kept, in (0, 1], or a schedule of it; .95 rising to
            .98 in the paper. The server keeps as much of the mean.
        most_rank: Largest rank of factors, at least 1; None for the largest whose factors are not longer than the
            matrix. Messages are of one form in all rounds: factors are filled up to it with zeros, the common start has
            at most that rank, and an update that needs more for its energy loses the rest.

    Raises:
        ValueError: If an argument is out of its range; before training, if a task is not multiclass, or no two
            participants have common networks of one layout.

    Reference:
        Wu, Wu, Lyu, Huang, Xie (2022), Communication-efficient federated learning via knowledge distillation, Nature
        Communications 13, eq. 1 to 8 without attention maps. The divisors are weights here, of which no gradient is
        taken. Participants receive whole weights, since one that missed rounds could not add up updates.
    """

    search_space = search_space(energy=choices(0.9, 0.95, 0.99))

    def __init__(
        self,
        backbone: nn.Module | None = None,
        head: nn.Module | None = None,
        *,
        energy: float | RoundSchedule = 0.95,
        most_rank: int | None = None,
    ) -> None:
        if not isinstance(energy, RoundSchedule) and not 0 < energy <= 1:
            raise ValueError(f"energy: expected a share in (0, 1], got {energy}.")
        if most_rank is not None and most_rank < 1:
            raise ValueError(f"most_rank: expected at least 1, got {most_rank}.")
        super().__init__(backbone, head)
        self.energy, self.most_rank = energy, most_rank

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """The common network, and the map from its features to the participant's.

        Args:
            participant: Participant that gets them.
        """
        made = super().modules(participant)
        common, own = self.widths(participant, made)
        return {**made, TRANSFORM: nn.Linear(common, own, bias=False)}

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the common network, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If its task is not multiclass.
        """
        if participant.task.kind != "multiclass":
            raise ValueError(
                f"{participant.label}: FedKD compares probabilities of classes, and its task is "
                f"{participant.task.kind}: take EnsembleDistillation or BackboneAveraging."
            )
        return super().describe(participant, data)

    def example_loss(
        self,
        own: Tensor,
        inputs: Any,
        features: Tensor,
        outputs: Tensor,
        target: Tensor,
        on: Literal["own", "public"],
        context: Context,
    ) -> Tensor:
        """Loss of both networks, shape ``(B,)``.

        Args:
            own: Losses of the participant's network, shape ``(B,)``.
            inputs: Inputs of B examples.
            features: Features of the participant's backbone, shape ``(B, D)``.
            outputs: Outputs of the participant's network, shape ``(B, C)``.
            target: Classes of the B examples.
            on: Unused.
            context: The common network, the map of features, and the task.
        """
        del on
        small = common_features(context, inputs)
        common: Tensor = common_parts(context)[1](small)
        losses, weights = context.task.example_losses(common, target)
        theirs = losses * (len(losses) / weights.sum())
        mapped, wide = context.modules[TRANSFORM](small), features.flatten(1)
        apart = _distance(wide, mapped.detach()) + _distance(mapped, wide.detach())
        taught = divergence(common.detach(), outputs) + divergence(outputs.detach(), common)
        return own + theirs + (taught + apart) / (own.detach().mean() + theirs.detach().mean())

    def shaped_losses(
        self, federation: FederationView, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Losses of one participant; a fleet's are not known at once, since means of a batch divide them.

        Args:
            federation: The federation, in a round.
            participant: The participant that takes the step.
            losses: Losses of the task, shape ``(B,)``.
            batch: The B examples.
        """
        return super().shaped_losses(federation, participant, losses, batch)

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Factors of the round's update; of the weights themselves, whatever their energy, as the run begins.

        Args:
            participant: The sender.
            data: Unused.
            work: Unused.
            context: The weights that the round began with.
        """
        del data, work
        energy = value_in(self.energy, context.round_index) if context.received else 1.0
        message: dict[str, Tensor] = {}
        for key, weight in self.common(participant).items():
            update = weight - context.received[key] if context.received else weight.clone()
            if (rank := self._rank(tuple(weight.shape))) == 0:
                message[key] = update
            else:
                message[key + LEFT], message[key + RIGHT] = factors(update.flatten(1), energy, rank)
        return message

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """The common start, or the weights of the last round with the mean update at low rank.

        Args:
            sent: Messages by sender.
            asked: Names of all asked members.
            about: Descriptions of the group's members.
            server: The group's memory; ``last`` has the weights that the round began with.
            round_index: Index of the round, from 0.
        """
        layout = {key: tuple(one.shape) for key, one in next(iter(about.values())).items() if key != SAMPLES}
        updates = {name: self._restored(one, layout) for name, one in sent.items()}
        if not server.last and len(asked) == 1:
            (first,) = updates.values()
            return Combined(first)
        mean = weighted_mean_of(updates, list(layout), samples(about, list(sent)))
        energy = value_in(self.energy, round_index)
        for key, shape in layout.items():
            if (rank := self._rank(shape)) > 0:
                left, right = factors(mean[key].flatten(1), energy, rank)
                mean[key] = (left @ right).view(shape)
        return Combined({key: server.last[key] + one for key, one in mean.items()})

    def _rank(self, shape: tuple[int, ...]) -> int:
        """Rank of a weight's factors; 0 if it travels as it is."""
        longest = longest_rank(shape)
        return longest if self.most_rank is None else min(longest, self.most_rank)

    def _restored(self, message: Message, layout: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {
            key: message[key] if key in message else (message[key + LEFT] @ message[key + RIGHT]).view(shape)
            for key, shape in layout.items()
        }


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of differences of features, shape ``(B,)``."""
    return (student - teacher).square().mean(dim=1)
