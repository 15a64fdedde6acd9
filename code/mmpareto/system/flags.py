"""Types for argparse flags that check ranges where the text is read, and a parser for them."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from math import isfinite

from .errors import UserError


class Parser(ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str):
        raise UserError(f"{message} (--help lists all flags)")


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


def comma_separated(kind: Callable) -> Callable[[str], list]:
    return lambda text: [kind(part.strip()) for part in text.split(",")]


def epochs(text: str) -> list[int]:
    """Parse FIRST-LAST, both included and counted from 1."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ArgumentTypeError(f"{text!r} is no range of epochs: give FIRST-LAST, as in 1-50")
    return [int(first), int(last)]
