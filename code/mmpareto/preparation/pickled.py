"""A pickled dict of arrays, read without numpy's own help: nothing that the file names is called.

Not even what a pickled array is made of can be trusted with a file's arguments: numpy.ndarray makes
an array of objects out of any bytes, which are then taken for addresses in memory. So stand-ins
note what a file says, and arrays of plain numbers are made of it.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..system.errors import UserError

CODES = {"latin1", "latin-1"}  # of the text that bytes are kept as by old protocols


class _Type:
    """Stands for numpy.dtype."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufO":
            raise pickle.UnpicklingError(f"it holds {self.dtype}, no numbers")

    def __setstate__(self, state: tuple) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("it holds numbers in groups")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array; value: numbers (numpy.ndarray), or objects (a list)."""

    value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, content = state
        self.fill(content, kind, shape, "F" if is_fortran else "C")

    def fill(self, content: Any, kind: _Type, shape: tuple, order: str) -> None:
        if kind.dtype.kind == "O":
            self.value = list(content)
        else:
            content = content.encode("latin-1") if isinstance(content, str) else content  # Python 2
            self.value = np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _type(code: str, *rest: Any) -> _Type:
    return _Type(code, *rest)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(
    content: Any, kind: _Type, shape: tuple, order: str, axes: tuple | None = None
) -> _Array:
    array = _Array()
    array.fill(content, kind, shape, "C" if axes else order)
    if axes:
        array.value = array.value.transpose(axes)
    return array


def _encode(text: str, code: str) -> bytes:
    if code not in CODES:
        raise pickle.UnpicklingError(f"it encodes by {code}")
    return text.encode("latin-1")


STAND_INS = {  # of what a pickled array is made of; anything else is refused
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no array needs")
        return STAND_INS[module, name]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in the dict that a .npy file holds as a pickled object."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            read(file)
            (content,) = _Unpickler(file, encoding="latin1").load().value
        return {
            str(key): array.value
            for key, array in content.items()
            if isinstance(array, _Array) and isinstance(array.value, np.ndarray)
        }
    except Exception as error:  # a damaged pickle fails in many ways
        raise UserError(
            f"{path}: is no pickled dict of arrays ({str(error) or type(error).__name__}): "
            "data/cgmnist/README.md says which archive is meant"
        ) from None
