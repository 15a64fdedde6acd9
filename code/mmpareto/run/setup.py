"""Build the parts of a run from its flags: data and model."""

from argparse import Namespace
from copy import deepcopy

import torch

from ..core import distributed
from ..data import masking, samples, standard
from ..data.samples import Data, Split, to_device
from ..datasets import DATASETS
from ..methods import METHODS
from ..models.encoders import ENCODERS
from ..models.encoders.base import Encoder
from ..models.fusions import FUSIONS
from ..models.fusions.base import Criterion, Fusion
from ..system.errors import UserError
from ..system.flags import source_of
from .environment import environment
from .options import data_name
from .parsers import part_parser

# {kind of modality: encoder}; all others get resnet18.
DEFAULT_ENCODERS = {"array": "mlp", "sequence": "gru", "tokens": "transformer"}


_kept: dict[str, Data] = {}  # what processes that are forked from this one find loaded


def keep_data(flags: Namespace) -> None:
    """Load the data of a run, and hold it for the runs that are forked from this process."""
    data = _kept[source(flags)] = DATASETS[flags.dataset].load(flags)
    for split in data.splits.values():
        split.hold()


def source(flags: Namespace) -> str:
    """Return what data depend on: their place, and the dataset's own flags."""
    own = ["dataset", "data_root", *vars(part_parser(DATASETS, flags.dataset).parse_args([]))]
    return repr([(name, getattr(flags, name)) for name in own])


def load_data(flags: Namespace, numbers: standard.Numbers | None = None) -> Data:
    """Load the data; numbers standardise its arrays.

    None: those of the training split, before --train_size, unless the flags have --standardise
    none.
    """
    data = _kept.get(source(flags)) or DATASETS[flags.dataset].load(flags)
    data = data._replace(name=data_name(flags), identity=samples.identity(data))
    if numbers is None and flags.standardise == "train":
        numbers = distributed.same(standard.measured(data, hold=not flags.train_size))
    data = standard.standardised(data, numbers or {})
    if flags.train_size:
        train = samples.stratified(data.splits["train"], flags.train_size, flags.random_seed)
        data = data._replace(splits={**data.splits, "train": train})
    if flags.modality_dropout and len(data.modalities) < 2:
        raise UserError(
            f"--modality_dropout: {data.name} has one modality, and no sample loses its last: "
            "drop --modality_dropout"
        )
    check_masks(flags, data)
    if flags.batch_size % (processes := distributed.size()):
        raise UserError(
            f"--batch_size {flags.batch_size}: {processes} processes cannot share the batch "
            f"equally: give a multiple of {processes}"
        )
    size, batch = len(data.splits["train"]), flags.batch_size * flags.accumulate
    if size < batch:
        more = f" --accumulate {flags.accumulate}" if flags.accumulate > 1 else ""
        raise UserError(
            f"--batch_size {flags.batch_size}{more}: one step needs {batch} samples, the training "
            f"split has {size}: lower --batch_size"
        )
    return data


def check_masks(flags: Namespace, data: Data) -> None:
    """Raise UserError if samples lack modalities, and the flags cannot train on such samples."""
    if any(split.present is not None for split in data.splits.values()):
        why = f"samples of {data.name} lack modalities"
    elif flags.modality_dropout:
        why = "--modality_dropout makes samples lack modalities"
    else:
        return
    for registry in (METHODS, FUSIONS):
        chosen = getattr(flags, registry.kind)
        if not registry[chosen].masks:
            able = ", ".join(known for known, part in registry.items() if part.masks)
            raise UserError(
                f"--{registry.kind} {chosen}: {why}, which it cannot leave out: choose one of "
                f"{able}"
            )
    if flags.sync_bn:
        raise UserError(f"--sync_bn: {why}, and a process may have none of one: drop --sync_bn")


def augmented(flags: Namespace, data: Data) -> Split:
    """Return the training split, whose samples change at random as the flags say."""
    split = data.splits["train"]
    if flags.spec_augment:
        names = [name for name, spec in data.modalities.items() if spec.kind == "spectrogram"]
        if not names:
            raise UserError(
                f"--spec_augment masks spectrograms, and {data.name} has none: drop --spec_augment"
            )
        split = masking.Masked(split, flags.spec_augment, names)
    split.dropout = flags.modality_dropout
    return split


def build_model(flags: Namespace, data: Data) -> Fusion:
    """Return the fusion of one encoder per modality, newly initialised, on the CPU."""
    chosen = chosen_encoders(flags, data)
    start, encoders = pretrained(flags, chosen), {}
    for modality, encoder in chosen.items():
        weights = {"pretrained": start[modality]} if modality in start else {}
        spec = data.modalities[modality]
        encoders[modality] = encoder(spec, **weights)
        takes_padding = getattr(encoder, "takes_padding", False)
        encoders[modality].fills_padding = spec.kind == "sequence" and not takes_padding
    model = FUSIONS[flags.fusion].build(encoders, data, flags)
    if unknown := [name for name in flags.freeze if name not in model.encoders]:
        raise UserError(
            f"--freeze {unknown[0]}: the model has no encoder of that name: choose of "
            f"{', '.join(model.encoders)}"
        )
    model.freeze(flags.freeze)
    return model


