"""Checks of what an `Integrator` is given: encoders, losses, features, and their graph."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from . import distributed


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def has_gradient(loss: Tensor) -> bool:
    return isinstance(loss, Tensor) and loss.requires_grad


def check_encoders(model: nn.Module, encoders: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
    named = isinstance(encoders, Mapping | nn.ModuleDict) and encoders
    if not named or not all(isinstance(m, nn.Module) for m in (model, *encoders.values())):
        raise ValueError(
            "no named encoders: give a model, and {name: module} with one or more of its modules"
        )
    if any(getattr(m, "_is_fsdp_managed_module", False) for m in model.modules()):
        raise ValueError(
            "FSDP shards parameters, and autograd.grad cannot take their gradients: leave out "
            "FSDP; gradients of the bare model are averaged here"
        )
    if any(isinstance(m, nn.parallel.DistributedDataParallel) for m in model.modules()):
        raise ValueError(
            "DistributedDataParallel does not see gradients taken with autograd.grad, so its "
            "processes would drift apart: give the bare model, whose gradients are averaged here"
        )
    owner: dict[nn.Parameter, str] = {}
    members = set(model.parameters())
    for name, module in encoders.items():
        for param in module.parameters():
            if param not in members:
                raise ValueError(
                    f"encoder {name!r} is not a part of the model: give modules of this model, and "
                    "build MMPareto again after you replace one"
                )
            if owner.setdefault(param, name) != name:
                raise ValueError(
                    f"encoders {owner[param]!r} and {name!r} share a parameter: "
                    "each encoder needs parameters of its own"
                )


def check_losses(
    encoders: Mapping[str, nn.Module], joint_loss: Tensor, unimodal_losses: Mapping[str, Tensor]
) -> None:
    """Raise ValueError unless each encoder has one loss, a scalar that can train it, or 0."""
    if not isinstance(unimodal_losses, Mapping) or unimodal_losses.keys() != encoders.keys():
        given = sorted(unimodal_losses) if isinstance(unimodal_losses, Mapping) else "without names"
        raise ValueError(
            f"unimodal losses {given} given for encoders {sorted(encoders)}: give one loss for "
            "each encoder, under its name, and 0 for a modality that the batch lacks"
        )
    for name, loss in [("joint", joint_loss), *unimodal_losses.items()]:
        if has_gradient(loss):
            if loss.numel() != 1:
                raise ValueError(
                    f"the loss of {name!r} has shape {tuple(loss.shape)}: give a scalar, as the "
                    "mean over the batch"
                )
        elif name == "joint" or (trainable(encoders[name]) and not _is_zero(loss)):
            raise ValueError(
                f"the loss of {name!r} has no gradient: compute it from the model's output, "
                "neither detached nor under torch.no_grad()"
            )
        elif trainable(encoders[name]) and distributed.size() > 1:
            raise ValueError(
                f"the loss of {name!r} is the number 0, but all processes must give gradients of "
                "the same parameters: give 0 times the sum of its head's output"
            )


def _is_zero(loss: object) -> bool:
    return loss.numel() == 1 and not loss.item() if isinstance(loss, Tensor) else loss == 0


def check_features(
    encoders: Mapping[str, nn.Module], features: Mapping[str, Tensor] | None, accumulate: bool
) -> Mapping[str, Tensor]:
    """Return features; raise ValueError unless they are every encoder's output, with a gradient."""
    if not isinstance(features, Mapping) or features.keys() != encoders.keys():
        given = sorted(features) if isinstance(features, Mapping) else type(features).__name__
        raise ValueError(
            f"this gramian needs the output of every encoder, {sorted(encoders)}: features "
            f"has {given}: give {{name: output}}, or use gramian='parameters'"
        )
    if accumulate:
        raise ValueError(
            "accumulate cannot be used with this gramian, which decides on the whole batch at "
            "once: use gramian='parameters'"
        )
    for name, module in encoders.items():
        if not has_gradient(features[name]) and trainable(module):
            raise ValueError(
                f"features[{name!r}] has no gradient, but its encoder is to be trained: give "
                "the encoder's output, not detached"
            )
    return features


