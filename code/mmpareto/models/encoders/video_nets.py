"""torchvision's nets for clips without their classifiers: they see what moves."""

from torch import Tensor, nn

from .image_nets import TorchvisionNet


class R3D18(TorchvisionNet):
    """ResNet-18 with three-dimensional convolutions (Tran et al., CVPR 2018)."""

    net = "r3d_18"
    clips_only = True
    widths = (64, 64, 128, 256, 512)

    def cut(self, net) -> list[nn.Module]:
        return [net.stem, net.layer1, net.layer2, net.layer3, net.layer4]

    def fold(self, inputs: Tensor) -> Tensor:
        """Put time behind the channels: (B, C, T, H, W)."""
        return inputs.transpose(1, 2)


class MC318(R3D18):
    """The same, but from the second stage on without time."""

    net = "mc3_18"


class R2Plus1D18(R3D18):
    """The same with every convolution cut in two, one over space and one over time."""

    net = "r2plus1d_18"
