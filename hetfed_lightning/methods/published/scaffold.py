"""SCAFFOLD: control variates that correct the drift of local steps (Karimireddy et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.methods.common_start import SharedWeights, weighted_mean_of
from hetfed_lightning.methods.messages import Combined, Message, Work

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

CONTROL = "control/"
"""Beginning of the keys of control variates."""


class Scaffold(SharedWeights):
    """Averaging of shared weights whose local gradients are corrected by ``c - c_k``.

    Participant k's variate ``c_k`` estimates its mean gradient along a round, ``c`` is their mean over all. Its local
    loss has the linear term ``(c - c_k) . w``. After the round ``c_k`` becomes ``c_k - c + (x - y_k) / sum of learning
    rates`` (option II), with x the weights before and ``y_k`` after; weights and the changes of variates travel. The
    server makes ``x + server_lr mean(y_k - x)`` of them, all participants alike, and moves c by the mean change times
    the share of participants that were sampled.

    Personal parameters, if there are any, are trained without correction. The paper's steps are plain SGD; the sum of
    learning rates is that of the steps taken, so that with momentum the variates are larger than gradients.

    Args:
        server_lr: Server learning rate eta_g, above 0; 1 in the paper's experiments.

    Raises:
        ValueError: If a setting is out of its range; before training, if a participant shares nothing, or no two share
            weights of one layout.

    Reference:
        Karimireddy et al. (2020), SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML, Algorithm 1
        with option II.
    """

    paper_shares = ("*",)

    def __init__(self, server_lr: float = 1.0) -> None:
        if not (math.isfinite(server_lr) and server_lr > 0):
            raise ValueError(f"server_lr: expected a finite number above 0, got {server_lr}.")
        self.server_lr = server_lr

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

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """Changes of the own variate by key, zeros before the first step.

        Args:
            participant: Unused.
            weights: Shared weights after the round.
            work: Sum of the learning rates of its steps.
            context: Weights before the round and the common variate; the own variate, which is updated.
        """
        del participant
        found = {}
        for key, weight in weights.items():
            name = CONTROL + key
            if not work.rates:
                found[name] = torch.zeros_like(weight)
                continue
            before, common = (one.get(name, torch.zeros_like(weight)) for one in (context.memory, context.received))
            after = before - common + (context.received.get(key, weight) - weight) / work.rates
            found[name] = after - before
            context.memory[name] = after
        return found

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
