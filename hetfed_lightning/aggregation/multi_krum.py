"""Krum and Multi-Krum: the mean of the participants whose states lie closest to their nearest neighbours.

A faulty participant is left out whole, which helps where each of its coordinates looks harmless. The price is paid
where participants' data differ: an honest one whose data nobody else has is left out as well, in every round. Faulty
ones that stay within the honest ones' spread (Baruch et al. 2019) are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.distances import pairwise_squared_distances
from hetfed_lightning.aggregation.rule import AggregationRule
from hetfed_lightning.aggregation.state import State, check_states
from hetfed_lightning.aggregation.weighted_mean import weighted_mean


def krum_scores(squared_distances: Tensor, faulty: int) -> Tensor:
    """Score of each participant: the sum of its squared distances to its K - f - 2 nearest others; small is good.

    Args:
        squared_distances: Shape ``(K, K)``, symmetric, zero on the diagonal.
        faulty: Number f of participants that may be faulty, at least 0.

    Returns:
        Shape ``(K,)``.

    Raises:
        ValueError: If K is below ``2 f + 3``.

    Reference:
        Blanchard, El Mhamdi, Guerraoui, Stainer (2017). Machine learning with adversaries: Byzantine tolerant gradient
        descent. NeurIPS, section 4.
    """
    count = len(squared_distances)
    if count < 2 * faulty + 3:
        raise ValueError(
            f"expected at least 2 * {faulty} + 3 = {2 * faulty + 3} participants for Krum to stand {faulty} faulty "
            f"ones, got {count}: let more take part or allow for fewer faulty ones"
        )
    # The first of each row's ascending distances is its own, which is zero.
    return squared_distances.sort(dim=1).values[:, 1 : count - faulty - 1].sum(dim=1)


class MultiKrum(AggregationRule):
    """Unweighted mean of the participants with the lowest Krum scores.

    Ours: `faulty` is a share, since the number of participants changes where they are sampled or left out of a round;
    the paper's f is a number. It is rounded up, and down where K is below ``2 f + 3``, so that a participant left out
    for NaN does not end the run of a federation that was large enough. Distances are those of whole states, over all
    floating-point tensors; between updates they would be the same.

    Weights are numbers reported by the participants; here they neither choose nor weigh.

    Args:
        faulty: Share in [0, 0.5) of the participants that may be faulty.
        keep: Number of states averaged, at least 1: 1 is Krum. None, and more than that, keeps ``K - f``.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Blanchard et al. (2017), as in `krum_scores`, section 5; Bareilles, Bouaziz, Fageot, El Mhamdi (2026). Byzantine
        machine learning: MultiKrum and an optimal notion of robustness, for a proof.
    """

    def __init__(self, faulty: float = 0.2, keep: int | None = None) -> None:
        if not 0 <= faulty < 0.5:
            raise ValueError(
                f"expected faulty in [0, 0.5), the share of participants that may be, got {faulty}: "
                "no rule stands a half of them"
            )
        if keep is not None and keep < 1:
            raise ValueError(f"expected keep of at least 1, or None for K - f, got {keep}: use 1 for Krum")
        self.faulty = faulty
        self.keep = keep

    def least_participants(self) -> int:
        """Smallest K with ``K >= 2 * faulty * K + 3``: 5 for a share of 0.2, 8 for 0.3."""
        return max(math.ceil(3 / (1 - 2 * self.faulty) - 1e-9), 5 if self.faulty else 3)

    def tolerated(self, participants: int) -> int:
        """Number f of faulty participants that the rule stands: at least one, unless the share is 0.

        Args:
            participants: Number of participants K.

        Raises:
            ValueError: If they are fewer than 5, for a share of 0 fewer than 3.
        """
        least = 5 if self.faulty else 3
        if participants < least:
            raise ValueError(
                f"MultiKrum needs at least {least} participants, 2 * {least // 5} + 3, to stand {least // 5} faulty "
                f"ones, got {participants}: let more take part, or use GeometricMedian or coordinate_median, which "
                "stand one of 3"
            )
        # 0.14 * 50 is 7.000000000000001 in floating point: without the tolerance its ceiling is 8.
        return min(math.ceil(self.faulty * participants - 1e-9), (participants - 3) // 2)

    def ranking(self, states: Sequence[State]) -> list[int]:
        """Indices of the participants, best score first; of equal scores the smaller index, as in the paper.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes.

        Raises:
            ValueError: If two states disagree (see `check_states`), or there are too few of them.
        """
        check_states(states, torch.ones(len(states)))
        faulty = self.tolerated(len(states))
        ranked: list[int] = krum_scores(pairwise_squared_distances(states), faulty).argsort(stable=True).tolist()
        return ranked

    def __call__(self, states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
        """Mean of the best participants' states; one with NaN or infinities is the worst.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are.
            weights: Shape ``(K,)``; checked but unused (see the class).

        Returns:
            A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and
            bool tensors take the maximum over those who are kept.

        Raises:
            ValueError: If two states disagree or the weights do not fit (see `check_states`), or there are too few of
                them (see `tolerated`).
        """
        check_states(states, weights)
        faulty = self.tolerated(len(states))
        most = len(states) - faulty
        count = most if self.keep is None else min(self.keep, most)
        kept = sorted(self.ranking(states)[:count])
        return weighted_mean([states[k] for k in kept], torch.ones(count))
