"""Types for argparse flags that check ranges where the text is read, and a parser for them."""

import re
from argparse import Action, ArgumentError, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite
from pathlib import Path

from .errors import UserError

# {what other projects call a flag: our flags for it; a command suggests the first that it has}.
ELSEWHERE = {
    "amp": "precision",
    "arch": "encoder",
    "b": "batch_size",
    "backbone": "encoder",
    "bs": "batch_size",
    "checkpoint": "out",
    "csv": "predictions",
    "cuda": "gpu_ids device",
    "data": "dataset data_root raw",
    "data_dir": "data_root raw",
    "data_path": "data_root raw",
    "early_stopping": "patience",
    "folds": "split",  # of train.py: one of compare.py's --folds
    "fp16": "precision",
    "gpu": "gpu_ids",
    "input": "raw",
    "j": "workers",
    "log_dir": "out",
    "lr": "learning_rate",
    "mom": "momentum",
    "name": "out",
    "root": "data_root raw",
    "save": "out predictions",
    "save_dir": "out predictions",
    "save_path": "out predictions",
    "schedule": "lr_schedule",
    "scheduler": "lr_schedule",
    "seed": "random_seed",
    "tb": "use_tensorboard",
    "tensorboard": "use_tensorboard",
    "wandb": "use_wandb",
    "wd": "weight_decay",
}


class Parser(ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str):
        _, _, missing = message.partition("arguments are required: ")
        for action in self._actions:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            if name == missing.split(", ")[0]:
                message = f"{name} is missing: give {action.help}"
        raise UserError(f"{message} (--help lists all flags)")

    def parse_args(self, args=None, namespace=None):  # pyrefly: ignore
        flags, unknown = self.parse_known_args(args, namespace)
        if unknown:
            if unknown[0].lstrip("-") in (a.dest for a in self._actions if not a.option_strings):
                raise UserError(f"{unknown[0]} is no flag: give the value without {unknown[0]}")
            raise UserError(explain_unknown(unknown[0], self.format_help()))
        return flags


def explain_unknown(word: str, help_text: str) -> str:
    """Return the error about a word that is none of the flags in a command's help."""
    listed = "(--help lists all flags)"
    if not word.startswith("-"):
        return (
            f"{word!r} belongs to no flag: give --FLAG before it, or, in a list of names, a comma "
            f"instead of the space {listed}"
        )
    flag = word.split("=")[0]
    name = flag.strip("-").replace("-", "_").lower()
    known = sorted(own for own in set(re.findall(r"(?<=--)\w+", help_text)) if len(own) > 2)
    close = [own for own in ELSEWHERE.get(name, "").split() if own in known]
    if len(name) > 2:
        close += [own for own in known if own.startswith(name) or name.startswith(own)]
    close += get_close_matches(name, known, n=1, cutoff=0.7)
    return f"unknown flag {flag}{f': did you mean --{close[0]}?' if close else ''} {listed}"


def _number(kind: type, accepts: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not isfinite(value) or not accepts(value):
            raise ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


NAMES = {int: "whole number", float: "number"}
fraction = _number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")
share = _number(float, lambda value: 0 <= value <= 1, "a number in [0, 1]")
# the range that numpy accepts
seed = _number(int, lambda value: 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}")


def positive(kind: type) -> Callable[[str], float]:
    return _number(kind, lambda value: value > 0, f"a positive {NAMES[kind]}")


def non_negative(kind: type) -> Callable[[str], float]:
    return _number(kind, lambda value: value >= 0, f"a {NAMES[kind]} zero or above")


class ByName(Action):
    """Words [NAME=]NUMBER: a number, and others for the parts of the model that are named.

    They are kept as one text, the number first; a number alone is kept as a number.
    """

    def __init__(self, option_strings, dest, number: Callable[[str], float], **more):
        super().__init__(option_strings, dest, nargs="+", metavar="[NAME=]NUMBER", **more)
        self.number = number

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        found: dict[str, float] = {}
        for word in " ".join(values).split():  # a single word of compare.py may hold several
            name, _, text = word.rpartition("=")
            if name in found:
                raise ArgumentError(self, f"{word!r}: {name or 'the number'} is given twice")
            try:
                found[name] = self.number(text)
            except ArgumentTypeError as error:
                raise ArgumentError(self, str(error)) from None
        words = [f"{name}={found[name]}" if name else str(found[name]) for name in sorted(found)]
        setattr(namespace, self.dest, found[""] if [*found] == [""] else " ".join(words))


def by_name(kept: float | str) -> dict[str, float]:
    """Return {name: number} of what `ByName` keeps; the number for all others is named ""."""
    parts = (word.rpartition("=") for word in str(kept).split())
    return {name: float(text) for name, _, text in parts}


def comma_separated(kind: Callable) -> Callable[[str], list]:
    return lambda text: [kind(part.strip()) for part in text.split(",")]


def source_of(text: str) -> tuple[str, str]:
    """Split [MODALITY=]FILE; the modality is "" where none is named, and FILE may hold an =."""
    modality, equals, file = text.partition("=")
    return (modality, file) if equals and modality.isidentifier() else ("", text)


def source(text: str) -> str:
    """Return [MODALITY=]FILE with an absolute path."""
    modality, file = source_of(text)
    return f"{modality}={Path(file).absolute()}" if modality else str(Path(file).absolute())


PUBLISHED = "published"  # the weights that come with a net, where a file could stand


def weights(text: str) -> str:
    """Return [MODALITY=]FILE with an absolute path; PUBLISHED in place of FILE stays."""
    return text if source_of(text)[1] == PUBLISHED else source(text)


def encoder(text: str) -> str:
    """Return [MODALITY=]NAME; in FAMILY:FOLDER, a folder that holds a model becomes absolute."""
    start, colon, folder = text.partition(":")
    is_model = colon and Path(folder, "config.json").is_file()
    return f"{start}:{Path(folder).absolute()}" if is_model else text


def epochs(text: str) -> list[int]:
    """Parse FIRST-LAST, both included and counted from 1."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ArgumentTypeError(f"{text!r} is no range of epochs: give FIRST-LAST, as in 1-50")
    return [int(first), int(last)]
