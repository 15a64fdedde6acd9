"""How much of the conflict between parameters' gradients do cheaper looks at the features meet?

python studies/agreement.py --seeds 0-4 -- --dataset cgmnist --data_root DIR --encoder cnn
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from mmpareto.system import entry

from argparse import Namespace
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F

from mmpareto.core.forecast import Forecast
from mmpareto.core.integrate import Stats
from mmpareto.data.samples import Batch
from mmpareto.methods.base import Decision
from mmpareto.methods.mmpareto import MMParetoMethod
from mmpareto.models.fusions.base import Fusion, Output
from mmpareto.results.words import find_seeds
from mmpareto.run import options
from mmpareto.system.flags import Parser


class Observed(MMParetoMethod):
    """Train by parameters; at every step also note the cosine of the features' gradients."""

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        # {encoder: (features' cosine, parameters' cosine) of every step}
        self.cosines: dict[str, list[tuple[float, float]]] = {name: [] for name in model.encoders}

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        assert decision.objectives is not None
        joint, own, features = decision.objectives
        self.seen = {}
        for name, z in features.items():
            a, b = (
                torch.autograd.grad(loss, z, retain_graph=True)[0].flatten().double()
                for loss in (joint, own[name])
            )
            self.seen[name] = float(F.cosine_similarity(a, b, dim=0))
        return decision

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        found = super().differentiate(decision, share, last)
        for name, stats in found.items():
            self.cosines[name].append((self.seen[name], float(stats.cos)))
        return found


def main(arguments: list[str]) -> None:
    parser = Parser(prog="agreement.py", description=measure.__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", nargs="+", default=["0"], help="as of compare.py (default: 0)")
    about = "flags of train.py, after --: -- --dataset cgmnist --data_root DIR"
    parser.add_argument("train_flags", nargs="*", metavar="TRAIN_FLAG", help=about)
    flags = parser.parse_args(arguments)
    flags.train_flags = [word for word in flags.train_flags if word != "--"]
    measure(flags)


def measure(flags: Namespace) -> None:
    """Train MMPareto by parameters; count the conflicts that features' gradients would meet."""
    runs = defaultdict(list)
    for seed in find_seeds("--seeds", flags.seeds):
        for name, cosines in train(["--random_seed", seed, *flags.train_flags]).items():
            runs[name].append(cosines)
    every = [run for mine in runs.values() for run in mine]
    for name, mine in [*runs.items(), ("together", every)]:
        print(f"{name}: {met(mine)}")


def train(words: list[str]) -> dict[str, list[tuple[float, float]]]:
    from train import Trainer  # not before a process has read its flags: it is a command itself

    trainer = Trainer(options.parse(["--method", "mmpareto", *words]), Namespace(state=None))
    trainer.method = observed = Observed(trainer.model, trainer.flags)
    while trainer.epoch < trainer.flags.epochs:
        trainer.train_epoch()
        trainer.scheduler.step()
        trainer.epoch += 1
    return observed.cosines


def met(runs: list[list[tuple[float, float]]]) -> str:
    """Describe the conflicts of runs of one encoder, and who meets them."""
    features, parameters = np.concatenate(runs).T
    conflict, sign, taken = parameters <= 0, features <= 0, []
    for run in runs:
        forecast = Forecast()
        for cos, found in run:
            taken.append(forecast.may_conflict(cos))
            if taken[-1]:
                forecast.learn(cos, found)
    return (
        f"{len(conflict)} steps, {conflict.sum()} in conflict; correlation of cosines "
        f"{np.corrcoef(features, parameters)[0, 1]:.2f}; features meet "
        f"{(conflict & sign).sum()} of them, and see {(~conflict & sign).sum()} "
        f"others; adaptive takes both gradients on {np.mean(taken):.0%} of the steps and meets "
        f"{(conflict & taken).sum()}"
    )


if __name__ == "__main__":
    entry.run(main)
