"""FedAdagrad: averages whose changes the server follows by adaptive steps (Reddi et al. 2021)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from hetfed_lightning.methods.averaging.adaptive_optimizer import AdaptiveOptimizer
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.search_space import choices, log_range, search_space


class FedAdagrad(BackboneAveraging):
    """Averaging in which the server moves the shared state by ``eta m / (sqrt(v) + tau)``.

    With d the mean of the participants' changes of a round, ``m = beta m + (1 - beta) d`` and
    ``v = v + d^2``, from ``m = 0`` and ``v = tau^2``. There is no bias correction, unlike in
    ``BackboneAveraging(server_optimizer=...)`` with torch's Adam. What travels is the shared state; local losses are
    the tasks' own.

    Args:
        server_lr: Server learning rate eta, above 0.
        beta: Weight of the past in m, in [0, 1); 0 in the paper.
        tau: Degree of adaptivity, above 0.
        weighting: ``"samples"`` weighs changes by ``n_k / n``, as the paper's experiments do; ``"uniform"`` as
            Algorithm 2 does.
        settings: Further arguments of averaging. ``max_share`` is 1: no weight is bounded.

    Raises:
        ValueError: If a setting is out of its range; before training, if no two participants share a tensor.

    Reference:
        Reddi et al. (2021), Adaptive Federated Optimization, ICLR, Algorithm 2.
    """

    paper_shares = ("*",)
    search_space = search_space(server_lr=log_range(0.003, 0.3), tau=choices(0.0001, 0.001, 0.01))

    def __init__(
        self,
        server_lr: float = 0.1,
        beta: float = 0.0,
        tau: float = 1e-3,
        **settings: Any,
    ) -> None:
        step = partial(AdaptiveOptimizer, rule="adagrad", lr=server_lr, betas=(beta, 0.0), tau=tau)
        step([torch.zeros(1)])  # Refuses settings out of their range now, not in a round.
        super().__init__(server_optimizer=step, **{"max_share": 1.0} | settings)
