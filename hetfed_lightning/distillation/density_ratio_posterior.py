"""Posterior of pooled data, from density ratios that the participants say of the public set.

The ensemble of choice when participants differ in their classes and in their inputs: who has seen an input of a class
decides on it, whoever is confident. With exact densities the target is what a network trained on everyone's data would
say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hetfed_lightning.aggregation.shares import MAX_SHARE, bounded_counts, check_max_share
from hetfed_lightning.distillation.density_ratios import FOLDS, log_density_ratios
from hetfed_lightning.distillation.ensemble import Ensemble, Knowledge, PublicAndOwn, require
from hetfed_lightning.distillation.outputs import OutputKind, check_temperature
from hetfed_lightning.distillation.teachers import Teachers

log = logging.getLogger(__name__)

LEAST_FIT = 0.5
"""Fit below which a teacher is said to know little of the public set: half of what exact ratios sum to."""


class DensityRatioPosterior(Ensemble):
    """Class posterior of the pooled data: ``q(c|x) ~ prior_c sum_k n_kc p_k(x|c) / sum_k n_kc``.

    Each teacher sends ``log(n_kc p_k(x|c) / (P p_public(x)))`` of every public example and class in place of its
    outputs: the log-odds of a softmax regression on its features, between its classes and the public set. Binary
    outputs are two classes, each label of a multilabel task is two by itself. A target is ``q^(1 / temperature)``,
    normalised.

    What is sent is made of private examples, more directly than outputs are; teachers with DP-SGD are refused.

    Args:
        prior: Class shares of the target: ``"uniform"``, ``"pooled"`` for those of all training examples, or one number
            for each class, above 0.
        bound: Largest sum of a teacher's ratios of a class over the public set, in units of its number of examples,
            where exact ratios have 1; larger ones are scaled down to it. Besides, no ratio exceeds ``bound`` times C
            times the mean of its class. At least 1; infinity bounds nothing.
        smoothing: Added to every ``p(x|c) / p_public(x)``, at least 0: what nobody has seen has the prior as target.
        penalty: Weight of half the squared norm of the teachers' coefficients, at least 0.
        max_share: Largest share of one teacher in the examples of all, in (0, 1]; with fewer than three teachers
            nothing is bounded.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Sugiyama, Suzuki, Kanamori (2012), Density ratio estimation in machine learning, section 4.1; the target is
        Bayes' rule over the mixture of all participants.
    """

    kinds: ClassVar[tuple[OutputKind, ...]] = ("multiclass", "binary", "multilabel")
    needs: ClassVar[tuple[Knowledge, ...]] = ("class_counts", "samples")
    fewest_public: ClassVar[int] = FOLDS

    def __init__(
        self,
        prior: Literal["uniform", "pooled"] | Sequence[float] = "uniform",
        *,
        bound: float = 2.0,
        smoothing: float = 0.01,
        penalty: float = 1.0,
        max_share: float = MAX_SHARE,
    ) -> None:
        check_max_share(max_share)
        if isinstance(prior, str):
            if prior not in {"uniform", "pooled"}:
                raise ValueError(f"prior: expected 'uniform', 'pooled' or one number per class, got {prior!r}")
        elif not prior or not all(math.isfinite(share) and share > 0 for share in prior):
            raise ValueError(f"prior: expected finite numbers above 0, one per class, got {prior!r}")
        if not bound >= 1:
            raise ValueError(f"bound: expected at least 1, got {bound}")
        for name, value in (("smoothing", smoothing), ("penalty", penalty)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        self.prior = prior
        self.bound = bound
        self.smoothing = smoothing
        self.penalty = penalty
        self.max_share = max_share
        self._told: set[str] = set()

    def message(self, outputs: Tensor, features: Tensor, data: PublicAndOwn) -> Tensor:
        """Log density ratios of the public examples.

        Args:
            outputs: The teacher's outputs on the public set, shape ``(P, C)``.
            features: Output of its backbone there, shape ``(P, D)``.
            data: Its own examples, for their features and targets.

        Returns:
            Shape ``(P, C)`` for multiclass outputs, ``(P, 2)`` for binary, ``(P, 2 L)`` for L labels: absent and
            present of the first label, then of the second.
        """
        targets, features = data.targets, features.flatten(1)
        own = data.features_like_public.flatten(1)
        if data.kind == "multiclass":
            return log_density_ratios(own, targets.long(), features, outputs.shape[1], penalty=self.penalty)
        labels = targets.reshape(len(own), -1).long()
        found = [log_density_ratios(own, one, features, 2, penalty=self.penalty) for one in labels.unbind(dim=1)]
        return torch.cat(found, dim=1)

    def message_width(self, width: int, kind: str) -> int:
        """Number of columns of a message: one for each class, and two for each output of other kinds.

        Args:
            width: Number of outputs C.
            kind: Kind of the outputs.
        """
        return width if kind == "multiclass" else 2 * width

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Posterior over the classes, softened at the temperature.

        Args:
            teachers: Messages of K teachers on P public examples, with `class_counts` and `samples`; not regression.
            temperature: Finite and above 0.

        Returns:
            Shape ``(P, C)``, in float32 or float64; ``(P, 1)`` for binary and ``(P, L)`` for multilabel outputs.

        Raises:
            ValueError: If counts are missing, the outputs are values without classes, or the prior has another
                number of classes.
        """
        check_temperature(temperature)
        counts = self._counts(teachers)
        sides = counts.shape[1] if teachers.kind == "multiclass" else 2
        ratios = self._bounded(
            _exp(teachers.logits, counts.dtype), counts, self._counts(teachers, bounded=False), sides
        )
        own = counts.sum(dim=0)
        # p(x|c) / p_public(x), shape (P, C); 0 for a class that nobody has.
        density = torch.where(
            own > 0, ratios.sum(dim=0) * len(ratios[0]) / own.clamp(min=torch.finfo(own.dtype).tiny), 0.0
        )
        weighted = (density + self.smoothing).unflatten(1, (-1, sides)) * self._prior(own, sides)
        softened = weighted.clamp(min=torch.finfo(weighted.dtype).tiny).pow(1 / temperature)
        found = softened / softened.sum(dim=-1, keepdim=True)
        target: Tensor = found.flatten(1) if teachers.kind == "multiclass" else found[..., 1]
        return target.to(torch.promote_types(teachers.logits.dtype, torch.float32))

    def public_fit(self, teachers: Teachers) -> Tensor:
        """Fit of the public set to each teacher's examples, shape ``(K,)``: near 1 where it covers them.

        It is the median over the teacher's classes of the sum of its ratios over the public set, divided by its number
        of examples; exact ratios of a public set that holds everything a teacher has sum to that number. Far below 1,
        the public examples are none that the teacher knows.

        Args:
            teachers: Messages of K teachers, with `class_counts` and `samples`.
        """
        counts = self._counts(teachers, bounded=False)
        sums = _exp(teachers.logits, counts.dtype).sum(dim=1)
        shares = torch.where(counts > 0, sums / counts.clamp(min=1), torch.nan)
        return shares.nanmedian(dim=1).values.nan_to_num(nan=0.0)

    def figures(self, teachers: Teachers) -> dict[str, float]:
        """Median fit of the public set to the teachers; a warning names those it does not fit, once each.

        Args:
            teachers: Messages of K teachers, with `class_counts` and `samples`.
        """
        fit = self.public_fit(teachers)
        for name, own in zip(teachers.names, fit.tolist(), strict=True):
            if own < LEAST_FIT and name not in self._told:
                self._told.add(name)
                log.warning(
                    "The public set has little of what %s knows: its density ratios sum to %.2f of its examples, and "
                    "to about 1 where the set fits. Targets are of little worth there; use public examples like the "
                    "participants' own.",
                    name, own,
                )  # fmt: skip
        return {"public_fit": float(fit.median())}

    def _counts(self, teachers: Teachers, *, bounded: bool = True) -> Tensor:
        """Examples of each teacher by column of its message, shape ``(K, C)``, in float64."""
        if teachers.kind == "regression":
            raise ValueError(
                "DensityRatioPosterior expects outputs with classes, got regression: "
                "use SampleWeighted, ValidationWeighted or MedianProbabilities"
            )
        counts, samples = require(teachers, "class_counts", self), require(teachers, "samples", self)
        if teachers.kind == "multilabel":
            counts = torch.stack([(samples[:, None] - counts).clamp(min=0), counts], dim=-1).flatten(1)
        if not bounded:
            return counts
        return bounded_counts(counts, self.max_share)

    def _bounded(self, ratios: Tensor, counts: Tensor, claimed: Tensor, sides: int) -> Tensor:
        """Ratios that can be true, shape ``(K, P, C)``, in units of bounded counts."""
        ratios = (
            ratios * torch.where(claimed > 0, counts / claimed.clamp(min=torch.finfo(claimed.dtype).tiny), 0.0)[:, None]
        )
        if math.isinf(self.bound):
            return ratios
        most = self.bound * counts[:, None]
        sums = ratios.sum(dim=1, keepdim=True)
        ratios = ratios * (most / sums.clamp(min=torch.finfo(sums.dtype).tiny)).clamp(max=1)
        return ratios.minimum(most * sides / ratios.shape[1])

    def _prior(self, own: Tensor, sides: int) -> Tensor:
        """Class shares, shape ``(C,)``, or ``(L, 2)`` of L labels; a class that nobody has keeps its place."""
        if self.prior == "uniform":
            return own.new_ones(sides)
        if self.prior == "pooled":
            return own.unflatten(0, (-1, sides)) if sides != len(own) else own
        if len(self.prior) != sides:
            raise ValueError(f"prior: expected {sides} numbers, one per class, got {len(self.prior)}")
        return own.new_tensor([float(share) for share in self.prior])


_LARGEST = 80.0
"""Largest logarithm that is heard: e^80 of a million examples fits into float32."""


def _exp(logs: Tensor, dtype: torch.dtype) -> Tensor:
    return logs.to(dtype).clamp(max=_LARGEST).exp()
