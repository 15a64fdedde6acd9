"""UPMC Food-101: photos of 101 dishes, each with the title of the web page that it comes from."""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..data.clips import PICTURES, Clip, Raw, Source
from ..data.layout import ID, is_inside
from ..data.lists import List, list_files
from ..system.errors import UserError
from ..system.records import as_record, parse
from ..system.tables import read_csv
from .shared.prepared import Prepared

CLASSES = 101


@dataclass(frozen=True)
class Row:
    """A line of the lists, named as in the .jsonl ones."""

    img: str
    text: str
    label: str


class Food101(Prepared):
    """About 90,000 pairs of picture and text in 101 classes; the text often names the class."""

    name = "food101"
    recipes = {"images": "jpeg256"}
    stills = None
    has_text = True
    hint = "data/food101/README.md says where the pictures and titles are"
    lists = (
        "train_titles.csv and test_titles.csv, or train.jsonl, dev.jsonl and test.jsonl, or their "
        "folder (default: texts in --raw, or --raw itself)"
    )

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        cls.expect_folder(flags.raw)
        texts = flags.raw / "texts"
        listed: List = {}
        clips, telling = [], 0
        for part, path in list_files(
            flags.lists or [texts if texts.is_dir() else flags.raw]
        ).items():
            for where, row in _rows(path):
                id = PurePosixPath(row.img).stem
                if not (ID.fullmatch(id) and is_inside(row.img) and is_inside(row.label)):
                    raise UserError(f"{where}: {row} found, a picture's path and a class expected")
                if id in listed:
                    raise UserError(f"{where}: {id} is listed already as {listed[id][0]}: keep one")
                listed[id] = part, row.label
                telling += row.label.replace("_", " ").lower() in row.text.lower()
                if picture := _picture(flags.raw, part, row):
                    sources = {
                        "image": Source("image", picture),
                        "text": Source("text", path, text=row.text),
                    }
                    clips.append(Clip(id, row.label, "", sources))
        classes = sorted({label for _, label in listed.values()})
        counts = Counter(part for part, _ in listed.values())
        told = ", ".join(f"{part} {count}" for part, count in counts.items())
        notes = [
            f"lists: {len(classes)} of {CLASSES} classes, {told}; {len(clips)} pictures found",
            f"{telling / max(1, len(listed)):.0%} of the texts name their class",
        ]
        kinds = {"image": "image", "text": "text"}
        return Raw(
            cls.name, cls.hint, classes, kinds, clips, lists={"official": listed}, notes=notes
        )


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield (place, row) of a .jsonl file, or of a CSV file: picture, text, class.

    A CSV file may have a header.
    """
    if path.suffix != ".jsonl":
        for line, row in read_csv(path, is_text=lambda header, place: place == 1):
            where = f"{path}, line {line}"
            if len(row) != 3:
                found = f"{len(row)} values found"
                raise UserError(
                    f"{where}: {found}, picture, text and class expected: quote the text"
                )
            picture, text, label = map(str.strip, row)
            if line > 1 or picture.lower().endswith(PICTURES):
                yield where, Row(picture, text, label)
        return
    try:
        # not splitlines: a text may hold a line separator of Unicode
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error})") from None
    for line, text in enumerate(lines, start=1):
        where = f"{path}, line {line}"
        try:
            if text.strip():
                yield where, as_record(parse(text), Row)
        except ValueError as error:
            raise UserError(
                f"{where}: no line of JSON with img, text and label ({error}): download it again"
            ) from None


def _picture(raw: Path, part: str, row: Row) -> Path | None:
    """Return the picture's file: as its path says, or images/train or test/CLASS/NAME."""
    name = PurePosixPath(row.img).name
    folder = "test" if part == "test" else "train"
    places = (raw / row.img, raw / "images" / folder / row.label / name)
    return next((place for place in places if place.is_file()), None)
