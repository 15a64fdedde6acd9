"""cgmnist: MNIST in gray and in colour, made from MNIST or imported from the known archive."""

from pathlib import Path

from torch import Tensor

from ..data.samples import Data, digest_of
from ..system.errors import UserError, reason
from ..system.paths import clear_errors
from .shared.colored import colored
from .shared.prepared import Prepared

VALIDATION = 5000  # the last of MNIST's 60,000 training images
SIZES = {True: 60000, False: 10000}  # of the training part, and of the test part


class CGMNIST(Prepared):
    """55,000 train, 5,000 validation and 10,000 test images of 28x28."""

    name = "cgmnist"
    recipes = {}
    defaults = {"epochs": 6, "learning_rate": 0.01}

    @classmethod
    def add_flags(cls, parser) -> None:
        parser.add_argument("--split", metavar="NAME",
            help="which split of an imported set to use (default: official)")  # fmt: skip

    @classmethod
    def load(cls, options) -> Data:
        root = options.data_root
        if (root / "metadata.json").exists():
            return super().load(options)
        if options.split:
            raise UserError(f"--split acts only on an imported set, {root} is none: drop it")
        images, labels = read_mnist(root, train=True)
        test_images, test_labels = read_mnist(root, train=False)
        data = colored(
            "cgmnist",
            {
                "train": (images[:-VALIDATION] / 255, labels[:-VALIDATION]),
                "val": (images[-VALIDATION:] / 255, labels[-VALIDATION:]),
                "test": (test_images / 255, test_labels),
            },
            {"source": "MNIST", "split": f"last {VALIDATION} of train"},
        )
        return data._replace(identity=digest_of([images, test_images]))

    @classmethod
    def add_prepare_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--variance", metavar="TEXT",
            help="which file of the archive, as 0.030 (default: the only one in --raw)")
        parser.add_argument("--mnist", type=Path, metavar="DIR",
            help="MNIST in torchvision's layout, for the gray digits (default: --raw)")
        # fmt: on
        parser.set_defaults(out=parser.get_default("out") / "imported")

    @classmethod
    def prepare(cls, flags) -> None:
        from ..preparation.color_archive import import_archive

        root = flags.mnist or flags.raw
        flag = "--mnist" if flags.mnist else "--raw"
        parts = {"train": True, "test": False}
        mnist = {
            part: read_mnist(root, train=is_train, flag=flag) for part, is_train in parts.items()
        }
        import_archive(flags, cls.name, mnist, VALIDATION)


def read_mnist(root: Path, *, train: bool, flag: str = "--data_root") -> tuple[Tensor, Tensor]:
    """Digits uint8 (N, 28, 28) and labels (N,) from files in torchvision's layout."""
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
    if mnist.data.shape != (expected, 28, 28) or len(mnist.targets) != expected:
        raise UserError(
            f"{flag} {root}: found {tuple(mnist.data.shape)} images and {len(mnist.targets)} "
            f"labels, expected ({expected}, 28, 28): data/cgmnist/README.md says how to get MNIST"
        )
    if mnist.targets.min() < 0 or mnist.targets.max() > 9:
        raise UserError(
            f"{flag} {root}: a label is no digit, the file is damaged: data/cgmnist/README.md says "
            "how to get MNIST"
        )
    return mnist.data, mnist.targets


def _check_files(folder: Path, part: str, count: int) -> None:
    """UserError for files of other sizes, before torchvision reads them into memory whole."""
    for kind, header, each in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
        path = folder / f"{part}-{kind}-ubyte"
        packed = path.with_name(f"{path.name}.gz")
        if packed.exists() and not path.exists():
            raise UserError(f"{path}: is there packed only: unpack it: gunzip --keep {packed}")
        if path.exists() and path.stat().st_size != (expected := header + count * each):
            raise UserError(
                f"{path}: {path.stat().st_size} bytes found, {expected} expected, it is damaged or "
                "not MNIST's: data/cgmnist/README.md says how to get it"
            )
