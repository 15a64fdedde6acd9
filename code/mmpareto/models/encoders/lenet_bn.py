"""MultiBench's LeNet with BatchNorm, the small encoder of AV-MNIST (Liang et al. 2021)."""

from torch import nn

from ...data.samples import Modality
from ...system.errors import UserError
from .base import ConvEncoder, channels


class LeNetBN(ConvEncoder):
    """Stages of convolution, BatchNorm, ReLU and 2x2 pooling, until one pixel is left.

    The first stage has a 5x5 convolution to 6 channels, every other one a 3x3 convolution to twice
    as many as before. Pictures of 28x28 take four stages to 48 features, of 112x112 six stages to
    192: the encoders of MultiBench's late fusion (`LeNet(1, 6, 3)` and `LeNet(1, 6, 5)`).
    """

    def __init__(self, modality: Modality):
        super().__init__()
        before, smaller = channels(modality, "lenet_bn"), min(modality.shape[-2:])
        if smaller < 4:
            raise UserError(
                f"encoder lenet_bn: pictures of {modality.shape[-2]}x{modality.shape[-1]} found, "
                "4x4 or more expected: choose --encoder mlp"
            )
        self.widths = tuple(6 * 2**stage for stage in range(smaller.bit_length() - 1))
        self.out_dim = self.widths[-1]
        self.stages = nn.Sequential()
        for after in self.widths:
            size = 3 if self.stages else 5
            conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
            nn.init.kaiming_uniform_(conv.weight)
            layers = conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(2)
            self.stages.append(nn.Sequential(*layers))
            before = after
