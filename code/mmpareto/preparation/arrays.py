"""Convert arrays of numbers: one sample, or all rows of a packed file in one stream."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..data.clips import Bad, Clip, Source, State, state_of
from ..data.layout import LARGEST
from ..system.errors import UserError, reason
from ..system.paths import expect_regular, sha256
from .journal import File, Stored

BLOCK = 2**22  # numbers of a packed file that are converted at once: it may not fit in memory
IDX = b"\0\0\x08"  # how MNIST's files of bytes begin; then the number of axes, and their lengths
# How files begin that numpy.save has not written: np.load would advise to unpickle them.
FOREIGN = {b"\x80": "a Python pickle", b"PK": "an archive of numpy.savez or torch.save",
           b"\x89HDF": "an HDF5 file"}  # fmt: skip


class Pack(NamedTuple):
    """A packed file of one modality, as it lies in the set with all its rows."""

    source: State  # of the raw file, before it was read
    file: File
    shape: list[int]  # of a row
    is_good: np.ndarray  # (rows,), whether a clip can use the row


class Packs:
    """The packed files that clips come from, each written into the set in out once, and whole."""

    def __init__(self, clips: Iterable[Clip], out: Path):
        self.packs: dict[tuple[str, Path], Pack] = {}
        for name, source in packed_sources(clips):
            with suppress(Bad):  # its clips are converted one by one, which says what is wrong
                self.packs[name, source.path] = pack(source, name, out)

    def rows(self, clip: Clip) -> dict[str, tuple[State, Stored]]:
        """Return the modalities of a clip that are good rows of these files."""
        found = {}
        for name, source in clip.sources.items():
            pack, row = self.packs.get((name, source.path)), source.row
            if pack and row is not None and row < len(pack.is_good) and pack.is_good[row]:
                item = Stored(f"{pack.file.path}#{row}", None, pack.shape, [pack.file])
                found[name] = pack.source._replace(row=row), item
        return found


def packed_sources(clips: Iterable[Clip]) -> list[tuple[str, Source]]:
    """Return (modality, source) once for each packed file of a modality."""
    sources = ((name, s) for clip in clips for name, s in clip.sources.items())
    return list({(name, s.path): (name, s) for name, s in sources if s.row is not None}.values())


def pack(source: Source, modality: str, out: Path) -> Pack:
    """Convert all rows of a source's file; raise Bad if none can be used.

    The file is called by its contents: equal files are one, and none replaces another.
    """
    state, rows, aside = state_of(source), _mapped(source), out / ".tmp" / f"{modality}.npy"
    if not rows.ndim:
        raise Bad("unreadable", f"{source.path.name} has no rows")
    each = prod(rows.shape[1:])
    check_size(source.path, each)
    shape = _converted(rows[:0], source)[0].shape[1:]
    is_good = np.zeros(len(rows), bool)
    blocks = range(0, len(rows), max(1, BLOCK // max(1, each)))
    with open(aside, "wb") as written:
        dtype = np.dtype(np.int32 if source.kind == "tokens" else np.float32)
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), *shape)}
        np.lib.format.write_array_header_1_0(written, header)
        for start in tqdm(blocks, f"packing {modality}", leave=False, disable=None):
            block = slice(start, start + blocks.step)
            values, is_good[block] = _converted(rows[block], source)
            written.write(np.ascontiguousarray(values).data)
    return Pack(state, settle(aside, modality, out), list(shape), is_good)


def settle(aside: Path, modality: str, out: Path) -> File:
    """Move a packed file of a modality to its place in the set, where its contents name it."""
    digest = sha256(aside)
    place = f"{modality}/{digest[:16]}.npy"
    (out / modality).mkdir(exist_ok=True)
    aside.replace(out / place)
    return File(place, (out / place).stat().st_size, digest)


def sample(source: Source) -> np.ndarray:
    """Return the sample of a source as the set keeps it; raise Bad if it cannot be used."""
    raw = load_array(source)
    values, is_good = _converted(raw[None], source)
    if is_good.all():
        return values[0]
    if source.kind == "tokens":
        found = f"integers from {raw.min()} to {raw.max()}, 0 to {source.vocabulary - 1} expected"
        raise Bad("no_tokens", f"{source.path.name}: {found}")
    raise Bad("not_finite", f"{source.path.name} holds NaN or infinite numbers")


def _converted(rows: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, ...) as the set keeps them, and whether each can be used, (n,)."""
    name, shape = source.path.name, rows.shape[1:]
    if source.kind == "tokens":
        if len(shape) != 1 or rows.dtype.kind not in "iu":
            found = f"{rows.dtype} of shape {shape} found, integers (length,) expected"
            raise Bad("no_tokens", f"{name}: {found}")
        is_good = (rows >= 0) & (rows < source.vocabulary)
        values = rows.astype(np.int32)
    else:
        if source.kind == "flow" and (len(shape) != 4 or shape[1] != 2):
            raise Bad("shape", f"{name}: {shape} found, (time, 2, height, width) expected")
        with np.errstate(over="ignore"):
            values = rows.reshape(len(rows), *(shape or (1,))).astype(np.float32)
        is_good = np.isfinite(values)
    if source.length is not None and not values.shape[1]:
        raise Bad("empty", f"{name} has no time steps, one or more expected")
    if source.length is not None and source.kind == "array":
        is_good[~_is_step(values)] = True  # the raw sequence has padding of its own
    is_good = is_good.all(axis=tuple(range(1, is_good.ndim)))
    if source.length is not None:  # pad the first axis of each row, or cut it
        values = values[:, : source.length]
        missing = source.length - values.shape[1]
        filling = np.nan if source.kind == "array" else 0
        values = np.pad(
            values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2), constant_values=filling
        )
        values = values.reshape(len(rows), *_padded(values.shape[1:], source))
    return values, is_good


