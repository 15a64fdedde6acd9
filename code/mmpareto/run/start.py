"""The weights of other runs that a run starts from, or learns from: encoders and teachers."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import standard
from ..data.samples import Data, digest_of
from ..methods import METHODS
from ..models.encoders.base import Encoder
from ..models.fusions import FUSIONS
from ..models.fusions.base import Fusion
from ..models.fusions.sum import Mean
from ..system.errors import UserError
from ..system.flags import source_of
from . import devices
from .checkpoint import State, check_standard, differing, read_state, rebuilt
from .options import from_config
from .parsers import part_parser


def load_encoders(model: Fusion, flags: Namespace, data: Data) -> Data:
    """Load --init_encoder's weights into the model's encoders; return the data for them.

    An encoder goes on with the numbers that standardised its arrays. Notes are for the log.
    """
    lines, numbers = [], dict(data.standard)
    given = {source_of(word)[0] for word in flags.pretrained or []}
    for name, (path, state) in sources("--init_encoder", flags.init_encoder, model).items():
        encoder, weights = model.encoders[name], part_of(state.model, f"encoders.{name}")
        if {"", name} & given and getattr(encoder, "pretrainable", False):
            raise UserError(
                f"--init_encoder: --pretrained gives weights to {name}, too: drop one of these two "
                "flags"
            )
        if names := differing(encoder, weights):
            own = encoder.state_dict()
            shapes = [tuple(x[names[0]].shape) if names[0] in x else "none" for x in (weights, own)]
            raise UserError(
                f"--init_encoder {path}: its encoder of {name} is another ({len(names)} tensors "
                f"differ, first {names[0]}: {shapes[0]} in the file, {shapes[1]} here): give the "
                f"--encoder {name}=NAME that it was trained with, or another file"
            )
        encoder.load_state_dict(weights)
        own = {name: state.standard[name]} if name in state.standard else {}
        check_standard(own, data, path)
        numbers.pop(name, None)
        numbers |= own
        more = ", and the mean and deviation of its arrays" if own else ""
        digest = digest_of(weights.values())
        lines.append(f"Start    {name}: {path}, epoch {state.epoch}, weights {digest}{more}")
    return standard.standardised(data, numbers)._replace(notes=(*data.notes, *lines))


def sources(flag: str, words: list[str], model: Fusion) -> dict[str, tuple[Path, State]]:
    """Return {modality: the checkpoint that a flag's [MODALITY=]FILE names for it}.

    FILE alone stands for all modalities of the model that it has.
    """
    found: dict[str, tuple[Path, State]] = {}
    for word in words:
        modality, file = source_of(word)
        if modality and modality not in model.encoders:
            raise UserError(
                f"{flag} {word}: the model has no encoder of {modality}: choose one of "
                f"{', '.join(model.encoders)}"
            )
        state = read_state(Path(file), what=flag)
        held = {name.split(".")[1]: None for name in state.model if name.startswith("encoders.")}
        mine = [name for name in model.encoders if name in held and modality in ("", name)]
        if not mine:
            wanted = modality or " or ".join(model.encoders)
            raise UserError(
                f"{flag} {word}: the file has no encoder of {wanted}, but of "
                f"{', '.join(held) or 'nothing'}: give another file"
            )
        for name in mine:
            if name in found:
                raise UserError(f"{flag} {word}: {name} is given twice: give one file for it")
            found[name] = Path(file), state
    return found


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a submodule's state dict."""
    start = f"{prefix}."
    return {name[len(start) :]: x for name, x in state.items() if name.startswith(start)}


def teacher_run(flags: Namespace) -> Namespace:
    """Return the flags of the run that trains the teachers of a run."""
    own = vars(part_parser(METHODS, flags.method).parse_args([]))
    general = {name: value for name, value in vars(flags).items() if name not in own}
    return Namespace(**{
        **general,
        **vars(part_parser(METHODS, "unimodal").parse_args([])),
        "method": "unimodal",
        "epochs": flags.teacher_epochs or flags.epochs,
        "out": flags.out / "teacher",
        "resume": True,
        "tensorboard_path": None,
    })  # fmt: skip


def teacher_files(flags: Namespace) -> list[str]:
    """Return [MODALITY=]FILE of each teacher."""
    return flags.teacher or [str(teacher_run(flags).out / "last.pt")]


def teachers(flags: Namespace, data: Data, model: Fusion, device: torch.device) -> Fusion:
    """Return the frozen teachers of a run, on the device: those of --teacher or of `teacher_run`.

    They are one model. Its unimodal heads are the teachers', its joint prediction is their mean.
    """
    found = sources("--teacher", teacher_files(flags), model)
    if lacking := [name for name in model.encoders if name not in found]:
        raise UserError(
            f"--teacher: {' and '.join(lacking)} has no teacher: give --teacher {lacking[0]}=FILE, "
            "or drop --teacher, and training makes them first"
        )
    encoders, heads = {}, nn.ModuleDict()
    for name in model.encoders:
        path, state = found[name]
        encoders[name], heads[name] = teacher(name, path, state, data)
        if encoders[name].out_dim != model.encoders[name].out_dim:
            raise UserError(
                f"--teacher {path}: its features of {name} have {encoders[name].out_dim} numbers, "
                f"those of this run {model.encoders[name].out_dim}: give the same --encoder"
            )
    taught = Mean(encoders, len(data.classes))
    taught.unimodal_heads = taught.joint_heads = heads
    return devices.place(taught, device, flags.precision).eval().requires_grad_(False)


def teacher(name: str, path: Path, state: State, data: Data) -> tuple[Encoder, nn.Module]:
    """Return the encoder and the unimodal head of a modality from a checkpoint."""
    if state.data.identity != data.identity:  # it stands for recipe and classes, too
        raise UserError(
            f"--teacher {path}: it was trained on other data (identity {state.data.identity}, here "
            f"{data.identity}): give a run on the same data"
        )
    if not standard.alike(state.standard, data.standard):
        raise UserError(
            f"--teacher {path}: its arrays were standardised by other numbers than here: give the "
            "same --standardise and --init_encoder, or drop --teacher"
        )
    own = from_config(state.config, path)
    if not FUSIONS[own.fusion].late:
        raise UserError(
            f"--teacher {path}: in its --fusion {own.fusion} modalities meet before their "
            "features: give a run of --method unimodal"
        )
    if state.config.get("no_probes") and METHODS[own.method].single_loss != "unimodal":
        raise UserError(
            f"--teacher {path}: its unimodal heads were not trained (--no_probes): give a run of "
            "--method unimodal"
        )
    whole = rebuilt(own, data, state, path)
    return whole.encoders[name], whole.unimodal_heads[name]
