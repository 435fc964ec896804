"""Account of the releases so far, and their epsilon by Google's dp-accounting."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

Events = tuple[tuple[float, float, int], ...]
"""Gaussian mechanisms as (sampling probability, noise multiplier, number of releases)."""

LARGEST_UNSAID = 100.0
"""Largest epsilon of a first release without ``max_epsilon``; above it no run begins.

Probabilities that differ by a factor of e^100 are no privacy; such an epsilon is commonly a noise multiplier in the
wrong unit.
"""


class PrivacyAccount:
    """Account of releases, each of a Gaussian mechanism, perhaps on a Poisson sample.

    Args:
        events: Releases as :meth:`state` returns them.
    """

    def __init__(self, events: Iterable[Sequence[float]] = ()) -> None:
        self._counts: dict[tuple[float, float], int] = {}
        for probability, multiplier, count in events:
            self.add(multiplier, int(count), probability=probability)

    def add(self, noise_multiplier: float, count: int = 1, *, probability: float = 1.0) -> None:
        """Add releases to the account.

        Args:
            noise_multiplier: Standard deviation of the noise in units of the sensitivity, above 0.
            count: Number of releases, at least 0.
            probability: Sampling probability of each, in (0, 1]; below 1 only where the sample stays secret.
        """
        key = (float(probability), float(noise_multiplier))
        if count:
            self._counts[key] = self._counts.get(key, 0) + count

    def after(self, noise_multiplier: float, count: int = 1, *, probability: float = 1.0) -> PrivacyAccount:
        """A copy of the account with more releases.

        Args:
            noise_multiplier: Standard deviation of the noise in units of the sensitivity, above 0.
            count: Number of releases, at least 0.
            probability: Sampling probability of each, in (0, 1].
        """
        more = PrivacyAccount(self.state())
        more.add(noise_multiplier, count, probability=probability)
        return more

    def since(self, earlier: PrivacyAccount) -> PrivacyAccount:
        """Releases of each kind beyond those of an earlier account, never fewer than 0."""
        return PrivacyAccount(
            (*key, max(0, count - earlier._counts.get(key, 0))) for key, count in self._counts.items()
        )

    def at_least(self, other: PrivacyAccount) -> PrivacyAccount:
        """Releases of each kind by the account with more of them, where both are views of the same releases."""
        return PrivacyAccount([*self.state(), *other.since(self).state()])

    @property
    def releases(self) -> int:
        """Number of releases."""
        return sum(self._counts.values())

    def epsilon(self, delta: float) -> float:
        """Epsilon of all releases together, at ``delta`` in (0, 1)."""
        return epsilon_of(tuple(sorted((*key, count) for key, count in self._counts.items())), delta)

    def state(self) -> list[list[float]]:
        """Releases as plain data, sorted: lists of probability, noise multiplier and count."""
        return [[probability, multiplier, count] for (probability, multiplier), count in sorted(self._counts.items())]


@lru_cache(maxsize=256)
def epsilon_of(events: Events, delta: float) -> float:
    """Epsilon of Gaussian mechanisms composed, by their privacy loss distributions.

    Neighbouring data sets differ by one participant (one example in DP-SGD) added or removed.

    Args:
        events: Sampling probability, noise multiplier and count of each kind of release.
        delta: In (0, 1).

    Returns:
        Epsilon, rounded up where the distributions were made discrete; 0 without a release.

    Raises:
        ImportError: If dp-accounting is not installed; the message names what to install.

    Reference:
        Doroshenko, Ghazi, Kamath, Kumar, Manurangsi (2022), Connect the dots: tighter discrete approximations of
        privacy loss distributions.
    """
    if not events:
        return 0.0
    dp, pld = _accounting()
    accountant = pld.PLDAccountant(value_discretization_interval=_interval(events))
    for probability, multiplier, count in events:
        event = dp.GaussianDpEvent(multiplier)
        accountant.compose(event if probability == 1 else dp.PoissonSampledDpEvent(probability, event), count)
    return float(accountant.get_epsilon(delta))


def least_epsilon(probability: float, noise_multiplier: float, delta: float) -> float:
    """Lower bound of one release's epsilon, in closed form: accounting for hardly any noise takes minutes.

    It looks at one event, results above the middle of the distribution with the participant (or example) added: with it
    they have at least half the sampling probability, without it the tail of a Gaussian.

    Args:
        probability: Sampling probability, in (0, 1].
        noise_multiplier: Above 0.
        delta: In (0, 1).

    Returns:
        At least 0, and never above :func:`epsilon_of` one such release.
    """
    with_one = probability / 2 - delta
    if with_one <= 0:
        return 0.0
    without = float(torch.special.log_ndtr(torch.tensor(-1 / noise_multiplier, dtype=torch.float64)))
    return max(0.0, math.log(with_one) - without)


def check_budget(noise_multiplier: float, delta: float, max_epsilon: float | None = None) -> None:
    """Refuse settings out of the range of differential privacy, and a missing accountant.

    Args:
        noise_multiplier: Above 0, finite.
        delta: In (0, 1).
        max_epsilon: Above 0, or None for no limit.

    Raises:
        ValueError: If one is out of its range.
        ImportError: If dp-accounting is not installed.
    """
    for name, value in (("noise_multiplier", noise_multiplier), ("max_epsilon", max_epsilon)):
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name}: expected a finite number above 0, got {value!r}.")
    if not (_is_number(delta) and 0 < delta < 1):
        raise ValueError(
            f"delta: expected a probability in (0, 1), below one over the number of those protected, got {delta!r}."
        )
    _accounting()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _interval(events: Events) -> float:
    """A step of the privacy loss that gives it some ten thousand values, wide or narrow as it is."""
    mean = sum(count * min(1.0, probability) ** 2 / multiplier**2 for probability, multiplier, count in events)
    return min(max(1e-3, mean / 2e5), max(1e-6, (mean / 2 + 10 * math.sqrt(mean)) / 2e4))


def _accounting() -> tuple[Any, Any]:
    try:
        return importlib.import_module("dp_accounting"), importlib.import_module("dp_accounting.pld")
    except ImportError as error:
        raise ImportError(
            f"Differential privacy is accounted for by dp-accounting, which could not be imported ({error}): "
            "pip install 'hetfed-lightning[privacy]'",
            name="dp_accounting",
        ) from error


def accounts_of(state: Iterable[Sequence[Any]]) -> dict[str, PrivacyAccount]:
    """Accounts by name, from the pairs of :func:`state_of_accounts`."""
    return {name: PrivacyAccount(events) for name, events in state}


def state_of_accounts(ledgers: Mapping[str, PrivacyAccount]) -> list[list[Any]]:
    """Accounts as plain data: pairs of a name and its releases."""
    return [[name, ledger.state()] for name, ledger in ledgers.items()]
