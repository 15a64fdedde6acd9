"""CREMA-D: six acted emotions, from AudioWAV and VideoFlash."""

import re
from argparse import Namespace
from pathlib import Path

from ..data.clips import Clip, Problem, Raw, Source, files_below
from ..data.lists import read_lists
from ..system.errors import UserError
from .shared.prepared import Prepared

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
FOLDERS = {"AudioWAV": ".wav", "VideoFlash": ".flv"}
NAME = re.compile(
    r"(100[1-9]|10[1-8][0-9]|109[01])_(IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)_"
    rf"({'|'.join(CLASSES)})_(LO|MD|HI|XX|X)"
)
KNOWN_BAD = {
    "1064_IEO_DIS_MD": "the video runs 61 s over all emotions",
    "1064_TIE_SAD_XX": "the video has no usable duration",
    "1076_MTI_NEU_XX": "the video is very short and has no sound",
    "1076_MTI_SAD_XX": "the video shows an error picture, the sound is silent",
}
PUBLISHED = (
    "7b95d291b847eac9c1447bb9fb63b47176d182987ac74fe041e4dd493c6d0abd",
    "959a667af66a01dc439b12d6ec9dc57b36a88e947f48ad63531a4b91f769394f",
)


class CREMAD(Prepared):
    """7,438 usable clips of 91 actors; the label is the emotion that was meant."""

    name = "cremad"
    recipes = {"frames": "3fps", "audio": "stft"}
    hint = "or clone the GitLab mirror; data/cremad/README.md has the addresses"
    lists = "train.csv and test.csv of OGM-GE, or their folder: adds the split ogmge"

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        sounds, films = _find(flags.raw)
        headers = [("name", "label"), ("id", "label")]
        lists, notes = read_lists(flags.lists, _parse, headers, PUBLISHED)
        ids = sounds.keys() | films.keys()
        known_bad = KNOWN_BAD.keys() & ids.union(*lists.values())
        left_out = {id: Problem("", "known_bad", KNOWN_BAD[id]) for id in known_bad}
        clips = []
        for id in sorted(ids - known_bad):
            if id in sounds and id in films:
                audio, visual = Source("audio", sounds[id]), Source("frames", films[id])
                sources = {"audio": audio, "visual": visual}
                clips.append(Clip(id, id.split("_")[2], id[:4], sources))
            else:
                modality = "visual" if id in sounds else "audio"
                left_out[id] = Problem(modality, "missing", "no such raw file")
        found = f"{len(clips)} clips with sound and picture, {len(ids) - len(clips)} left out"
        return Raw(
            cls.name, cls.hint, list(CLASSES), {"audio": "audio", "visual": "frames"}, clips,
            left_out, lists, notes=[found, *notes],
        )  # fmt: skip


def _find(raw: Path) -> list[dict[str, Path]]:
    """Return {id: file} of the sounds and of the films; UserError if a folder is missing."""
    readme = "data/cremad/README.md"
    if not raw.is_dir():
        raise UserError(f"--raw {raw}: no such folder: {readme} lists its contents")
    if missing := [name for name in FOLDERS if not (raw / name).is_dir()]:
        near = [raw.absolute().parent, *sorted(p for p in raw.iterdir() if p.is_dir())]
        meant = next((p for p in near if all((p / name).is_dir() for name in FOLDERS)), None)
        hint = f"did you mean {meant}?" if meant else f"{readme} says where to get it"
        raise UserError(
            f"--raw {raw}: {' and '.join(missing)} not found in it, expected the folders "
            f"{' and '.join(FOLDERS)}: {hint}"
        )
    found = [files_below(raw / name, ending) for name, ending in FOLDERS.items()]
    return [{_id(p.stem): p for p in paths if NAME.fullmatch(p.stem)} for paths in found]


def _id(stem: str) -> str:
    """Return the id of a file; old copies have one whose level is X instead of XX."""
    return stem + "X" if stem.endswith("_X") else stem


def _parse(row: list[str]) -> tuple[str, str]:
    if len(row) != 2:
        raise ValueError("expected id,EMOTION as in 1001_DFA_ANG_XX,ANG")
    id, label = row
    if NAME.fullmatch(label):
        raise ValueError("expected the id first, then the emotion")
    if not NAME.fullmatch(id):
        raise ValueError("expected an id as 1001_DFA_ANG_XX first")
    if label not in CLASSES:
        raise ValueError(f"expected one of {', '.join(CLASSES)} as the emotion")
    if label != id.split("_")[2]:
        raise ValueError(f"expected {id.split('_')[2]}, the emotion in the id")
    return _id(id), label
