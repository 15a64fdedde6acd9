"""One self-contained page: no server, no script, nothing from elsewhere; any text is just text."""

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from ...system.writing import write_text
from .confusion import Confusion


class Picture(NamedTuple):
    """An SVG file with its caption."""

    path: Path
    caption: str

    @property
    def source(self) -> str:
        """As an address that holds the picture itself; within it no script ever runs."""
        return "data:image/svg+xml;base64," + b64encode(self.path.read_bytes()).decode()


class Table(NamedTuple):
    """Rows with the same columns in the same order."""

    caption: str
    rows: list[dict[str, str]]


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
    text = environment.get_template("page.html").render(title=title, sections=sections)
    write_text(path, text)
