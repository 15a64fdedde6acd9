"""multimnist: two overlapping MNIST digits, made from MNIST when it is read."""

from ..data.samples import Data, digest_of
from .cgmnist import VALIDATION, read_mnist
from .shared.overlaid import Overlaid


class MultiMNIST(Overlaid):
    """55,000 train, 5,000 validation and 10,000 test pictures; partners are of the same split."""

    @classmethod
    def load(cls, options) -> Data:
        images, labels = read_mnist(options.data_root, train=True)
        digits = {
            "train": (images[:-VALIDATION], labels[:-VALIDATION]),
            "val": (images[-VALIDATION:], labels[-VALIDATION:]),
            "test": read_mnist(options.data_root, train=False),
        }
        recipe = {"source": "MNIST", "split": f"last {VALIDATION} of train"}
        data = cls.overlaid("multimnist", digits, options, recipe)
        return data._replace(identity=digest_of(images for images, _ in digits.values()))
