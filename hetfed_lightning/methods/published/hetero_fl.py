"""HeteroFL: participants of any width train the leading channels of one large network (Diao et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning.methods.class_means import check_multiclass
from hetfed_lightning.methods.common_start import SAMPLES
from hetfed_lightning.methods.messages import Combined, Exchange, Message, PerParticipant, When, Work
from hetfed_lightning.methods.method import About, Method

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

CHANNELS = 2
"""Leading dimensions of a weight that widths may differ in: outputs and inputs of a layer."""

CLASSES = "classes"
"""Name of the module that knows which classes a participant has."""


class HeteroFL(Method):
    """Averaging of networks of one architecture and unlike widths, each the leading slice of the largest.

    The server holds the shared weights of the widest network. Each participant gets the leading part of every tensor,
    as large as its own; what it has trained is averaged coordinate by coordinate over those who hold one, and a
    coordinate that nobody of a round holds stays. All begin with slices of the widest participant's weights. Shared
    weights travel, in each participant's own size.

    With ``masks_absent`` the logits of classes that a participant has no example of are zero in its loss, so that their
    outputs are left alone. The paper's networks have two things more, which are for the backbone to have: features
    divided by the width's share in training (its scaler), and batch normalisation without running statistics.

    Args:
        weighting: ``"uniform"`` over those who hold a coordinate, as in the paper; ``"samples"`` by their examples.
        masks_absent: True to mask classes without own examples; for multiclass tasks.

    Raises:
        ValueError: If a setting is unknown; before training, if a participant shares nothing, networks differ in more
            than widths, or no participant is as wide as all others in every layer.

    Reference:
        Diao, Ding, Tarokh (2021), HeteroFL: Computation and Communication Efficient Federated Learning for
        Heterogeneous Clients, ICLR, Algorithm 1 and section 3.
    """

    exchanges = (Exchange("start", "joined"), Exchange("end"))
    replaces_state = True
    needs_steps = True
    paper_shares = ("*",)

    def __init__(self, weighting: Literal["uniform", "samples"] = "uniform", *, masks_absent: bool = True) -> None:
        if weighting not in {"uniform", "samples"}:
            raise ValueError(f"weighting: expected 'uniform' or 'samples', got {weighting!r}.")
        self.weighting, self.masks_absent = weighting, masks_absent

    # Who has which part

    def indices(self, size: int, full: int, round_index: int) -> Tensor:
        """Indices that a participant's dimension has in that of the widest network, shape ``(size,)``.

        Args:
            size: Size of the dimension.
            full: Size of the widest network's.
            round_index: Index of the round in which the part is trained.
        """
        del full, round_index
        return torch.arange(size)

    def _place(self, layout: Tensor, full: Tensor, round_index: int) -> tuple[Tensor, ...]:
        """Index of a participant's part in a tensor of the widest network, for ``tensor[place]``."""
        own = [
            self.indices(size, whole, round_index) if place < CHANNELS else torch.arange(size)
            for place, (size, whole) in enumerate(zip(layout.shape, full.shape, strict=True))
        ]
        return tuple(torch.meshgrid(*own, indexing="ij")) if own else ()

    # Before training

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared weights, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If it shares nothing, or classes are to be masked and its task is not multiclass.
        """
        if self.masks_absent:
            check_multiclass(participant, f"{self.title}(masks_absent=True)")
        weights = participant.view_of(participant.averaged_keys())
        if not weights:
            raise ValueError(
                f"{participant.label}: {self.title} replaces shared weights, and it shares none: change "
                "Participant(shared=...), or leave the method out."
            )
        layout = {key: torch.empty_like(one, device="meta") for key, one in weights.items()}
        return layout | {SAMPLES: torch.tensor(data.num_samples)}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all, which bears the name of the widest.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If networks differ in more than widths, or none is the widest in every layer.
        """
        layouts = {name: _layout(one) for name, one in about.items()}
        widest = max(layouts, key=lambda name: sum(one.numel() for one in layouts[name].values()))
        whole = layouts[widest]
        for name, own in layouts.items():
            if own.keys() != whole.keys():
                key = next(iter(own.keys() ^ whole.keys()))
                raise ValueError(
                    f"{self.title} needs one architecture of several widths, and {key} is shared by "
                    f"{name if key in own else widest!r} and not by {widest if key in own else name!r}."
                )
            for key, one in own.items():
                full = whole[key]
                if one.ndim != full.ndim or one.shape[CHANNELS:] != full.shape[CHANNELS:] or one.dtype != full.dtype:
                    raise ValueError(
                        f"{self.title} needs one architecture of several widths: {key} of {name!r} is of shape "
                        f"{tuple(one.shape)}, that of {widest!r} of {tuple(full.shape)}."
                    )
                if any(size > most for size, most in zip(one.shape, full.shape, strict=True)):
                    raise ValueError(
                        f"{self.title}: {name!r} is no slice of the widest participant, {widest!r}: its {key} is of "
                        f"shape {tuple(one.shape)}, and that one's of {tuple(full.shape)}. Make one participant at "
                        "least as wide as all others in every layer."
                    )
        return {widest: list(layouts)}

    # The round

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """The widest participant as the run begins; those who train, at a round's end.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        asked = super().senders(when, round_index, about, cohorts)
        if when == "end":
            return asked
        return [name for name in asked if round_index == 0 and name in self.groups(about)]

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Shared weights, in the participant's own size.

        Args:
            participant: The sender.
            data: Unused.
            work: Unused.
            context: Unused.
        """
        del data, work, context
        return participant.view_of(participant.averaged_keys())

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """For each member its part of the widest network, for the next round that it trains in.

        Args:
            sent: Weights by sender, each in its own size.
            asked: Unused.
            about: Descriptions of the members: layouts and numbers of examples.
            server: Weights of the widest network.
            round_index: Index of the round, from 0.
        """
        del asked
        whole = _layout(about[server.group])
        if not server.tensors:
            began = sent[server.group] if server.group in sent else next(iter(sent.values()))
            server.tensors.update({key: one.clone() for key, one in began.items()})
            return Combined(self._parts(about, server, round_index))
        for key, full in whole.items():
            device = server.tensors[key].device
            total, weights = (torch.zeros(full.shape, dtype=full.dtype, device=device) for _ in range(2))
            for name, one in sent.items():
                place = self._place(one[key], full, round_index)
                weight = float(about[name][SAMPLES]) if self.weighting == "samples" else 1.0
                total[place] += weight * one[key].to(device)
                weights[place] += weight
            server.tensors[key] = torch.where(weights > 0, total / weights.clamp(min=1e-12), server.tensors[key])
        return Combined(self._parts(about, server, round_index + 1))

    def _parts(self, about: About, server: ServerMemory, round_index: int) -> PerParticipant:
        return PerParticipant(
            {
                name: {
                    key: server.tensors[key][self._place(one, server.tensors[key], round_index)].clone()
                    for key, one in _layout(own).items()
                }
                for name, own in about.items()
            }
        )

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Note once which classes the participant has; the weights are replaced already.

        Args:
            participant: Unused.
            data: Its training examples.
            state: Its part of the weights, for their dtype.
            context: Its memory, which keeps 1 for a class that it has examples of, 0 otherwise.
        """
        del participant
        if self.masks_absent and CLASSES not in context.memory and (counts := data.class_counts) is not None:
            context.memory[CLASSES] = (counts > 0).to(next(iter(state.values())))

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
        """Cross-entropy with the logits of absent classes at zero, shape ``(B,)``; the own loss without masks.

        Args:
            own: Losses of the task, shape ``(B,)``.
            inputs: Unused.
            features: Unused.
            outputs: Logits, shape ``(B, C)``.
            target: Classes, shape ``(B,)``.
            on: Unused.
            context: Its memory of the classes.
        """
        del inputs, features, on
        if not self.masks_absent:
            return own
        kept = context.memory[CLASSES][: outputs.shape[1]].to(outputs)
        return functional.cross_entropy(outputs * kept, target, reduction="none")


def _layout(described: Message) -> dict[str, Tensor]:
    return {key: one for key, one in described.items() if key != SAMPLES}
