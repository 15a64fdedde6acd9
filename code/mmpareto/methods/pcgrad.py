"""PCGrad: gradient surgery (Yu et al., NeurIPS 2020) on each encoder's two gradients."""

from .base import TorchJDMethod


class PCGrad(TorchJDMethod):
    """In conflict, j and g each lose their part along the other's old value; then they are added.

    Without conflict h = j + g: the scale is that of uniform.
    """

    def weighting(self, torchjd):
        return torchjd.PCGradWeighting()
