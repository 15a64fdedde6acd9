"""UPGrad: Jacobian descent (Quinton and Rey, 2024) on each encoder's two gradients."""

from .pcgrad import PCGrad


class UPGrad(PCGrad):
    """h = scale times the mean of j and g, each projected to where neither loss ascends.

    With two gradients this is PCGrad at half the length: j without its part along g ascends
    neither loss already, and so is the projection. No solver and no regularisation is needed.
    """

    scaled = True

    def plain(self) -> float:
        return self.flags.scale / 2

    def weighting(self, torchjd):
        summed = super().weighting(torchjd)
        return lambda gram: summed(gram) / 2
