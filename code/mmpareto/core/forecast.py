"""Predict whether an encoder's two gradients conflict, from the gradients of its output features.

Without conflict some rules give the plain sum of both gradients, and one traversal of the encoder
is enough. The cosine of the features' gradients costs almost nothing. It moves with the cosine of
the parameters' gradients, but around another mean, so its sign alone misses most conflicts. A
running regression learns how the two cosines are related.
"""

from math import isfinite, sqrt

import torch

from .integrate import widest

FIRST = 8  # steps on which both gradients are always taken
AUDIT = 16  # one step in so many takes both gradients whatever the forecast says
SPREADS = 3.0  # the predicted cosine must be so many standard deviations above zero
MEMORY = 0.95  # factor on the weight of all earlier pairs of cosines, at each new pair


class Forecast:
    """Linear regression of the parameters' cosine on the features', for one encoder.

    state: float64 (7,) on the CPU, changed in place: steps, weight, means of both cosines, their
        variances and covariance.
    pair: (2,) on the encoder's device, changed in place: both cosines of a step that is still to be
        learnt, of the features and of the parameters; NaN if there is none.
    expected: whether the last step was to take both gradients for more than an audit.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.state = torch.zeros(7, dtype=torch.float64)
        self.pair = torch.full((2,), torch.nan, dtype=widest(torch.device(device)), device=device)
        self.expected = False

    def may_conflict(self, cos: float) -> bool:
        """Return whether a step may be in conflict, or is to be audited; counts the step."""
        steps = int(self.state[0])
        self.state[0] += 1
        self.expected = steps < FIRST or self._reaches_zero(cos)
        return self.expected or steps % AUDIT == 0

    def learn(self, cos: float, found: float) -> None:
        """Take in a step's two cosines, of the features and of the parameters."""
        if not (isfinite(cos) and isfinite(found)):
            return
        _, weight, x, y, xx, yy, xy = self.state.tolist()
        weight = MEMORY * weight + 1
        dx, dy, share = cos - x, found - y, 1 / weight
        new = [x + share * dx, y + share * dy]
        moments = ((xx, dx * dx), (yy, dy * dy), (xy, dx * dy))
        new += [(1 - share) * (old + share * product) for old, product in moments]
        self.state[1:] = torch.tensor([weight, *new], dtype=torch.float64)

    def _reaches_zero(self, cos: float) -> bool:
        """Return whether the predicted cosine may be zero or less, or nothing can be predicted."""
        _, weight, x, y, xx, yy, xy = self.state.tolist()
        if not isfinite(cos) or weight == 0:
            return True
        slope = xy / xx if xx > 0 else 0.0
        around = max(yy - slope * xy, 0.0)
        # the second and third terms are the doubt about mean and slope
        variance = around * (1 + 1 / weight + ((cos - x) ** 2 / (weight * xx) if xx > 0 else 0))
        return y + slope * (cos - x) <= SPREADS * sqrt(variance)
