"""A multilayer perceptron on vectors or anything flattened, for features computed elsewhere."""

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ...data.samples import Modality
from .base import Encoder


class MLP(Encoder):
    """Two hidden layers with BatchNorm and ReLU, of 256 and 128 units."""

    out_dim = 128
    widths = (256, 128)

    def __init__(self, modality: Modality):
        super().__init__()
        self.stages = nn.Sequential()
        for before, after in pairwise([prod(modality.shape), *self.widths]):
            linear = nn.Linear(before, after)
            self.stages.append(nn.Sequential(linear, nn.BatchNorm1d(after), nn.ReLU()))

    def fold(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)


class WideMLP(MLP):
    """The same with 1,024 and 512 units."""

    out_dim = 512
    widths = (1024, 512)
