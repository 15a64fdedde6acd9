"""A command for tests: trains on the toy data in float64, once for each line of a file of flags."""

import re
import shlex
from pathlib import Path

import torch
import toys
from torch import nn

import train
from mmpareto.data.samples import Data, TensorSplit
from mmpareto.datasets import DATASETS
from mmpareto.methods import METHODS, base
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.encoders.base import Encoder
from mmpareto.run import devices

ROOT = Path(__file__).resolve().parents[2]


class Plain(Encoder):
    """Stages of convolutions without BatchNorm, whose statistics would be a share's own."""

    out_dim, widths = 6, (4, 6)

    def __init__(self, modality):
        super().__init__()
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh()),
            nn.Sequential(nn.Conv2d(4, 6, 3), nn.Tanh()),
        )

    def forward(self, inputs):
        return super().forward(inputs).mean((2, 3))


class Wide(toys.Toy):
    """The toy data in float64."""

    @classmethod
    def load(cls, flags) -> Data:
        data = super().load(flags)
        splits = {
            name: TensorSplit({k: x.double() for k, x in split.inputs.items()}, split.targets)
            for name, split in data.splits.items()
        }
        return data._replace(splits=splits)


class Lacking(Wide):
    """Two of five samples lack one modality: a process has other numbers of them than the rest."""

    @classmethod
    def load(cls, flags) -> Data:
        data = super().load(flags)
        for split in data.splits.values():
            drawn = torch.rand(len(split), generator=torch.Generator().manual_seed(len(split)))
            split.present = torch.stack([drawn > 0.3, drawn < 0.9], dim=1)
        return data


def recipes():
    """Return {name: method} of the methods that the pages add."""
    pages = "".join((ROOT / p).read_text("utf-8") for p in ("README.md", "docs/extending.md"))
    block = r"^# code/mmpareto/methods/(\w+)\.py\n(.*?)^```$"
    methods = {}
    for name, text in re.findall(block, pages, re.M | re.S):
        module = {"__package__": base.__package__, "__name__": f"{base.__package__}.{name}"}
        exec(text, module)
        methods[name] = module[name.capitalize()]
    return methods


def main(arguments):
    """Run in this process what the lines of a file say, whatever the number of processes."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    before = DATASETS.parts, ENCODERS.parts, METHODS.parts
    DATASETS.parts = DATASETS.parts | {"wide": Wide, "lacking": Lacking}
    ENCODERS.parts = ENCODERS.parts | {"plain": Plain}
    METHODS.parts = METHODS.parts | recipes()
    try:
        with devices.joined():
            for line in Path(arguments[0]).read_text().splitlines():
                train.main(["--dataset", "wide", "--encoder", "plain", *shlex.split(line)])
    finally:
        torch.set_default_dtype(torch.float32)
        DATASETS.parts, ENCODERS.parts, METHODS.parts = before
