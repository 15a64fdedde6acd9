"""Differences between arms, seed by seed."""

from typing import NamedTuple

from mmpareto.results.table import paired_difference, points

from .rows import Run, scored

POWER = 0.8


class Contrast(NamedTuple):
    """Test accuracy of one arm minus that of another; shares."""

    arms: str  # "E-B"
    seeds: int
    mean: float
    low: float  # 95 % confidence interval of the mean
    high: float
    p: float  # two-sided, of no difference; not corrected
    detectable: float  # difference that this many seeds find with a chance of POWER

    @property
    def points(self) -> str:
        return points(self.mean, self.low, self.high)


def contrast(runs: list[Run], part: str, arms: str) -> Contrast | None:
    """The difference of two arms in test accuracy."""
    one, other = ({run.seed: run.Acc for run in scored(runs, part, arm)} for arm in arms.split("-"))
    return difference(arms, one, other)


def difference(arms: str, one: dict[int, float], other: dict[int, float]) -> Contrast | None:
    """The difference of {seed: accuracy}; None with fewer than three seeds that both have."""
    found = paired_difference(one, other)
    if found is None or found.low is None:
        return None
    from scipy.stats import t

    free = found.count - 1
    error = (found.high - found.low) / 2 / t.ppf(0.975, free)
    p = 2 * t.sf(abs(found.mean) / error, free) if error else float(found.mean == 0)
    detectable = (t.ppf(0.975, free) + t.ppf(POWER, free)) * error
    return Contrast(arms, *found, float(p), float(detectable))


def holm(ps: list[float]) -> list[float]:
    """Holm's correction: the k-th smallest of n is multiplied by n - k + 1, and never falls."""
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = least
    return corrected
