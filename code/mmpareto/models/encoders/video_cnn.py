"""A small encoder that sees what moves, for clips of small pictures on a CPU."""

from itertools import pairwise

from torch import Tensor, nn

from ...data.samples import Modality
from .base import ConvEncoder, channels


class VideoCNN(ConvEncoder):
    """Four stages of 3x3 convolution (stride 2) over space and of 3 over time, both with BatchNorm.

    The convolutions over time keep its length, so that nine neighbouring frames meet in a feature.
    """

    out_dim = 128
    widths = (16, 32, 64, 128)

    def __init__(self, modality: Modality):
        super().__init__()
        self.stages = nn.Sequential()
        first = channels(modality, "video_cnn", clips_only=True)
        for before, after in pairwise([first, *self.widths]):
            space = nn.Conv3d(before, after, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
            time = nn.Conv3d(after, after, (3, 1, 1), padding=(1, 0, 0), bias=False)
            layers = [space, nn.BatchNorm3d(after), nn.ReLU(inplace=True)]
            layers += [time, nn.BatchNorm3d(after), nn.ReLU(inplace=True)]
            self.stages.append(nn.Sequential(*layers))

    def fold(self, inputs: Tensor) -> Tensor:
        """Put time behind the channels: (B, C, T, H, W)."""
        return inputs.transpose(1, 2)
