"""The content of a run's best.pt and last.pt, and loading it into the parts of a run."""

from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sys import float_info
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import standard
from ..data.samples import Data, Split, choosing_split, recipe_hash
from ..models.fusions.base import Fusion
from ..system.errors import UserError, reason
from ..system.records import as_record, check, is_count
from ..system.tensors import is_plain, read
from . import devices, setup
from .options import check_data_root, from_config
from .records import Best, Record


@dataclass(frozen=True)
class DataRecord:
    """The record that a run keeps of its data."""

    recipe: str  # its hash
    classes: list[str]
    identity: str
    name: str = ""  # earlier versions wrote none


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """The content of best.pt, also part of last.pt: all that evaluation needs."""

    config: dict[str, Any]
    data: DataRecord
    epoch: int
    model: dict[str, Tensor]
    optimizer: Any = None  # best.pt has none
    standard: dict[str, Tensor] = field(default_factory=dict)  # earlier versions wrote none


@dataclass(frozen=True, kw_only=True)
class Resumable(State):
    """The content of last.pt: all that resuming needs."""

    best: Best
    logs: dict[str, int]  # sizes
    method: dict[str, Tensor]
    optimizer: dict = field()  # required here
    rng: list[Tensor]
    scheduler: dict
    skipped_in_a_row: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check(logs=all(map(is_count, self.logs.values())), rng=bool(self.rng))


def read_state(path: Path, kind: type[State] = State, what: str = "checkpoint") -> Any:
    """Load a run's best.pt or last.pt as kind; only last.pt holds a `Resumable`.

    what: the word for the file in errors.
    """
    state = read(path, what)
    try:
        return as_record(state, kind)
    except ValueError as error:
        wanted = "last.pt" if kind is Resumable else "best.pt or last.pt"
        raise UserError(
            f"{what} {path}: missing or damaged in it: {error}: give a run's {wanted}, written by "
            "this version of train.py"
        ) from None


class Trained(NamedTuple):
    """A model loaded from a checkpoint, with the data it was trained on."""

    flags: Namespace  # of its training
    epoch: int
    data: Data
    model: Fusion
    device: torch.device
    chosen_on: str | None  # the split whose accuracies chose the epoch; None for last.pt

    def part(self, name: str) -> Split:
        """Return the split that --part names."""
        if name not in self.data.splits:
            raise UserError(
                f"--part {name}: {self.data.name} has no such split: choose "
                f"{', '.join(self.data.splits)}"
            )
        return self.data.splits[name]


def add_part_flag(parser, used_for: str) -> None:
    """Add --part, and an error for --split, which names a division of the data in train.py."""

    def refuse(text: str):
        raise ArgumentTypeError(f"this command calls it --part: give --part {text}")

    parser.add_argument("--part", default="test", help=f"train, val or test{used_for}")
    parser.add_argument("--split", type=refuse, default=SUPPRESS, help=SUPPRESS)


def load(path: Path, flags: Namespace) -> Trained:
    """Load best.pt or last.pt; flags give `device`, `gpu_ids` and `data_root`.

    Without a data_root the run's own path is used.
    """
    state = read_state(path)
    own = from_config(state.config, path)
    check_data_root(own.dataset, flags.data_root)
    own.data_root = flags.data_root or own.data_root
    device = devices.pick_device(flags.device, flags.gpu_ids)
    data = setup.load_data(own, state.standard)
    if not is_same_data(data, state, path):
        print(
            f"WARNING: the data has changed since {path} was trained: its clips, their order, "
            "labels or files differ. The scores below cannot be compared with that run's.",
            flush=True,
        )
    model = devices.place(rebuilt(own, data, state, path), device, own.precision)
    chosen_on = choosing_split(data.splits, own.select) if state.optimizer is None else None
    return Trained(own, state.epoch, data, model, device, chosen_on)


def rebuilt(flags: Namespace, data: Data, state: State, path: Path) -> Fusion:
    """Return the model of a checkpoint on the CPU; flags are those of its config."""
    check_sizes(flags, data, state.model, path)
    check_standard(state.standard, data, path)
    model = setup.build_model(flags, data)
    load_weights(model, state.model, path)
    return model


def known_by(data: Data) -> DataRecord:
    return DataRecord(recipe_hash(data.recipe), data.classes, data.identity, data.name)


