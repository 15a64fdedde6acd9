"""Read clips from tar archives as streams; only wanted clips are unpacked."""

import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ..data.clips import Clip
from ..system.errors import UserError

LARGEST = 2**32  # bytes of a wanted file
LARGEST_HEADER = 2**20  # bytes of a long name and other notes on a member, read into memory


class _Member(tarfile.TarInfo):
    """A member whose header is refused if it claims more than memory should hold."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        is_note = not (member.isreg() or member.type == tarfile.GNUTYPE_SPARSE)
        if is_note and member.size > LARGEST_HEADER:
            raise tarfile.ReadError(_too_large(member))
        return member


def _too_large(member: tarfile.TarInfo) -> str:
    return f"it says that {member.name!r} has {member.size} bytes; no clip is so large"


def members(
    archive: Path,
    identify: Callable[[str], Clip | None],
    is_done: Callable[[str], bool],
    scratch: Path,
) -> Iterator[Clip]:
    """Yield the wanted clips of an archive that are not done, each extracted into scratch."""
    seen = set()
    try:
        with tarfile.open(archive, "r|*", tarinfo=_Member) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                clip = None if name.startswith("._") or not member.isfile() else identify(name)
                if clip is None or clip.id in seen or is_done(clip.id):
                    continue
                if member.size > LARGEST:
                    raise tarfile.ReadError(_too_large(member))
                seen.add(clip.id)
                path = scratch / f"raw.{name}"
                with open(path, "wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file)
                os.utime(path, (member.mtime, member.mtime))  # a changed archive is known by it
                sources = {m: s._replace(path=path) for m, s in clip.sources.items()}
                yield clip._replace(sources=sources)
    except PermissionError as error:
        raise UserError(
            f"{archive}: cannot be read ({error.strerror}): let this user read it"
        ) from None
    # A name or time that no file can have raises ValueError or OverflowError.
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"{archive}: is damaged or cut off after {len(seen)} wanted clips ({error}): download "
            "it again, then run the same command again; finished clips are kept"
        ) from None
