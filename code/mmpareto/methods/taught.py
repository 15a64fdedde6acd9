"""The base class of methods that learn from teachers: trained unimodal nets."""

from argparse import Namespace

import torch
from torch import Tensor

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output
from ..system.errors import UserError
from ..system.flags import positive, source
from .base import JointMethod


class TaughtMethod(JointMethod):
    """A method that trains the joint loss, and has one frozen teacher for each modality.

    Teachers see the batch that the model sees, in evaluation mode. Nothing else needs them:
    neither evaluation nor the checkpoints of the run.
    """

    needs_teachers = True
    teachers: Fusion

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--teacher", nargs="+", action="extend", type=source, default=[],
            metavar="[MODALITY=]FILE",
            help="the best.pt or last.pt of a run whose encoder and unimodal head teach the "
                 "modality; without MODALITY, every one that the run has (default: train them "
                 "first, by --method unimodal with the same flags, in the folder teacher in --out)")
        add("--teacher_epochs", type=positive(int), metavar="EPOCHS",
            help="epochs in which the teachers are trained, >= 1 (default: --epochs)")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.late and not fusion.multitask

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        if flags.teacher and flags.teacher_epochs:
            raise UserError("--teacher_epochs acts only without --teacher: drop one of the two")
        # The norm of each teacher's weights, by which a resumed run knows them again.
        self.state["teachers"] = next(model.parameters()).new_zeros(len(model.encoders))

    def teach(self, teachers: Fusion) -> None:
        """Takes the teachers; UserError if this run has trained with others before."""
        self.teachers, known = teachers, self.state["teachers"]
        norms = torch.stack([
            torch.nn.utils.get_total_norm(
                [*encoder.parameters(), *teachers.unimodal_heads[name].parameters()]
            )
            for name, encoder in teachers.encoders.items()
        ])  # fmt: skip
        if known.any() and not torch.allclose(known, norms, rtol=1e-5):
            raise UserError(
                "--resume: the teachers have changed since this run began: restore their files, or "
                "train anew in another --out"
            )
        known.copy_(norms)

    @torch.no_grad()
    def ask(self, batch: Batch) -> Output:
        """Returns the teachers' features and, as unimodal predictions, their logits."""
        return self.teachers(batch.inputs)


def distances(output: Output, taught: Output) -> dict[str, Tensor]:
    """Returns {modality: mean squared difference of its features to the teacher's}."""
    return {
        name: torch.nn.functional.mse_loss(z, taught.features[name])
        for name, z in output.features.items()
    }
