"""CSV files: read with line numbers, written so that no program computes a cell."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from .errors import CONTROL, UserError
from .paths import expect_regular
from .writing import write_text

FORMULA = re.compile("'*[-=+@\t\r\n\uff0d\uff1d\uff0b\uff20]")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file with exactly these columns; an error names the line."""
    rows, expected = [], ",".join(columns)
    for line, values in read_csv(path):
        if line == 1:
            if values != list(columns):
                raise UserError(f"{path}: columns {','.join(values)} found, {expected} expected")
        elif len(values) != len(columns):
            raise UserError(f"{path}, line {line}: {','.join(values)!r} found, {expected} expected")
        else:
            rows.append(dict(zip(columns, values, strict=True)))
    return rows


def read_csv(
    path: Path, delimiters: str = ",", is_text: Callable[[list[str], int], bool] | None = None
) -> list[tuple[int, list[str]]]:
    """Read (line, values) of each row that is not blank; accept a byte order mark and CRLF.

    The one of delimiters that is most frequent in the first line separates the values. is_text:
    whether a column, by the first row and its number, is text, which may hold control characters.
    """
    try:
        expect_regular(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = max(delimiters, key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no CSV in UTF-8 ({error}): save it as one") from None
    for line, row in rows:
        places = (i for i in range(len(row)) if not (is_text and is_text(rows[0][1], i)))
        cells = row if is_text is None else [row[place] for place in places]
        if found := next(filter(CONTROL.search, cells), None):
            raise UserError(f"{path}, line {line}: control characters in {found!r}: remove them")
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    lines: list[str] = []
    # The writer ends lines with CRLF: else Python 3.11 does not quote cells that hold a CR.
    file = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, "".join(lines))


def quote_formula(text: str) -> str:
    """Quote text from others so that no spreadsheet computes it.

    Text that begins with = + - @, their full-width forms, a tab, CR or LF gets an apostrophe, as
    does such text after apostrophes. `unquote_formula` returns the original text.
    """
    return f"'{text}" if FORMULA.match(text) else text


def unquote_formula(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell
