"""PCGrad: gradient surgery (Yu et al., NeurIPS 2020) on each encoder's two gradients."""

from .base import TorchJDMethod


class PCGrad(TorchJDMethod):
    """h = j' + g': in conflict, j' is j without its part along g, and g' is g without that along j.

    Without conflict h = j + g: the scale is that of uniform.
    """

    def plain(self) -> float:
        return 1.0

    def weighting(self, torchjd):
        return torchjd.PCGradWeighting()
