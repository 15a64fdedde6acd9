"""Damage for files that the program reads: by their structure, and byte by byte."""

import json

from hypothesis import strategies as st

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


def bytes_of(draw, content: bytes) -> bytes:
    """Some bytes changed, a part cut off, repeated, put in, or all replaced."""
    content = bytearray(content)
    places = st.integers(0, max(len(content) - 1, 0))
    # headers decide more than what follows them
    places = st.one_of(places, st.integers(0, max(min(len(content), 128) - 1, 0)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(places)
        how = draw(st.sampled_from(["set", "cut", "insert", "number", "repeat", "remove"]))
        if how == "set" and content:
            content[place % len(content)] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[place:]
        elif how == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=20))
        elif how == "number":
            huge = draw(st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\xff" * 8]))
            content[place : place + len(huge)] = huge
        elif how == "repeat":
            content[place:place] = content[place : place + 100]
        else:
            del content[place : place + draw(st.integers(1, 50))]
    return bytes(content)


def table_of(draw, text: str) -> bytes:
    """A CSV file with cells, rows or columns changed, or in another encoding."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        how = draw(
            st.sampled_from(["cell"] * 6 + ["drop", "twice", "column", "swap", "add", "head"])
        )
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
    return (
        plain
        | st.lists(plain, max_size=3)
        | st.dictionaries(st.text(max_size=3), plain, max_size=3)
    )


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
    if how == "other":
        return json.dumps(draw(values())).encode()
    if how == "twice":
        return (text + text).encode()
    return json.dumps(fields_of(draw, json.loads(text))).encode()


def lines_of(draw, text: str) -> bytes:
    """A file of JSON lines, one of them changed."""
    lines = text.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    changed = json_of(draw, lines[number])
    return (
        b"\n".join(
            [*map(str.encode, lines[:number]), changed, *map(str.encode, lines[number + 1 :])]
        )
        + b"\n"
    )
