"""Simulated disease seen by image and by genes, whose best possible accuracy is known.

All data are simulated. A patient has one of C states. The image shows a striped lesion at a random place in noise. The
state sets the direction of the stripes, chance their phase, and some lesions have the look of another state. The mean
image of every state is empty: no linear model can read it, and a network has to look everywhere. Gene expression is
Gaussian around a mean of the state, with pathways that move many genes at once. Given the state, image and genes are
independent. So Bayes' rule is a sum of log-likelihoods, which gives the accuracy of the best classifier for image,
genes or both.

Use it where both the data and the distance to the optimum have to be known; for anything about medicine use data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.seeding import stream_generator

__all__ = ["BayesAccuracy", "Patients", "SimulatedDisease"]

PIXEL_BATCH = 500
"""Images whose likelihoods are computed at once; each takes a number per place of every lesion."""


@dataclass(frozen=True)
class Patients:
    """Simulated patients, N in all.

    Attributes:
        images: Shape ``(N, 1, size, size)``, pixel noise of standard deviation 1.
        expression: All G genes, shape ``(N, G)``, each in a unit of its own.
        states: Integers in [0, C), shape ``(N,)``.
    """

    images: Tensor
    expression: Tensor
    states: Tensor


@dataclass(frozen=True)
class BayesAccuracy:
    """Accuracy of the best possible classifier.

    Attributes:
        value: Mean of the largest posterior probability, in [0, 1].
        standard_error: Of that mean over the simulated patients.
    """

    value: float
    standard_error: float


@dataclass(frozen=True)
class SimulatedDisease:
    """Generator of patients, with the exact posterior of their states.

    Attributes:
        lesions: Pixels of a lesion by state and phase, shape ``(C, V, S, S)``, added to the noise.
        looks: Probability that a patient of state c has the lesion of state d, shape ``(C, C)``, rows sum to one.
        means: Mean of each gene by state, shape ``(C, G)``.
        pathways: Effect of each of R pathways on each gene, shape ``(G, R)``.
        offsets: Summand of each gene, shape ``(G,)``: genes have no common zero.
        scales: Factor of each gene before that, shape ``(G,)``.
        image_size: Rows and columns in pixels.
    """

    lesions: Tensor
    looks: Tensor
    means: Tensor
    pathways: Tensor
    offsets: Tensor
    scales: Tensor
    image_size: int = 28

    @classmethod
    def make(
        cls,
        seed: int = 0,
        *,
        states: int = 4,
        genes: int = 60,
        contrast: float = 6.0,
        lookalikes: float = 0.15,
        effect: float = 0.35,
        pathways: int = 5,
        image_size: int = 28,
        lesion_size: int = 9,
    ) -> Self:
        """Disease drawn from a seed.

        Args:
            seed: Seed of the genes; the lesions are the same for all.
            states: C, at least 2; stripes of state c run at c * 180 / C degrees.
            genes: G, at least 1.
            contrast: Euclidean norm of a lesion, in standard deviations of the pixel noise, above 0.
            lookalikes: Share of patients whose lesion looks like that of another state, in [0, 1).
            effect: Standard deviation of a gene's mean over states, in those of the gene's own noise.
            pathways: R, directions in which many genes vary together, whatever the state; at least 1.
            image_size: Rows and columns of an image, in pixels.
            lesion_size: Rows and columns of a lesion, at most ``image_size``.

        Raises:
            DataError: If a setting is out of its range.
        """
        _check_settings(states, genes, contrast, lookalikes, effect, pathways, image_size, lesion_size)
        generator = stream_generator(seed, "simulated disease")
        looks = torch.full((states, states), lookalikes / (states - 1)).fill_diagonal_(1 - lookalikes)
        return cls(
            lesions=contrast * _stripes(states, lesion_size),
            looks=looks,
            means=effect * torch.randn(states, genes, generator=generator),
            pathways=torch.randn(genes, pathways, generator=generator) / math.sqrt(pathways),
            offsets=4 + 8 * torch.rand(genes, generator=generator),
            scales=0.5 + torch.rand(genes, generator=generator),
            image_size=image_size,
        )

    @property
    def num_states(self) -> int:
        """Number of states, C."""
        return self.means.shape[0]

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of all genes, ``gene_00`` and so on."""
        return tuple(f"gene_{index:02d}" for index in range(self.means.shape[1]))

    def positions(self, panel: Sequence[str]) -> Tensor:
        """Positions of a panel's genes among all, shape ``(P,)``, int64.

        Raises:
            DataError: If one is unknown or named twice, or there is none.
        """
        known = {name: index for index, name in enumerate(self.genes)}
        for name in panel:
            if name not in known:
                raise DataError(f"panel: no gene {name!r}; there are {self.genes[0]} to {self.genes[-1]}.")
        if not panel or len(set(panel)) < len(panel):
            raise DataError(f"panel: expected at least one gene, each once, got {list(panel)}.")
        return torch.tensor([known[name] for name in panel])

    # Patients

    def patients(self, count: int, *stream: int | str) -> Patients:
        """Patients drawn independently.

        Args:
            count: N, at least 1.
            stream: Names of the random stream, such as ``(seed, "hospital_a", "train")``: equal names, equal patients.

        Raises:
            DataError: If there are to be none.
        """
        if count < 1:
            raise DataError(f"expected at least one simulated patient, got {count}.")
        generator = stream_generator("simulated patients", *stream)
        states = torch.randint(self.num_states, (count,), generator=generator)
        return Patients(self._images(states, generator), self._expression(states, generator), states)

    def _images(self, states: Tensor, generator: torch.Generator) -> Tensor:
        count, size = len(states), self.lesions.shape[-1]
        look = torch.multinomial(self.looks[states], 1, generator=generator).squeeze(1)
        phase = torch.randint(self.lesions.shape[1], (count,), generator=generator)
        corner = torch.randint(self.image_size - size + 1, (2, count), generator=generator)
        rows, columns = corner[..., None] + torch.arange(size)
        images = torch.randn(count, self.image_size, self.image_size, generator=generator)
        images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] += self.lesions[look, phase]
        return images.unsqueeze(1)

    def _expression(self, states: Tensor, generator: torch.Generator) -> Tensor:
        activity = torch.randn(len(states), self.pathways.shape[1], generator=generator)
        noise = torch.randn(len(states), self.means.shape[1], generator=generator)
        return self.offsets + self.scales * (self.means[states] + activity @ self.pathways.T + noise)

    # The best classifier

    def image_log_likelihoods(self, images: Tensor) -> Tensor:
        """Log-likelihood of images in every state, up to a constant that is equal for all states.

        Of a lesion l at a place of an image x, with pixel noise of variance 1, the likelihood ratio to an empty image
        is exp(<x, l> - |l|^2 / 2). Places and phases are equally probable, and the state's looks weigh their sums.

        Args:
            images: Shape ``(N, 1, size, size)``.

        Returns:
            Shape ``(N, C)``.
        """
        kernels = self.lesions.flatten(0, 1).unsqueeze(1)
        half_norms = kernels.square().sum(dim=(1, 2, 3)).view(1, -1, 1, 1) / 2
        found = []
        for part in images.split(PIXEL_BATCH):
            ratios = conv2d(part, kernels) - half_norms
            found.append(ratios.view(len(part), self.num_states, -1).logsumexp(dim=2))
        by_look = torch.cat(found)  # (N, C), of lesions with each look
        return torch.logsumexp(by_look[:, None, :] + self.looks.log(), dim=2)

    def gene_log_likelihoods(self, expression: Tensor, panel: Sequence[str]) -> Tensor:
        """Log-likelihood of a panel's expression in every state, up to a constant that is equal for all states.

        Args:
            expression: The panel's genes in its order, in their own units, shape ``(N, P)``.
            panel: Names of P genes.

        Returns:
            Shape ``(N, C)``.

        Raises:
            DataError: If the panel is not this disease's, or has another width.
        """
        chosen = self.positions(panel)
        if expression.ndim != 2 or expression.shape[1] != len(chosen):
            raise DataError(f"expected expression of {len(chosen)} genes, got shape {tuple(expression.shape)}.")
        values = ((expression - self.offsets[chosen]) / self.scales[chosen]).double()
        moves = self.pathways[chosen].double()
        covariance = moves @ moves.T + torch.eye(len(chosen), dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)
        means = self.means[:, chosen].double()
        whitened = torch.linalg.solve_triangular(factor, values.T, upper=False).T
        centres = torch.linalg.solve_triangular(factor, means.T, upper=False).T
        return (-torch.cdist(whitened, centres).square() / 2).to(expression.dtype)

    def posterior(
        self, images: Tensor | None = None, expression: Tensor | None = None, panel: Sequence[str] = ()
    ) -> Tensor:
        """Exact probabilities of the states, given image, expression or both.

        Args:
            images: Shape ``(N, 1, size, size)``, or None where there are none.
            expression: Shape ``(N, P)``, or None.
            panel: Names of its P genes.

        Returns:
            Shape ``(N, C)``, rows sum to one. All states are equally frequent.

        Raises:
            DataError: If neither is given.
        """
        known = []
        if images is not None:
            known.append(self.image_log_likelihoods(images))
        if expression is not None:
            known.append(self.gene_log_likelihoods(expression, panel))
        if not known:
            raise DataError("posterior: expected images, expression or both, got neither.")
        return sum(known[1:], known[0]).softmax(dim=1)

    def bayes_accuracy(
        self, *, image: bool = True, panel: Sequence[str] = (), count: int = 20_000, seed: int = 0
    ) -> BayesAccuracy:
        """Accuracy that no classifier of these inputs exceeds, by Monte Carlo over the exact posterior.

        The best classifier is right with the largest posterior probability; its mean varies less from sample to sample
        than the share of right answers.

        Args:
            image: True if the image is known.
            panel: Names of the genes that are known; none if empty.
            count: Simulated patients, at least 2.
            seed: Seed of those patients.
        """
        patients = self.patients(count, seed, "bayes")
        expression = patients.expression[:, self.positions(panel)] if panel else None
        largest = self.posterior(patients.images if image else None, expression, panel).amax(dim=1).double()
        return BayesAccuracy(float(largest.mean()), float(largest.std() / math.sqrt(count)))


