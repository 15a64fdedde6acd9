"""Aligned-MTL (Senushkin et al., CVPR 2023) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod, add_scale_flag


class AlignedMTL(GramianMethod):
    """h = scale times the mean of j and g made orthogonal and equally long.

    Both are moved as little as it takes for the matrix [j; g] to have equal singular values: its
    smallest one (min, the paper's) or, as in the authors' code, their root mean square (rmse).
    It can ascend one of the losses.
    """

    @staticmethod
    def add_flags(parser) -> None:
        GramianMethod.add_flags(parser)
        # fmt: off
        parser.add_argument("--singular_value", choices=("min", "rmse"), default="min",
            help="what all singular values become: rmse is the release's")
        # fmt: on
        add_scale_flag(parser)

    def rule(self, encoder: str) -> Rule:
        from torchjd.aggregation import AlignedMTLWeighting

        weighting = AlignedMTLWeighting(scale_mode=self.flags.singular_value)
        return partial(integrate.weighted_rule, weighting=weighting, scale=self.flags.scale)
