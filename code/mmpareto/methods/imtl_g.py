"""IMTL-G (Liu et al., ICLR 2021) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod, add_scale_flag


class IMTLG(GramianMethod):
    """h = scale * (w j + (1 - w) g) with equal projections on the directions of j and of g.

    A weight may be negative.
    """

    @staticmethod
    def add_flags(parser) -> None:
        GramianMethod.add_flags(parser)
        add_scale_flag(parser)

    def rule(self, encoder: str) -> Rule:
        from torchjd.aggregation import IMTLGWeighting

        return partial(integrate.weighted_rule, weighting=IMTLGWeighting(), scale=self.flags.scale)
