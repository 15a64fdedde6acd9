"""What the fusions share in which one modality acts on all others (OGM-GE's film and gated)."""

from argparse import Namespace
from typing import Self

import torch
from torch import Tensor

from ...data.samples import Data
from ...system.errors import UserError
from ..encoders.base import Encoder
from .base import Fusion


class Conditioned(Fusion):
    """The joint prediction of features on which those of the modality `conditioner` act.

    The joint logits are no sum of parts; `read_out` are those with all other features at zero.
    """

    conditioner: str

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--conditioner", metavar="MODALITY",
            help="the modality that acts on the others (default: the first)")
        # fmt: on

    @classmethod
    def build(cls, encoders: dict[str, Encoder], data: Data, flags: Namespace) -> Self:
        return cls(encoders, len(data.classes), conditioner=flags.conditioner)

    def __init__(
        self, encoders: dict[str, Encoder], classes: int, *, conditioner: str | None = None
    ):
        super().__init__(encoders, classes)
        self.conditioner = conditioner or next(iter(encoders))
        if self.conditioner not in encoders or len(encoders) < 2:
            raise UserError(
                f"--conditioner {self.conditioner}: one of two or more modalities expected, the "
                f"data has {', '.join(encoders)}"
            )
        self.others = [name for name in encoders if name != self.conditioner]

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: the joint logits (B, C) of its features alone}."""
        absent = {name: torch.zeros_like(z) for name, z in features.items()}
        return {name: self.joint({**absent, name: z}) for name, z in features.items()}
