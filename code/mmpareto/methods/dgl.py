"""DGL: disentangled gradients (Wei et al., ICCV 2025)."""

import torch

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import positive
from .base import Decision
from .read_out import ReadOutMethod


class DGL(ReadOutMethod):
    """The joint loss trains the joint head alone; encoders learn from what it makes of each alone.

    With h the joint head and sg a stop of gradients, L = CE(h(sg(z_1), ..., sg(z_N))) +
    alpha sum_k CE(h(0, ..., z_k, ..., 0)). The second part trains the encoders, and not h. So no
    encoder has a gradient of the joint loss. The unimodal heads are probes.

    The release also clips gradients to norm 40: --clip_grad 40.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        parser.add_argument("--alpha", type=positive(float), default=4.0,
            help="weight of the encoders' losses, > 0; the authors take 4 to 5 for CREMA-D, 2 to 3 "
                 "for Kinetics-Sounds")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.late and ReadOutMethod.runs_with(fusion)

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision, alpha = super().decide(output, batch), self.flags.alpha
        features = output.features
        joint = self.model.joint({name: z.detach() for name, z in features.items()})
        joint = self.model.criterion(joint, batch.targets)
        own = {name: z.detach().requires_grad_() for name, z in features.items()}
        absent = {name: torch.zeros_like(z) for name, z in features.items()}
        logits = {name: self.model.joint({**absent, name: z}) for name, z in own.items()}
        alone = {name: self.model.criterion(u, batch.targets) for name, u in logits.items()}
        # Only the features' gradients go on, so that the joint head does not see these losses.
        slopes = torch.autograd.grad(total(alone.values()), list(own.values()))
        carried = total((z * g).sum() for z, g in zip(features.values(), slopes, strict=True))
        return decision._replace(
            loss=joint + alpha * total(alone.values()).detach(),
            losses={**decision.losses, "joint": joint},
            minimised=joint + alpha * carried,
            measures={f"alone_{name}": loss.detach() for name, loss in alone.items()},
        )
