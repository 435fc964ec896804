"""Ditto: personal models that stay near the federation's, which is trained beside them (Li et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hetfed_lightning.methods.common_model import COMMON, CommonModel
from hetfed_lightning.methods.search_space import log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context


class Ditto(CommonModel):
    """Federated averaging of a common model w, beside personal models v trained by ``f_k(v) + lam/2 ||v - w||^2``.

    The participant's network is its personal model, which predicts and is exported. The common one is a copy of it in
    the participant's modules, trained by the same optimizer on the same batches; its figures stand beside as
    ``accuracy.common``. What travels is w, weighted by examples; ``w`` in the term is the one that the round began
    with. Of modules without parameters of one layout, such as personal heads of other widths, no two participants can
    have a common model.

    Args:
        lam: Weight lambda of the personal models' distance to the common one, at least 0; 0 trains alone. The paper
            chooses it among .05, .1 and 2 for each data set, and a library's default of 0 is local training.

    Raises:
        ValueError: If lambda is out of its range; before training, if no two participants have networks of one layout.

    Reference:
        Li, Hu, Beirami, Smith (2021), Ditto: Fair and Robust Federated Learning Through Personalization, ICML, eq. 2
        and Algorithm 1. There the steps of w and v may be on other batches; here they share them.
    """

    search_space = search_space(lam=log_range(0.01, 10.0))

    def __init__(self, lam: float = 0.1) -> None:
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam: expected a finite number of at least 0, got {lam}.")
        super().__init__()
        self.lam = lam

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return "Give them networks of one architecture, heads included."

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
        """Loss of the personal model and of the common one, shape ``(B,)``.

        Args:
            own: Losses of the personal model, shape ``(B,)``.
            inputs: Inputs of B examples.
            features: Unused.
            outputs: Unused.
            target: Targets of the B examples.
            on: Unused.
            context: The common model, and the task.
        """
        del features, outputs, on
        losses, weights = context.task.example_losses(context.modules[COMMON](inputs), target)
        return own + losses * (len(losses) / weights.sum())

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """Term ``lam/2 ||v - w||^2``, a scalar.

        Args:
            parameters: Trainable parameters of the personal model by key.
            context: The common model as the round began.
        """
        terms = [next(iter(parameters.values())).sum() * 0]
        for key, weight in parameters.items():
            if (began := context.received.get(key)) is not None:
                terms.append(self.lam / 2 * (weight - began).square().sum())
        return torch.stack(terms).sum()
