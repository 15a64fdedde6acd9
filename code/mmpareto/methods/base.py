"""The base classes of all methods: what the training loop calls, and what methods share."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ..core import distributed, integrate
from ..core.integrate import Stats
from ..core.integrator import GRAMIANS, Integrator, Rule
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Objectives, Output, total
from ..system.errors import UserError, reason
from ..system.flags import epochs


class Decision(NamedTuple):
    """What a method decides about one batch, as tensors; only the training loop reads them."""

    loss: Tensor  # scalar: the loss in the log, minimised unless `minimised` is given
    losses: dict[str, Tensor]  # "joint" and each modality's, or each task's
    probes: dict[str, Tensor] = {}  # the losses that train probes, minimised besides the loss
    minimised: Tensor | None = None  # scalar to minimise in place of the loss
    objectives: Objectives | None = None  # the losses whose gradients meet in each encoder
    encoders: dict[str, Stats] = {}  # how each encoder's two gradients were integrated
    measures: dict[str, Tensor] = {}  # scalars for the log that explain the decision


def numbers(decisions: list[Decision], **more: Tensor) -> dict:
    """Returns plain numbers for one optimizer step, from the decisions of its micro-batches.

    more: further scalars of the step. Losses are means over micro-batches. Every number is a mean
    over processes, so that all processes get the same. Costs one host sync.
    """
    last = decisions[-1]
    losses = {name: [d.losses[name].detach() for d in decisions] for name in last.losses}
    step: dict = {
        "losses": {name: torch.stack(parts).mean() for name, parts in losses.items()},
        **more,
        "loss": torch.stack([d.loss.detach() for d in decisions]).mean(),
    }
    if last.encoders:
        step["encoders"] = {name: stats._asdict() for name, stats in last.encoders.items()}
    if last.measures:
        step["measures"] = last.measures
    tensors, form = tree_flatten(step)
    device = last.loss.device
    wide = integrate.widest(device)
    values = torch.stack([x.to(device, wide, non_blocking=True) for x in tensors])
    if dist.is_initialized():
        values = distributed.mean(values)
    pairs = zip(tensors, values.tolist(), strict=True)  # sync
    return tree_unflatten([bool(v) if x.dtype == torch.bool else v for x, v in pairs], form)


class Method:
    """Turns a batch into gradients. A subclass defines `decide`, and `adjust` to change gradients.

    `backward` handles gradient accumulation and the mean over processes for every subclass.

    model: the fusion whose `.grad` is filled. flags: the parsed flags, with the method's own.
    """

    default_fusion = "concat"
    needs_validation = False  # whether it cannot train without a validation split
    needs_teachers = False  # whether it learns from unimodal nets, which `TaughtMethod.teach` takes
    fixed_on_resume: frozenset[str] = frozenset()  # flags that --resume may not change
    masks = False  # whether it trains on samples that lack modalities; tests have to prove it
    single_loss: str | None = None  # "joint" or "unimodal": the only loss that trains encoders
    turns = 1  # optimizer steps on each batch

    def __init_subclass__(cls, **settings) -> None:
        super().__init_subclass__(**settings)
        if "backward" in vars(cls):
            raise TypeError(
                f"{cls.__name__} replaces backward, which averages gradients over processes: "
                "define decide instead, and adjust to change gradients"
            )

    @classmethod
    def add_flags(cls, parser) -> None:
        """Add the method's own flags to an argparse parser."""

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return not fusion.multitask

    def __init__(self, model: Fusion, flags: Namespace):
        self.model, self.flags = model, flags
        # What the method remembers from step to step. Its tensors are changed in place: the loop
        # puts them back when it skips a step, and checkpoints hold them.
        self.state: dict[str, Tensor] = {}
        # The same, of what changes between epochs only: the loop need not put it back.
        self.lasting: dict[str, Tensor] = {}
        self.epoch = 1
        self.turn = 0  # which of the steps on a batch this is, from 0

    def parameters(self) -> list[nn.Parameter]:
        """Returns the method's own parameters; the optimizer trains them with the model's.

        Their `.data` belong into `state`.
        """
        return []

    def copies(self) -> Tensor | None:
        """Returns integers (samples, modalities): how often an epoch has each sample once more.

        Such a copy has that modality alone, as `Batch.present` says. None: every sample comes once.
        """
        return None

    def start_epoch(self, trainer) -> None:
        """Called before every epoch, with `Trainer` of train.py.

        A method may use the trainer's flags, data, model, device, optimizer, scheduler, epoch (the
        number of epochs already trained), train_epoch and fork.
        """
        self.epoch = trainer.epoch + 1

    def forward(self, batch: Batch) -> Output:
        """Runs the forward pass of a step."""
        return self.model(batch.inputs, batch.present)

    def decide(self, output: Output, batch: Batch) -> Decision:
        """Returns what to minimise for a batch, given the output of its forward pass."""
        raise NotImplementedError

    def adjust(self) -> dict[str, Tensor]:
        """Changes the gradients of an optimizer step, which are means over processes.

        Returns measures for the log.
        """
        return {}

    def backward(self, decision: Decision, *, share=1.0, last=True) -> Decision:
        """Adds a decision's gradients, times share, to `.grad`. No subclass replaces this method.

        last: whether the optimizer steps next. With gradient accumulation only the last
        micro-batch of a step has last=True. Returns the decision with what was decided here.
        """
        encoders = decision.encoders | self.differentiate(decision, share, last)
        measures = decision.measures | (self.adjust() if last else {})
        return decision._replace(encoders=encoders, measures=measures)

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        """Adds the gradients, times share, to `.grad`; if last, averages them over processes."""
        minimised = decision.loss if decision.minimised is None else decision.minimised
        (total([minimised, *decision.probes.values()]) * share).backward()
        if last:
            trained = chain(self.model.parameters(), self.parameters())
            distributed.average(p.grad for p in trained if p.grad is not None)
        return {}

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Returns groups of parameters that are clipped together. Others are not clipped."""
        return [list(self.model.parameters())]


class ProbedMethod(Method):
    """A method whose loss does not train all heads: the others train as probes.

    A probe is a head trained on detached features: it shows what an encoder knows and changes
    nothing else, to the last bit. --no_probes leaves these heads untrained.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--no_probes", action="store_true",
            help="leave the heads that the method does not train at their initialisation, as the "
                 "released scripts do: their accuracy is then chance")
        # fmt: on

    def probe(self, output: Output) -> Output | None:
        """Returns predictions from detached features; None where nothing is to be probed."""
        if self.flags.no_probes or self.model.multitask or not self.model.own_heads:
            return None
        detached = tree_map_only(Tensor, Tensor.detach, output)
        return self.model.read(detached.features, detached.taps, detached.present)


