"""ReconBoost: boosting that reconciles modalities (Hua et al., ICML 2024)."""

from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..models.fusions.boosted import Boosted
from ..system.errors import UserError
from ..system.flags import non_negative, positive
from .base import Decision, Method


class ReconBoost(Method):
    """One modality after the other learns for some epochs what the others get wrong.

    Stage t = 0, 1, ... belongs to modality k = t mod N. For --stage_epochs it trains alone,

        L = mean_b((w_1 - w_2 softmax(F_-k)_y) / C CE(o_k, y)) + alpha MSE(p_k, p_l),

    with F_-k = beta sum_(j != k) o_j, C classes, p_k = softmax(o_k), and l the modality of the
    stage before; the first stage has no second term. F_-k and p_l are constants, from encoders in
    evaluation mode. Then all modalities train together for --rectify_epochs, by CE(F, y). Each of
    these phases begins with an optimizer that remembers nothing. A single modality has F_-k = 0.

    The published stages are 4 + 4 epochs. The released code detaches p_k in the second term, too,
    so that it trains nothing (--agreement 0). It starts from trained encoders (--init_encoder);
    without them its first stage has the weight w_1 - w_2. There, running statistics of frozen
    encoders move.
    """

    default_fusion = "boosted"

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--stage_epochs", type=non_negative(int), default=1, metavar="EPOCHS",
            help="epochs in which the modality of a stage trains alone, >= 0")
        add("--rectify_epochs", type=non_negative(int), default=1, metavar="EPOCHS",
            help="epochs in which all modalities then train together, >= 0")
        add("--label_weight", type=positive(float), default=5.0,
            help="weight w_1 of a sample that the other modalities get wrong, > 0")
        add("--known_weight", type=non_negative(float), default=1.0,
            help="w_2, by which the weight falls where the others are right; 0 to --label_weight")
        add("--agreement", type=non_negative(float), default=0.5,
            help="weight alpha of the distance from the prediction of the stage before, >= 0")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, Boosted)

    def __init__(self, model: Boosted, flags: Namespace):
        super().__init__(model, flags)
        self.names, self.beta = list(model.encoders), model.beta
        if flags.known_weight > flags.label_weight:
            raise UserError(
                f"--known_weight {flags.known_weight} exceeds --label_weight {flags.label_weight}: "
                "samples would have negative weights: give a smaller --known_weight"
            )
        if flags.stage_epochs + flags.rectify_epochs == 0:
            raise UserError("--stage_epochs 0 --rectify_epochs 0: a stage needs an epoch: give one")
        self.stage = 0
        self.alone: str | None = None  # the modality that trains; None: all of them

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        own, together = self.flags.stage_epochs, self.flags.rectify_epochs
        self.stage, place = divmod(trainer.epoch, own + together)
        self.alone = self.names[self.stage % len(self.names)] if place < own else None
        if place in (0, own):
            for kept in trainer.optimizer.state.values():
                for tensor in kept.values():
                    tensor.zero_()

    def forward(self, batch: Batch) -> Output:
        if self.alone is None:
            return self.model(batch.inputs)
        unimodal, features = {}, {}
        for name in self.names:
            self.model.encoders[name].train(name == self.alone and name not in self.model.frozen)
            with torch.set_grad_enabled(name == self.alone):
                output = self.model({name: batch.inputs[name]})
            unimodal |= output.unimodal
            features |= output.features
        joint = (self.beta * total(unimodal.values())).detach()
        return Output(joint, unimodal, features, criterion=self.model.criterion)

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.losses(batch.targets)
        stage = losses["joint"].new_tensor(self.stage + 1.0)
        if self.alone is None:
            return Decision(losses["joint"], losses, measures={"stage": stage})
        own, beta = output.unimodal[self.alone], self.beta.detach()
        others = [u for name, u in output.unimodal.items() if name != self.alone]
        rest = beta * total(others) if others else torch.zeros_like(own)
        weights = self.flags.label_weight, self.flags.known_weight
        boosted = boosting(own, rest, batch.targets, *weights, self.model.criterion)
        apart = torch.zeros_like(boosted)
        if self.stage:
            previous = output.unimodal[self.names[(self.stage - 1) % len(self.names)]]
            apart = F.mse_loss(own.softmax(1), previous.detach().softmax(1))
        loss = boosted + self.flags.agreement * apart
        return Decision(loss, losses, measures={"stage": stage, "disagreement": apart.detach()})


def boosting(
    own: Tensor,
    rest: Tensor,
    targets: Tensor,
    label: float,
    known: float,
    criterion=F.cross_entropy,
) -> Tensor:
    """Returns mean_b((label - known softmax(rest)_y) / C CE(own, y)) from logits (B, C)."""
    right = rest.softmax(1).gather(1, targets[:, None]).squeeze(1)
    weights = (label - known * right) / own.shape[1]
    return (weights * criterion(own, targets, reduction="none")).mean()
