"""What a command speaks to: it may be closed, full, of another encoding, or gone in the middle."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import UserError


class Watched:
    """A stream; that it cannot be written is one line, whoever writes."""

    def __init__(self, stream, name: str):
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            self._leave()
            raise UserError(
                f"{self._name}: cannot be written ({error.strerror}): nothing more can be shown: "
                "repeat the command, which goes on where it can (train.py with --resume)"
            ) from None

    def _leave(self) -> None:
        """What is still held back would fail again when Python ends."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextmanager
def usable() -> Iterator[None]:
    """Streams that can be written to at first, and in which any text has a form."""
    for number in range(3):  # else the next file that is opened would become stdout
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    # of a closed stream Python makes None
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in before)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = Watched(sys.stdout, "stdout")
    try:
        yield
        sys.stdout.flush()
    except SystemExit:  # after --help
        sys.stdout.flush()
        raise
    finally:
        sys.stdout, sys.stderr = before
