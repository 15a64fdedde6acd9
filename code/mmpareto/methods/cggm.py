"""CGGM: classifier-guided gradient modulation (Guo et al., NeurIPS 2024)."""

from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.errors import UserError
from ..system.flags import fraction, non_negative
from .base import Decision
from .read_out import ReadOutMethod

LARGEST = 2.0  # bounds of B_k; without them a sum of gains near zero gives factors of millions


class CGGM(ReadOutMethod):
    """Trains the joint loss; encoders whose classifiers have gained less take larger gradients.

    The classifiers are the unimodal heads on detached features. e_k is the accuracy of classifier k
    on a batch, D_k its gain over the step before (e = 0 before the first), S = sum_k D_k + 1e-8 and
    B_k = (S - D_k) / S, between 0 and 2. The gradient of encoder k is multiplied by rho B_k.

    The paper also aligns directions by L_gm = (sum_k |B_k| - sum_k B_k cos_k) / N. The release
    takes cos_k between the weights, not the gradients, of classifier k's and the joint head's
    output layers, so that L_gm trains the joint head alone. It is logged as `alignment`, with B_k
    of the step before, and trained with --alignment_weight (the release: 0.05 to 0.2).

    The release has no bounds (--unbounded): S below zero turns gradients round. Its classifiers are
    transformers with an optimizer of their own; here they are linear. It clips to norm 0.8
    (--clip_grad 0.8). --accuracy_momentum averages e_k over steps (ours).
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--rho", type=non_negative(float), default=1.3,
            help="factor on the encoders' gradients, >= 0")
        add("--alignment_weight", type=non_negative(float), default=0.0,
            help="weight of the loss that aligns output layers, >= 0")
        add("--accuracy_momentum", type=fraction, default=0.0,
            help="share of the last step's accuracies in the new ones, in [0, 1)")
        add("--unbounded", action="store_true", help="no bounds on the factors, as in the release")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.own_heads and ReadOutMethod.runs_with(fusion)

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        if flags.no_probes:
            raise UserError(
                "--no_probes: --method cggm needs the unimodal heads as classifiers: drop "
                "--no_probes"
            )
        self._right: list[Tensor] = []  # of the micro-batches since the last step
        zeros = next(model.parameters()).new_zeros(len(model.encoders))
        self.state |= {"accuracy": zeros, "balance": zeros.clone()}

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        right = [
            (u.argmax(1) == batch.targets).to(u.dtype).mean() for u in output.unimodal.values()
        ]
        self._right.append(torch.stack(right))
        balance, cosines = self.state["balance"], self.cosines(output.features)
        alignment = (balance.abs().sum() - (balance * cosines).sum()) / len(balance)
        measures = {"alignment": alignment.detach()}
        if self.flags.alignment_weight:
            minimised = decision.loss + self.flags.alignment_weight * alignment
            decision = decision._replace(minimised=minimised)
        return decision._replace(measures=measures)

    def cosines(self, features: dict[str, Tensor]) -> Tensor:
        """Returns (N,): cosines between the weights of each classifier and of the joint head.

        The weights of modality k are what a head makes of unit features, less its bias.
        """
        found = []
        with torch.set_grad_enabled(bool(self.flags.alignment_weight)):
            for name, z in features.items():
                units = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
                others = {n: x.new_zeros(len(units), x.shape[1]) for n, x in features.items()}
                with_units = self.model.read_out({**others, name: units})[name]
                weights = with_units - self.model.read_out(others)[name]
                head = self.model.unimodal_heads[name]
                own = (head(units) - head(others[name])).detach()
                found.append(F.cosine_similarity(weights.flatten(), own.flatten(), dim=0))
        return torch.stack(found)

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        parts, self._right = self._right, []
        found, before = distributed.mean(total(parts) / len(parts)), self.state["accuracy"]
        found = torch.lerp(found, before, self.flags.accuracy_momentum)
        balance = balances(found - before, None if self.flags.unbounded else LARGEST)
        before.copy_(found)
        self.state["balance"].copy_(balance)
        for encoder, b in zip(self.model.encoders.values(), balance, strict=True):
            for p in encoder.parameters():
                if p.grad is not None:
                    p.grad *= self.flags.rho * b
        names = self.model.encoders
        return {f"balance_{name}": b for name, b in zip(names, balance, strict=True)}


def balances(gains: Tensor, largest: float | None) -> Tensor:
    """Returns B_k (N,) from gains in accuracy (N,), in [0, largest] if there is a largest."""
    whole = gains.sum() + 1e-8
    found = (whole - gains) / whole
    return found if largest is None else found.clamp(0, largest)
