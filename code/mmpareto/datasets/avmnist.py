"""avmnist: digits and spoken digits, read from the files of the public archive as they are."""

from argparse import Namespace
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.samples import Data, Modality, Split
from ..system.errors import UserError, reason
from ..system.paths import clear_errors, expect_regular, sha256
from .base import Dataset

MODALITIES = {
    "image": Modality("image", (1, 28, 28)),
    "audio": Modality("spectrogram", (1, 112, 112)),
}
SIZES = {"train": 60000, "test": 10000}
VALIDATION = 5000  # the last of the training rows
# MultiBench's script of late fusion
LATE_FUSION = {"batch_size": 40, "epochs": 30, "learning_rate": 0.1, "momentum": 0.0,
               "weight_decay": 1e-4}  # fmt: skip


class AVMNIST(Dataset):
    """55,000 train, 5,000 validation and 10,000 test rows of the public archive."""

    encoder = "lenet_bn"
    defaults = LATE_FUSION

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        with clear_errors(f"--data_root {flags.data_root}"):
            root = _find(flags.data_root)
            parts = {part: _Part(root, part) for part in SIZES}
        rows = np.arange(SIZES["train"])
        train, val = rows[:-VALIDATION], rows[-VALIDATION:]
        return Data(
            name="avmnist",
            classes=[str(digit) for digit in range(10)],
            modalities=MODALITIES,
            splits={
                "train": ArchiveSplit(parts["train"], train),
                "val": ArchiveSplit(parts["train"], val),
                "test": ArchiveSplit(parts["test"], np.arange(SIZES["test"])),
            },
            recipe={"source": "avmnist.tar.gz", "split": f"last {VALIDATION} of train"},
            identity=" ".join(part.digest for part in parts.values()),
        )


class _Part:
    """The training or the test files: their paths, their labels, and a digest of their bytes."""

    def __init__(self, root: Path, part: str):
        count, labels = SIZES[part], root / f"{part}_labels.npy"
        self.paths = {name: root / name / f"{part}_data.npy" for name in MODALITIES}
        for name, path in self.paths.items():
            size = prod(MODALITIES[name].shape)
            values = _expect(path, f"({count}, {size}) numbers", "fiu", (count, size))
            blocks = np.array_split(values, 100) if values.dtype.kind == "f" else []
            if not all(np.isfinite(rows).all() for rows in blocks):
                raise _wrong(path, "holds NaN or infinite numbers")
        self.targets = np.array(_expect(labels, f"({count},) integers", "iu", (count,)), np.int64)
        if self.targets.min() < 0 or self.targets.max() > 9:
            raise _wrong(labels, f"labels from {self.targets.min()} to {self.targets.max()} found, "
                                 "0 to 9 expected")  # fmt: skip
        self.digest = " ".join(map(sha256, self.paths.values()))


class ArchiveSplit(Split):
    """Rows of one part; the arrays stay on disk, and are divided by 255 as MultiBench does."""

    def __init__(self, part: _Part, rows: np.ndarray):
        self.part, self.rows = part, rows
        self.targets = torch.from_numpy(part.targets[rows])

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        rows, inputs = self.rows[indices], {}
        for name, path in self.part.paths.items():
            values = torch.from_numpy(_mapped(path)[rows].astype(np.float32) / 255)
            inputs[name] = values.view(len(rows), *MODALITIES[name].shape)
        return inputs, self.targets[indices]

    def subset(self, indices) -> "ArchiveSplit":
        return ArchiveSplit(self.part, self.rows[list(indices)])


def _find(root: Path) -> Path:
    """Return the folder with the archive's files: root, or avmnist in it."""
    folder = next((path for path in (root, root / "avmnist") if (path / "image").is_dir()), None)
    if folder is None:
        packed = next(root.glob("*.tar.gz"), None) if root.is_dir() else None
        advice = "data/avmnist/README.md says how to get it"
        if packed:
            advice = f"unpack the archive: tar -xzf {packed} -C {root}"
        raise UserError(f"--data_root {root}: no folder image or avmnist/image in it: {advice}")
    return folder


def _mapped(path: Path) -> np.ndarray:
    """Return the array of a file, on disk: it is opened anew for each batch, which takes little."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _expect(path: Path, expected: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of a file, on disk; UserError unless it has as many numbers, of a kind."""
    if not path.is_file():
        raise UserError(f"{path}: not found, though other files of the archive are there: unpack "
                        "the archive again")  # fmt: skip
    try:
        expect_regular(path)
        values = _mapped(path)
        if not isinstance(values, np.ndarray):
            raise ValueError("an archive of numpy.savez")
    except Exception as error:  # numpy parses the header as Python and fails in many ways
        raise _wrong(path, f"is no whole .npy file of numbers ({reason(error)})") from None
    is_shape = values.shape[:1] == shape[:1] and values.size == prod(shape)
    if not is_shape or values.dtype.kind not in kinds:
        raise _wrong(path, f"{values.shape} of {values.dtype} found, {expected} expected")
    return values.reshape(shape)


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}: unpack the archive again, or download it again; "
                     "data/avmnist/README.md says where it is")  # fmt: skip
