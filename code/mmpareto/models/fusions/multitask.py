"""Models of multi-task learning: two tasks on one input, with one shared encoder or two."""

from argparse import Namespace
from copy import deepcopy
from typing import Self

from torch import Tensor, nn

from ...data.samples import Data
from ...system.errors import UserError
from ..encoders.base import Encoder
from .base import NO_TAPS, Fusion, Objectives, Output, Taps

SHARED = "shared"


class MultiTask(Fusion):
    """Two tasks on one modality, with a head of two layers for each.

    encoder: the one for the modality called modality. tasks: their names, in the order of the
    targets' columns. There is no joint prediction; `Output` has tasks instead of modalities. The
    heads of Sener and Koltun's code also drop half of their hidden units in training.
    """

    multitask = True

    @classmethod
    def build(cls, encoders: dict[str, Encoder], data: Data, flags: Namespace) -> Self:
        if len(encoders) != 1 or len(data.tasks) != 2:
            raise UserError(
                f"--fusion {flags.fusion}: two tasks on one modality expected, {data.name} has "
                f"the tasks {', '.join(data.tasks)} on {', '.join(encoders)}"
            )
        ((modality, encoder),) = encoders.items()
        return cls(encoder, modality, data.tasks, len(data.classes))

    def __init__(self, encoder: Encoder, modality: str, tasks: tuple[str, ...], classes: int):
        apart = {task: deepcopy(encoder) for task in tasks}
        super().__init__(apart if self.late else {SHARED: encoder}, classes)
        self.modality, self.tasks = modality, tasks
        width, self.unimodal_heads = encoder.out_dim, nn.ModuleDict()
        for task in tasks:
            hidden = nn.Linear(width, width)
            head = nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, classes))
            self.unimodal_heads[task] = head


class Shared(MultiTask):
    """One encoder with two objectives: the first task takes the place of the joint loss."""

    late = False  # both tasks reach the one encoder

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        return dict.fromkeys(self.tasks, self.encoders[SHARED](inputs[self.modality])), NO_TAPS

    def objectives(self, output: Output, losses: dict[str, Tensor]) -> Objectives:
        first, second = self.tasks
        features = {SHARED: output.features[first]}
        return Objectives(losses[first], {SHARED: losses[second]}, features)


class Separate(MultiTask):
    """One encoder for each task, from the same initial weights: every task learns alone."""

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        own = inputs[self.modality]
        return {task: encoder(own) for task, encoder in self.encoders.items()}, NO_TAPS
