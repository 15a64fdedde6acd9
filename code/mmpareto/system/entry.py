"""How a command starts and ends: 0 good, 1 our bug (stack trace), 2 bad input, 130 interrupted.

Import it before anything else: importing torch takes seconds, in which Ctrl-C would print a trace.
Until `run` takes over, Ctrl-C just ends the process.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# In a command's environment: the path of the file that takes its last message.
LAST_WORDS = "MMPARETO_LAST_WORDS"


def _is_command() -> bool:
    """Return whether the main program lies in code/ or studies/, which a test's does not."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    code = Path(__file__).resolve().parents[2]
    folders = Path(main).resolve().parents if main else ()
    return folders[:1] == (code,) or code.with_name("studies") in folders


if _is_command():
    # Not where it is ignored, as after nohup.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if find_spec("torch") is None:
        print(
            f"error: {sys.executable} has no torch: run sh script/setup.sh, which makes .venv, and "
            "then . .venv/bin/activate, which makes python its Python",
            file=sys.stderr,
        )
        sys.exit(2)


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command's main with the arguments of the process, and exit with its code."""
    from mmpareto.system.console import usable
    from mmpareto.system.errors import UserError, reason
    from mmpareto.system.processes import end_with_parent, interruptible

    end_with_parent()
    try:
        with interruptible(), usable():
            main(sys.argv[1:])
    except KeyboardInterrupt as interrupt:
        sys.exit(_interrupted(str(interrupt)))
    except UserError as error:
        sys.exit(_fail(2, f"error: {error}"))
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps it in __set_name__
            sys.exit(_interrupted(""))
        if _is_of_memory(error):
            told = f"not enough memory ({reason(error)}): give a smaller --batch_size"
            sys.exit(_fail(2, f"error: {told}"))
        _tell_parent(f"{type(error).__name__}: {reason(error)}")
        raise


def _interrupted(message: str) -> int:
    # a parent that reads LAST_WORDS reports the interruption itself
    return 130 if LAST_WORDS in os.environ else _fail(130, message or "interrupted")


def _is_of_memory(error: Exception) -> bool:
    """Return whether memory ran out: Python's, a GPU's, or a CPU's (torch has no type for it)."""
    words = ("out of memory", "can't allocate memory")
    is_of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return is_of_torch or isinstance(error, MemoryError)


def _fail(code: int, message: str) -> int:
    from mmpareto.system.errors import printable

    message = printable(message)  # it may quote a name from a file
    _tell_parent(message)
    rank = os.environ.get("RANK", "0")  # of several processes that torchrun has started
    with suppress(OSError):  # nobody is there to read it
        print(message if rank == "0" else f"rank {rank}: {message}", file=sys.stderr)
    return code


def _tell_parent(message: str) -> None:
    """Write this process's last message where its parent reads it."""
    if path := os.environ.get(LAST_WORDS):
        with suppress(OSError):
            Path(path).write_text(message, errors="backslashreplace")
