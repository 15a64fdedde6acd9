"""LeNet, the small encoder for multi-task learning on digits (Sener and Koltun 2018)."""

from torch import nn

from ...data.samples import Modality
from ...system.errors import UserError
from .base import ConvEncoder, channels


class LeNet(ConvEncoder):
    """Two stages of 5x5 convolution, ReLU and 2x2 pooling, then one linear layer to 50 units.

    Sener and Koltun's released code also drops half of the second stage's channels in training, the
    same ones for a whole batch.
    """

    out_dim = 50
    widths = (10, 20, 50)

    def __init__(self, modality: Modality):
        super().__init__()
        first, second, last = self.widths
        convolution = nn.Conv2d(channels(modality, "lenet"), first, 5)
        height, width = (((size - 4) // 2 - 4) // 2 for size in modality.shape[-2:])
        if min(height, width) < 1:
            raise UserError(
                f"encoder lenet: pictures of {modality.shape[-2]}x{modality.shape[-1]} leave "
                "nothing after two stages, 16x16 or more expected: choose --encoder cnn"
            )
        self.stages = nn.Sequential(
            nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(second * height * width, last), nn.ReLU()),
        )
