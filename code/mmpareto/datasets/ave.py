"""AVE: 28 kinds of events that can be seen and heard."""

import re
from argparse import Namespace
from collections import Counter
from pathlib import Path

from ..data.clips import Clip, Raw
from ..data.lists import List, list_files
from ..system.errors import UserError
from ..system.tables import read_csv
from .shared.films import Films, film

VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")
PUBLISHED = {"train": 3339, "val": 402, "test": 402}  # lines of the lists
HEADER = "category&videoid&quality&starttime&endtime"


class AVE(Films):
    """4,143 events in clips of 10 s; the label is the kind of the event."""

    name = "ave"
    stills = 4
    hint = "data/ave/README.md says where the clips are"
    lists = "trainSet.txt, valSet.txt and testSet.txt, or their folder (default: --raw)"

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        cls.expect_folder(flags.raw)
        ids, listed, lines = _read(flags.lists or [flags.raw])
        classes = sorted({label for _, label in listed.values()})
        told = ", ".join(f"{part} {lines[part]}" for part in PUBLISHED)
        again = lines.total() - len(listed)
        notes = [f"lists: {len(classes)} classes, {told}; {again} lines name a clip once more"]
        if lines != PUBLISHED:
            published = ", ".join(f"{part} {count}" for part, count in PUBLISHED.items())
            notes.append(f"WARNING: the published lists have {published} lines")

        def identify(path: Path) -> Clip | None:
            id, is_film = path.stem, path.suffix.lower() == ".mp4"
            return film(id, listed[id][1], id, path) if is_film and id in listed else None

        lists = {"official": listed}
        raw = cls.gather(flags, identify, "YOUTUBEID.mp4 and in --lists", classes, lists, notes)
        more = [
            clip._replace(id=id, label=label)
            for clip in raw.clips
            for label, id in ids[clip.id].items()
            if id != clip.id
        ]
        return raw._replace(clips=raw.clips + more)


def _read(paths: list[Path]) -> tuple[dict[str, dict[str, str]], List, Counter]:
    """Return {video: {label: id}}, {id: (part, label)} and how many lines each part has.

    A video with two labels becomes two clips. One that is listed twice with one label (it has two
    events) is one clip, and in test, then in val, rather than in train.
    """
    ids: dict[str, dict[str, str]] = {}
    listed, lines, files = {}, Counter(), list_files(paths)
    for part in sorted(files, key=("test", "val", "train").index):
        for line, row in read_csv(files[part], "&"):
            if "&".join(row).lower() == HEADER:
                continue
            label, video = row[:2] if len(row) == 5 else ("", "")
            if not label or not VIDEO.fullmatch(video):
                raise UserError(
                    f"{files[part]}, line {line}: {'&'.join(row)!r} found, CLASS&YOUTUBEID&QUALITY&"
                    "START&END expected, as in Bark&7KSXUptBBYQ&good&1&7"
                )
            lines[part] += 1
            known = ids.setdefault(video, {})
            id = known.setdefault(label, f"{video}-{len(known)}" if known else video)
            listed.setdefault(id, (part, label))
    return ids, listed, lines
