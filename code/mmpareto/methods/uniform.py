"""Uniform baseline: every loss has weight 1."""

from torch import Tensor

from .base import Method, Record, joint_loss, unimodal_losses


class Uniform(Method):
    """L = L_joint + sum_k L_k, in one backward pass."""

    def backward(self, inputs: dict, targets: Tensor, *, share=1.0, last=True) -> Record:
        output = self.forward(inputs)
        joint, unimodal = joint_loss(output, targets), unimodal_losses(output, targets)
        loss = joint + sum(unimodal.values())
        (loss * share).backward()
        return Record(loss, {"joint": joint, **unimodal})
