"""Read pickles of arrays and plain containers. A pickle may name any function; none is called.

Such a file needs a few functions, with which numpy puts an array together from its bytes. The
pickle asks `find_class` for them, and gets the ones below in their place.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, printable, reason
from .paths import expect_regular


def _array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Return the empty array that the pickle then gives its shape, type and bytes."""
    return np.empty(0, np.int8)


def _of_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _latin(text: str, encoding: str) -> bytes:
    """Return bytes that a pickle of protocol 2 or lower keeps as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}, latin1 expected")
    return text.encode("latin1")


KNOWN = {
    "numpy.dtype": np.dtype,
    "numpy.ndarray": "ndarray",  # _array's first argument: nothing that could be called
    "_codecs.encode": _latin,
    "multiarray._reconstruct": _array,
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numeric._frombuffer": _of_buffer,
}


class _Forbidden(Exception):
    """A pickle asks for something else; args is its name."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2.0 moved them from numpy.core to numpy._core
        known = f"{module}.{name}".removeprefix("numpy.core.").removeprefix("numpy._core.")
        if known not in KNOWN:
            raise _Forbidden(f"{module}.{name}")
        return KNOWN[known]


def read(path: Path) -> Any:
    """Return what a pickle of arrays and plain containers holds; Python 2 may have written it.

    UserError if the pickle asks for any other class or function, or is damaged.
    """
    try:
        expect_regular(path)
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except _Forbidden as error:
        raise UserError(
            f"{path}: refused, and nothing in it was run: the pickle asks for "
            f"{printable(str(error))}, but only arrays of numpy and plain containers are read: get "
            "the file from its publisher again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # random bytes make it fail in many ways
        raise UserError(
            f"{path}: damaged, cut off, too large for the memory, or no pickle "
            f"({path.stat().st_size} bytes; {printable(reason(error))}): download it again"
        ) from None
