"""CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021) on an encoder's gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from ..system.flags import non_negative
from .base import GramianMethod, add_scale_flag, solver

RESCALE = {"none": lambda c: 1.0, "square": lambda c: 1 + c**2, "linear": lambda c: 1 + c}


class CAGrad(GramianMethod):
    """The step near m = (j + g) / 2 from which the worse off of both losses gains most.

    h = scale * (m + c ||m|| q / ||q||) with q in the segment [j, g] minimising
    <q, m> + c ||m|| ||q||. It can ascend one of the losses where c < 1. The released code divides
    h by 1 + c^2 on one of its datasets and takes it twice: --rescale square --scale 2.
    """

    @staticmethod
    def add_flags(parser) -> None:
        GramianMethod.add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--c", type=non_negative(float), default=0.5,
            help="how far from m, in shares of its length, >= 0")
        add("--rescale", choices=RESCALE, default="none",
            help="divide h by 1 + c^2 (square), by 1 + c (linear), or not")
        # fmt: on
        add_scale_flag(parser)

    def rule(self, encoder: str) -> Rule:
        with solver("cagrad", "cagrad"):
            from torchjd.aggregation import CAGradWeighting

            weighting = CAGradWeighting(c=self.flags.c)
        scale = self.flags.scale / RESCALE[self.flags.rescale](self.flags.c)
        return partial(integrate.weighted_rule, weighting=weighting, scale=scale)
