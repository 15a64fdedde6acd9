"""A command that does nothing but write checkpoints, one over the other."""

from itertools import count
from pathlib import Path

import torch

from mmpareto import checkpoint


def main(arguments):
    for i in count():
        state = {"a": torch.full((100_000,), i), "b": {"c": torch.full((50,), i)}, "i": i}
        checkpoint.write(Path(arguments[0]), state)
