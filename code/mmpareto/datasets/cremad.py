"""CREMA-D: six acted emotions, from AudioWAV and VideoFlash."""

import re
from argparse import Namespace

from ..data.clips import Clip, Problem, Raw, Source, expect_folders, files_below
from ..data.lists import read_lists
from .shared.prepared import Prepared

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
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
PINNED = {
    "7b95d291b847eac9c1447bb9fb63b47176d182987ac74fe041e4dd493c6d0abd": "ogmge",
    "959a667af66a01dc439b12d6ec9dc57b36a88e947f48ad63531a4b91f769394f": "ogmge",
}


class CREMAD(Prepared):
    """7,438 usable clips of 91 actors; the label is the emotion that was meant."""

    name = "cremad"
    recipes = {"frames": "3fps", "audio": "stft"}
    hint = "or clone the GitLab mirror; data/cremad/README.md has the addresses"
    lists = "train.csv and test.csv of OGM-GE, or their folder: adds the split ogmge"

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        expect_folders(flags.raw, ("AudioWAV", "VideoFlash"), "data/cremad/README.md")
        found = {}
        for modality, folder, ending in (
            ("audio", "AudioWAV", ".wav"), ("visual", "VideoFlash", ".flv"),
        ):  # fmt: skip
            found[modality] = {
                _id(path.stem): path
                for path in files_below(flags.raw / folder, ending)
                if NAME.fullmatch(path.stem)
            }
        clips, left_out = [], {}
        for id in sorted(found["audio"].keys() | found["visual"].keys()):
            missing = [modality for modality, paths in found.items() if id not in paths]
            if id in KNOWN_BAD:
                left_out[id] = Problem("", "known_bad", KNOWN_BAD[id])
            elif missing:
                left_out[id] = Problem(missing[0], "missing", "no such raw file")
            else:
                sources = {
                    "audio": Source("audio", found["audio"][id]),
                    "visual": Source("frames", found["visual"][id]),
                }
                clips.append(Clip(id, id.split("_")[2], id[:4], sources))
        notes = [f"{len(clips)} clips with sound and picture, {len(left_out)} left out"]
        lists = {}
        if flags.lists:
            headers = [("name", "label"), ("id", "label")]
            name, listed, more = read_lists(flags.lists, _parse, headers, PINNED)
            lists[name] = listed
            notes += more
            for id in listed.keys() & KNOWN_BAD.keys() - left_out.keys():
                left_out[id] = Problem("", "known_bad", KNOWN_BAD[id])
        return Raw(
            cls.name, cls.hint, list(CLASSES), {"audio": "audio", "visual": "frames"}, clips,
            left_out, lists, notes=notes,
        )  # fmt: skip


def _id(stem: str) -> str:
    """Old copies have one file whose level is X, for XX."""
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