class JointMethod(ProbedMethod):
    """A method that trains encoders and joint prediction; the unimodal heads are probes.

    window: the default of --window (FIRST-LAST) for a method that acts in some epochs only.
    """

    window: str | None = None

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        if cls.window:
            # fmt: off
            parser.add_argument("--window", type=epochs, default=epochs(cls.window),
                metavar="FIRST-LAST", help="epochs in which the method acts, counted from 1 "
                f"(default: {cls.window}, the release's)")
            # fmt: on

    def in_window(self) -> bool:
        first, last = self.flags.window
        return first <= self.epoch <= last

    def decide(self, output: Output, batch: Batch) -> Decision:
        """Returns the joint loss, and the losses of the probes."""
        joint, probe = output.joint_loss(batch.targets), self.probe(output)
        probes = probe.unimodal_losses(batch.targets) if probe else {}
        return Decision(joint, {"joint": joint, **probes}, probes)

    def clip_groups(self) -> list[list[nn.Parameter]]:
        probes = self.model.probed()
        return [[p for p in self.model.parameters() if p not in probes]]


class IntegratingMethod(Method):
    """A method that integrates each encoder's joint and unimodal gradient by a `rule`.

    In multi-task learning these are the two tasks' gradients of the shared encoder.
    """

    gramian = "parameters"

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return not fusion.multitask or not fusion.late  # separate encoders: no gradients meet

    def rule(self, encoder: str) -> Rule:
        """Returns the rule for the encoder of that name; called once for each encoder."""
        raise NotImplementedError

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        rules = {name: self.rule(name) for name in model.encoders}
        settings = {"late": model.late, "gramian": self.gramian, "plain": self.plain()}
        self.integrator = Integrator(model, model.encoders, rules, **settings)
        if at := self.integrator.at_features:
            for name, forecast in at.forecasts.items():
                self.state |= {f"forecast {name}": forecast.state, f"cosines {name}": forecast.pair}

    def plain(self) -> float | None:
        """Returns f if h = f (j + g) on every step without conflict."""
        return None

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.losses(batch.targets)
        objectives = self.model.objectives(output, losses)
        return Decision(total(losses.values()), losses, objectives=objectives)

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        assert decision.objectives is not None
        joint, own, features = decision.objectives
        own = {name: loss * share for name, loss in own.items()}
        given = None if self.gramian == "parameters" else features
        return self.integrator.backward(joint * share, own, given, accumulate=not last)

    def adjust(self) -> dict[str, Tensor]:
        at = self.integrator.at_features
        return at.measures() if at else {}


