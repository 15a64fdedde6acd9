"""Aligned-MTL (Senushkin et al., CVPR 2023) on each encoder's two gradients."""

from .base import TorchJDMethod


class AlignedMTL(TorchJDMethod):
    """h = scale times the mean of j' and g', which are j and g made orthogonal and equally long.

    Both are moved as little as it takes for the matrix [j; g] to have equal singular values: the
    smallest one (min, the default, also of the authors' code) or their root mean square (rmse).
    The authors' code adds j' and g': --scale 2. h can ascend one of the losses.
    """

    scaled = True

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        parser.add_argument("--singular_value", choices=("min", "rmse"), default="min",
            help="new value of both singular values: the smaller one, or their root mean square")
        # fmt: on

    def weighting(self, torchjd):
        return torchjd.AlignedMTLWeighting(scale_mode=self.flags.singular_value)
