"""PCGrad: gradient surgery (Yu et al., NeurIPS 2020) on each encoder's two gradients."""

from .base import TorchJDMethod


class PCGrad(TorchJDMethod):
    """Where j and g conflict each loses its part along the other, as it was; then they add up.

    Without conflict h = j + g: the scale is that of uniform.
    """

    def weighting(self, torchjd):
        return torchjd.PCGradWeighting()
