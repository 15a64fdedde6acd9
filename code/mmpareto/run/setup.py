"""From flags to the things a run is made of: data, model, optimizer."""

from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from ..core import distributed
from ..data.samples import (
    Data,
    Split,
    identity,
    is_modality_name,
    recipe_hash,
    stratified,
    to_device,
)
from ..datasets import DATASETS
from ..models.encoders import ENCODERS
from ..models.fusions import FUSIONS
from ..models.fusions.base import Fusion
from ..system.errors import UserError
from ..system.tensors import is_plain
from .checkpoint import fitting
from .environment import environment
from .options import OPTIMIZER_DEFAULTS

# By kind of modality; resnet18 for the others.
DEFAULT_ENCODERS = {"array": "mlp", "tokens": "transformer"}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def load_data(flags: Namespace) -> Data:
    data = DATASETS[flags.dataset].load(flags)
    data = data._replace(identity=identity(data))
    if flags.train_size:
        train = stratified(data.splits["train"], flags.train_size, flags.random_seed)
        data = data._replace(splits={**data.splits, "train": train})
    if flags.batch_size % (processes := distributed.size()):
        raise UserError(
            f"--batch_size {flags.batch_size}: it is the whole batch, and {processes} processes "
            f"cannot share it equally: give a multiple of {processes}"
        )
    size, batch = len(data.splits["train"]), flags.batch_size * flags.accumulate
    if size < batch:
        given = f"--batch_size {flags.batch_size}"
        given += f" --accumulate {flags.accumulate}" if flags.accumulate > 1 else ""
        raise UserError(
            f"{given}: one step needs {batch} samples, the training split has {size}: lower it"
        )
    return data


def known_by(data: Data) -> dict[str, str | list[str]]:
    """What a run notes of its data, as plain values."""
    return {
        "recipe": recipe_hash(data.recipe), "classes": data.classes, "identity": data.identity
    }  # fmt: skip


def check_data(data: Data, trained_on: dict, checkpoint: Path) -> None:
    """UserError where a checkpoint was trained on other classes, or by another recipe."""
    found = known_by(data)
    if found["recipe"] != trained_on["recipe"]:
        raise UserError(
            f"--data_root: {data.name} of recipe {found['recipe']} found, {checkpoint} was trained "
            f"on recipe {trained_on['recipe']}: numbers would not be comparable, give data of that "
            "recipe"
        )
    if found["classes"] != trained_on["classes"]:
        raise UserError(
            f"--data_root: {data.name} with classes {', '.join(found['classes'])} found, "
            f"{checkpoint} was trained on {', '.join(trained_on['classes'])}: give data with those"
        )


def build_model(flags: Namespace, data: Data) -> Fusion:
    """The fusion of one encoder per modality, newly initialised, on the CPU."""
    encoders = {}
    for modality, encoder in chosen_encoders(flags, data).items():
        weights = {"pretrained": flags.pretrained} if _pretrainable(encoder) else {}
        encoders[modality] = encoder(data.modalities[modality], **weights)
    return FUSIONS[flags.fusion].build(encoders, data, flags)


def check_sizes(flags: Namespace, data: Data, state: dict, source: Path) -> None:
    """UserError unless a state dict fits the model, before there is memory for any of its sizes."""
    chosen_encoders(flags, data)  # imported outside, so that nothing else of them is without
    with fitting(source), torch.device("meta"):
        check_weights(build_model(flags, data), state, source)


def chosen_encoders(flags: Namespace, data: Data) -> dict[str, type]:
    """{modality: the class of its encoder}."""
    fusion = FUSIONS[flags.fusion]
    names = {
        modality: fusion.default_encoder
        or DATASETS[flags.dataset].encoder
        or DEFAULT_ENCODERS.get(spec.kind, "resnet18")
        for modality, spec in data.modalities.items()
    }
    for choice in flags.encoder:
        modality, given, name = choice.rpartition("=")
        if given and modality not in names:
            raise UserError(
                f"--encoder {choice}: {data.name} has no modality {modality!r}, "
                f"only {', '.join(names)}"
            )
        names.update(dict.fromkeys([modality] if given else names, ENCODERS.find(name)))
    encoders = {modality: ENCODERS[name] for modality, name in names.items()}
    if flags.pretrained and not any(map(_pretrainable, encoders.values())):
        raise UserError(
            f"--pretrained: encoder {' and '.join(sorted(set(names.values())))} has no pretrained "
            "weights: use resnet18"
        )
    for modality in encoders:
        if not is_modality_name(modality):
            raise UserError(f"{data.name}: a modality cannot be called {modality!r}: rename it")
    return encoders


