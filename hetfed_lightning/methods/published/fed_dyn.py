"""FedDyn: dynamic regularisation, by which local minima and the common one agree (Acar et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.methods.common_start import SharedWeights, weighted_mean_of
from hetfed_lightning.methods.messages import Combined, Message, Work
from hetfed_lightning.methods.search_space import log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant


class FedDyn(SharedWeights):
    """Averaging of shared weights under the local loss ``f_k(w) - h_k . w + alpha/2 ||w - w_t||^2``.

    ``h_k`` is participant k's gradient at its last local result: it becomes ``h_k - alpha (w_k - w_t)`` after each of
    its rounds and stays with it. Weights alone travel. The server keeps ``h``, moved by
    ``-alpha / N sum_k (w_k - w_t)`` over those who trained, N being all participants, and hands out
    ``mean(w_k) - h / alpha``, all participants alike. Personal parameters are trained without the term.

    Args:
        alpha: Weight of the regularisation, above 0; the paper tries .1, .01 and .001.

    Raises:
        ValueError: If a setting is out of its range; before training, if a participant shares nothing, or no two share
            weights of one layout.

    Reference:
        Acar et al. (2021), Federated Learning Based on Dynamic Regularization, ICLR, Algorithm 1.
    """

    paper_shares = ("*",)
    search_space = search_space(alpha=log_range(0.001, 1.0))

    def __init__(self, alpha: float = 0.01) -> None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha: expected a finite number above 0, got {alpha}.")
        self.alpha = alpha

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """Term ``-h_k . w + alpha/2 ||w - w_t||^2`` of the shared weights, a scalar.

        Args:
            parameters: Trainable parameters by key.
            context: The weights that the round began with; the own gradient, remembered.
        """
        terms = [next(iter(parameters.values())).sum() * 0]
        for key, weight in parameters.items():
            began = context.received.get(key)
            if began is not None:
                terms.append(self.alpha / 2 * (weight - began).square().sum())
            if (gradient := context.memory.get(key)) is not None:
                terms.append(-(gradient * weight).sum())
        return torch.stack(terms).sum()

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """Nothing; the own gradient is updated after a step.

        Args:
            participant: Unused.
            weights: Shared weights after the round.
            work: Number of its steps.
            context: Weights before the round; the own gradient.
        """
        del participant
        for key, weight in weights.items() if work.landed else ():
            before = context.memory.get(key, torch.zeros_like(weight))
            context.memory[key] = before - self.alpha * (weight - context.received.get(key, weight))
        return {}

    def average(self, sent: Mapping[str, Message], about: About, server: ServerMemory, round_index: int) -> Combined:
        """Next weights.

        Args:
            sent: Weights by sender.
            about: Descriptions of all members, for their number.
            server: Weights before the round, and h.
            round_index: Unused.
        """
        del round_index
        mean = weighted_mean_of(sent, list(next(iter(sent.values()))))
        found = {}
        for key, one in mean.items():
            before = server.tensors.get(key, torch.zeros_like(one)).to(one.device)
            moved = before - self.alpha * len(sent) / len(about) * (one - server.last[key])
            server.tensors[key] = moved
            found[key] = one - moved / self.alpha
        return Combined(found)
