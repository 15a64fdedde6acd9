"""Damage for files that the program reads, and what the program says of it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sets import contents

from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError, printable

# The flags of runs as small as they get.
FLAGS = ["--dataset", "cgdigits", "--encoder", "cnn", "--batch_size", "16", "--limit_batches", "2",
         "--epochs", "2", "--train_size", "40"]  # fmt: skip
# What a spreadsheet, an editor, a broken program, or an enemy leaves in a cell or a field.
WORDS = [
    "", " ", "0", "-1", "1e9", "9" * 30, "9" * 5000, "\u0663", "\u00b2", "nan", "inf", "True",
    "x" * 300, "../../../etc/passwd", "/etc/passwd", "..", ".", "a\\b", "~", "$(id)", "`id`", "'",
    '"', ";", "=1+1", "@SUM(A1)", "\x1b[2J", "a\nb", "a\rb", "\x00", "\u202e", "\ufeff", "\u00e9",
    "#", "#-1", "#1_0", "x.npy#99999999999999999999", "train", "test", "val", "clip-0", "id",
    "label", "{}", "[]", "null",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 2.5, 10**12, 10**30, 1e308, float("nan"), float("inf"), "", "x",
    "../..", "/", "\x1b[2J", [], {}, [1], [[]], {"a": 1}, [10**9, 10**9], ["a", "a"], [None],
    "9" * 999,
]  # fmt: skip
HUGE = [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\xff" * 8]  # numbers in a header


def refused(call, *arguments) -> str | None:
    """The line that a call ends with; None where it does its work.

    Nothing of the error is kept, so that loading processes end, too.
    """
    try:
        call(*arguments)
    except UserError as error:
        assert str(error).strip() and len(printable(str(error))) < 20_000
        return str(error)


def told(call, *arguments) -> str:
    """The one line that a call must end with."""
    line = refused(call, *arguments)
    assert line and "\n" not in line
    return line


def load(folder: Path):
    flags = ["--dataset", folder, "--batch_size", "1", "--image_size", "8"]
    return load_data(options.parse(list(map(str, flags))))


def read_all(folder: Path):
    for split in load(folder).splits.values():
        split.read(list(range(len(split))))


# A case lays good files into the folder `work`. It returns those that are damaged, what uses them
# and returns the lines that it ended with, and the damage, where it is not `damaged`.
# How many damaged inputs: `few` on every call, `many` among the slow tests.
def tables(*cases):
    """The parameters `case` and `examples` of a test, of (case, few, many)."""
    return pytest.mark.parametrize(
        ("case", "examples"),
        [(case, few) for case, few, _ in cases]
        + [pytest.param(case, many, marks=pytest.mark.slow) for case, _, many in cases],
        ids=lambda x: getattr(getattr(x, "func", x), "__name__", str(x)),
    )


def attack(examples: int, work: Path, paths, use, damage=None) -> None:
    """Damage one of the paths in the folder work, use it, and put all back; so many times.

    The choices are the same in every run of the tests.
    """
    count, kept = 0, contents(work)
    assert not any(use(paths[0]))

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(st.data())
    def tried(data):
        nonlocal count
        count += 1
        put_back(work, kept)
        path = data.draw(st.sampled_from(paths))
        (damage or damaged)(data.draw, path)
        use(path)

    tried()
    assert count >= examples


def put_back(work: Path, kept: dict[str, bytes]) -> None:
    """Make a folder's contents, links and made folders among them, what they were."""
    kept = {work / name: content for name, content in kept.items()}
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and path not in kept):
            path.unlink()
        elif path.is_dir() and path in kept:
            path.rmdir()
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def damaged(draw, path: Path) -> None:
    """Change a file: by the structure that it has, or byte by byte."""
    content = path.read_bytes()
    change = {".jsonl": lines_of, ".json": json_of, ".csv": table_of}.get(path.suffix)
    is_structured = change and draw(st.sampled_from([True, True, True, False]))
    path.write_bytes(change(draw, content.decode()) if is_structured else bytes_of(draw, content))


