"""A command that does nothing but write checkpoints, one over the other."""

from mmpareto.system import tensors

from itertools import count
from pathlib import Path

import torch


def main(arguments):
    for i in count():
        state = {"a": torch.full((100_000,), i), "b": {"c": torch.full((50,), i)}, "i": i}
        tensors.write(Path(arguments[0]), state)
