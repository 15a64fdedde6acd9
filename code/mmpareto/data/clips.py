"""Clips to prepare, their raw files, and a first check that these are media."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..system.errors import UserError
from ..system.paths import expect_regular

ARRAYS = ("array", "flow", "tokens")  # kinds of .npy files
KINDS = ("frames", "image", "audio", "text", *ARRAYS)  # of sources
STORED_KINDS = {
    "audio": "spectrogram",
    "text": "tokens",
    "flow_stills": "flow",
}  # kind of what a source becomes, where it is another
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
POINTER = b"version https://git-lfs"  # how Git LFS pointers begin


class Source(NamedTuple):
    """The raw file that one modality of a clip comes from.

    kind: "frames" (a video, or a folder of pictures; rate says how many of them a second shows,
    None: each is a still), "flow_stills" (a folder u/NAME of grey pictures of horizontal movement
    beside v/NAME of vertical movement, 128 for none), "image", "audio" (a sound file, or the sound
    track of a video), "text" (the text itself; path is where its table lies), or one of ARRAYS
    (.npy; row picks one of its rows, length is what its first axis is padded or cut to): "array",
    "flow" (time, 2, height, width) or "tokens" (integers below vocabulary, 0 for padding). values:
    the array itself, where path is a container that the dataset has read; row picks one of its
    rows, and each modality has one such array. noise: a sound file that is added to a sound.
    """

    kind: str
    path: Path
    row: int | None = None
    length: int | None = None
    vocabulary: int | None = None
    values: np.ndarray | None = None
    rate: int | None = None
    noise: Path | None = None
    text: str = ""

    @property
    def places(self) -> list[Path]:
        """Return the file or folder it comes from; of flow in stills, u/NAME and v/NAME."""
        if self.kind != "flow_stills":
            return [self.path]
        return [self.path, self.path.parents[1] / "v" / self.path.name]


def stored_kind(kind: str, length: int | None) -> str:
    """Return the kind of what a source becomes; length as of `Source`."""
    if kind == "array" and length is not None:
        return "sequence"
    return STORED_KINDS.get(kind, kind)


class Clip(NamedTuple):
    """A sample to prepare; group is empty, or names what must stay together, such as an actor.

    doubts: what the dataset has remarked in its raw files, for problems.csv.
    """

    id: str
    label: str
    group: str
    sources: dict[str, Source]
    doubts: tuple["Problem", ...] = ()


class Problem(NamedTuple):
    """Why a clip was left out, or what is doubtful about one that was kept."""

    modality: str
    reason: str
    detail: str


class State(NamedTuple):
    """Shows whether a source has changed since an earlier call, and whether two are equal."""

    name: str
    row: int | None
    bytes: int
    changed: int  # nanoseconds
    sha256: str = ""  # "" for a folder and for a row of a packed array


class Bad(Exception):
    """A raw file cannot be used; args are the reason as one word, and the detail."""


class Raw(NamedTuple):
    """What a dataset found in the user's raw files."""

    dataset: str
    hint: str  # where its raw files come from, for messages
    classes: list[str]
    modalities: dict[str, str]  # name: kind
    clips: list[Clip]
    left_out: dict[str, Problem] = {}  # id: why it is not tried
    lists: dict[str, dict[str, tuple[str, str]]] = {}  # split: {id: (part, label)}
    archives: list[Path] = []  # tar files with more clips, read as streams
    identify: Callable[[str], Clip | None] = lambda name: None  # by a member's name, without path
    # split: the training clips that become validation, where its list has none; else a tenth does
    held_out: dict[str, set[str]] = {}
    notes: list[str] = []
    lengths: dict[str, int] = {}  # modality: what its arrays' first axis is padded or cut to
    vocabularies: dict[str, int] = {}  # modality: what its tokens are below
    recipe: dict[str, Any] = {}  # what else decides the samples, such as a choice of labels
    seconds: float = 3.0  # a clip's typical length, to estimate space
    rows: dict[str, str] = {}  # id: its row in a published list; present.csv repeats those there
    is_whole: bool = False  # clips of an earlier call that are not in clips leave the set


def files_below(folder: Path, *endings: str) -> Iterator[Path]:
    """Yield files with one of these endings at any depth, sorted; skip AppleDouble's "._" twins.

    Folders that are links are followed, each real folder once. OSError if one cannot be listed.
    """
    found, visited = [], set()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        found += [Path(parent, name) for name in names if not name.startswith("._")]
    yield from sorted(path for path in found if path.name.lower().endswith(endings))


def _raise(error: OSError) -> None:
    raise error


def check_media(paths: Iterable[Path], hint: str) -> None:
    """Raise UserError for files that a failed download has left in place of media.

    Git LFS pointers decode silently to nothing; log-in and quota pages come as HTML.
    """
    paths, pointers = list(dict.fromkeys(paths)), []
    for path in paths:
        try:
            expect_regular(path)
            with open(path, "rb") as file:
                start = file.read(64)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise UserError(f"{path}: is {error.strerror}: remove it from the folder") from None
            continue  # a folder of stills; or missing or unreadable, which its worker reports
        if start.startswith(POINTER):
            pointers.append(path)
        elif re.match(rb"\s*<(!doctype html|html)", start, re.IGNORECASE):
            raise UserError(
                f"{path}: is a web page ({os.path.getsize(path)} bytes, begins with "
                f"{start[:15].decode('ascii', 'replace')!r}), as a log-in or quota page: download "
                f"it again by hand; {hint}"
            )
    if pointers:
        raise UserError(
            f"{pointers[0]} is a Git LFS pointer ({pointers[0].stat().st_size} bytes), not media; "
            f"{len(pointers)} of {len(paths)} files are pointers: run git lfs install && "
            f"git lfs pull in the clone; {hint}"
        )


def state_of(source: Source) -> State:
    """Return the state of a source, without its sum: reading files takes long."""
    path = source.path
    if source.kind == "text":  # its table may change, this cell alone counts
        return State(hashlib.sha256(source.text.encode()).hexdigest(), None, len(source.text), 0)
    try:
        folders = [place for place in source.places if place.is_dir()]
        files = [p for folder in folders for p in folder.iterdir() if p.is_file()]
        stats = [p.stat() for p in (files if folders else [path])]
    except OSError:  # missing or unreadable: its worker says which
        return State(path.name, source.row, -1, 0)
    changed = max((stat.st_mtime_ns for stat in stats), default=0)
    return State(path.name, source.row, sum(stat.st_size for stat in stats), changed)