class GramianMethod(IntegratingMethod):
    """A method whose rule needs only the Gramian of j and g, which features can give as well.

    scaled: whether h is a mean of j and g; --scale 2 then brings it to the size of their sum.
    """

    masks = True
    scaled = False

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        is_plain = cls.plain is not IntegratingMethod.plain
        choices = [gramian for gramian in GRAMIANS if is_plain or gramian != "adaptive"]
        add("--gramian", choices=choices, default="parameters",
            help="gradients that decide the weights: of the encoder's parameters, or of its output "
                 "features (as cheap as uniform, but missing most conflicts, so without guarantees)"
                 + is_plain * "; adaptive decides by parameters, and skips the second traversal of "
                 "encoders in which the features' gradients exclude conflict")
        if cls.scaled:
            add("--scale", type=int, choices=(1, 2), default=1,
                help="factor on the encoders' gradients: 1 keeps the mean of both gradients; 2 "
                     "brings it to the size of their sum, as in uniform")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        self.gramian = flags.gramian
        if self.gramian != "parameters":
            if model.tapped or not (model.late or len(model.encoders) == 1):
                raise UserError(
                    f"--gramian {self.gramian} needs modalities that meet only in their features, "
                    f"in --fusion {flags.fusion} they meet earlier: use --gramian parameters"
                )
            if flags.accumulate > 1:
                raise UserError(
                    f"--gramian {self.gramian} decides on the whole batch at once: drop "
                    f"--accumulate {flags.accumulate}, or use --gramian parameters"
                )
        super().__init__(model, flags)


class TorchJDMethod(GramianMethod):
    """A method whose two weights torchjd computes from the Gramian."""

    def weighting(self, torchjd) -> Callable[[Tensor], Tensor]:
        """Returns the weighting, one of torchjd's module of aggregators."""
        raise NotImplementedError

    def library(self):
        """Returns torchjd's module of aggregators."""
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise UserError(
                f"--method {self.flags.method} needs torchjd, which cannot be imported "
                f'({reason(error)}): run pip install "torchjd>=0.18"'
            ) from None
        return aggregation

    def rule(self, encoder: str) -> Rule:
        scale = self.flags.scale if self.scaled else 1
        weighting = self.weighting(self.library())
        return partial(integrate.weighted_rule, weighting=weighting, scale=scale)
