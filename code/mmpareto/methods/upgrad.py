"""UPGrad: Jacobian descent (Quinton and Rey, 2024) on each encoder's two gradients."""

from .base import TorchJDMethod


class UPGrad(TorchJDMethod):
    """h = scale times the mean of j and g, each projected to where neither loss ascends.

    With two gradients and scale 2 it is PCGrad, up to the solver's regularisation.
    """

    package = "torchjd[quadprog-projector]"
    scaled = True

    def weighting(self, torchjd):
        return torchjd.UPGradWeighting()
