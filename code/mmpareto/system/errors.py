"""Bad input, and messages that quote it."""

import re

# C0 except the tab, C1, ends of lines, changes of writing direction, and bytes that are no text.
CONTROL = re.compile("[\0-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """Bad input or environment, in one line: what was found, what was expected, what to do."""


class Diverged(UserError):
    """A loss, a gradient or a prediction is not finite."""


def reason(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def printable(text: str) -> str:
    """Return text as one line with control characters escaped, which a terminal does not obey."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
