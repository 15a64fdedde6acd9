"""One joint loss: only the fused prediction is trained."""

from .base import JointMethod


class Joint(JointMethod):
    """L = L_joint; the unimodal heads are probes."""

    masks = True
    single_loss = "joint"
