"""Checks of what an `Integrator` is given: encoders, losses, features, and their graph."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def has_gradient(loss: Tensor) -> bool:
    return isinstance(loss, Tensor) and loss.requires_grad


def check_encoders(model: nn.Module, encoders: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
    if not encoders or not hasattr(encoders, "items"):  # nn.ModuleDict is no Mapping
        raise ValueError("no named encoders: give {name: module}, one for each modality")
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
                raise ValueError(f"encoder {name!r} is not a part of the model")
            if owner.setdefault(param, name) != name:
                raise ValueError(
                    f"encoders {owner[param]!r} and {name!r} share a parameter: "
                    "each encoder needs parameters of its own"
                )


def check_losses(
    encoders: Mapping[str, nn.Module], joint_loss: Tensor, unimodal_losses: Mapping[str, Tensor]
) -> None:
    """Raise ValueError unless each encoder has one loss, a scalar that can train it."""
    if unimodal_losses.keys() != encoders.keys():
        raise ValueError(
            f"unimodal losses {sorted(unimodal_losses)} given for encoders {sorted(encoders)}: "
            "give one loss for each encoder, under its name"
        )
    for name, loss in [("joint", joint_loss), *unimodal_losses.items()]:
        if has_gradient(loss):
            if loss.numel() != 1:
                raise ValueError(
                    f"the loss of {name!r} has shape {tuple(loss.shape)}: give a scalar, as the "
                    "mean over the batch"
                )
        elif name == "joint" or trainable(encoders[name]):
            raise ValueError(
                f"the loss of {name!r} has no gradient: give it as the model's forward pass "
                "returns it, neither detached nor computed under torch.no_grad()"
            )


def check_features(
    encoders: Mapping[str, nn.Module], features: Mapping[str, Tensor] | None, accumulate: bool
) -> Mapping[str, Tensor]:
    """Return features; raise ValueError unless they are every encoder's output, with a gradient."""
    if features is None or features.keys() != encoders.keys():
        raise ValueError(
            f"gramian='features' needs the output of every encoder, {sorted(encoders)}: "
            f"features has {sorted(features or {})}"
        )
    if accumulate:
        raise ValueError(
            "accumulate cannot be used with gramian='features', whose weights need the whole "
            "batch at once: use gramian='parameters'"
        )
    for name, module in encoders.items():
        if trainable(module) and not has_gradient(features[name]):
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
            f"gramian='features', but a loss reaches the encoder {name!r} other than through "
            f"features[{name!r}]: compute the losses from this very tensor, or use "
            "gramian='parameters'"
        )
    for name, z in features.items():
        for other in sorted(reached(encoders, [z])[0] - {name}):
            raise ValueError(
                f"gramian='features', but features[{name!r}] depend on the encoder {other!r}: "
                "modalities mix before their heads, so use gramian='parameters' and late=False"
            )


def reached(
    encoders: Mapping[str, nn.Module], tensors: Iterable[Tensor], stop: Iterable[Tensor] = ()
) -> tuple[set[str], bool]:
    """Return the encoders that tensors depend on, except through stop; and whether all was seen.

    A compiled part is one node, which seems to mix all that it holds: it is not looked into.
    """
    owner = {p: name for name, module in encoders.items() for p in module.parameters()}
    found, readable = set(), True
    seen = {z.grad_fn for z in stop}
    stack = [tensor.grad_fn for tensor in tensors if has_gradient(tensor)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
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
        stack.extend(parent for parent, _ in node.next_functions)
    return found, readable
