"""Optimizer steps of one participant under DP-SGD: gradients by example, clipped and noised, and their account."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hetfed_lightning.privacy import private_gradients, private_noise
from hetfed_lightning.privacy.accountant import LARGEST_UNSAID, least_epsilon
from hetfed_lightning.privacy.dpsgd import PerExampleGradients

if TYPE_CHECKING:
    from torch.nn import Parameter

    from hetfed_lightning.data.loaders import TrainingSet
    from hetfed_lightning.participants.participant import Participant


class PrivacyBudgetError(ValueError):
    """Raised for steps beyond a participant's privacy budget; names the participant, the round and the epsilons."""


class PrivateSteps:
    """Makes a participant's gradients private before each optimizer step, and accounts for it.

    Steps on a public set, as in distillation, reveal nothing of its own examples: they are taken outside of
    :meth:`collecting`, without noise.

    Args:
        participant: Participant with ``privacy`` settings.
        source: Its training data.

    Attributes:
        is_collecting: True while gradients are collected by example.
        checked: Layouts of methods' contexts under which losses were found not to mix examples.
    """

    noise = staticmethod(private_noise)

    def __init__(self, participant: Participant, source: TrainingSet) -> None:
        if participant.privacy is None:
            raise ValueError(f"{participant.label}: expected privacy settings, found none.")
        self._participant = participant
        self._settings = participant.privacy
        self._collecting = PerExampleGradients(participant.backbone, participant.head)
        self._probability = source.sampling_probability
        self.is_collecting = False
        self._expected = source.num_samples * self._probability
        self._allowed: int | None = None
        self.checked: set[Hashable] = set()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Context around forward, backward and step, in which gradients are collected by example."""
        with self._collecting.attached():
            self.is_collecting = True
            try:
                yield
            finally:
                self.is_collecting = False

    def after(self, steps: int) -> float:
        """Epsilon of the participant's examples after ``steps`` further steps."""
        more = self._participant.ledger.after(self._settings.noise_multiplier, steps, probability=self._probability)
        return more.epsilon(self._settings.delta)

    def objection(self, steps: int) -> str:
        """Reason against further steps, with what to change; empty if the budget allows them.

        Args:
            steps: Number of steps of a round, at least 0.
        """
        settings, ledger = self._settings, self._participant.ledger
        if steps == 0 or (settings.max_epsilon is None and ledger.releases):
            return ""
        limit = LARGEST_UNSAID if settings.max_epsilon is None else settings.max_epsilon
        least = least_epsilon(self._probability, settings.noise_multiplier, settings.delta)
        if least <= limit and (after := self.after(steps)) <= limit:
            return ""
        found = f"at least {least:.3g}" if least > limit else f"{after:.3g}"
        if settings.max_epsilon is None:
            return (
                f"its first round alone would cost an epsilon of {found} at delta={settings.delta:g}, which protects "
                "nobody. Raise noise_multiplier, or set max_epsilon to what may be spent if that is meant"
            )
        return (
            f"its privacy is spent: epsilon is {ledger.epsilon(settings.delta):.3g} at delta={settings.delta:g} and "
            f"would be {found} after the {steps} steps of this round; max_epsilon={limit:g}"
        )

    def allow(self, steps: int) -> None:
        """Set the number of steps of a round that begins or resumes; with a budget, steps beyond raise.

        Args:
            steps: Number of steps allowed in the round, at least 0.
        """
        self._allowed = None if self._settings.max_epsilon is None else steps

    def make_private(self, parameters: Sequence[Parameter]) -> None:
        """Replace gradients by noised sums, in place; an empty batch gives noise alone.

        Args:
            parameters: Parameters of the step; gradients of others are neither clipped nor noised nor released.

        Raises:
            PrivacyBudgetError: If all steps allowed in the round have been taken.
        """
        if self._allowed is not None:
            if self._allowed == 0:
                raise PrivacyBudgetError(
                    f"{self._participant.label}: it is to take more steps than were planned as the round began, and "
                    f"max_epsilon={self._settings.max_epsilon:g} was looked at for those alone. Leave local_epochs, "
                    "step_budget, batches and plans as they are inside a round."
                )
            self._allowed -= 1
        private = private_gradients(
            self._collecting.of(parameters),
            max_norm=self._settings.max_grad_norm,
            noise_multiplier=self._settings.noise_multiplier,
            expected=self._expected,
            noise=self.noise,
        )
        # Noted before it is used: an interruption between the two overstates, and the other order would not.
        self._participant.ledger.add(self._settings.noise_multiplier, probability=self._probability)
        for parameter, gradient in zip(parameters, private, strict=True):
            parameter.grad = gradient
