"""SCAFFOLD: control variates that correct the drift of local steps (Karimireddy et al. 2020)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from hetfed_lightning.methods.common_start import SharedWeights, weighted_mean_of
from hetfed_lightning.methods.messages import Combined, Message, Work
from hetfed_lightning.methods.search_space import log_range, search_space
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

CONTROL = "control/"
"""Beginning of the keys of control variates."""


class Scaffold(SharedWeights):
    """Averaging of shared weights whose local gradients are corrected by ``c - c_k``.

    Participant k's variate ``c_k`` estimates its mean gradient along a round, ``c`` is their mean over all. Its local
    loss has the linear term ``(c - c_k) . w``. With x the weights before the round and ``y_k`` after it, ``c_k``
    becomes ``c_k - c + (x - y_k) / sum of learning rates`` (option II), or the gradient at x of the mean loss over all
    own examples (option I). Weights and the changes of variates travel. The server makes
    ``x + server_lr mean(y_k - x)`` of them, all participants alike, and moves c by the mean change times the share of
    participants that were sampled.

    Personal parameters, if there are any, are trained without correction. The paper's steps are plain SGD; the sum of
    learning rates is that of the steps taken, so that with momentum the variates of option II are larger than
    gradients. Those of option I are gradients whatever the optimizer.

    Args:
        server_lr: Server learning rate eta_g, above 0; 1 in the paper's experiments.
        option: How ``c_k`` is made: ``"II"`` of the steps taken, the paper's choice in its experiments; ``"I"`` by a
            further pass over the own data, in evaluation mode and beside the personal parameters after the round.

    Raises:
        ValueError: If a setting is out of its range; before training, if a participant shares nothing, or no two share
            weights of one layout, or with option I, if one trains with DP-SGD.

    Reference:
        Karimireddy et al. (2020), SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML, Algorithm 1.
    """

    paper_shares = ("*",)
    search_space = search_space(server_lr=log_range(0.1, 1.0))

    def __init__(self, server_lr: float = 1.0, option: Literal["I", "II"] = "II") -> None:
        if not (math.isfinite(server_lr) and server_lr > 0):
            raise ValueError(f"server_lr: expected a finite number above 0, got {server_lr}.")
        if option not in {"I", "II"}:
            raise ValueError(f"option: expected 'I' or 'II', got {option!r}.")
        self.server_lr, self.option = server_lr, option

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared weights, and the number of examples; warns of an optimizer that is not plain SGD.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number, and its optimizers.

        Raises:
            ValueError: If it shares nothing.
        """
        groups = [group for optimizer in data.optimizers for group in optimizer.param_groups]
        if any(group.get("momentum") or "betas" in group for group in groups):
            log.warning(
                "%s: SCAFFOLD's variates are gradients of plain SGD. With momentum m its steps are up to 1 / (1 - m) "
                "times as long, and corrections by as much too large make a training diverge: set momentum to 0.",
                participant.label,
            )
        return super().describe(participant, data)

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """Linear term ``(c - c_k) . w``, a scalar, whose gradient corrects that of the local loss.

        Args:
            parameters: Trainable parameters by key.
            context: Variates: the common one received, the own one remembered.
        """
        terms = [next(iter(parameters.values())).sum() * 0]
        for key, weight in parameters.items():
            common, own = context.received.get(CONTROL + key), context.memory.get(CONTROL + key)
            if common is not None:
                terms.append((common * weight).sum())
            if own is not None:
                terms.append(-(own * weight).sum())
        return torch.stack(terms).sum()

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Shared weights, and changes of the own variate, zeros before the first step.

        Args:
            participant: The sender.
            data: Its examples, for option I.
            work: Sum of the learning rates of its steps.
            context: Weights before the round and the common variate; the own variate, which is updated.
        """
        weights = self.common(participant)
        if not work.rates:
            return {**weights, **{CONTROL + key: torch.zeros_like(one) for key, one in weights.items()}}
        before = {key: context.memory.get(CONTROL + key, torch.zeros_like(one)) for key, one in weights.items()}
        began = {key: context.received.get(key, one) for key, one in weights.items()}
        if self.option == "I":
            after = gradients_at(began, participant, data)
        else:
            after = {
                key: before[key] - context.received.get(CONTROL + key, 0) + (began[key] - one) / work.rates
                for key, one in weights.items()
            }
        context.memory.update({CONTROL + key: one for key, one in after.items()})
        return {**weights, **{CONTROL + key: one - before[key] for key, one in after.items()}}

    def average(self, sent: Mapping[str, Message], about: About, server: ServerMemory, round_index: int) -> Combined:
        """Next weights and common variate.

        Args:
            sent: Weights and changes of variates, by sender.
            about: Descriptions of all members, for their number.
            server: Weights and common variate before the round.
            round_index: Unused.
        """
        del round_index
        mean = weighted_mean_of(sent, list(next(iter(sent.values()))))
        share = len(sent) / len(about)
        found = {}
        for key, one in mean.items():
            before = server.last.get(key, torch.zeros_like(one))
            is_control = key.startswith(CONTROL)
            found[key] = before + one * share if is_control else before + self.server_lr * (one - before)
        return Combined(found)


@torch.enable_grad()
def gradients_at(weights: Mapping[str, Tensor], participant: Participant, data: ParticipantData) -> dict[str, Tensor]:
    """Gradients of the mean loss over all own examples, by key; zeros for weights that are not trained.

    Args:
        weights: Weights in place of the participant's own, by key.
        participant: Participant whose other tensors are as they are.
        data: Its examples.
    """
    leaves = {key: one.detach().clone().requires_grad_() for key, one in weights.items()}
    trained = set(participant.trained_keys())
    keys = [key for key in leaves if key in trained]
    found = {key: torch.zeros_like(one) for key, one in weights.items()}
    total = torch.zeros((), device=data.device)
    with evaluating(participant):
        for inputs, target in data.batches():
            outputs = functional_call(participant, leaves, (inputs,))
            losses, scale = participant.task.example_losses(outputs, target)
            slopes = torch.autograd.grad(losses.sum(), [leaves[key] for key in keys])
            total = total + scale.detach().sum()
            for key, slope in zip(keys, slopes, strict=True):
                found[key] = found[key] + slope
    return {key: one / total for key, one in found.items()}
