"""cgmnist: MNIST in gray and in colour, made from MNIST when it is read."""

from argparse import Namespace
from pathlib import Path

from torch import Tensor

from ..data.samples import Data, digest_of
from ..system.errors import UserError, reason
from ..system.paths import clear_errors
from .base import Dataset
from .shared.digits import colored

VALIDATION = 5000  # the last of MNIST's 60,000 training images
SIZES = {True: 60000, False: 10000}  # of the training part, and of the test part
RECIPE = {"source": "MNIST", "split": f"last {VALIDATION} of train"}


class CGMNIST(Dataset):
    """55,000 train, 5,000 validation and 10,000 test images of 28x28."""

    defaults = {"epochs": 6, "learning_rate": 0.01}

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        digits = read_splits(flags.data_root)
        splits = {name: (images / 255, labels) for name, (images, labels) in digits.items()}
        data = colored("cgmnist", splits, RECIPE)
        return data._replace(identity=digest_of(images for images, _ in digits.values()))


def read_splits(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {split: (digits uint8 (N, 28, 28), labels (N,))}."""
    images, labels = read_mnist(root, train=True)
    return {
        "train": (images[:-VALIDATION], labels[:-VALIDATION]),
        "val": (images[-VALIDATION:], labels[-VALIDATION:]),
        "test": read_mnist(root, train=False),
    }


def read_mnist(root: Path, *, train: bool, flag: str = "--data_root") -> tuple[Tensor, Tensor]:
    """Read digits uint8 (N, 28, 28) and labels (N,) from files in torchvision's layout.

    flag: what the user gave root with, for messages.
    """
    from torchvision.datasets import MNIST

    expected = SIZES[train]
    with clear_errors(f"{flag} {root}"):
        _check_files(root / "MNIST" / "raw", "train" if train else "t10k", expected)
    try:
        mnist = MNIST(root, train=train, download=False)
    except Exception as error:  # damaged files, and old ones that hold pickles, fail in many ways
        raise UserError(
            f"{flag} {root}: MNIST's files were not found or are damaged in {root}/MNIST/raw "
            f"({reason(error)}): data/cgmnist/README.md says how to get them"
        ) from None
    images, labels = mnist.data, mnist.targets
    found = ""
    if images.shape != (expected, 28, 28) or len(labels) != expected:
        sizes = f"{tuple(images.shape)} images and {len(labels)} labels"
        found = f"found {sizes}, expected ({expected}, 28, 28)"
    elif labels.min() < 0 or labels.max() > 9:
        found = "a label is no digit, the file is damaged"
    if found:
        readme = "data/cgmnist/README.md says how to get MNIST"
        raise UserError(f"{flag} {root}: {found}: {readme}")
    return images, labels


def _check_files(folder: Path, part: str, count: int) -> None:
    """Raise UserError if a file has a wrong size, before torchvision reads it into memory."""
    for kind, header, each in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
        path = folder / f"{part}-{kind}-ubyte"
        packed = path.with_name(f"{path.name}.gz")
        if packed.exists() and not path.exists():
            raise UserError(f"{path}: only its packed copy exists: run gunzip --keep {packed}")
        if path.exists() and path.stat().st_size != (expected := header + count * each):
            raise UserError(
                f"{path}: {path.stat().st_size} bytes found, {expected} expected, it is damaged or "
                "not MNIST's: data/cgmnist/README.md says how to get it"
            )
