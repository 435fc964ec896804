"""Differential privacy: clipping, noise and the account of both, as pure functions of tensors and numbers.

They are applied elsewhere: :class:`hetfed_lightning.PrivateAveraging` protects participants,
``Participant(privacy=DPSGD(...))`` the examples of one. `docs/privacy.md` says against whom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.privacy.accountant import PrivacyAccount, epsilon_of
from hetfed_lightning.privacy.dpsgd import DPSGD, private_gradients
from hetfed_lightning.privacy.noise import private_noise, seeded_noise
from hetfed_lightning.privacy.private_mean import private_mean

if not TYPE_CHECKING:
    __getattr__ = names_moved_from(__name__)

__all__ = [
    "DPSGD",
    "PrivacyAccount",
    "epsilon_of",
    "private_gradients",
    "private_mean",
    "private_noise",
    "seeded_noise",
]
