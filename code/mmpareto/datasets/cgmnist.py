"""cgmnist: MNIST in gray and in colour, from files in torchvision's layout."""

from pathlib import Path

from torch import Tensor
from torchvision.datasets import MNIST

from ..data import Data
from ..errors import UserError
from .colored import colored

VALIDATION = 5000  # the last of MNIST's 60,000 training images


class CGMNIST:
    """55,000 train, 5,000 validation and 10,000 test images of 28x28."""

    defaults = {"epochs": 6, "learning_rate": 0.01}

    @staticmethod
    def load(options) -> Data:
        root = options.data_root
        images, labels = _read(root, train=True)
        return colored(
            "cgmnist",
            {
                "train": (images[:-VALIDATION], labels[:-VALIDATION]),
                "val": (images[-VALIDATION:], labels[-VALIDATION:]),
                "test": _read(root, train=False),
            },
            {"source": "MNIST", "split": f"last {VALIDATION} of train"},
        )


def _read(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    expected = 60000 if train else 10000
    try:
        mnist = MNIST(root, train=train, download=False)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise UserError(
            f"--data_root {root}: MNIST's files were not found or are damaged in {root}/MNIST/raw "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
            "data/cgmnist/README.md says how to get them"
        ) from None
    if mnist.data.shape != (expected, 28, 28) or len(mnist.targets) != expected:
        raise UserError(
            f"--data_root {root}: found {tuple(mnist.data.shape)} images and {len(mnist.targets)} "
            f"labels, expected ({expected}, 28, 28): data/cgmnist/README.md says how to get MNIST"
        )
    return mnist.data / 255, mnist.targets
