"""One joint loss: only the fused prediction is trained."""

from ..data.samples import Batch
from ..models.fusions.base import Output
from .base import Decision, JointMethod


class Joint(JointMethod):
    """L = L_joint; the unimodal heads are probes."""

    single_loss = "joint"

    def decide(self, output: Output, batch: Batch) -> Decision:
        joint, probes = output.joint_loss(batch.targets), self.probe_losses(output, batch.targets)
        minimised = joint + sum(probes.values())
        return Decision(joint, {"joint": joint, **probes}, minimised)
