"""One joint loss: only the fused prediction is trained."""

from torch import Tensor

from .base import JointMethod, Record, joint_loss


class Joint(JointMethod):
    """L = L_joint; the unimodal heads are probes."""

    single_loss = "joint"

    def backward(self, inputs: dict, targets: Tensor, *, share=1.0, last=True) -> Record:
        output = self.forward(inputs)
        joint, probes = joint_loss(output, targets), self.probe_losses(output, targets)
        self.descend(joint + sum(probes.values()), share, last)
        return Record(joint, {"joint": joint, **probes})
