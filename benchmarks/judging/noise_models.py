"""Kinds of noise that a benchmark's pairs may have, for simulating the judge. Nothing here decides a verdict.

Each model fills [runs, pairs] with noise of standard deviation about one and median zero. Where the noise belongs to
the place that a process gets (started first or second) instead of to base or candidate, its sign is drawn again for
each pair: that is what the judge's random order of starting does to it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Noise = NDArray[np.float64]
Model = Callable[[np.random.Generator, int, int], Noise]

FIRST_DRIFT = 1.0  # a drift goes from plus to minus so many standard deviations within a run
SWITCH = 0.1  # a throttling processor changes its speed so often, per pair


def gaussian(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Normal noise."""
    return rng.standard_normal((runs, pairs))


def heavy_tails(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Student's t with three degrees of freedom, scaled to standard deviation one."""
    return rng.standard_t(3, (runs, pairs)) / math.sqrt(3)


def skewed_up(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Exponential, shifted to median zero: now and then the candidate looks much faster; the mean is above zero."""
    return rng.exponential(1.0, (runs, pairs)) - math.log(2)


def skewed_down(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """The mirror image: now and then the candidate is disturbed."""
    return -skewed_up(rng, runs, pairs)


def very_skewed(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Log-normal (sigma 1), median zero, standard deviation one; the mean is 0.3 above zero."""
    return (rng.lognormal(0.0, 1.0, (runs, pairs)) - 1.0) / math.sqrt((math.e - 1.0) * math.e)


def slow_mode(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Bimodal: every fifth pair falls into a second mode two and a half standard deviations away, on either side."""
    hit = rng.random((runs, pairs)) < 0.2
    side = rng.choice(np.array([-2.0, 2.0]), (runs, pairs))
    noise: Noise = 0.45 * rng.standard_normal((runs, pairs)) + hit * side
    return noise / math.sqrt(0.45**2 + 0.8)


def two_modes(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """Bimodal: two modes of equal weight, 1.7 standard deviations apart, nothing in the middle holds the median."""
    side = rng.choice(np.array([-0.85, 0.85]), (runs, pairs))
    return side + math.sqrt(1 - 0.85**2) * rng.standard_normal((runs, pairs))


def drift(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """The place started first is favoured at the beginning of the run and the other one at its end."""
    slope = np.linspace(FIRST_DRIFT, -FIRST_DRIFT, pairs)
    noise: Noise = rng.standard_normal((runs, pairs)) + slope
    return noise * _places(rng, runs, pairs) / math.sqrt(1 + FIRST_DRIFT**2 / 3)


def throttling(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """The processor's speed changes in steps that last ten pairs on average, and is unsteady while it is low.

    Calls alternate, so a step moves both sides alike, but for the pair in the middle of which it falls: there one
    place is off by three standard deviations.
    """
    changes = rng.random((runs, pairs)) < SWITCH
    is_slow = np.cumsum(changes, axis=1) % 2 == 1
    own = rng.standard_normal((runs, pairs)) * np.where(is_slow, 1.5, 1.0)
    noise: Noise = own + 3.0 * changes * _places(rng, runs, pairs)
    return noise / math.sqrt((1.0 + 1.5**2) / 2 + 9.0 * SWITCH)


def autocorrelated(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """AR(1) with 0.5 between pairs, in favour of a place."""
    return _ar1(rng, runs, pairs, 0.5) * _places(rng, runs, pairs)


def autocorrelated_candidate(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """AR(1) with 0.3, in favour of the candidate itself: random order of starting does not help here."""
    return _ar1(rng, runs, pairs, 0.3)


def autocorrelated_strongly(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    """AR(1) with 0.5, in favour of the candidate itself: for the confirmation's bound only."""
    return _ar1(rng, runs, pairs, 0.5)


def _places(rng: np.random.Generator, runs: int, pairs: int) -> Noise:
    return rng.choice(np.array([-1.0, 1.0]), (runs, pairs))


def _ar1(rng: np.random.Generator, runs: int, pairs: int, correlation: float) -> Noise:
    noise = rng.standard_normal((runs, pairs))
    fresh = math.sqrt(1 - correlation**2)
    for pair in range(1, pairs):
        noise[:, pair] = correlation * noise[:, pair - 1] + fresh * noise[:, pair]
    return noise


def process_bias(rng: np.random.Generator, runs: int, pairs: int, bias: float) -> Noise:
    """Effect of memory layout, in the unit of `bias` (its standard deviation): each process of each pair draws one."""
    first: Noise = rng.standard_normal((runs, pairs))
    return bias * (first - rng.standard_normal((runs, pairs)))


MODELS: dict[str, Model] = {
    "gaussian": gaussian,
    "heavy tails (t3)": heavy_tails,
    "skewed up": skewed_up,
    "skewed down": skewed_down,
    "very skewed up": very_skewed,
    "slow and fast modes": slow_mode,
    "two equal modes": two_modes,
    "drift": drift,
    "throttling in steps": throttling,
    "AR(1) 0.5 of the place": autocorrelated,
    "AR(1) 0.3 of the candidate": autocorrelated_candidate,
}
