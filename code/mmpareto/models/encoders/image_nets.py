"""torchvision's nets for pictures without their classifiers; ResNet-18 is the paper's encoder."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch import nn
from torchvision.models import get_model, get_model_weights

from ...data.samples import Modality
from ...system.errors import UserError
from ...system.flags import PUBLISHED
from ...system.tensors import is_plain, read
from .base import ConvEncoder, OnePixelConv, channels


class TorchvisionNet(ConvEncoder):
    """A net for any number of input channels, from scratch unless pretrained is given.

    If pretrained weights have another number of input channels, the first convolution's are
    averaged over them and scaled, so that equal channels give what the original gave. The published
    weights are the first that torchvision had for the net.
    """

    clips_only = False
    pretrainable = True

    def __init__(self, modality: Modality, pretrained: str | None = None):
        super().__init__()
        wanted = channels(modality, self.net, clips_only=self.clips_only)
        net = get_model(self.net)
        if pretrained:
            _load(net, self.net, pretrained)
        _fit_first_layer(net, wanted, bool(pretrained))
        self.stages = nn.Sequential(*self.cut(net))
        self.out_dim = self.widths[-1]

    def cut(self, net: nn.Module) -> list[nn.Module]:
        """Return the stages of a net, whose outputs have `widths` channels."""
        raise NotImplementedError


class ResNet18(TorchvisionNet):
    """ResNet-18 (He et al., CVPR 2016).

    BatchNorm weights start at 1, as in torchvision; the authors' release of MMPareto draws them
    from N(1, 0.02^2).
    """

    net = "resnet18"
    widths = (64, 64, 128, 256, 512)

    def cut(self, net) -> list[nn.Module]:
        for module in net.layer4.modules():
            is_conv = isinstance(module, nn.Conv2d)
            if is_conv and module.kernel_size == (3, 3) and module.stride == (1, 1):
                module.__class__ = OnePixelConv
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4]


class ResNet34(ResNet18):
    """ResNet-34."""

    net = "resnet34"


class ResNet50(ResNet18):
    """ResNet-50."""

    net = "resnet50"
    widths = (64, 256, 512, 1024, 2048)


class ResNet101(ResNet50):
    """ResNet-101."""

    net = "resnet101"


class MobileNetV2(TorchvisionNet):
    """MobileNetV2 (Sandler et al., CVPR 2018)."""

    net = "mobilenet_v2"
    widths = (16, 24, 32, 96, 1280)
    cuts: tuple[int, ...] = (0, 2, 4, 7, 14, 19)  # where its stages begin among its blocks

    def cut(self, net) -> list[nn.Module]:
        return [net.features[start:end] for start, end in pairwise(self.cuts)]


class MobileNetV3Small(MobileNetV2):
    """MobileNetV3-Small (Howard et al., ICCV 2019)."""

    net = "mobilenet_v3_small"
    widths = (16, 16, 24, 48, 576)
    cuts = (0, 1, 2, 4, 9, 13)


def _fit_first_layer(net: nn.Module, wanted: int, pretrained: bool) -> None:
    """Give the first convolution the wanted number of input channels."""
    name, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    if wanted == old.in_channels:
        return
    sizes = old.kernel_size, old.stride, old.padding
    new = type(old)(wanted, old.out_channels, *sizes, bias=False)  # pyrefly: ignore
    if pretrained:
        weight = old.weight.detach().mean(1, keepdim=True) * old.in_channels / wanted
        new.weight.data.copy_(weight.expand_as(new.weight))
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    net.set_submodule(name, new)


def _load(net: nn.Module, name: str, pretrained: str) -> None:
    """Load a state dict with torchvision's names; it needs no classifier."""
    if pretrained == PUBLISHED:
        weights = next(iter(get_model_weights(name)))
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise UserError(
                f"--pretrained: the weights of {name} could not be downloaded ({error}): download "
                f"{weights.url} elsewhere and give --pretrained FILE"
            ) from None
    else:
        state = read(Path(pretrained), "--pretrained")
    own = {k: v for k, v in net.state_dict().items() if not k.startswith(("fc.", "classifier."))}
    expected = {k: v.shape for k, v in own.items()}
    given = state if isinstance(state, Mapping) else {}
    found = {k: v.shape for k, v in given.items() if is_plain(v) and not v.is_complex()}
    missing = [k for k, shape in expected.items() if found.get(k) != shape]
    if missing:
        raise UserError(
            f"--pretrained {pretrained}: not a state dict of torchvision's {name} "
            f"({len(missing)} of {len(expected)} tensors missing or of another shape, first "
            f"{missing[0]}): save one with torch.save(model.state_dict(), FILE)"
        )
    net.load_state_dict({k: state[k] for k in expected}, strict=False)
