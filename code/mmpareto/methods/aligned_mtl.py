"""Aligned-MTL (Senushkin et al., CVPR 2023) on each encoder's two gradients."""

from .base import TorchJDMethod


class AlignedMTL(TorchJDMethod):
    """h = scale times the mean of j and g made orthogonal and equally long.

    Both are moved as little as it takes for the matrix [j; g] to have equal singular values: its
    smallest one (min, the paper's) or, as in the authors' code, their root mean square (rmse).
    It can ascend one of the losses.
    """

    scaled = True

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        parser.add_argument("--singular_value", choices=("min", "rmse"), default="min",
            help="new value of all singular values: rmse is the release's")
        # fmt: on

    def weighting(self, torchjd):
        return torchjd.AlignedMTLWeighting(scale_mode=self.flags.singular_value)
