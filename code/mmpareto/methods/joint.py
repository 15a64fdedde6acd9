"""One joint loss: only the fused prediction is trained."""

from torch import Tensor

from .base import Decision, JointMethod, joint_loss


class Joint(JointMethod):
    """L = L_joint; the unimodal heads are probes."""

    single_loss = "joint"

    def decide(self, inputs: dict, targets: Tensor) -> Decision:
        output = self.forward(inputs)
        joint, probes = joint_loss(output, targets), self.probe_losses(output, targets)
        minimised = joint + sum(probes.values())
        return Decision(joint, {"joint": joint, **probes}, minimised)
