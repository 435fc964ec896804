"""The Gaussian mechanism's privacy in closed form, as an outside reference."""

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.stats import norm


def gaussian_epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """Epsilon of Gaussian mechanisms composed: together they are one, of a multiplier smaller by sqrt(releases).

    Reference:
        Balle and Wang (2018), Improving the Gaussian mechanism for differential privacy, Theorem 8.
    """
    mean = math.sqrt(releases) / noise_multiplier
    return _root(lambda epsilon: _excess(mean, epsilon) - delta)


def _excess(mean: float, epsilon: float) -> float:
    first = norm.cdf(mean / 2 - epsilon / mean)
    return float(first - math.exp(epsilon + norm.logcdf(-mean / 2 - epsilon / mean)))


def _root(function: Callable[[float], float]) -> float:
    return float(brentq(function, 0, 2000, xtol=1e-12))
