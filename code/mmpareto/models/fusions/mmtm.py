"""Multimodal transfer modules between the encoders' last stages (Joze et al., CVPR 2020)."""

from typing import cast

import torch
from torch import Tensor, nn

from ...system.errors import UserError
from ...system.flags import positive
from ..encoders.base import Encoder, pooled
from .base import NO_TAPS, Taps, check_stages
from .sum import Mean

EXCHANGES = 3  # after each of the last three stages: 2 to 4 of a ResNet


class Exchange(nn.Module):
    """Gates every modality's channels by the channels of all modalities at that depth.

    e = ReLU(W_s [s_1; ...; s_N] + b_s) of s_k, the channels' means (B, C_k), with
    int(2 sum_k C_k / ratio) units; gate_k = gate_scale * sigmoid(W_k e + b_k).
    """

    def __init__(self, channels: dict[str, int], ratio: float, gate_scale: int):
        super().__init__()
        self.gate_scale = gate_scale
        self.frozen: str | None = None  # training keeps this modality's gates at their mean
        self.counts_frozen = False  # whether their own values still enter that mean
        total = sum(channels.values())
        units = int(2 * total / ratio)
        if not units:
            raise UserError(f"--ratio {ratio}: leaves none of {total} channels: give a smaller one")
        self.squeeze = nn.Linear(total, units)
        self.excite = nn.ModuleDict({name: nn.Linear(units, c) for name, c in channels.items()})
        for name, width in channels.items():
            self.register_buffer(f"mean_gate_{name}", torch.zeros(width))
            self.register_buffer(f"batches_{name}", torch.zeros(()))

    def forward(self, maps: dict[str, Tensor], samples: int) -> dict[str, Tensor]:
        """Gate {modality: maps (samples * T, C, ...)}; all frames of a sample share a gate."""
        squeezed = [pooled(maps[name], samples) for name in self.excite]
        shared = torch.relu(self.squeeze(torch.cat(squeezed, dim=1)))
        gated = {}
        for name, excite in self.excite.items():
            gate = self.gate_scale * torch.sigmoid(excite(shared))
            frozen = self.training and name == self.frozen
            if self.training and (self.counts_frozen or not frozen):
                batches, mean = self.get_buffer(f"batches_{name}").add_(1), self.mean_gate(name)
                mean.add_((gate.detach().float().mean(0) - mean) / batches)
            if frozen:
                gate = self.mean_gate(name).expand(samples, -1)
            x = maps[name]
            gate = gate.to(x.dtype).repeat_interleave(len(x) // samples, dim=0)
            gated[name] = x * gate.view(*gate.shape, *[1] * (x.dim() - 2))
        return gated

    def mean_gate(self, name: str) -> Tensor:
        """Return the mean (C,) of a modality's gates over all training batches so far."""
        return self.get_buffer(f"mean_gate_{name}")


class MMTM(Mean):
    """o = mean_k (W_k z_k + b_k), with z_k of branches that exchange after their last stages.

    The encoder of a modality is its whole branch; the exchanging layers belong to none.
    gate_scale 1 is the authors' released code; with 2, an exchange of zero weights is the identity.
    """

    late = False
    masks = False

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--ratio", type=positive(float), default=4.0,
            help="an exchange has 2 / RATIO units for each channel of all modalities; > 0")
        add("--gate_scale", type=int, choices=(1, 2), default=1,
            help="the largest value of a gate")
        # fmt: on

    def __init__(
        self, encoders: dict[str, Encoder], classes: int, *, ratio: float = 4.0, gate_scale: int = 1
    ):
        super().__init__(encoders, classes)
        check_stages(encoders, "mmtm")
        depth = min(EXCHANGES, *(len(encoder.stages) for encoder in encoders.values()))
        levels = [{k: e.widths[level] for k, e in encoders.items()} for level in range(-depth, 0)]
        exchanges = nn.ModuleList(Exchange(widths, ratio, gate_scale) for widths in levels)
        self.exchanges = cast(list[Exchange], exchanges)  # torch's type does not say what it holds

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        samples = len(next(iter(inputs.values())))
        depth = len(self.exchanges)  # the number of stages that an exchange follows
        maps = {k: e.stages[:-depth](e.fold(inputs[k])) for k, e in self.encoders.items()}
        for level, exchange in zip(range(-depth, 0), self.exchanges, strict=True):
            maps = {k: e.stages[level](maps[k]) for k, e in self.encoders.items()}
            maps = exchange(maps, samples)
        return {name: pooled(x, samples) for name, x in maps.items()}, NO_TAPS

    def gate_parameters(self, modality: str) -> list[nn.Parameter]:
        """Return the parameters of a modality's gates, including those of shared layers."""
        parts = [part for e in self.exchanges for part in (e.squeeze, e.excite[modality])]
        return [p for part in parts for p in part.parameters()]
