"""A participant's steps with DP-SGD: gradients by example, clipped and noised, and the account of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hetfed_lightning.privacy import private_gradients, private_noise
from hetfed_lightning.privacy.dpsgd import PerExampleGradients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hetfed_lightning.data.loaders import Source
    from hetfed_lightning.federation import Federation
    from hetfed_lightning.optimization import LocalOptimization
    from hetfed_lightning.participant import Participant


class PrivateSteps:
    """Makes a participant's gradients private before each optimizer step, and notes that it did.

    Steps on a public set, as in distillation, tell nothing of its own examples: they are taken outside of
    :meth:`collecting`, as they are.

    Args:
        participant: With ``privacy`` settings.
        source: Its training data.
    """

    noise = staticmethod(private_noise)

    def __init__(self, participant: Participant, source: Source) -> None:
        if participant.privacy is None:
            raise ValueError(f"{participant.label}: expected privacy settings, found none.")
        self._participant = participant
        self._settings = participant.privacy
        self._collecting = PerExampleGradients(participant.backbone, participant.head)
        self._probability = source.sampling_probability
        self.is_collecting = False
        self._expected = source.num_samples * self._probability

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Around forward, backward and step."""
        with self._collecting.attached():
            self.is_collecting = True
            try:
                yield
            finally:
                self.is_collecting = False

    def make_private(self) -> None:
        """Replace the gradients by noised sums; an empty batch gives noise alone."""
        parameters = self._participant.trainable_parameters()
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


def give_privacy(federation: Federation) -> None:
    """Have those take private steps who are to; after the data is known to fit."""
    for name, participant in federation.members().items():
        if participant.privacy is not None:
            federation.local[name].private = PrivateSteps(participant, federation.federated_data.source(name))


def epsilons(participants: Mapping[str, Participant]) -> dict[str, float]:
    """Epsilon of each participant's examples so far, by tag; of those who take private steps."""
    return {
        f"epsilon/{name}": participant.ledger.epsilon(participant.privacy.delta)
        for name, participant in participants.items()
        if participant.privacy is not None
    }


def saved_accounts(local: Mapping[str, LocalOptimization]) -> dict[str, list[list[float]]]:
    """The accounts by participant, for a checkpoint."""
    return {name: own.participant.ledger.state() for name, own in local.items() if own.participant.privacy is not None}
