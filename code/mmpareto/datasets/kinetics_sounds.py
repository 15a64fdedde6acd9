"""Kinetics-Sounds: 31 classes of Kinetics-400 that can be seen and heard."""

import re
from argparse import Namespace
from pathlib import Path

from ..data.clips import Clip, Raw, files_below
from ..data.lists import read_lists
from ..system.errors import UserError
from .shared.films import Films, film

CLASSES = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball",
    "laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar",
    "playing clarinet", "playing drums", "playing guitar", "playing harmonica",
    "playing keyboard", "playing organ", "playing piano", "playing saxophone",
    "playing trombone", "playing trumpet", "playing violin", "playing xylophone",
    "ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes",
    "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
ID = re.compile(r"([A-Za-z0-9_-]{11})_(\d{6})_(\d{6})")
PUBLISHED = (
    "6c0d11f5977ecceb2005c5bdb356ced52cae7c39f9f9eb4137479a4c2e874780",
    "6dec6750836d9b9db1b2ded6fca3348de7766c78513ac55e2ba4a668f7b451bd",
)
ANNOTATION = ("label", "youtube_id", "time_start", "time_end", "split")  # of Kinetics-400


class KineticsSounds(Films):
    """Clips of 10 s with their sound track; labels come from lists or from the folders' names."""

    name = "kinetics_sounds"
    hint = "data/kinetics_sounds/README.md says where the clips are"
    lists = (
        "my_train.txt and my_test.txt of OGM-GE (or their folder), or train.csv, validate.csv and "
        "test.csv of Kinetics-400; needed unless every clip lies in a folder named after its class"
    )

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        cls.expect_folder(flags.raw)
        headers = [ANNOTATION, (*ANNOTATION, "is_cc")]
        lists, notes = read_lists(flags.lists, _parse, headers, PUBLISHED)
        labels = {id: label for ids in lists.values() for id, (_, label) in ids.items()}

        def clip(path: Path) -> Clip | None:
            match = ID.fullmatch(path.stem) if path.suffix.lower() == ".mp4" else None
            label = labels.get(path.stem) if labels else path.parent.name.replace("_", " ").lower()
            if not match or label not in CLASSES:
                return None
            # the video, not the clip, is the group: two clips of one video belong together
            return film(path.stem, label, match[1], path)

        archives = [p.name for p in files_below(flags.raw, ".tar", ".tar.gz", ".tgz")]
        if archives and not labels:
            raise UserError(f"--raw {flags.raw}: {archives[0]} needs --lists for the labels")
        place = "in --lists" if labels else "in a folder named after its class"
        expected = f"YOUTUBEID_START_END.mp4 and {place}"
        return cls.gather(flags, clip, expected, list(CLASSES), lists, notes)


def _parse(row: list[str]) -> tuple[str, str] | None:
    """Parse a row of OGM-GE's lists (name,10,label number) or of Kinetics-400's annotation."""
    if len(row) >= len(ANNOTATION):
        label, video, start, end, *_ = row
        if not (start.isdecimal() and end.isdecimal()):
            raise ValueError(f"expected {','.join(ANNOTATION)}")
        return (f"{video}_{int(start):06d}_{int(end):06d}", label) if label in CLASSES else None
    if len(row) != 3 or not row[2].isdecimal():
        raise ValueError("expected NAME,10,LABEL NUMBER")
    if not int(row[2]) < len(CLASSES):
        raise ValueError(f"expected a label number below {len(CLASSES)}")
    name = row[0]
    if not ID.fullmatch(name):
        video, _, start = name.rpartition("_")
        if len(video) != 11 or not start.isdecimal():
            raise ValueError("expected a name as YOUTUBEID_START or YOUTUBEID_START_END")
        name = f"{video}_{int(start):06d}_{int(start) + 10:06d}"
    return name, CLASSES[int(row[2])]
