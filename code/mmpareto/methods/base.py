"""What a method is to the training loop, and what the five basic ones share."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core import distributed
from ..core.integrate import Stats, widest
from ..core.integrator import GRAMIANS, Integrator, Rule
from ..data.samples import Batch, Data
from ..models.fusions.base import Fusion, Objectives, Output
from ..system.errors import UserError, reason
from ..system.flags import epochs


class Training(Protocol):
    """What a method may use of the training loop, which is `Trainer` in train.py."""

    flags: Namespace
    data: Data
    model: Fusion
    device: torch.device
    scheduler: torch.optim.lr_scheduler.LRScheduler
    epoch: int  # the number of epochs already trained

    def train_epoch(self) -> list[dict]: ...

    def fork(self, method: str, **own) -> "Training": ...


class Decision(NamedTuple):
    """What a method makes of one batch, as tensors: reading them is left to the loop."""

    loss: Tensor  # scalar; the log's loss, and what is minimised where nothing else is said
    losses: dict[str, Tensor]  # "joint" and each modality's, or each task's
    minimised: Tensor | None = None  # scalar whose gradient is taken, where it is not the loss
    objectives: Objectives | None = None  # whose gradients are integrated in each encoder
    encoders: dict[str, Stats] = {}  # how each encoder's two gradients were integrated
    measures: dict[str, Tensor] = {}  # scalars that the method has decided by, for the log


def numbers(decisions: list[Decision], **more: Tensor) -> dict:
    """The decisions of one optimizer step's micro-batches as plain numbers.

    more: further scalars of the step. Losses are means over micro-batches. Every number is a mean
    over processes, and so the same in each. One host sync.
    """
    tensors: dict[tuple[str, ...], Tensor] = {(name,): value for name, value in more.items()}
    tensors["loss",] = torch.stack([d.loss.detach() for d in decisions]).mean()
    for name in decisions[0].losses:
        tensors["losses", name] = torch.stack([d.losses[name].detach() for d in decisions]).mean()
    for name, stats in decisions[-1].encoders.items():
        tensors |= {("encoders", name, field): value for field, value in stats._asdict().items()}
    tensors |= {("measures", name): value for name, value in decisions[-1].measures.items()}
    device = tensors["loss",].device
    wide = widest(device)
    values = torch.stack([tensor.to(device, wide) for tensor in tensors.values()])
    if dist.is_initialized():
        values = distributed.mean(values)
    step: dict = {"losses": {}}
    for path, value in zip(tensors, values.tolist(), strict=True):  # sync
        place = step
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = bool(value) if path[-1] in ("conflict", "stationary") else value
    return step


class Method:
    """Turns a batch into gradients; a subclass defines `decide`, and `adjust` where it needs it.

    Gradient accumulation and the mean over processes are this class's own: `backward` sees to both.

    model: the fusion whose `.grad` is filled. flags: the parsed flags, its own among them.
    """

    default_fusion = "concat"
    needs_validation = False  # whether it cannot train without a validation split
    fixed_on_resume: frozenset[str] = frozenset()  # flags that others may change then
    single_loss: str | None = None  # "joint" or "unimodal", of one that trains encoders by it alone

    def __init_subclass__(cls, **settings) -> None:
        super().__init_subclass__(**settings)
        if "backward" in vars(cls):
            raise TypeError(
                f"{cls.__name__} replaces backward, which averages gradients over processes: "
                "define decide instead, and adjust to change gradients"
            )

    @staticmethod
    def add_flags(parser) -> None:
        """Add the method's own flags to an argparse parser."""

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return not fusion.multitask

    def __init__(self, model: Fusion, flags: Namespace):
        self.model, self.flags = model, flags
        # What the method remembers from step to step. Its tensors are changed in place: the loop
        # puts them back when it skips a step, and checkpoints hold them.
        self.state: dict[str, Tensor] = {}
        self.epoch = 1

    def start_epoch(self, trainer: Training) -> None:
        """Called before every epoch."""
        self.epoch = trainer.epoch + 1

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        """The forward pass of a step."""
        return self.model(inputs)

    def decide(self, output: Output, batch: Batch) -> Decision:
        """What to minimise of a batch, from the output of its forward pass."""
        raise NotImplementedError

    def adjust(self) -> dict[str, Tensor]:
        """Change the gradients of a whole optimizer step, the mean over processes; measures."""
        return {}

    def backward(self, decision: Decision, *, share=1.0, last=True) -> Decision:
        """Add a decision's gradients times share to `.grad`; no subclass replaces it.

        last: whether the optimizer steps next; with gradient accumulation several micro-batches,
        each with its share, precede it. Returns the decision with all that was decided since.
        """
        encoders = self.differentiate(decision, share, last)
        measures = self.adjust() if last else {}
        return decision._replace(
            encoders=decision.encoders | encoders, measures=decision.measures | measures
        )

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        """Add the decision's gradients times share to `.grad`, at last as means over processes."""
        minimised = decision.loss if decision.minimised is None else decision.minimised
        (minimised * share).backward()
        if last:
            distributed.average([p.grad for p in self.model.parameters() if p.grad is not None])
        return {}

    def in_window(self) -> bool:
        """Whether this epoch is one of --window's, a flag of methods that act for a while only."""
        first, last = self.flags.window
        return first <= self.epoch <= last

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together; those in no group are left alone."""
        return [list(self.model.parameters())]


class ProbedMethod(Method):
    """A method that leaves some heads untrained: unless --no_probes, they train as probes.

    A probe is a head trained on detached features: it measures what an encoder knows and changes
    nothing else, to the last bit.
    """

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--no_probes", action="store_true",
            help="leave the heads that the method does not train at their initialisation, as the "
                 "released scripts do: their accuracy is then chance")
        # fmt: on

    def probe(self, output: Output) -> Output | None:
        """Predictions from detached features; None with --no_probes, and of tasks."""
        if self.flags.no_probes or self.model.multitask:
            return None
        detached = output.map(Tensor.detach)
        return self.model.read(detached.features, detached.taps)


class JointMethod(ProbedMethod):
    """A method that trains encoders and joint prediction; the unimodal heads are probes."""

    def decide(self, output: Output, batch: Batch) -> Decision:
        """The joint loss."""
        joint, probes = output.joint_loss(batch.targets), self.probe_losses(output, batch.targets)
        return Decision(joint, {"joint": joint, **probes}, sum(probes.values(), start=joint))

    def probe_losses(self, output: Output, targets: Tensor) -> dict[str, Tensor]:
        probe = self.probe(output)
        return probe.unimodal_losses(targets) if probe else {}

    def clip_groups(self) -> list[list[nn.Parameter]]:
        probes = set(self.model.unimodal_heads.parameters())
        return [[p for p in self.model.parameters() if p not in probes]]


class IntegratingMethod(Method):
    """A method that integrates each encoder's joint and unimodal gradient by a `rule`.

    In multi-task learning these are the two tasks' gradients of the shared encoder.
    """

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return not fusion.multitask or not fusion.late  # tasks apart have no gradients that meet

    gramian = "parameters"

    def rule(self, encoder: str) -> Rule:
        """The rule of one encoder, under its name; asked for once."""
        raise NotImplementedError

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        rules = {name: self.rule(name) for name in model.encoders}
        self.integrator = Integrator(
            model, model.encoders, rules, late=model.late, gramian=self.gramian
        )

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.losses(batch.targets)
        objectives = self.model.objectives(output, losses)
        return Decision(reduce(add, losses.values()), losses, objectives=objectives)

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        assert decision.objectives is not None
        joint, own, features = decision.objectives
        return self.integrator.backward(
            joint * share,
            {name: loss * share for name, loss in own.items()},
            features if self.gramian == "features" else None,
            accumulate=not last,
        )


class GramianMethod(IntegratingMethod):
    """One whose rule needs no more of j and g than their Gramian, which features have as well."""

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--gramian", choices=GRAMIANS, default="parameters",
            help="whose gradients decide the weights: the encoder's parameters', or its output "
                 "features', at the uniform baseline's cost and without its guarantees")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        self.gramian = flags.gramian
        if self.gramian == "features":
            if model.tapped or not (model.late or len(model.encoders) == 1):
                raise UserError(
                    f"--gramian features needs modalities that meet only in their features, in "
                    f"--fusion {flags.fusion} they meet earlier: use --gramian parameters"
                )
            if flags.accumulate > 1:
                raise UserError(
                    f"--gramian features decides by the whole batch at once: drop --accumulate "
                    f"{flags.accumulate}, or use --gramian parameters"
                )
        super().__init__(model, flags)


@contextmanager
def solver(method: str, extra: str) -> Iterator[None]:
    """UserError with the line that installs what torchjd solves a method's problem with."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"--method {method} needs solvers that are not installed ({reason(error)}): run "
            f'pip install "torchjd[{extra}]"'
        ) from None


def add_window_flag(parser, default: str) -> None:
    """Add --window; `in_window` of the method asks it."""
    # fmt: off
    parser.add_argument("--window", type=epochs, default=epochs(default), metavar="FIRST-LAST",
        help=f"epochs in which the method acts, counted from 1 (default: {default}, the release's)")
    # fmt: on


def add_scale_flag(parser) -> None:
    """Add --scale, for methods whose h is a mean of j and g."""
    # fmt: off
    parser.add_argument("--scale", type=int, choices=(1, 2), default=1,
        help="1 is the method's own, a mean of both gradients; 2 brings equal ones to the size of "
             "their sum, as uniform has it")
    # fmt: on
