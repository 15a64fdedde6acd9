"""VGGSound: 309 classes of clips in which the source of a sound can be seen."""

import re
from argparse import Namespace
from collections import Counter
from pathlib import Path

from ..data.clips import Clip, Raw
from ..data.lists import List
from ..system.errors import UserError
from ..system.tables import read_csv
from .shared.films import Films, film

VIDEO = r"[A-Za-z0-9_-]{11}"
NAME = re.compile(rf"({VIDEO})_(\d{{1,9}})(?:_(\d{{1,9}}))?")
COLUMNS = ("youtube_id", "start", "label", "split")


class VGGSound(Films):
    """Clips of 10 s, as many as are there; OUT/present.csv lists them for others to use."""

    name = "vggsound"
    hint = "data/vggsound/README.md says where the clips are"
    lists = "vggsound.csv, or another group's present.csv (default: vggsound.csv in --raw)"

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        cls.expect_folder(flags.raw)
        listed, rows = {}, {}
        for path in flags.lists or [flags.raw / "vggsound.csv"]:
            if not path.is_file():
                raise UserError(f"--lists {path}: no such file: give vggsound.csv; {cls.hint}")
            _read(path, listed, rows)
        classes = sorted({label for _, label in listed.values()})
        counts = Counter(part for part, _ in listed.values())
        told = ", ".join(f"{part} {count}" for part, count in counts.items())
        notes = [f"lists: {len(classes)} classes, {told}"]

        def identify(path: Path) -> Clip | None:
            id = _id(path.stem) if path.suffix.lower() == ".mp4" else ""
            return film(id, listed[id][1], id[:11], path) if id in listed else None

        expected = "YOUTUBEID_START.mp4 (or YOUTUBEID_START_END.mp4) and in --lists"
        raw = cls.gather(flags, identify, expected, classes, {"official": listed}, notes)
        return raw._replace(rows=rows)


def _id(stem: str) -> str:
    """Return the id of a file: START and END are seconds, with zeros before or not, or ms."""
    match = NAME.fullmatch(stem)
    if not match:
        return ""
    start, end = int(match[2]), int(match[3] or int(match[2]) + 10)
    if end - start == 10_000:
        start, end = start // 1000, end // 1000
    return f"{match[1]}_{start:06d}" if end - start == 10 else ""


def _read(path: Path, listed: List, rows: dict[str, str]) -> None:
    """Add the rows of a list: {id: (part, label)}, and as they are written to present.csv."""
    for line, row in read_csv(path):
        if line == 1 and tuple(row) == COLUMNS:
            continue
        where = f"{path}, line {line}: {','.join(row)!r} found"
        if len(row) != len(COLUMNS):
            raise UserError(
                f"{where}, {','.join(COLUMNS)} expected: put a label with commas into quotes"
            )
        video, start, label, part = map(str.strip, row)
        if not re.fullmatch(VIDEO, video) or not start.isdecimal() or not label:
            raise UserError(f"{where}, an id of 11 characters, seconds and a label expected")
        if part not in ("train", "val", "test"):
            raise UserError(f"{where}, train or test expected as the split")
        id = f"{video}_{int(start):06d}"
        if id in listed:
            raise UserError(f"{where}: this clip is listed already: keep one line")
        listed[id], quoted = (part, label), label.replace('"', '""')
        rows[id] = f'{video},{int(start)},"{quoted}",{part}'