def is_same_data(data: Data, state: State, path: Path) -> bool:
    """Return whether data equals a checkpoint's; UserError if classes or recipe differ."""
    found, trained_on = known_by(data), state.data
    if found.recipe != trained_on.recipe:
        raise UserError(
            f"--data_root: {data.name} of recipe {found.recipe} found, {path} was trained on "
            f"recipe {trained_on.recipe}: numbers would not be comparable, give data of that recipe"
        )
    if found.classes != trained_on.classes:
        raise UserError(
            f"--data_root: {data.name} with classes {', '.join(found.classes)} found, "
            f"{path} was trained on {', '.join(trained_on.classes)}: give data with those"
        )
    return found.identity == trained_on.identity


def check_standard(numbers: standard.Numbers, data: Data, path: Path) -> None:
    """Raise UserError if numbers that standardise arrays do not fit the data."""
    with fitting(path):
        standard.check(numbers, data.modalities)


def check_sizes(flags: Namespace, data: Data, state: dict[str, Tensor], source: Path) -> None:
    """Raise UserError unless the state dict fits the model, before memory is allocated."""
    setup.chosen_encoders(flags, data)  # import them before torch's default device is meta
    with fitting(source), torch.device("meta"):
        check_weights(setup.build_model(flags, data), state, source)


def load_weights(model: Fusion, state: dict, source: Path) -> None:
    """Load a state dict; UserError if it belongs to another architecture."""
    check_weights(model, state, source)
    model.load_state_dict(state)


def check_weights(model: Fusion, state: dict, source: Path) -> None:
    """Raise UserError unless state fits the model, which may lie on torch's meta device."""
    if names := differing(model, state):
        raise UserError(
            f"checkpoint {source}: it holds another architecture ({len(names)} tensors differ, "
            f"first {names[0]}): build the model with the flags it was trained with"
        )


def differing(module: nn.Module, state: dict) -> list[str]:
    """Return the names of tensors that only one of module and state has, or in another form."""
    expected = {name: (value.shape, value.dtype) for name, value in module.state_dict().items()}
    found = form(state)
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if expected.get(name) != found.get(name)]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load the optimizer's state dict; buffers get the memory layout of their parameters.

    Fused optimizers require it, and another device may have used another memory format.
    """

    def settings() -> Any:
        return form([{**group, "params": None} for group in optimizer.param_groups])

    expected = settings()
    optimizer.load_state_dict(state)
    if settings() != expected:
        raise ValueError("settings of another form")
    names = {name for buffers in optimizer.state.values() for name in buffers}
    if "momentum_buffer" in names:  # `optimizing.build_optimizer` gives one to every parameter
        params = [param for group in optimizer.param_groups for param in group["params"]]
        optimizer.state.update({p: {} for p in params if p not in optimizer.state})
    for param, buffers in optimizer.state.items():
        if missing := names - buffers.keys():
            raise ValueError(f"a parameter lacks its {missing.pop()}")
        for name, value in buffers.items():
            # Fused optimizers write as many numbers as the parameter has, even past the end.
            shape = () if name == "step" else param.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                raise ValueError(f"{name} does not fit its parameter")
            if value.shape == param.shape:
                buffers[name] = torch.empty_like(param).copy_(value)


def check_alike(found: dict, expected: dict, what: str) -> None:
    """Raise ValueError unless the state of a part has the form of expected."""
    if what == "method" and (late := [name for name in found if name not in expected]):
        raise UserError(
            f"--resume: last.pt holds the method's state {late[0]!r}, which the method does not "
            "make when it is built: make it in __init__, or restore last.pt if it was changed"
        )
    if form(found) != form(expected):
        raise ValueError(f"{what} has another form")


def form(value: Any) -> Any:
    """Return keys, lengths, shapes and types; values of the same form are interchangeable."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [form(item) for item in value]
    if is_plain(value):
        return value.shape, value.dtype
    is_number = type(value) in (int, float) and abs(value) <= float_info.max
    return "a number" if is_number else type(value)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise UserError if the content of path cannot be loaded into the parts of a run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for what does not fit
        raise UserError(
            f"checkpoint {path}: damaged, or of another version ({reason(error)}): restore it from "
            "a copy, or train again in another --out"
        ) from None