def _stripes(states: int, size: int, phases: int = 4, wavelength: float = 5.0, width: float = 2.5) -> Tensor:
    """Gabor patches of norm 1, shape ``(states, phases, size, size)``; lengths in pixels."""
    line = torch.arange(size) - (size - 1) / 2
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    envelope = torch.exp(-(rows.square() + columns.square()) / (2 * width**2))
    angles = math.pi * torch.arange(states)[:, None, None, None] / states
    shifts = 2 * math.pi * torch.arange(phases)[None, :, None, None] / phases
    waves = torch.cos(2 * math.pi / wavelength * (columns * angles.cos() + rows * angles.sin()) + shifts)
    patches = envelope * waves
    return patches / patches.square().sum(dim=(2, 3), keepdim=True).sqrt()


def _check_settings(
    states: int,
    genes: int,
    contrast: float,
    lookalikes: float,
    effect: float,
    pathways: int,
    image_size: int,
    lesion_size: int,
) -> None:
    for name, count, least in (
        ("states", states, 2),
        ("genes", genes, 1),
        ("pathways", pathways, 1),
        ("lesion_size", lesion_size, 1),
    ):
        if count < least:
            raise DataError(f"{name}: expected at least {least}, got {count}.")
    if lesion_size > image_size:
        raise DataError(f"lesion_size: expected at most image_size={image_size} pixels, got {lesion_size}.")
    if not 0 < contrast < math.inf:
        raise DataError(f"contrast: expected a finite number above 0, got {contrast}.")
    if not 0 <= lookalikes < 1:
        raise DataError(f"lookalikes: expected a share in [0, 1), got {lookalikes}.")
    if not 0 <= effect < math.inf:
        raise DataError(f"effect: expected a finite number of at least 0, got {effect}.")
