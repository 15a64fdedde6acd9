"""IMTL-G (Liu et al., ICLR 2021) on each encoder's two gradients."""

from .base import TorchJDMethod


class IMTLG(TorchJDMethod):
    """h = scale * (w j + (1 - w) g) with equal projections on the directions of j and of g.

    With two gradients that is w = ||g|| / (||j|| + ||g||).
    """

    scaled = True

    def weighting(self, torchjd):
        return torchjd.IMTLGWeighting()