def criterion(flags: Namespace, data: Data, device: torch.device) -> Criterion:
    """Return the loss that trains; `balanced` weights are n / (C n_c), as scikit-learn has them."""
    weights = None
    if flags.class_weights:
        if data.tasks:
            raise UserError(
                f"--class_weights balanced: {data.name} has several tasks, one is expected: drop "
                "--class_weights"
            )
        targets = data.splits["train"].targets
        counts = torch.bincount(targets, minlength=len(data.classes))
        if not counts.all():
            raise UserError(
                "--class_weights balanced: the training split has no sample of class "
                f"{data.classes[int(counts.argmin())]!r}: drop --class_weights, or the class"
            )
        weights = (len(targets) / (len(counts) * counts)).to(device)
    return Criterion(weights, flags.label_smoothing)


def chosen_encoders(flags: Namespace, data: Data) -> dict[str, type[Encoder]]:
    """Return {modality: the class of its encoder}."""
    default = FUSIONS[flags.fusion].default_encoder or DATASETS[flags.dataset].encoder
    names = {
        modality: default or DEFAULT_ENCODERS.get(spec.kind, "resnet18")
        for modality, spec in data.modalities.items()
    }
    for choice in flags.encoder:
        modality, name = source_of(choice)
        if modality and modality not in names:
            raise UserError(
                f"--encoder {choice}: {data.name} has no modality {modality!r}, "
                f"choose one of {', '.join(names)}"
            )
        names.update(dict.fromkeys([modality] if modality else names, ENCODERS.find(name)))
    encoders = {modality: ENCODERS[name] for modality, name in names.items()}
    for modality in encoders:
        if not samples.is_modality_name(modality):
            raise UserError(f"{data.name}: a modality cannot be called {modality!r}: rename it")
    return encoders


def pretrained(flags: Namespace, encoders: dict[str, type[Encoder]]) -> dict[str, str]:
    """Return {modality: where its encoder's weights come from}, of those in --pretrained.

    FILE alone stands for all encoders that can be pretrained; a later word counts more.
    """
    found = {}
    able = [name for name, e in encoders.items() if getattr(e, "pretrainable", False)]
    for word in flags.pretrained or []:
        modality, file = source_of(word)
        if modality not in ["", *able] or not able:
            raise UserError(
                f"--pretrained {word}: {modality or 'no modality here'} has no encoder that can be "
                "pretrained: choose one with --encoder MODALITY=NAME, such as resnet18"
            )
        found |= dict.fromkeys([modality] if modality else able, file)
    return found


def check_single_samples(model: Fusion, split: Split, device: torch.device) -> None:
    """Raise UserError if a batch of one leaves BatchNorm a single number per channel."""
    inputs, _ = split.read([0])
    try:
        with torch.no_grad():
            deepcopy(model).train()(to_device(inputs, device))
    except ValueError as error:
        raise UserError(f"--batch_size 1: {error}: give a larger --batch_size") from None


def parameters(model: Fusion) -> int:
    """Return how many numbers the model learns."""
    return sum(p.numel() for p in model.parameters())


def header(
    flags: Namespace, data: Data, model: Fusion, device: torch.device, steps: int
) -> list[str]:
    """Return the lines that a log shows before the first epoch."""
    known, is_cuda = environment(), device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{known['threads']} threads"
    sizes = ", ".join(f"{split} {len(part)}" for split, part in data.splits.items())
    shapes = ", ".join(f"{name} {spec.shape}" for name, spec in data.modalities.items())
    recipe = samples.recipe_hash(data.recipe)
    processes = f", {distributed.size()} processes" if distributed.size() > 1 else ""
    used, size = steps * flags.batch_size * flags.accumulate, len(data.splits["train"])
    start = pretrained(flags, chosen_encoders(flags, data))
    frozen = {
        name: "" if name in start or flags.init_encoder else "; ITS WEIGHTS ARE RANDOM"
        for name in sorted(model.frozen)
    }
    return [
        "Versions " + ", ".join(f"{k} {v}" for k, v in known["versions"].items()),
        f"Commit   {known['commit']}",
        f"Device   {device} ({name}){processes}, seed {flags.random_seed}",
        f"Data     {data.name}, recipe {recipe}, identity {data.identity}: {sizes}; {shapes}",
        *data.notes,
        *standard.line(data),
        f"Model    {flags.fusion}, {parameters(model):,} parameters, {len(data.classes)} classes",
        *(f"Start    {name}: weights {place}" for name, place in start.items()),
        *(f"Frozen   {name}: no gradient, evaluation mode{how}" for name, how in frozen.items()),
        f"Method   {flags.method}: {steps} steps an epoch, on {used} of {size} samples",
        f"Command  {known['command']}",
        f"Folder   {flags.out}",
    ]
