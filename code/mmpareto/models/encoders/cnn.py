"""A small convolutional encoder, for quick trials and small pictures."""

from itertools import pairwise

from torch import nn

from ...data.samples import Modality
from .base import ConvEncoder, OnePixelConv, channels


class CNN(ConvEncoder):
    """Four stages of 3x3 convolution (stride 2), BatchNorm and ReLU; 98 thousand parameters."""

    out_dim = 128
    widths = (16, 32, 64, 128)

    def __init__(self, modality: Modality):
        super().__init__()
        self.stages = nn.Sequential()
        for before, after in pairwise([channels(modality, "cnn"), *self.widths]):
            conv = OnePixelConv(before, after, 3, stride=2, padding=1, bias=False)
            self.stages.append(nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)))
