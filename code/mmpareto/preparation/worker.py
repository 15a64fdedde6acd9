"""One clip in a process of its own: from raw files to prepared ones."""

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path

import torch

from ..data.clips import Bad, Clip, Problem, state_of
from ..data.pictures import cv2
from ..system.errors import UserError
from ..system.orphans import end_after
from ..system.paths import sha256
from .media import Item, convert

LONGEST_GAP = 0.25  # seconds between the ends of sound and picture that need no remark


def begin() -> None:
    """In a new worker: one thread for everything, and no end of the call without its own."""
    if parent := multiprocessing.parent_process():  # a benchmark converts in its own process
        end_after(parent.join)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def convert_clip(clip: Clip, recipe: dict, out: Path) -> dict:
    """In a worker: prepare one clip, and say what became of it."""
    record = {"id": clip.id, "label": clip.label, "group": clip.group, "sources": {}}
    items, doubts = {}, []
    for name, source in clip.sources.items():
        try:
            record["sources"][name] = [*state_of(source), _hash(source.path, source.row)]
            items[name] = convert(source, recipe)
        except Bad as bad:
            return {**record, "problem": Problem(name, bad.reason, bad.detail)}
        except Exception as error:  # decoders fail in many ways; the other clips go on
            reason = " ".join(str(error).split())
            detail = f"{source.path.name}: {type(error).__name__}: {reason}"
            return {**record, "problem": Problem(name, "unreadable", detail)}
        doubts += [Problem(name, *doubt) for doubt in items[name].doubts.items()]
    doubts += _gaps(clip, items)
    stored = {}
    for name, item in items.items():
        stored[name] = _store(out, name, clip.id, item)
    return {**record, "modalities": stored, "doubts": doubts}


def _gaps(clip: Clip, items: dict) -> list[Problem]:
    ends = {clip.sources[n].kind: item.seconds for n, item in items.items() if item.seconds}
    gap = abs(ends.get("audio", 0) - ends.get("frames", 0)) if len(ends) > 1 else 0
    if gap <= LONGEST_GAP:
        return []
    detail = f"sound {ends['audio']:.2f} s, picture {ends['frames']:.2f} s"
    return [Problem("", "length_mismatch", detail)]


def _store(out: Path, modality: str, id: str, item: Item) -> dict:
    """Write an item aside, then move it into its place; nothing half-written is ever there."""
    shard = hashlib.sha256(id.encode()).hexdigest()[:2]
    if len(item.files) == 1 and next(iter(item.files)).startswith("."):
        path, stills = f"{modality}/{shard}/{id}{next(iter(item.files))}", None
        names = {path: path}
    else:
        path, stills = f"{modality}/{shard}/{id}", len(item.files)
        names = {name: f"{path}/{name}" for name in item.files}
    aside, place = out / ".tmp" / f"{modality}.{id}", out / path
    try:
        if stills is None:
            aside.write_bytes(next(iter(item.files.values())))
        else:
            aside.mkdir()
            for name, content in item.files.items():
                (aside / name).write_bytes(content)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)  # of a process killed before its journal line
        os.replace(aside, place)
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written ({error.strerror}): make room and run this again; "
            "finished clips are kept"
        ) from None
    files = [
        [name, len(content), hashlib.sha256(content).hexdigest()]
        for name, content in zip(names.values(), item.files.values(), strict=True)
    ]
    return {"path": path, "stills": stills, "shape": item.shape, "files": files}


def _hash(path: Path, row: int | None) -> str:
    """Of a raw file, to find twins; "" for a folder and for a row of a packed array."""
    return sha256(path) if row is None and path.is_file() else ""
