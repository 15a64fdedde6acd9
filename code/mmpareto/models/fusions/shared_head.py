"""Late fusion by a weighted sum of the modalities' own predictions, made by one head for all."""

from argparse import ArgumentTypeError

import torch
from torch import Tensor, nn

from ...system.errors import UserError
from ...system.flags import comma_separated, non_negative
from ..encoders.base import Encoder
from .base import Fusion, common_width, total, widened

RULES = ("entropy", "equal")


class Weighted(Fusion):
    """o = sum_k w_k o_k, with o_k the prediction of modality k; its subclasses set their heads.

    weights: "entropy" takes the softmax over k of -H_k for each sample, with H_k the entropy of
    softmax(o_k), so that the surer modality counts more; "equal" takes 1 / N; else one number for
    each modality. Gradients treat the weights as constants.
    """

    own_heads = False

    def __init__(self, encoders: dict[str, Encoder], classes: int, *, weights: str):
        super().__init__(encoders, classes)
        self.rule = weights
        self.fixed = [] if weights in RULES else comma_separated(float)(weights)
        if weights == "equal":
            self.fixed = [1 / len(encoders)] * len(encoders)
        if self.fixed and len(self.fixed) != len(encoders):
            raise UserError(
                f"--weights {weights}: one number for each modality expected, in the order "
                f"{', '.join(encoders)}: give {len(encoders)} numbers, or {' or '.join(RULES)}"
            )

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return w_k o_k of each modality."""
        names = list(self.encoders)
        own = torch.stack([widened(self.unimodal_heads[name](features[name])) for name in names])
        fixed = own.new_tensor(self.fixed)[:, None]
        weights = fixed if self.fixed else entropy_weights(own.detach())
        return dict(zip(names, own * weights[..., None], strict=True))

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return total(self.read_out(features).values())


def entropy_weights(logits: Tensor) -> Tensor:
    """Return the weights (N, B) of N predictions (N, B, C)."""
    log_p = logits.log_softmax(2)
    return (log_p.exp() * log_p).sum(2).softmax(0)


def weights(text: str) -> str:
    """Check the value of --weights."""
    try:
        if text in RULES or max(comma_separated(non_negative(float))(text)) > 0:
            return text
    except ArgumentTypeError:
        pass
    raise ArgumentTypeError(
        f"{text!r} is neither {' nor '.join(RULES)}, nor numbers from 0 on, with commas"
    )


class SharedHead(Weighted):
    """o_k = W z_k + b, with one W and one b for all modalities (Zhang et al., CVPR 2024).

    All features have one width. The released code takes the fixed weights 0.55,0.45, or
    0.35,0.25,0.4 for three modalities; its entropies are sums over the batch and depend on it.
    """

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--weights", type=weights, default="entropy", metavar="RULE",
            help="weights of the modalities in the joint prediction: entropy, equal, or one number "
                 "for each with commas between them")
        # fmt: on

    def __init__(self, encoders: dict[str, Encoder], classes: int, *, weights: str = "entropy"):
        super().__init__(encoders, classes, weights=weights)
        self.head = nn.Linear(common_width(encoders, "shared_head"), classes)
        self.unimodal_heads.update(dict.fromkeys(encoders, self.head))
