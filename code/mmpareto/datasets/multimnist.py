"""multimnist: two overlapping MNIST digits, made from MNIST when it is read."""

from argparse import Namespace

from ..data.samples import Data, digest_of
from .cgmnist import RECIPE, read_splits
from .shared.digits import Overlaid, overlaid


class MultiMNIST(Overlaid):
    """55,000 train, 5,000 validation and 10,000 test pictures; partners are of the same split."""

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        digits = read_splits(flags.data_root)
        data = overlaid("multimnist", digits, RECIPE, flags)
        return data._replace(identity=digest_of(images for images, _ in digits.values()))
