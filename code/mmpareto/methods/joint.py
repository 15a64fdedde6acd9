"""One joint loss: only the fused prediction is trained."""

from torch import Tensor, nn

from .base import ProbedMethod, Record, joint_loss, unimodal_losses


class Joint(ProbedMethod):
    """L = L_joint; the unimodal heads are probes."""

    def backward(self, inputs: dict, targets: Tensor, *, share=1.0, last=True) -> Record:
        output = self.forward(inputs)
        joint = joint_loss(output, targets)
        probe = self.probe(output)
        probes = unimodal_losses(probe, targets) if probe else {}
        ((joint + sum(probes.values())) * share).backward()
        return Record(joint, {"joint": joint, **probes})

    def clip_groups(self) -> list[list[nn.Parameter]]:
        probes = set(self.model.unimodal_heads.parameters())
        return [[p for p in self.model.parameters() if p not in probes]]
