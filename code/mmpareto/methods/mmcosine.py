"""MMCosine: one joint loss on cosines (Xu et al., ICASSP 2023)."""

from ..models.fusions.base import Fusion
from ..models.fusions.cosine import Cosine
from .base import JointMethod


class MMCosine(JointMethod):
    """L = L_joint, in --fusion cosine; the unimodal heads are probes.

    The fusion predicts from cosines in evaluation, too. The released code computes its joint
    accuracy from products without normalisation instead. Its contrastive term has the weight 0
    by default, and is left out here.
    """

    masks = True
    default_fusion = "cosine"

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, Cosine)
