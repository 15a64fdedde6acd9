"""UCF-101: 101 actions, seen in pictures and in optical flow."""

import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..data.clips import Clip, Problem, Raw, Source
from ..data.lists import List
from ..system.errors import UserError
from ..system.paths import expect_regular
from .shared.prepared import Prepared

NAME = re.compile(r"v_([A-Za-z0-9]+)_g\d\d_c\d\d")
RATE = 25  # pictures a second
FOLDERS = RGB, U, V = "jpegs_256", "tvl1_flow/u", "tvl1_flow/v"
VALIDATION = 9  # one of so many training groups of a class becomes validation


class UCF101(Prepared):
    """13,320 clips of 101 actions as frames: pictures and optical flow; three published splits."""

    name = "ucf101"
    recipes = {"frames": "1fps"}
    stills = 3
    hint = "data/ucf101/README.md says where the frames are"
    lists = (
        "folder of classInd.txt, trainlist01.txt, testlist01.txt and so on: adds the splits split1 "
        "to split3 (default: ucfTrainTestlist in --raw, if it is there)"
    )

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        cls.expect_folder(flags.raw)
        found = _find(flags.raw, cls.hint)
        names = {key: path.name for clips in found.values() for key, path in clips.items()}
        inside = flags.raw / "ucfTrainTestlist"
        paths = flags.lists or ([inside] if inside.is_dir() else [])
        lists, classes, notes = _lists(paths, names)
        spelled = {name.lower(): name for name in classes}
        clips, left_out, others = [], {}, 0
        for key, id in sorted(names.items()):
            _, action, group, _ = id.split("_")
            label = spelled.get(action.lower()) if classes else action
            lacking = [name for name, clips_of in found.items() if key not in clips_of]
            if label is None:
                others += 1
            elif lacking:
                modality = "rgb" if RGB in lacking else "flow"
                left_out[id] = Problem(modality, "missing", f"not in {' and '.join(lacking)}")
            else:
                rgb = Source("frames", found[RGB][key], rate=RATE)
                flow = Source("flow_stills", found[U][key], rate=RATE)
                clips.append(Clip(id, label, f"{label}_{group}", {"rgb": rgb, "flow": flow}))
        told = f"{len(clips)} clips with pictures and flow, {len(left_out)} left out"
        more = f"; {others} of no class in classInd.txt" if others else ""
        return Raw(
            cls.name, cls.hint, classes or sorted({clip.label for clip in clips}),
            {"rgb": "frames", "flow": "flow_stills"}, clips, left_out, lists,
            held_out={name: set(_held_out(listed)) for name, listed in lists.items()},
            notes=[told + more, *notes], seconds=7.2,
        )  # fmt: skip


def _find(raw: Path, hint: str) -> dict[str, dict[str, Path]]:
    """Return {one of FOLDERS: {lower-case name of a clip: its folder}}; UserError without one."""
    found = {}
    for name in FOLDERS:
        place = next((p for p in (raw / name, *sorted(raw.glob(f"*/{name}"))) if p.is_dir()), None)
        if place is None:
            parts = sorted(path.name for path in raw.rglob("*.zip*"))
            more = f": join and unpack {parts[0]} and its other parts first" if parts else ""
            raise UserError(f"--raw {raw}: no folder {name} in it{more}; {hint}")
        clips = [p for p in sorted(place.iterdir()) if NAME.fullmatch(p.name) and p.is_dir()]
        found[name] = {path.name.lower(): path for path in clips}
    return found


def _lists(
    paths: list[Path], names: dict[str, str]
) -> tuple[dict[str, List], list[str], list[str]]:
    """Read the published lists; return {split: {id: (part, class)}}, all classes, and notes.

    Clips keep the spelling of names, {in lower case: as found}, and classes that of classInd.txt:
    clips of HandstandPushups are called v_HandStandPushups.
    """
    if not paths:
        return {}, [], ["WARNING: no --lists: none of the published splits is made"]
    if len(paths) > 1 or not paths[0].is_dir():
        raise UserError(f"--lists {' '.join(map(str, paths))}: one folder of lists expected")
    folder, lists, notes = paths[0], {}, []
    classes = [words[-1] for _, words in _rows(folder / "classInd.txt")]
    spelled = {name.lower(): name for name in classes}
    for number in (1, 2, 3):
        files = {part: folder / f"{part}list{number:02}.txt" for part in ("train", "test")}
        if not any(path.exists() for path in files.values()):
            continue
        listed = lists[f"split{number}"] = {}
        for part, path in files.items():
            for line, words in _rows(path):
                stem = PurePosixPath(words[0]).stem
                id, match = names.get(stem.lower(), stem), NAME.fullmatch(stem)
                label = spelled.get(match[1].lower()) if match else None
                if label is None:
                    raise UserError(
                        f"{path}, line {line}: {words[0]!r} found, CLASS/v_CLASS_gNN_cNN.avi of a "
                        "class in classInd.txt expected"
                    )
                if id in listed:
                    raise UserError(f"{path}, line {line}: {id} is listed already: keep one")
                listed[id] = part, label
        counts = [sum(part == p for part, _ in listed.values()) for p in ("train", "test")]
        notes.append(f"split{number}: train {counts[0]}, test {counts[1]}")
    if not lists:
        raise UserError(f"--lists {folder}: no trainlist01.txt in it: give the published lists")
    return lists, classes, notes


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of each line that is not empty; UserError without such a file."""
    if not path.exists():
        raise UserError(f"--lists {path.parent}: no {path.name} in it: give the published lists")
    expect_regular(path)
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        if words := line.split():
            yield number, words


def _held_out(listed: List) -> Iterable[str]:
    """Yield the training clips of the last groups of each class, for validation.

    A group is one video, cut into clips: it must not lie on both sides. In all three published
    splits these are the groups 24 and 25.
    """
    groups = defaultdict(lambda: defaultdict(list))
    for id, (part, label) in listed.items():
        if part == "train":
            groups[label][id.split("_")[2]].append(id)
    for by_number in groups.values():
        count = max(len(by_number) // VALIDATION, len(by_number) > 1)
        for number in sorted(by_number)[len(by_number) - count :]:
            yield from by_number[number]
