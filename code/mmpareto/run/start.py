"""The weights of other runs that a run starts from: those of its encoders."""

from argparse import Namespace
from pathlib import Path

from torch import Tensor

from ..data.samples import digest_of
from ..models.fusions.base import Fusion
from ..system.errors import UserError
from ..system.flags import source_of
from .checkpoint import State, differing, read_state


def load_encoders(model: Fusion, flags: Namespace) -> list[str]:
    """Load --init_encoder's weights into the model's encoders; return lines for the log."""
    lines = []
    for name, (path, state) in sources("--init_encoder", flags.init_encoder, model).items():
        encoder, weights = model.encoders[name], part_of(state.model, f"encoders.{name}")
        if flags.pretrained and getattr(encoder, "pretrainable", False):
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
        digest = digest_of(weights.values())
        lines.append(f"Start    {name}: {path}, epoch {state.epoch}, weights {digest}")
    return lines


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
