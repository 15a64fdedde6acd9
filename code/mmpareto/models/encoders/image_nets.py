"""torchvision's ResNet-18 without its classifier: the encoder of the paper."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn
from torchvision.models import ResNet, ResNet18_Weights, resnet18

from ...data.samples import Modality
from ...system.errors import UserError
from ...system.tensors import is_plain, read
from .base import ConvEncoder, OnePixelConv, channels


class ResNet18(ConvEncoder):
    """ResNet-18 for any number of input channels, from scratch unless pretrained is given.

    If pretrained weights have another number of input channels, the first convolution's are
    averaged over them and scaled, so that equal channels give what the original gave. BatchNorm
    weights start at 1, as in torchvision; the authors' release draws them from N(1, 0.02^2).
    """

    out_dim = 512
    widths = (64, 64, 128, 256, 512)
    pretrainable = True

    def __init__(self, modality: Modality, pretrained: str | None = None):
        super().__init__()
        wanted = channels(modality, "resnet18")
        net = resnet18()
        if pretrained:
            _load(net, pretrained)
        if wanted != net.conv1.in_channels:
            old = net.conv1
            net.conv1 = nn.Conv2d(wanted, 64, kernel_size=7, stride=2, padding=3, bias=False)
            if pretrained:
                weight = old.weight.detach().mean(1, keepdim=True) * old.in_channels / wanted
                net.conv1.weight.data.copy_(weight.expand_as(net.conv1.weight))
            else:
                nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        for name in ("0.conv2", "1.conv1", "1.conv2"):
            net.layer4.get_submodule(name).__class__ = OnePixelConv
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.Sequential(stem, net.layer1, net.layer2, net.layer3, net.layer4)


def _load(net: ResNet, pretrained: str) -> None:
    """Load a state dict with torchvision's names for ResNet-18; it needs no classifier."""
    if pretrained == "imagenet":
        try:
            state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise UserError(
                f"--pretrained: the ImageNet weights could not be downloaded ({error}): download "
                f"{ResNet18_Weights.IMAGENET1K_V1.url} elsewhere and give --pretrained FILE"
            ) from None
    else:
        state = read(Path(pretrained), "--pretrained")
    expected = {k: v.shape for k, v in net.state_dict().items() if not k.startswith("fc.")}
    given = state if isinstance(state, Mapping) else {}
    found = {k: v.shape for k, v in given.items() if is_plain(v) and not v.is_complex()}
    missing = [k for k, shape in expected.items() if found.get(k) != shape]
    if missing:
        raise UserError(
            f"--pretrained {pretrained}: not a state dict of torchvision's resnet18 "
            f"({len(missing)} of {len(expected)} tensors missing or of another shape, first "
            f"{missing[0]}): save one with torch.save(model.state_dict(), FILE)"
        )
    net.load_state_dict({k: state[k] for k in expected}, strict=False)
