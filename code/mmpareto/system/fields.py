"""JSON that others may have written: parsed, and its fields checked before anything trusts them."""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any


def parse(text: str) -> Any:
    """What json.loads gives; ValueError, too, for what is nested deeper than it can follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def wrong(
    content: Any, expected: dict[str, Callable[[Any], Any]], optional: tuple[str, ...] = ()
) -> list[str]:
    """The expected fields that content lacks, or that have a value their check does not take.

    Those that are optional may lack.
    """
    if not isinstance(content, dict):
        return [f"a {type(content).__name__} instead of fields"]
    return [
        key
        for key, is_right in expected.items()
        if (key not in content and key not in optional)
        or (key in content and not _holds(is_right, content[key]))
    ]


def _holds(is_right: Callable[[Any], Any], value: Any) -> bool:
    try:
        return bool(is_right(value))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return False


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """A whole number from 0 that memory can address."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """A finite one, that a float of 64 bits or an index can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63
    return isinstance(value, float) and isfinite(value)


def are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The check of a list each of whose items check takes."""
    return lambda value: isinstance(value, list) and all(map(check, value))
