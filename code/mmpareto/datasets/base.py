"""The base class of datasets: facts, flags and loading."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, ClassVar

from ..data.samples import Data


class Dataset:
    """A dataset is a class that is never instantiated. A subclass must define `load`.

    Subclass `shared.prepared.Prepared` instead if code/prepare.py makes the samples.
    """

    built_in: ClassVar[bool] = False  # it reads no files, so --data_root has no use
    one_of_many: ClassVar[bool] = False  # several sets share its name; --data_root says which one
    is_multitask: ClassVar[bool] = False  # targets have one column for each of `Data.tasks`
    encoder: ClassVar[str | None] = None  # the default; None: chosen by the modality's kind
    defaults: ClassVar[dict[str, Any]] = {}  # of train.py's flags, by name

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        """Add the dataset's own flags of train.py."""

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        """Return the samples in flags.data_root; UserError if they are missing or damaged."""
        raise NotImplementedError

    @classmethod
    def has_arrays(cls, root: Path) -> bool:
        """Return whether samples in root have arrays or sequences, which are standardised."""
        return False