def verify_late(encoders: Mapping[str, nn.Module], losses: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a loss reaches another encoder's parameters."""
    for name, loss in losses.items():
        for other in sorted(reached(encoders, [loss])[0] - {name}):
            raise ValueError(
                f"late=True, but the unimodal loss of {name!r} reaches the encoder {other!r}: "
                "pass late=False if modalities mix before their heads, "
                "or check which loss goes under which name"
            )


def verify_features(
    encoders: Mapping[str, nn.Module], losses: list[Tensor], features: Mapping[str, Tensor]
) -> None:
    """Raise ValueError if a loss bypasses the features, or features depend on another encoder."""
    for name in sorted(reached(encoders, losses, stop=features.values())[0]):
        raise ValueError(
            f"a loss reaches the encoder {name!r} other than through features[{name!r}]: compute "
            "the losses from this very tensor, or use gramian='parameters'"
        )
    for name, z in features.items():
        for other in sorted(reached(encoders, [z])[0] - {name}):
            raise ValueError(
                f"features[{name!r}] depend on the encoder {other!r}: modalities mix "
                "before their heads, so use gramian='parameters' and late=False"
            )


def reached(
    encoders: Mapping[str, nn.Module], tensors: Iterable[Tensor], stop: Iterable[Tensor] = ()
) -> tuple[set[str], bool]:
    """Return the encoders that tensors depend on, except through stop; and whether all was seen.

    A compiled part is one node, which seems to mix all that it holds: it is not looked into.
    """
    owner = {p: name for name, module in encoders.items() for p in module.parameters()}
    found, readable = set(), True
    seen = {(z.grad_fn, z.output_nr) for z in stop}
    stack = [(x.grad_fn, x.output_nr) for x in tensors if has_gradient(x)]
    while stack:
        node, output = edge = stack.pop()
        if node is None or edge in seen:
            continue
        seen.add(edge)
        kind = type(node).__name__
        if "Compiled" in kind:
            readable = False
            continue
        if kind == "CheckpointFunctionBackward":
            raise ValueError(
                "torch.utils.checkpoint with use_reentrant=True hides parameters from "
                "autograd.grad, and they would not be trained: give it use_reentrant=False"
            )
        variable = getattr(node, "variable", None)
        if variable in owner:
            found.add(owner[variable])
        parents = list(node.next_functions)
        if kind == "BroadcastBackward":  # of DataParallel: every device has a copy of each input
            parents = [parents[output % len(parents)]]
        elif kind == "_DDPSinkBackward":  # of DistributedDataParallel: an output is its input, and
            needs = node.needs_input_grad[1:]  # may be no tensor  # pyrefly: ignore
            first = sum(needs[:output])
            parents = [parent for parent in parents if parent[0]][first : first + needs[output]]
        stack += parents
    return found, readable


def check_reached(
    encoders: Mapping[str, list], losses: Mapping[str, Tensor], found: Iterable[str]
) -> None:
    """Raise ValueError unless all encoders that their losses are to train are among those found."""
    for name in encoders.keys() - found:
        if encoders[name] and has_gradient(losses[name]):
            raise ValueError(
                f"no loss reaches a parameter of the encoder {name!r}: compute the losses with "
                "this very model, not with a copy, other parameters or a Function that calls "
                "backward() inside; or freeze the encoder"
            )


@contextmanager
def no_backward_inside(model: nn.Module, params: Iterable[Tensor]) -> Iterator[None]:
    """Raise ValueError if a backward pass that runs within writes to `.grad`; restore `.grad`."""
    held = [(p, p.grad) for p in params if p.is_leaf]
    for param, _ in held:
        param.grad = None
    try:
        yield
        if any(param.grad is not None for param, _ in held):
            names = [name for name, p in model.named_parameters() if p.grad is not None]
            raise ValueError(
                f"an autograd Function calls backward() inside and hides {names[0]!r} from "
                "autograd.grad: use torch.utils.checkpoint with use_reentrant=False (and "
                "torch.autograd.graph.save_on_cpu to offload) instead"
            )
    finally:
        for param, gradient in held:
            param.grad = gradient
