"""Epsilon against dp-accounting called directly, and against the closed form of the Gaussian mechanism."""

import math
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from hetfed_lightning.privacy import PrivacyAccount, epsilon_of
from hetfed_lightning.privacy.accountant import accounts_of, check_budget, least_epsilon, state_of_accounts
from tests.privacy.closed_forms import gaussian_epsilon

pytestmark = pytest.mark.promise("private")

# (sampling probability, noise multiplier, releases, delta): six without sampling, six with.
SETTINGS = [
    (1.0, 1.0, 1, 1e-3),
    (1.0, 1.0, 50, 1e-3),
    (1.0, 5.0, 50, 1e-3),
    (1.0, 10.0, 50, 1e-3),
    (1.0, 20.0, 1000, 1e-6),
    (1.0, 50.0, 1, 1e-6),
    (0.01, 1.0, 1000, 1e-5),
    (0.05, 1.0, 500, 1e-5),
    (0.1, 2.0, 300, 1e-5),
    (0.25, 4.0, 200, 1e-4),
    (0.5, 3.0, 50, 1e-3),
    (0.02, 0.8, 200, 1e-6),
]
"""What a test is to hold in; the first six have a closed form."""


def directly(probability: float, multiplier: float, releases: int, delta: float, accountant: Any) -> float:
    event = dp_accounting.GaussianDpEvent(multiplier)
    if probability < 1:
        event = dp_accounting.PoissonSampledDpEvent(probability, event)
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, releases))
    return float(accountant.get_epsilon(delta))


def noted(probability: float, multiplier: float, releases: int) -> PrivacyAccount:
    """In two halves and a rest, as rounds come."""
    ledger = PrivacyAccount()
    for count in (releases // 2, releases // 2, releases % 2):
        ledger.add(multiplier, count, probability=probability)
    return ledger


@pytest.mark.parametrize(("probability", "multiplier", "releases", "delta"), SETTINGS[:6])
def test_the_closed_form_is_never_undercut(probability: float, multiplier: float, releases: int, delta: float) -> None:
    exact = gaussian_epsilon(multiplier, releases, delta)
    assert exact <= noted(probability, multiplier, releases).epsilon(delta) <= exact + 1e-3


# dp-accounting, at its own step of the privacy loss, takes half a second to three for all others.
QUICK = {0, 3, 9}


@pytest.mark.parametrize(
    ("probability", "multiplier", "releases", "delta"),
    [pytest.param(*one, marks=() if place in QUICK else pytest.mark.slow) for place, one in enumerate(SETTINGS)],
)
def test_dp_accounting_is_never_undercut(probability: float, multiplier: float, releases: int, delta: float) -> None:
    ours = noted(probability, multiplier, releases).epsilon(delta)
    theirs = directly(probability, multiplier, releases, delta, pld.PLDAccountant())
    # Theirs is rounded up as well, with a coarser step where the loss is small: by 2e-7 at most in the first six.
    assert theirs - 1e-6 <= ours <= theirs + 1e-3
    assert ours <= directly(probability, multiplier, releases, delta, rdp.RdpAccountant()) + 1e-9


@pytest.mark.parametrize(("multiplier", "epsilon"), [(1.0, "46"), (5.0, "4.8"), (10.0, "2.1")])
def test_ten_participants_and_fifty_rounds(multiplier: float, epsilon: str) -> None:
    digits = 0 if multiplier == 1 else 1
    assert f"{epsilon_of(((1.0, multiplier, 50),), 1e-3):.{digits}f}" == epsilon


@given(first=st.integers(1, 40), second=st.integers(1, 40), multiplier=st.floats(1.0, 20.0))
@settings(max_examples=3, deadline=None)
def test_more_releases_cost_more(first: int, second: int, multiplier: float) -> None:
    ledger = PrivacyAccount()
    ledger.add(multiplier, first)
    more = ledger.after(multiplier, second)
    assert ledger.releases == first
    assert more.releases == first + second
    assert ledger.epsilon(1e-3) < more.epsilon(1e-3)


def test_releases_of_several_kinds_compose() -> None:
    ledger = PrivacyAccount()
    ledger.add(2.0, 3)
    ledger.add(4.0, 5)
    # Gaussian mechanisms compose by the sum of 1/z^2: 3/4 + 5/16 = 17/16, as of one of z = 4/sqrt(17).
    assert ledger.epsilon(1e-3) == pytest.approx(gaussian_epsilon(4 / math.sqrt(17), 1, 1e-3), abs=1e-5)


def test_nothing_released_costs_nothing() -> None:
    assert PrivacyAccount().epsilon(1e-3) == 0.0


@given(st.floats(0.02, 5.0), st.floats(1e-9, 1e-2))
def test_the_bound_from_below_is_one(multiplier: float, delta: float) -> None:
    assert least_epsilon(1.0, multiplier, delta) <= gaussian_epsilon(multiplier, 1, delta) + 1e-9


def test_the_bound_from_below_by_hand() -> None:
    # Beyond 1 / 0.1 standard deviations lies 7.62e-24: log(0.499 / 7.62e-24) = 52.536.
    assert least_epsilon(1.0, 0.1, 1e-3) == pytest.approx(52.536, abs=1e-3)
    assert least_epsilon(0.5, 0.1, 1e-3) == pytest.approx(math.log(0.249 / 7.6198530241605e-24), abs=1e-6)
    assert least_epsilon(0.001, 0.1, 1e-3) == 0
    assert 1e17 < least_epsilon(1.0, 1e-9, 1e-3) < math.inf


def test_two_views_of_the_same_releases() -> None:
    older, newer = PrivacyAccount([(1.0, 2.0, 3)]), PrivacyAccount([(1.0, 2.0, 5), (0.5, 1.0, 1)])
    assert newer.since(older).state() == [[0.5, 1.0, 1], [1.0, 2.0, 2]]
    assert older.since(newer).state() == []
    assert older.at_least(newer).state() == newer.at_least(older).state() == newer.state()
    assert PrivacyAccount([(1.0, 3.0, 1)]).at_least(older).state() == [[1.0, 2.0, 3], [1.0, 3.0, 1]]


def test_state_round_trip() -> None:
    ledgers = {"a": PrivacyAccount(), "b": PrivacyAccount()}
    ledgers["a"].add(2.0, 3)
    ledgers["a"].add(1.5, 7, probability=0.1)
    kept = accounts_of(state_of_accounts(ledgers))
    assert kept.keys() == ledgers.keys()
    assert kept["a"].state() == ledgers["a"].state() == [[0.1, 1.5, 7], [1.0, 2.0, 3]]
    assert kept["b"].releases == 0


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ((0.0, 1e-3, None), "noise_multiplier: expected a finite number above 0, got 0.0"),
        ((math.inf, 1e-3, None), "noise_multiplier: expected a finite number above 0, got inf"),
        ((True, 1e-3, None), "noise_multiplier: expected a finite number above 0, got True"),
        ((1.0, 0.0, None), r"delta: expected a probability in \(0, 1\)"),
        ((1.0, 1.0, None), r"delta: expected a probability in \(0, 1\)"),
        ((1.0, math.nan, None), r"delta: expected a probability in \(0, 1\)"),
        ((1.0, 1e-3, -1.0), "max_epsilon: expected a finite number above 0, got -1.0"),
    ],
)
def test_settings_out_of_range(given_: tuple[Any, Any, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_budget(*given_)


def test_without_dp_accounting_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'hetfed-lightning\[privacy\]'"):
        check_budget(1.0, 1e-3)
