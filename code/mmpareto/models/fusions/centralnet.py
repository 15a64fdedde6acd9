"""CentralNet: a network beside the encoders that reads every stage (Vielzeuf et al., 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.base import Encoder, OnePixelConv, pooled
from .base import Fusion, Taps, check_stages, total


class Central(nn.Module):
    """Layer(a_C h_C + sum_k a_k P_k h_k), with a_C = 1 and a_k = 1 / N at the start, all trained.

    P_k is a 1x1 convolution to the width of the central network at this depth. Maps of different
    sizes are averaged to the smallest height and width among them; vectors are 1x1 maps.
    """

    def __init__(self, widths: dict[str, int], width: int, after: int, *, first: bool):
        super().__init__()
        self.project = nn.ModuleDict({k: nn.Conv2d(c, width, 1) for k, c in widths.items()})
        self.weights = nn.Parameter(torch.full((len(widths),), 1 / len(widths)))
        self.central_weight = None if first else nn.Parameter(torch.ones(()))
        self.layer = nn.Sequential(
            OnePixelConv(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )

    def forward(self, central: Tensor | None, maps: dict[str, Tensor]) -> Tensor:
        """Return (B, after, H, W) from maps (B, C_k, H_k, W_k) and the layer before, if any."""
        sizes = [x.shape[2:] for x in maps.values() if x.shape[2:] != (1, 1)] or [(1, 1)]
        size = tuple(map(min, zip(*sizes, strict=True)))
        parts = []
        if central is not None and self.central_weight is not None:
            parts.append(self.central_weight * F.adaptive_avg_pool2d(central, size))
        for weight, (name, project) in zip(self.weights, self.project.items(), strict=True):
            parts.append(weight * project(F.adaptive_avg_pool2d(maps[name], size)))
        return self.layer(total(parts))


class CentralNet(Fusion):
    """o = W h_C + b, with h_C of a central network beside the encoders, which do not change.

    It has a 3x3 layer after each stage that all encoders have, as wide as the widest of them. The
    encoders never see it or each other, so the fusion is late; the central network's parameters
    belong to no encoder. The paper's loss is that of --method uniform. The choice of tapped layers,
    the projections, the pooling and the initial weights are ours.
    """

    tapped = True

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__(encoders, classes)
        check_stages(encoders, "centralnet")
        depth = min(len(encoder.stages) for encoder in encoders.values())
        levels = [{k: e.widths[i] for k, e in encoders.items()} for i in range(-depth, 0)]
        widths = [max(level.values()) for level in levels]
        after = [*widths[1:], widths[-1]]
        self.central = nn.ModuleList(
            Central(levels[i], widths[i], after[i], first=i == 0) for i in range(depth)
        )
        self.joint_head = nn.Linear(widths[-1], classes)

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        features, taps = {}, {}
        for name, encoder in self.encoders.items():
            samples, x, maps = len(inputs[name]), encoder.fold(inputs[name]), []
            for stage in encoder.stages:
                x = stage(x)
                maps.append(_map(x, samples))
            features[name], taps[name] = pooled(x, samples), maps[-len(self.central) :]
        return features, taps

    def joint_of_taps(self, taps: Taps) -> Tensor:
        central = None
        for level, layer in enumerate(self.central):
            central = layer(central, {name: maps[level] for name, maps in taps.items()})
        assert central is not None  # every encoder has stages
        return self.joint_head(pooled(central, len(central)))


def _map(x: Tensor, samples: int) -> Tensor:
    """Return one map a sample (samples, C, H, W): time is averaged, vectors have 1x1."""
    x = x.mean(2) if x.dim() == 5 else x
    x = x if x.dim() == 4 else x[:, :, None, None]
    return x if len(x) == samples else x.unflatten(0, (samples, -1)).mean(1)
