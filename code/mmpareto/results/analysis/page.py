"""One self-contained page: no server, no script, nothing from elsewhere; any text is just text."""

from pathlib import Path
from typing import NamedTuple

from ...system.writing import write_text


class Picture(NamedTuple):
    """An SVG as an address that holds the picture itself; within it no script ever runs."""

    source: str
    caption: str


class Table(NamedTuple):
    """Rows with the same columns in the same order."""

    caption: str
    rows: list[dict[str, str]]


class Confusion(NamedTuple):
    """Which classes one prediction takes for which others: counts[truth][prediction]."""

    name: str
    classes: list[str]
    counts: list[list[int]]
    is_open: bool = True  # at first

    def shade(self, truth: int, prediction: int) -> int:
        """0 to 10: the share of a class's samples that went to this prediction."""
        return round(10 * self.counts[truth][prediction] / max(1, sum(self.counts[truth])))


class Section(NamedTuple):
    """A part of the page; what is empty is left out."""

    title: str
    notes: list[str] = []
    tables: list[Table] = []
    pictures: list[Picture] = []
    confusions: list[Confusion] = []
    commands: list[str] = []
    on_console: bool = False  # whether its tables are printed, too


def write(path: Path, title: str, sections: list[Section]) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    write_text(path, environment.get_template("page.html").render(title=title, sections=sections))
