"""PCGrad: gradient surgery (Yu et al., NeurIPS 2020) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod


class PCGrad(GramianMethod):
    """Where j and g conflict each loses its part along the other, as it was; then they add up.

    Without conflict h = j + g: the scale is that of uniform.
    """

    def rule(self, encoder: str) -> Rule:
        from torchjd.aggregation import PCGradWeighting

        return partial(integrate.weighted_rule, weighting=PCGradWeighting())
