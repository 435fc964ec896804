"""FedALA: each participant mixes the common model into its own, entry by entry (Zhang et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from hetfed_lightning.methods.common_start import SharedWeights
from hetfed_lightning.methods.messages import Message, Work
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

OWN, WEIGHTS, NEXT = "own/", "weights/", "next/"
"""Beginnings of keys in a participant's memory: its parameters after its last local steps, the weights with which it
began these, and the weights of the newest mixture."""

RECENT = 10
"""Number of passes over which the first weights' loss has to be steady."""


class FedALA(SharedWeights):
    """Federated averaging of shared weights, of which the last layers are mixed with the participant's own.

    What travels is the shared state, weighted by examples; the local loss is the participant's own. A participant takes
    over the mean w, but of the last p shared layers ``theta + (w - theta) W``: theta is its parameters after its last
    local steps, W of the same shapes, in [0, 1], learned by gradient steps on a sample of its own examples, with
    everything else still. W begins at 1; before the first mixture it is learned until its loss is steady, later for one
    pass from where it was. Who was not sampled mixes anew what it last learned with each newer mean, and is measured
    with that. Before its first local steps a participant takes over w alone.

    Args:
        fraction: Fraction in (0, 1] of the own examples that W is learned from, drawn anew for each mixture; .8 in the
            paper. They are held on the device while W is learned.
        layers: Number p of last layers that are mixed, at least 1; 1 in the paper. A layer is a module with shared
            parameters that are trained; the published code counts parameters. Of the default
            ``Participant(shared=("backbone",))`` it is the backbone's last one.
        lr: Learning rate of W, above 0; 1 in the paper.
        batch_size: Examples in a step of W, at least 1; 10 in the paper, as in its local steps.
        threshold: Standard deviation of the mean loss over the last ten passes, above 0, below which the first W is
            steady; .1 in the published code.
        max_passes: Most passes for the first W, at least 1; the published code has no limit.

    Raises:
        ValueError: If a setting is out of its range; before training, if a participant shares nothing to train, no two
            share weights of one layout, or one trains with DP-SGD, whose examples W would be learned from without
            noise.

    Reference:
        Zhang et al. (2023), FedALA: Adaptive Local Aggregation for Personalized Federated Learning, AAAI, Algorithm 1
        and eq. 5 and 6.
    """

    replaces_state = False

    paper_shares = ("*",)
    search_space = search_space(lr=choices(0.1, 1.0), layers=choices(1, 2))

    def __init__(
        self,
        fraction: float = 0.8,
        layers: int = 1,
        lr: float = 1.0,
        batch_size: int = 10,
        *,
        threshold: float = 0.1,
        max_passes: int = 100,
    ) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a number in (0, 1], got {fraction}.")
        for name, value in (("lr", lr), ("threshold", threshold)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number above 0, got {value}.")
        for name, count in (("layers", layers), ("batch_size", batch_size), ("max_passes", max_passes)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        self.fraction, self.layers, self.lr, self.batch_size = fraction, layers, lr, batch_size
        self.threshold, self.max_passes = threshold, max_passes

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared weights, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If it shares nothing to train, or trains with DP-SGD.
        """
        if participant.privacy is not None:
            raise ValueError(
                f"{participant.label}: privacy=DPSGD(...) is not possible beside {self.title}, which learns from its "
                "examples without noise what travels later. Leave out one of the two."
            )
        found = super().describe(participant, data)
        if not self.mixed_keys(participant):
            raise ValueError(
                f"{participant.label}: {self.title} mixes layers that are shared and trained, and it has none: change "
                "Participant(shared=...), or take BackboneAveraging."
            )
        return found

    def mixed_keys(self, participant: Participant) -> list[str]:
        """Keys of the parameters in the last shared layers.

        Args:
            participant: The participant.
        """
        keys = participant.trained_keys(shared=True)
        layers = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))[-self.layers :]
        return [key for key in keys if key.rpartition(".")[0] in layers]

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """Nothing; after a step the participant remembers its own parameters, and the weights that it began with.

        Args:
            participant: The sender.
            weights: Its shared weights.
            work: Number of its steps.
            context: Its memory.
        """
        for key in self.mixed_keys(participant) if work.landed else ():
            context.memory[OWN + key] = weights[key]
            if NEXT + key in context.memory:
                context.memory[WEIGHTS + key] = context.memory[NEXT + key]
        return {}

    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the mean, mixed with the own parameters in the last layers.

        Args:
            participant: The receiver, whose shared weights are replaced.
            data: Its examples.
            state: Mean by key.
            context: Its memory.
        """
        memory = context.memory
        own = {key: memory[OWN + key] for key in self.mixed_keys(participant) if OWN + key in memory}
        mixed = {}
        if own:
            begun = {key: memory[WEIGHTS + key] for key in own if WEIGHTS + key in memory}
            weights = self._learned(participant, data, state, own, begun)
            memory.update({NEXT + key: one for key, one in weights.items()})
            mixed = mixture(own, state, weights)
        participant.load_state_of({**state, **mixed})

    def _learned(
        self,
        participant: Participant,
        data: ParticipantData,
        state: Message,
        own: Mapping[str, Tensor],
        begun: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Weights of the next mixture, from those of the last one, or from 1 if there was none."""
        weights = dict(begun) or {key: torch.ones_like(one) for key, one in own.items()}
        batches, losses = self._sample(data), list[float]()
        with evaluating(participant):
            for _ in range(1 if begun else self.max_passes):
                values = []
                for inputs, target in batches:
                    leaves = {key: one.detach().requires_grad_() for key, one in weights.items()}
                    with torch.enable_grad():
                        tensors = {**state, **mixture(own, state, leaves)}
                        loss = participant.task.loss(functional_call(participant, tensors, (inputs,)), target)
                        slopes = torch.autograd.grad(loss, list(leaves.values()))
                    values.append(float(loss.detach()))
                    weights = {
                        key: (one.detach() - self.lr * slope).clamp(0, 1)
                        for (key, one), slope in zip(leaves.items(), slopes, strict=True)
                    }
                losses.append(sum(values) / len(values))
                if len(losses) > RECENT and steadiness(losses[-RECENT:]) < self.threshold:
                    break
        return weights

    def _sample(self, data: ParticipantData) -> list[tuple[Any, Tensor]]:
        """Batches of a random part of the examples, in their order."""
        count = max(1, round(self.fraction * data.num_samples))
        places = torch.randperm(data.num_samples)[:count].sort().values.to(data.device)
        found, seen = [], 0
        for inputs, target in data.batches():
            here = places[(places >= seen) & (places < seen + len(target))] - seen
            seen += len(target)
            found += [(picked(inputs, part), target[part]) for part in here.split(self.batch_size) if len(part)]
        return found


def mixture(
    own: Mapping[str, Tensor], common: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mixtures ``own + (common - own) weights`` by key.

    Args:
        own: Own parameters.
        common: Common parameters, of these keys at least.
        weights: Weights of the common ones, of the same shapes, in [0, 1].
    """
    return {key: one + (common[key] - one) * weights[key] for key, one in own.items()}


def steadiness(losses: Sequence[float]) -> float:
    """Standard deviation of some losses, at least 0.

    Args:
        losses: At least one.
    """
    mean = sum(losses) / len(losses)
    return math.sqrt(sum((one - mean) ** 2 for one in losses) / len(losses))


def picked(inputs: Any, places: Tensor) -> Any:
    """Inputs of some examples of a batch, which is a tensor or tensors by name.

    Args:
        inputs: Shape ``(B, ...)``, or a mapping of such.
        places: Places of the examples, shape ``(b,)``.
    """
    if isinstance(inputs, Mapping):
        return {key: one[places] for key, one in inputs.items()}
    return inputs[places]
