"""The face of a dataset: what it says of itself, its flags, and how its samples are loaded."""

from argparse import ArgumentParser, Namespace
from typing import Any, ClassVar

from ..data.samples import Data


class Dataset:
    """A dataset is a class, and no object of it is ever made. A subclass has to give `load`.

    One whose raw files code/prepare.py can read is a `shared.prepared.Prepared`.
    """

    built_in: ClassVar[bool] = False  # it reads no files, so --data_root would say nothing
    one_of_many: ClassVar[bool] = False  # --data_root, not its name, says which data it is
    is_multitask: ClassVar[bool] = False  # targets have a column for each of `Data.tasks`
    encoder: ClassVar[str | None] = None  # the default; None: that of each modality's kind
    defaults: ClassVar[dict[str, Any]] = {}  # of train.py's flags, by name

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        """Add the dataset's own flags of train.py."""

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        """The samples in flags.data_root; UserError where they are missing or damaged."""
        raise NotImplementedError
