"""Prepare one clip in a worker process."""

import hashlib
import os
import shutil
from pathlib import Path

import torch

from ..data.clips import Bad, Clip, Problem, State, state_of
from ..data.pictures import cv2
from ..system.errors import UserError
from ..system.paths import sha256
from ..system.processes import begin_worker
from .journal import File, Stored, Tried
from .media import Item, convert

LONGEST_GAP = 0.25  # seconds between the ends of sound and picture; above, a note is written
WORDS = {"audio": "sound", "frames": "picture", "flow_stills": "flow"}


def begin() -> None:
    """Set up a new worker: it computes in one thread, and ends when the main process ends."""
    begin_worker()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def convert_clip(
    clip: Clip, recipe: dict, out: Path, rows: dict[str, tuple[State, Stored]]
) -> Tried:
    """Prepare one clip and return the outcome; rows holds what lies in the set already."""
    sources = {name: state for name, (state, _) in rows.items()}
    known = clip.id, clip.label, clip.group, sources
    items, doubts, ends = {}, [*clip.doubts], {}
    for name, source in clip.sources.items():
        if name in rows:
            continue
        try:
            is_file = source.row is None and source.path.is_file()
            digest = sha256(source.path) if is_file else ""
            sources[name] = state_of(source)._replace(sha256=digest)
            items[name] = item = convert(source, recipe)
        except Bad as bad:
            return Tried(*known, problem=Problem(name, *bad.args))
        except Exception as error:  # decoders fail in many ways; the other clips go on
            reason = " ".join(str(error).split())
            detail = f"{source.path.name}: {type(error).__name__}: {reason}"
            return Tried(*known, problem=Problem(name, "unreadable", detail))
        doubts += [Problem(name, *doubt) for doubt in item.doubts.items()]
        if item.seconds:
            ends[source.kind] = item.seconds
    if ends and max(ends.values()) - min(ends.values()) > LONGEST_GAP:
        detail = ", ".join(f"{WORDS[kind]} {ends[kind]:.2f} s" for kind in sorted(ends))
        doubts.append(Problem("", "length_mismatch", detail))
    stored = {name: item for name, (_, item) in rows.items()}
    stored |= {name: _store(out, name, clip.id, item) for name, item in items.items()}
    return Tried(*known, stored, doubts)


def _store(out: Path, modality: str, id: str, item: Item) -> Stored:
    """Write an item to a temporary place, then move it, so no partial file is ever visible.

    Files are not synced one by one, as `write_atomically` does: a clip may have hundreds.
    """
    shard = hashlib.sha256(id.encode()).hexdigest()[:2]
    start = f"{modality}/{shard}/{id}"
    files = {start + end: content for end, content in item.files.items()}
    path = start if item.is_folder else next(iter(files))
    aside, place = out / ".tmp" / f"{modality}.{id}", out / path
    try:
        if item.is_folder:
            aside.mkdir()
        for name, content in files.items():
            (aside / name[len(path) + 1 :]).write_bytes(content)  # a single file is aside itself
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)  # left by a process that was killed
        os.replace(aside, place)
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written ({error.strerror}): make room and run the same command "
            "again; finished clips are kept"
        ) from None
    stills = len(files) if item.is_folder else None
    listed = [File(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()]
    return Stored(path, stills, list(item.shape) if item.shape else None, listed)
