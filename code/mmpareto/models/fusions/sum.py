"""Late fusion by summation: one linear layer per modality, their logits added."""

from torch import Tensor

from ...data.samples import Present
from ..encoders.base import Encoder
from .base import Fusion, heads, total


class Sum(Fusion):
    """o = sum_k (W_k z_k + b_k), over the modalities that a sample has."""

    masks = True

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__(encoders, classes)
        self.joint_heads = heads(encoders, classes)

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return W_k z_k + b_k of each modality."""
        return {name: head(features[name]) for name, head in self.joint_heads.items()}

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return total(self.read_out(features).values())

    def joint_of_present(self, features: dict[str, Tensor], present: Present) -> Tensor:
        return total(present.only(self.read_out(features)).values())


class Mean(Sum):
    """o = mean_k (W_k z_k + b_k), for models in which every modality predicts by itself.

    The mean is one over the modalities that a sample has.
    """

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return super().joint(features) / len(features)

    def joint_of_present(self, features: dict[str, Tensor], present: Present) -> Tensor:
        ones = {name: z.new_ones(len(z), 1) for name, z in features.items()}
        return super().joint_of_present(features, present) / total(present.only(ones).values())