def _pretrainable(encoder: type) -> bool:
    return getattr(encoder, "pretrainable", False)


def check_single_samples(model: Fusion, split: Split, device: torch.device) -> None:
    """UserError where a batch of one leaves BatchNorm a single number per channel."""
    inputs, _ = split.read([0])
    try:
        with torch.no_grad():
            deepcopy(model).train()(to_device(inputs, device))
    except ValueError as error:
        raise UserError(f"--batch_size 1: {error}: give a larger --batch_size") from None


def build_optimizer(flags: Namespace, model: Fusion, device: torch.device):
    """The optimizer, fused where the device has it, and its scheduler (constant by default)."""
    settings = {"lr": flags.learning_rate, "weight_decay": flags.weight_decay}
    if "momentum" in OPTIMIZER_DEFAULTS[flags.optimizer]:
        settings["momentum"] = flags.momentum
    optimizer = OPTIMIZERS[flags.optimizer](
        model.parameters(), **settings, fused=device.type in ("cpu", "cuda")
    )
    ratio = flags.lr_decay_ratio if flags.lr_decay_step else 1.0
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, flags.lr_decay_step or 1, ratio)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load its state dict; buffers come to lie in memory as parameters do, as if made here.

    Fused optimizers take that for granted, and another device may have had another memory format.
    """
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for before, group in zip(settings, optimizer.param_groups, strict=True):
        if {k: type(v) for k, v in before.items()} != {
            k: type(v) for k, v in group.items() if k != "params"
        }:
            raise ValueError("settings of another form")
    for param, buffers in optimizer.state.items():
        for name, value in buffers.items():
            if not isinstance(value, Tensor) or value.shape not in (param.shape, ()):
                raise ValueError(f"{name} does not fit its parameter")
            if value.shape == param.shape:
                buffers[name] = torch.empty_like(param).copy_(value)


def load_weights(model: Fusion, state: dict, source: Path) -> None:
    """Load a state dict; UserError where it belongs to another architecture."""
    check_weights(model, state, source)
    model.load_state_dict(state)


def check_weights(model: Fusion, state: dict, source: Path) -> None:
    """UserError unless state is of model's architecture; the model may be without memory."""
    expected = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    found = {
        name: (value.shape, value.dtype) if is_plain(value) else "no numbers"
        for name, value in state.items()
    }
    if expected != found:
        differing = sorted(
            k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)
        )
        raise UserError(
            f"checkpoint {source}: it holds another architecture ({len(differing)} tensors differ, "
            f"first {differing[0]}): build the model with the flags it was trained with"
        )


def header(
    flags: Namespace, data: Data, model: Fusion, device: torch.device, steps: int
) -> list[str]:
    """What a log says of its run before the first epoch."""
    known = environment()
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{known['threads']} threads"
    sizes = ", ".join(f"{split} {len(part)}" for split, part in data.splits.items())
    shapes = ", ".join(f"{name} {spec.shape}" for name, spec in data.modalities.items())
    parameters = sum(p.numel() for p in model.parameters())
    processes = f", {distributed.size()} processes" if distributed.size() > 1 else ""
    used, size = steps * flags.batch_size * flags.accumulate, len(data.splits["train"])
    return [
        "Versions " + ", ".join(f"{k} {v}" for k, v in known["versions"].items()),
        f"Commit   {known['commit']}",
        f"Device   {device} ({name}){processes}, seed {flags.random_seed}",
        f"Data     {data.name}, recipe {recipe_hash(data.recipe)}: {sizes}; {shapes}",
        *data.notes,
        f"Model    {flags.fusion}, {parameters:,} parameters, {len(data.classes)} classes",
        f"Method   {flags.method}: {steps} steps an epoch, on {used} of {size} samples",
        f"Command  {known['command']}",
    ]
