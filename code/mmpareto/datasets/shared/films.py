"""Datasets whose clips are MP4 files with a sound track, loose or in archives."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ...data.clips import Clip, Raw, Source, files_below
from ...data.lists import List
from ...system.errors import UserError
from .prepared import Prepared


class Films(Prepared):
    """A dataset of films: one picture and one sound track of each clip."""

    recipes = {"frames": "1fps", "audio": "fbank"}
    stills = 3

    @classmethod
    def gather(
        cls, flags: Namespace, identify: Callable[[Path], Clip | None], expected: str,
        classes: list[str], lists: dict[str, List], notes: list[str],
    ) -> Raw:  # fmt: skip
        """Return the clips in flags.raw, MP4 files at any depth and members of tar archives.

        identify: what clip a file is, by its path; None if it is no clip of the set. expected:
        what `identify` looks for, for the message if it finds nothing.
        """
        videos = list(files_below(flags.raw, ".mp4"))
        archives = list(files_below(flags.raw, ".tar", ".tar.gz", ".tgz"))
        # Kinetics' mirror has replacements of corrupt clips; they go first
        archives.sort(key=lambda path: ("replacement" not in path.name, path))
        videos.sort(key=lambda path: ("replacement" not in str(path), path))
        clips = {}
        for found in filter(None, map(identify, videos)):
            clips.setdefault(found.id, found)
        if videos and not clips and not archives:
            raise UserError(
                f"--raw {flags.raw}: {len(videos)} MP4 files, first {videos[0].name}, none named "
                f"{expected}"
            )
        others = len(videos) - len(clips)
        notes.append(f"{len(clips)} clips, {others} other MP4 files, {len(archives)} archives")
        return Raw(
            cls.name, cls.hint, classes, {"audio": "audio", "visual": "frames"},
            list(clips.values()), lists=lists, archives=archives,
            identify=lambda name: identify(Path(name)), notes=notes, seconds=10.0,
        )  # fmt: skip


def film(id: str, label: str, group: str, path: Path) -> Clip:
    """Return the clip whose picture and sound are both in one file."""
    return Clip(
        id, label, group, {"audio": Source("audio", path), "visual": Source("frames", path)}
    )
