"""How far weights from features agree with those from parameters, over a whole training.

python studies/agreement.py -- --dataset cgmnist --data_root DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from mmpareto.system import entry

from argparse import Namespace

import numpy as np
import torch

from mmpareto.core.integrate import Stats
from mmpareto.data.samples import Batch
from mmpareto.methods.base import Decision
from mmpareto.methods.mmpareto import MMParetoMethod
from mmpareto.models.fusions.base import Fusion, Output
from mmpareto.run import options
from mmpareto.system.flags import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(prog="agreement.py", description=measure.__doc__, allow_abbrev=False)
    about = "flags of train.py, after --: -- --dataset cgmnist --data_root DIR"
    parser.add_argument("train_flags", nargs="*", metavar="TRAIN_FLAG", help=about)
    measure(parser.parse_args(arguments))


class Observed(MMParetoMethod):
    """Train by parameters; at every step also compute what features would have decided."""

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.other = MMParetoMethod(model, Namespace(**{**vars(flags), "gramian": "features"}))
        # {encoder: both decisions, cosine and ratio of both gradients, at every step}
        self.rows: dict[str, list[tuple]] = {name: [] for name in model.encoders}

    def decide(self, output: Output, batch: Batch) -> Decision:
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        aside = torch.func.functional_call(self.model, buffers, (batch.inputs,))
        features = self.other.backward(self.other.decide(aside, batch)).encoders
        self.asked = {name: (stats, self.gradient(name)) for name, stats in features.items()}
        self.model.zero_grad()
        return super().decide(output, batch)

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        found = super().differentiate(decision, share, last)
        for name, stats in found.items():
            x, (features, y) = self.gradient(name), self.asked[name]
            cos, ratio = torch.dot(x, y) / (x.norm() * y.norm()), y.norm() / x.norm()
            self.rows[name].append((stats, features, float(cos), float(ratio)))
        return found

    def gradient(self, encoder: str) -> torch.Tensor:
        params = self.model.encoders[encoder].parameters()
        return torch.cat([p.grad.flatten().double() for p in params])


def measure(flags: Namespace) -> None:
    """Train MMPareto by parameters; at every step compare what features would have decided."""
    from train import Trainer  # not before a process has read its flags: it is a command itself

    words = ["--method", "mmpareto", *flags.train_flags]
    trainer = Trainer(options.parse(words), Namespace(state=None))
    trainer.method = observed = Observed(trainer.model, trainer.flags)
    while trainer.epoch < trainer.flags.epochs:
        trainer.train_epoch()
        trainer.scheduler.step()
        trainer.epoch += 1
    for name, rows in observed.rows.items():
        *both, cosines, ratios = zip(*rows, strict=True)
        own = np.array([[float(stats.cos) for stats in decisions] for decisions in both])
        conflicts = np.array([[bool(stats.conflict) for stats in decisions] for decisions in both])
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        print(
            f"{name}: {len(rows)} steps; correlation of cosines {np.corrcoef(own)[0, 1]:.2f}; "
            f"same branch {(conflicts[0] == conflicts[1]).mean():.1%}; "
            f"conflict {conflicts[0].mean():.1%} (parameters), {conflicts[1].mean():.1%} "
            f"(features); angle between gradients median {np.median(angles):.2f}, "
            f"95th percentile {np.quantile(angles, 0.95):.1f}, largest {max(angles):.1f} degrees; "
            f"length ratio {min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    entry.run(main)
