"""The optimizer of a run: its groups of parameters, and their learning rates over the epochs."""

from argparse import Namespace

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from ..models.fusions.base import Fusion
from ..system.errors import UserError
from ..system.flags import by_name
from .parsers import BY_NAME, OPTIMIZER_DEFAULTS

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(
    flags: Namespace, model: Fusion, trained: list[nn.Parameter], device: torch.device
) -> tuple[Optimizer, lr_scheduler.LRScheduler]:
    """Return the optimizer, fused if the device has it, and its scheduler, stepped every epoch.

    trained: the parameters that learn, those of the model and those of its method.
    """
    settings = {"fused": device.type in ("cpu", "cuda")}
    if "momentum" in OPTIMIZER_DEFAULTS[flags.optimizer]:
        settings["momentum"] = flags.momentum
    optimizer = OPTIMIZERS[flags.optimizer](_groups(flags, model, trained), **settings)
    if settings.get("momentum"):  # fused SGD fails if a parameter gets its first gradient later
        for param in trained:
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return optimizer, _scheduler(flags, optimizer)


def _groups(flags: Namespace, model: Fusion, trained: list[nn.Parameter]) -> list[dict]:
    """Return the optimizer's groups: a single one unless a flag names parts of the model."""
    given = {key: by_name(getattr(flags, flag)) for flag, key in BY_NAME.items()}
    is_named = any(len(numbers) > 1 for numbers in given.values())
    parts = _parts(model, trained) if is_named else {"": trained}
    for flag, key in BY_NAME.items():
        if unknown := [name for name in given[key] if name and name not in parts]:
            raise UserError(
                f"--{flag} {unknown[0]}={given[key][unknown[0]]}: no part of that name learns in "
                f"this model: choose of {', '.join(parts)}"
            )
    return [
        {"params": params, **({"name": part} if part else {})}
        | {key: numbers.get(part, numbers[""]) for key, numbers in given.items()}
        for part, params in parts.items()
    ]


def _parts(model: Fusion, trained: list[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each modality's encoder, of the heads, and of the fusion.

    "heads" are the unimodal heads, or the tasks' heads. "fusion" is everything else, the method's
    own parameters included.
    """
    owners = {p: name for name, encoder in model.encoders.items() for p in encoder.parameters()}
    owners |= dict.fromkeys(model.unimodal_heads.parameters(), "heads")
    parts: dict[str, list[nn.Parameter]] = {}
    for param in trained:
        parts.setdefault(owners.get(param, "fusion"), []).append(param)
    return parts


def _scheduler(flags: Namespace, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    """Return --lr_schedule after --warmup, in which epoch k of W has k / (W + 1) of the rate."""
    if flags.lr_schedule == "cosine":
        length = max(1, flags.epochs - flags.warmup)  # teachers may have fewer epochs
        main = lr_scheduler.CosineAnnealingLR(optimizer, length)
    else:
        ratio = flags.lr_decay_ratio if flags.lr_decay_step else 1.0
        main = lr_scheduler.StepLR(optimizer, flags.lr_decay_step or 1, ratio)
    if not flags.warmup:
        return main
    start = 1 / (flags.warmup + 1)
    warmup = lr_scheduler.LinearLR(optimizer, start, total_iters=flags.warmup)
    return lr_scheduler.SequentialLR(optimizer, [warmup, main], [flags.warmup])


def rates(optimizer: Optimizer) -> dict[str, float]:
    """Return {learning_rate, or learning_rate/PART of each group: the rate in force}."""
    names = [f"/{group['name']}" if "name" in group else "" for group in optimizer.param_groups]
    groups = zip(names, optimizer.param_groups, strict=True)
    return {f"learning_rate{name}": group["lr"] for name, group in groups}
