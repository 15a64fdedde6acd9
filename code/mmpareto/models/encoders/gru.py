"""A gated recurrent unit over time (Cho et al., EMNLP 2014), for sequences."""

from math import prod

from torch import Tensor, nn

from ...data.samples import Modality
from ...system.errors import UserError
from .base import Encoder, without_padding


class GRU(Encoder):
    """One layer of 128 units, forward in time; its mean output over all steps before the padding.

    Forward, no step sees the padding after it. Ours: the mean, and the norm that follows.
    """

    out_dim = 128
    takes_padding = True

    def __init__(self, modality: Modality):
        super().__init__()
        if modality.kind not in ("array", "sequence") or len(modality.shape) < 2:
            raise UserError(
                "encoder gru takes arrays of several axes, the first of them time, not "
                f"{modality.kind} of shape {tuple(modality.shape)}: choose another with --encoder "
                "MODALITY=NAME"
            )
        self.cells = nn.GRU(prod(modality.shape[1:]), self.out_dim, batch_first=True)
        self.norm = nn.LayerNorm(self.out_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        steps, padding = without_padding(inputs)
        outputs, _ = self.cells(steps.flatten(2))
        weights = (~padding).to(outputs.dtype) / (~padding).sum(1, keepdim=True)
        return self.norm((outputs * weights[..., None]).sum(1))


class WideGRU(GRU):
    """The same with 512 units."""

    out_dim = 512
