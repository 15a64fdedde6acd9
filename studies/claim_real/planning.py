"""How many seeds and test samples a comparison needs; chances are 80 %, at a level of 5 %."""

from math import ceil, sqrt

from claim.contrasts import POWER

LEVEL = 0.05
MANY = 10_000


def seeds_needed(gain: float, deviation: float) -> int:
    """The fewest seeds with which a paired t test finds a true gain, by the noncentral t.

    deviation: standard deviation of the seeds' differences, in the unit of gain.
    """
    from scipy.stats import nct, t

    for seeds in range(3, MANY):
        effect = gain / deviation * sqrt(seeds) if deviation else MANY
        if nct.sf(t.ppf(1 - LEVEL / 2, seeds - 1), seeds - 1, effect) >= POWER:
            return seeds
    return MANY


def samples_needed(gain: float, parted: float) -> int:
    """The fewest test samples with which McNemar's test finds a true gain of one pair of models.

    parted: share of the samples that exactly one of the models gets right. The normal formula of
    Connor (Sample size for testing differences in proportions for the paired-sample design,
    Biometrics 43, 1987).
    """
    from scipy.stats import norm

    if parted <= gain:  # every parted sample counts for one side
        parted = gain
    error = norm.ppf(1 - LEVEL / 2) * sqrt(parted) + norm.ppf(POWER) * sqrt(parted - gain**2)
    return ceil((error / gain) ** 2)
