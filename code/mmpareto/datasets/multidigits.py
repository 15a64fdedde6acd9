"""multidigits: two overlapping digits of scikit-learn's 1,797; needs no download."""

from argparse import Namespace

from ..data.samples import Data
from .cgdigits import read_digits
from .shared.digits import SIDE, Overlaid, overlaid


class MultiDigits(Overlaid):
    """A small multimnist: 60 % train, 15 % validation and 25 % test."""

    built_in = True
    defaults = {"epochs": 20, "learning_rate": 0.01}

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        digits = {
            split: ((images * 255).round().byte(), labels)
            for split, (images, labels) in read_digits(SIDE).items()
        }
        recipe = {"source": "scikit-learn digits, bilinear 28x28", "split": "60/15/25"}
        return overlaid("multidigits", digits, recipe, flags)
