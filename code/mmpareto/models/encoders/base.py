"""The interface of every encoder, and what the convolutional ones share."""

from collections.abc import ItemsView, ValuesView
from importlib import import_module
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.samples import IMAGENET, Modality
from ...system.errors import UserError, reason


class Encoder(nn.Module):
    """Maps one modality's batch to features (B, out_dim), stage by stage.

    It is built as `Encoder(modality)` from a `data.samples.Modality`; a pretrainable one also takes
    pretrained: None, `flags.PUBLISHED` or the path of weights. Where only its features are needed,
    any Module with an out_dim will do.

    takes_padding: whether a sequence arrives with its padding, time steps that are NaN (see
        `without_padding`). For all other encoders padding is zero, the mean of every column.
    """

    net: str  # in a family of encoders, the name of this one
    out_dim: int
    stages: nn.Sequential
    widths: tuple[int, ...] = ()  # of each stage's output, for fusions that use those
    pretrainable = False
    takes_padding = False
    fills_padding = False  # set where the model fills it with zeros instead

    def fold(self, inputs: Tensor) -> Tensor:
        """Return the first stage's input."""
        return inputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self.stages(self.fold(inputs))


class Encoders(nn.ModuleDict):
    """{modality: encoder}."""

    if TYPE_CHECKING:  # to the type checker, every module in it is an encoder

        def __getitem__(self, key: str) -> Encoder: ...
        def items(self) -> ItemsView[str, Encoder]: ...
        def values(self) -> ValuesView[Encoder]: ...


def without_padding(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Return sequences (B, T, ...) with zeros for their padding, and where that is, bool (B, T).

    Padding is a step that is NaN as a whole. Any other NaN stays, and shows in the loss.
    """
    padding = sequences.flatten(2).isnan().all(2)
    wide = padding.view(*padding.shape, *[1] * (sequences.dim() - 2))
    return sequences.masked_fill(wide, 0), padding


class ConvEncoder(Encoder):
    """Stages of feature maps, then the mean over space and, for frames, over time.

    Takes images or spectrograms (B, C, H, W) and frames (B, T, C, H, W); returns (B, out_dim).
    """

    def fold(self, inputs: Tensor) -> Tensor:
        """Treat each frame as a sample."""
        return inputs if inputs.dim() == 4 else inputs.flatten(0, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return pooled(super().forward(inputs), len(inputs))


def pooled(maps: Tensor, samples: int) -> Tensor:
    """Return the mean (samples, C) of maps (samples * T, C, ...) over time and positions."""
    if maps.dim() > 2:
        maps = maps.mean(tuple(range(2, maps.dim())))
    return maps if len(maps) == samples else maps.unflatten(0, (samples, -1)).mean(1)


class OnePixelConv(nn.Conv2d):
    """A 3x3 convolution with padding 1 that uses only its middle tap on a 1x1 map.

    There eight of its nine taps meet padding, but oneDNN computes them all: on pictures of up to
    32x32 that is a third of ResNet-18's training step on a CPU. In bfloat16 it even returns
    gradients of those taps that were never written, sometimes NaN.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:] == (1, 1):
            if self.weight.is_contiguous():
                return F.conv2d(input, self.weight[:, :, 1:2, 1:2])
            # In channels_last, this gradient has the weight's memory layout without a copy.
            last = self.weight.permute(0, 2, 3, 1)[:, 1:2, 1:2]
            return F.conv2d(input, last.permute(0, 3, 1, 2))
        return super().forward(input)


class Normalised(nn.Module):
    """A net of RGB pictures, which come normalised as ImageNet's, with its own mean and deviation.

    mean, deviation: three numbers each, of colours from 0 to 1; None: ImageNet's. Inputs that are
    no RGB pictures stay as they are.
    """

    def __init__(self, net: nn.Module, modality: Modality, mean, deviation):
        super().__init__()
        self.net = net
        is_colour = modality.kind in ("image", "frames") and modality.shape[-3] == 3
        own = (mean, deviation) if is_colour and mean and deviation else IMAGENET
        self.is_same = [*map(tuple, own)] == [*IMAGENET]
        m0, s0, m, s = (torch.tensor(x).view(3, 1, 1) for x in (*IMAGENET, *own))
        self.register_buffer("factor", s0 / s, persistent=False)
        self.register_buffer("shift", (m0 - m) / s, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs if self.is_same else inputs * self.factor + self.shift)


def picture_width(net: nn.Module, modality: Modality, encoder: str) -> int:
    """Return the width of a net's features; UserError if it cannot read pictures of this size."""
    try:
        with torch.no_grad():
            features = net.eval()(torch.zeros(1, *modality.shape[-3:]))
    except Exception as error:
        raise UserError(
            f"--encoder {encoder}: it cannot read pictures of {modality.shape[-2]}x"
            f"{modality.shape[-1]} ({reason(error)}): give another --image_size, or another encoder"
        ) from None
    net.train()
    return features.shape[1]


def library(name: str, encoder: str):
    """Import an optional package for an encoder."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"--encoder {encoder} needs {package}, which cannot be imported ({reason(error)}): run "
            f'pip install {package}, or pip install ".[encoders]" in the repository'
        ) from None


def channels(modality: Modality, encoder: str, *, clips_only: bool = False) -> int:
    """Return the number of input channels; raise UserError if the modality is no picture."""
    if len(modality.shape) not in ((4,) if clips_only else (3, 4)):
        pictures = "" if clips_only else "pictures (channels, height, width) or "
        raise UserError(
            f"encoder {encoder} takes {pictures}frames (time, channels, height, width), not "
            f"{modality.kind} of shape {tuple(modality.shape)}: choose another with --encoder "
            "MODALITY=NAME"
        )
    return modality.shape[-3]
