"""CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021) on an encoder's gradients."""

from functools import partial

from ..core.integrator import Rule
from ..system.flags import non_negative
from .base import TorchJDMethod

RESCALE = {"none": lambda c: 1.0, "square": lambda c: 1 + c**2, "linear": lambda c: 1 + c}


class CAGrad(TorchJDMethod):
    """The step near m = (j + g) / 2 from which the worse off of both losses gains most.

    h = scale * (m + c ||m|| q / ||q||) with q in the segment [j, g] minimising
    <q, m> + c ||m|| ||q||. It can ascend one of the losses where c < 1. The released code divides
    h by 1 + c^2 on one of its datasets and takes it twice: --rescale square --scale 2.
    """

    package = "torchjd[cagrad]"
    scaled = True

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--c", type=non_negative(float), default=0.5,
            help="largest distance from m, as a share of its length, >= 0")
        add("--rescale", choices=RESCALE, default="none",
            help="divide h by 1 + c^2 (square), by 1 + c (linear), or not")
        # fmt: on

    def weighting(self, torchjd):
        return torchjd.CAGradWeighting(c=self.flags.c)

    def rule(self, encoder: str) -> Rule:
        scale = self.flags.scale / RESCALE[self.flags.rescale](self.flags.c)
        return partial(super().rule(encoder), scale=scale)
