"""Unimodal only: every modality trains alone (Figure 1c of the paper calls it single loss)."""

from torch import nn

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from .base import Decision, ProbedMethod


class Unimodal(ProbedMethod):
    """L = sum_k L_k; the joint head is a probe.

    The encoders share no parameter, so the sum trains each exactly as a run of its own would.
    Each is also clipped on its own. With two tasks, each task trains alone.
    """

    masks = True
    single_loss = "unimodal"

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.late and fusion.own_heads

    def decide(self, output: Output, batch: Batch) -> Decision:
        unimodal = output.unimodal_losses(batch.targets)
        loss, probe = total(unimodal.values()), self.probe(output)
        joint = {"joint": probe.joint_loss(batch.targets)} if probe else {}
        return Decision(loss, {**joint, **unimodal}, joint)

    def clip_groups(self) -> list[list[nn.Parameter]]:
        parts = self.model.encoders, self.model.unimodal_heads
        return [[p for part in parts for p in part[name].parameters()] for name in parts[0]]
