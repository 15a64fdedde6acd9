"""Balanced learning by conditional learning speed (Wu et al., ICML 2022), the greedy method."""

from argparse import Namespace
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..models.fusions.mmtm import MMTM
from ..system.flags import non_negative, positive
from .base import Decision, JointMethod


class Greedy(JointMethod):
    """L = sum_k CE of each branch; a branch that leans on the others loses their gate for a while.

    The speed of parameters is the sum over steps of ||gradient||^2 / ||parameters||^2. The bypass
    parameters of branch k are its gates and the layers that all gates share, its main parameters
    its encoder and classifier. Its balance is log10(bypass speed / main speed). When the largest
    balance is more than --threshold above the smallest, the gates of the branch with the largest
    are held at their running mean for --balancing_steps steps, in which speeds are not counted.
    The paper has two branches; more are ours.

    The joint prediction is the branches' mean. A held gate does not enter its running mean; in the
    release it does (--count_held). The released code also averages the second branch's gate from
    the first one's, and in evaluation, too; here each gate has its own mean, of training alone.
    The release trains with SGD 0.1 without momentum and weight decay, and batches of 8.
    """

    default_fusion = "mmtm"

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--threshold", type=non_negative(float), default=0.01,
            help="tolerated imbalance of the branches, >= 0")
        add("--balancing_steps", type=positive(int), default=5, help="steps in a window, >= 1")
        add("--warmup_epochs", type=non_negative(int), default=1,
            help="epochs before the first window, >= 0")
        add("--count_held", action="store_true",
            help="gates enter their running mean while they are held, too, as in the release")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, MMTM)

    def __init__(self, model: MMTM, flags: Namespace):
        super().__init__(model, flags)
        self.branches, self.names = model, list(model.encoders)
        device = next(model.parameters()).device
        for speed in ("bypass_speed", "main_speed"):
            self.state[speed] = torch.zeros(len(self.names), device=device)
        self.state["window"] = torch.zeros(2, dtype=torch.int64)  # steps left, branch

    def forward(self, batch: Batch) -> Output:
        left, branch = self.state["window"].tolist()
        for exchange in self.branches.exchanges:
            exchange.frozen = self.names[branch] if left else None
            exchange.counts_frozen = self.flags.count_held
        return super().forward(batch)

    def decide(self, output: Output, batch: Batch) -> Decision:
        branches = self.model.read_out(output.features).values()
        loss = total(self.model.criterion(u, batch.targets) for u in branches)
        return super().decide(output, batch)._replace(loss=loss)

    def adjust(self) -> dict[str, Tensor]:
        bypass, main = self.state["bypass_speed"], self.state["main_speed"]
        window = self.state["window"]
        left = int(window[0])
        if left:
            window[0] -= 1
        else:
            for i, name in enumerate(self.names):
                bypass[i] += speed(self.branches.gate_parameters(name))
                parts = self.model.encoders[name], self.branches.joint_heads[name]
                main[i] += speed(p for part in parts for p in part.parameters())
        balance = conditional_speed(bypass, main)
        may_open = not left and self.epoch > self.flags.warmup_epochs
        if may_open and balance.max() - balance.min() > self.flags.threshold:  # sync
            window[0], window[1] = self.flags.balancing_steps, balance.argmax()
        measures = {f"balance_{n}": b for n, b in zip(self.names, balance, strict=True)}
        return {**measures, "window": balance.new_tensor(float(left > 0))}


def conditional_speed(bypass: Tensor, main: Tensor) -> Tensor:
    """Returns the balance log10(bypass / main) of every branch."""
    return (bypass / main).log10()


@torch.no_grad()
def speed(params: Iterable[nn.Parameter]) -> Tensor:
    """Returns ||gradient||^2 / ||parameters||^2 of one step, over all parameters together."""
    moved = [(p, p.grad) for p in params if p.grad is not None]
    weights, gradients = (torch.stack(torch._foreach_norm(x)) for x in zip(*moved, strict=True))
    return gradients.square().sum() / weights.square().sum()