def bytes_of(draw, content: bytes) -> bytes:
    """Some bytes changed, a part cut off, repeated, put in, or all replaced."""
    content = bytearray(content)
    # headers decide more than what follows them
    places = st.integers(0, len(content)) | st.integers(0, min(len(content), 128))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(places)
        again = st.just(bytes(content[place : place + 100]))
        taken, put = draw(
            st.tuples(st.just(1), st.binary(min_size=1, max_size=1))
            | st.tuples(st.just(0), st.binary(min_size=1, max_size=20) | again)
            | st.tuples(st.integers(1, 50) | st.just(len(content)), st.just(b""))
            | st.sampled_from(HUGE).map(lambda number: (len(number), number))
        )
        content[place : place + taken] = put
    return bytes(content)


def table_of(draw, text: str) -> bytes:
    """A CSV file with cells, rows or columns changed, or in another encoding."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        hows = ["cell"] * 6 + ["drop", "twice", "column", "swap", "add", "head"]
        how = draw(st.sampled_from(hows))
        row = draw(st.integers(0, len(rows) - 1)) if rows else 0
        if not rows or not rows[row]:
            continue
        column = draw(st.integers(0, len(rows[row]) - 1))
        if how == "cell":
            rows[row][column] = quoted(draw(st.sampled_from(WORDS) | st.text(max_size=8)))
        elif how == "drop":
            del rows[row]
        elif how == "twice":
            rows.insert(row, list(rows[row]))
        elif how == "column":
            rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
        elif how == "swap":
            other = draw(st.integers(0, len(rows[row]) - 1))
            rows[row][column], rows[row][other] = rows[row][other], rows[row][column]
        elif how == "add":
            rows[row].insert(column, draw(st.sampled_from(WORDS)))
        else:
            rows = rows[:1]
    text = "\n".join(",".join(cells) for cells in rows) + "\n"
    encodings = ["utf-8"] * 8 + ["utf-8-sig", "utf-16", "latin-1", "utf-32"]
    return text.encode(draw(st.sampled_from(encodings)), errors="replace")


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set('",\n\r') else text


def values() -> st.SearchStrategy:
    """Of wrong types, of absurd sizes, and nested."""
    plain = st.sampled_from(VALUES) | st.sampled_from(WORDS) | st.integers() | st.text(max_size=5)
    pairs = st.dictionaries(st.text(max_size=3), plain, max_size=3)
    return plain | st.lists(plain, max_size=3) | pairs


def fields_of(draw, content, changes: int = 2):
    """Nested dicts and lists with a value changed, taken out, renamed, or put in; in place."""
    for _ in range(draw(st.integers(1, changes))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            child = place[key]
            if isinstance(child, dict | list) and child and draw(st.booleans()):
                place = child
                continue
            how = draw(st.sampled_from(["set", "set", "set", "drop", "rename"]))
            if how == "set":
                place[key] = draw(values())
            elif how == "drop" or not isinstance(place, dict):
                del place[key]
            else:
                place[draw(st.sampled_from(WORDS))] = place.pop(key)
            break
    return content


def json_of(draw, text: str) -> bytes:
    """A JSON file with fields changed, or that is no JSON any more."""
    how = draw(st.sampled_from(["fields"] * 12 + ["bytes", "other", "deep", "twice"]))
    if how == "bytes":
        return bytes_of(draw, text.encode())
    if how == "deep":
        return b"[" * 100_000
    if how == "twice":
        return (text + text).encode()
    changed = draw(values()) if how == "other" else fields_of(draw, json.loads(text))
    return json.dumps(changed).encode()


def lines_of(draw, text: str) -> bytes:
    """A file of JSON lines, one of them changed."""
    lines = text.encode().splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = json_of(draw, lines[number].decode())
    return b"\n".join(lines) + b"\n"
