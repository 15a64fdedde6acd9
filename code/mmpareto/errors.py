"""How a command ends: 0 good, 1 our bug (stack trace), 2 bad input, 130 interrupted."""

import os
import re
import sys
from collections.abc import Callable

from .allocation import keep_memory
from .orphans import end_with_parent

# C0 but a tab, C1, ends of lines, changes of the writing's direction, and bytes that are no text.
CONTROL = re.compile("[\0-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """Bad input or environment, in one line: what was found, what was expected, what to do."""


def reason(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def printable(text: str) -> str:
    """text in one line that a terminal shows and does not obey: control characters escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command's main with the arguments of the process, and exit with its code."""
    keep_memory()
    end_with_parent()
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(_fail(2, f"error: {error}"))
    except KeyboardInterrupt as interrupt:
        sys.exit(_fail(130, str(interrupt) or "interrupted"))


def _fail(code: int, message: str) -> int:
    rank = os.environ.get("RANK", "0")  # of several processes that torchrun has started
    message = printable(message)  # it may quote a name from a file
    print(message if rank == "0" else f"rank {rank}: {message}", file=sys.stderr)
    return code