def before_padding(sequences: np.ndarray) -> np.ndarray:
    """Return the steps (m, features) of sequences (n, time, ...) that come before the padding.

    Padding is a run of steps at the end that are NaN as a whole; the first step is never padding.
    """
    return sequences.reshape(*sequences.shape[:2], -1)[_is_step(sequences)]


def _is_step(sequences: np.ndarray) -> np.ndarray:
    found = ~np.isnan(sequences).all(axis=tuple(range(2, sequences.ndim)))
    found[:, 0] = True
    return np.logical_or.accumulate(found[:, ::-1], axis=1)[:, ::-1]


def _padded(shape: tuple[int, ...], source: Source) -> tuple[int, ...]:
    """Return the shape that a sample of this shape gets; a time step of an array is a vector."""
    if source.length is None:
        return shape
    one = (1,) if source.kind == "array" and len(shape) == 1 else ()
    return source.length, *shape[1:], *one


def load_array(source: Source) -> np.ndarray:
    """Return the array of a .npy file, or its row, not yet read into memory; Bad if it has none."""
    values = _mapped(source)
    try:
        values = values if source.row is None else values[source.row]
    except IndexError as error:
        raise Bad("unreadable", f"{source.path.name}: {reason(error)}") from None
    check_size(source.path, values.size)
    return values


def _mapped(source: Source) -> np.ndarray:
    """Return a source's array, or the packed one that it is a row of, not read into memory."""
    if source.values is not None:
        return source.values
    path = source.path
    try:
        expect_regular(path)
        with open(path, "rb") as file:
            start = file.read(6)
        if start.startswith(IDX):
            shape = np.fromfile(path, ">u4", start[3], offset=4)
            return np.memmap(path, np.uint8, "r", 4 + 4 * len(shape), tuple(map(int, shape)))
        if start != np.lib.format.MAGIC_PREFIX:
            others = (what for begin, what in FOREIGN.items() if start.startswith(begin))
            what = next(others, f"a file that begins with {start!r}")
            raise ValueError(f"is {what}, no .npy file: write it with numpy.save")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python and fails in many ways
        raise Bad("unreadable", f"{path.name}: {reason(error)}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise Bad("unreadable", f"{path.name} is no array of numbers")
    return values


def check_size(path: Path, numbers: int) -> None:
    """Raise Bad for so many numbers that they would fill the memory."""
    if numbers > LARGEST:
        raise Bad("too_large", f"{path.name}: {numbers} numbers, at most {LARGEST} allowed")


def raw_shapes(clips: Iterable[Clip], modality: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (id, shape) of a modality's prepared arrays, once for each file; reads headers only."""
    seen = set()
    for clip in clips:
        source = clip.sources.get(modality)
        key = source and (source.path, source.row is None)
        if source and key not in seen:
            seen.add(key)
            with suppress(Bad):  # reported later, with the other bad clips
                yield clip.id, _shapes(source)[1]


def packed_bytes(source: Source) -> int:
    """Return how many bytes the packed file of a source takes in a set, 0 if it cannot be used."""
    with suppress(Bad):
        rows, shape = _shapes(source)
        return 4 * prod(rows + shape)
    return 0


def _shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (number of rows,), () without rows, and the shape of a prepared sample."""
    found = _mapped(source).shape
    cut = 0 if source.row is None else 1
    return found[:cut], _padded(found[cut:], source)


def common_shape(modality: str, shapes: Iterable[tuple[str, Iterable | None]]) -> tuple[int, ...]:
    """Return the shape that all (id, shape) have, () if there are none; UserError if two differ."""
    found: dict[tuple[int, ...], str] = {}
    for id, shape in shapes:
        found.setdefault(tuple(shape or ()), id)
        if len(found) > 1:
            (one, first), (other, second) = found.items()
            raise UserError(
                f"modality {modality}: {first} has shape {one}, {second} has {other}: give all "
                f"arrays one shape, or --length {modality}=N to pad or cut their first axis"
            )
    return next(iter(found), ())
