"""A participant's steps with DP-SGD: gradients by example, clipped and noised, and the account of them."""

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
    """Steps that a participant's privacy does not allow; the message names it, the round and the figures."""


class PrivateSteps:
    """Makes a participant's gradients private before each optimizer step, and notes that it did.

    Steps on a public set, as in distillation, tell nothing of its own examples: they are taken outside of
    :meth:`collecting`, as they are.

    Args:
        participant: With ``privacy`` settings.
        source: Its training data.

    Attributes:
        is_collecting: Whether gradients are collected by example.
        checked: Layouts of methods' contexts under which losses were found to treat each example by itself.
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
        """Around forward, backward and step."""
        with self._collecting.attached():
            self.is_collecting = True
            try:
                yield
            finally:
                self.is_collecting = False

    def after(self, steps: int) -> float:
        """Epsilon of its examples once it has taken so many steps more."""
        more = self._participant.ledger.after(self._settings.noise_multiplier, steps, probability=self._probability)
        return more.epsilon(self._settings.delta)

    def objection(self, steps: int) -> str:
        """Why it may not take so many steps more, with what to change; empty where it may.

        Args:
            steps: Of a round, at least 0.
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
        """Begin a round, or go on with one.

        Args:
            steps: That it may take in it; where it has a budget, those beyond raise.
        """
        self._allowed = None if self._settings.max_epsilon is None else steps

    def make_private(self, parameters: Sequence[Parameter]) -> None:
        """Replace the gradients by noised sums; an empty batch gives noise alone.

        Args:
            parameters: Those that the step is to change: no other gradient is clipped, noised or told of.

        Raises:
            PrivacyBudgetError: If it has taken all steps that its budget was asked about as the round began.
        """
        if self._allowed is not None:
            if self._allowed == 0:
                raise PrivacyBudgetError(
                    f"{self._participant.label}: it is to take more steps than were planned as the round began, and "
                    f"max_epsilon={self._settings.max_epsilon:g} was looked at for those alone. Leave local_epochs, "
                    "step_budget and batches as they are inside a round."
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
