"""What a method is to the training loop, and what the five basic ones share."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..core import distributed
from ..core.integrate import Stats
from ..core.integrator import GRAMIANS, Integrator, Rule
from ..data.samples import own_targets
from ..models.fusions.base import Fusion, Output
from ..system.errors import UserError, reason
from ..system.flags import epochs

if TYPE_CHECKING:
    from train import Trainer


class Decision(NamedTuple):
    """What a method makes of one batch, as tensors: reading them is left to the loop."""

    loss: Tensor  # scalar; the log's loss, and what is minimised where nothing else is said
    losses: dict[str, Tensor]  # "joint" and each modality's, or each task's
    minimised: Tensor | None = None  # scalar whose gradient is taken, where it is not the loss
    features: dict[str, Tensor] | None = None  # outputs of encoders, to integrate gradients there
    encoders: dict[str, Stats] = {}  # how each encoder's two gradients were integrated
    measures: dict[str, Tensor] = {}  # scalars that the method has decided by, for the log


class Method:
    """Turns a batch into gradients; a subclass defines `decide`, and `adjust` where it needs it.

    Gradient accumulation and the mean over processes are this class's own: `backward` sees to both.

    model: the fusion whose `.grad` is filled. forward: calls it (compiled, in mixed precision) on
    {modality: inputs} and returns its `Output`. options: the parsed flags, its own among them.
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

    def __init__(self, model: Fusion, forward: Callable[[dict], Output], options: Namespace):
        self.model, self.forward, self.options = model, forward, options
        # What the method remembers from step to step. Its tensors are changed in place: the loop
        # puts them back when it skips a step, and checkpoints hold them.
        self.state: dict[str, Tensor] = {}
        self.epoch = 1

    def start_epoch(self, trainer: "Trainer") -> None:
        """Called before every epoch; `trainer.epoch` is the number of epochs already trained."""
        self.epoch = trainer.epoch + 1

    def decide(self, inputs: dict, targets: Tensor) -> Decision:
        """One forward pass of a batch, and what to minimise."""
        raise NotImplementedError

    def adjust(self) -> dict[str, Tensor]:
        """Change the gradients of a whole optimizer step, the mean over processes; measures."""
        return {}

    def backward(self, inputs: dict, targets: Tensor, *, share=1.0, last=True) -> Decision:
        """Add a batch's gradients times share to `.grad`; not to be replaced by a subclass.

        last: whether the optimizer steps next; with gradient accumulation several micro-batches,
        each with its share, precede it.
        """
        decision = self.decide(inputs, targets)
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
        first, last = self.options.window
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
        parser.add_argument(
            "--no_probes",
            action="store_true",
            help="leave the heads that the method does not train at their initialisation, as the "
            "released scripts do: their accuracy is then chance",
        )

    def probe(self, output: Output) -> Output | None:
        """Predictions from detached features; None with --no_probes, and of tasks."""
        if self.options.no_probes or self.model.multitask:
            return None
        detached = output.map(Tensor.detach)
        return self.model.read(detached.features, detached.taps)


class JointMethod(ProbedMethod):
    """A method that trains encoders and joint prediction; the unimodal heads are probes."""

    def probe_losses(self, output: Output, targets: Tensor) -> dict[str, Tensor]:
        probe = self.probe(output)
        return unimodal_losses(probe, targets) if probe else {}

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

    def __init__(self, model: Fusion, forward: Callable[[dict], Output], options: Namespace):
        super().__init__(model, forward, options)
        rules = {name: self.rule(name) for name in model.encoders}
        self.integrator = Integrator(
            model, model.encoders, rules, late=model.late, gramian=self.gramian
        )

    def decide(self, inputs: dict, targets: Tensor) -> Decision:
        output = self.forward(inputs)
        losses = all_losses(output, targets)
        return Decision(sum(losses.values()), losses, features=self.model.features_of(output))

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        common, own = self.model.objectives(decision.losses)
        return self.integrator.backward(
            common * share,
            {name: loss * share for name, loss in own.items()},
            decision.features if self.gramian == "features" else None,
            accumulate=not last,
        )


class GramianMethod(IntegratingMethod):
    """One whose rule needs no more of j and g than their Gramian, which features have as well."""

    @staticmethod
    def add_flags(parser) -> None:
        parser.add_argument(
            "--gramian",
            choices=GRAMIANS,
            default="parameters",
            help="whose gradients decide the weights: the encoder's parameters', or its output "
            "features', at the uniform baseline's cost and without its guarantees",
        )

    def __init__(self, model: Fusion, forward: Callable[[dict], Output], options: Namespace):
        self.gramian = options.gramian
        if self.gramian == "features":
            if model.tapped or not (model.late or len(model.encoders) == 1):
                raise UserError(
                    f"--gramian features needs modalities that meet only in their features, in "
                    f"--fusion {options.fusion} they meet earlier: use --gramian parameters"
                )
            if options.accumulate > 1:
                raise UserError(
                    f"--gramian features decides by the whole batch at once: drop --accumulate "
                    f"{options.accumulate}, or use --gramian parameters"
                )
        super().__init__(model, forward, options)


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
    parser.add_argument(
        "--window",
        type=epochs,
        default=epochs(default),
        metavar="FIRST-LAST",
        help=f"epochs in which the method acts, counted from 1 (default: {default}, the release's)",
    )


def add_scale_flag(parser) -> None:
    """Add --scale, for methods whose h is a mean of j and g."""
    parser.add_argument(
        "--scale",
        type=int,
        choices=(1, 2),
        default=1,
        help="1 is the method's own, a mean of both gradients; 2 brings equal ones to the size of "
        "their sum, as uniform has it",
    )


def joint_loss(output: Output, targets: Tensor) -> Tensor:
    return F.cross_entropy(output.joint, targets)


def unimodal_losses(output: Output, targets: Tensor) -> dict[str, Tensor]:
    """Of each modality's own prediction, or of each task's; targets (B,) or (B, tasks)."""
    own = own_targets(targets, output.unimodal)
    return {name: F.cross_entropy(logits, own[name]) for name, logits in output.unimodal.items()}


def all_losses(output: Output, targets: Tensor) -> dict[str, Tensor]:
    """The joint loss, where there is a joint prediction, and the unimodal ones."""
    joint = {} if output.joint is None else {"joint": joint_loss(output, targets)}
    return joint | unimodal_losses(output, targets)
