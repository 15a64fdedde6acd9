"""UPGrad: Jacobian descent (Quinton and Rey, 2024) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod, add_scale_flag, solver


class UPGrad(GramianMethod):
    """h = scale times the mean of j and g, each projected to where neither loss ascends.

    With two gradients and scale 2 it is PCGrad, up to the solver's regularisation.
    """

    @staticmethod
    def add_flags(parser) -> None:
        GramianMethod.add_flags(parser)
        add_scale_flag(parser)

    def rule(self, encoder: str) -> Rule:
        with solver("upgrad", "quadprog-projector"):
            from torchjd.aggregation import UPGradWeighting

            weighting = UPGradWeighting()
        return partial(integrate.weighted_rule, weighting=weighting, scale=self.flags.scale)
