"""Random damage for files that the program reads, and what the program says of it."""

import errno
import json
from copy import deepcopy
from pathlib import Path
from random import Random

from mmpareto.data import recipes
from mmpareto.data.layout import read_metadata, split_names
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError, printable
from mmpareto.system.tables import read_csv

# The flags of runs as small as they get.
FLAGS = ["--dataset", "cgdigits", "--encoder", "cnn", "--batch_size", "16", "--limit_batches", "2",
         "--epochs", "2", "--train_size", "40"]  # fmt: skip
KINDS = {kind: kind for kind in ("frames", "audio", "image", "array", "tokens")}
NAMES = {"frames": "3fps", "audio": "stft", "images": "jpeg256"}
RECIPE = recipes.named(NAMES, KINDS, {}, {"tokens": 10})  # for clips of every kind
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
        line = str(error)
        assert line.strip() and "\n" not in line and len(printable(line)) < 20_000
        return line


def told(call, *arguments) -> str:
    """The one line that a call must end with."""
    line = refused(call, *arguments)
    assert line
    return line


def forbid(monkeypatch, place, path, *functions):
    """Have functions of a module refuse a path, as they do for other users than root."""

    def make(function):
        def refuse(first, *arguments, **flags):
            if not isinstance(first, int) and Path(first) == path:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(first, *arguments, **flags)

        return refuse

    for name in functions:
        monkeypatch.setattr(place, name, make(getattr(place, name)))


def load(folder: Path, *flags):
    words = ["--dataset", str(folder), "--batch_size", "1", "--image_size", "8", *flags]
    return load_data(options.parse(words))


def look_at(folder):
    """Read every sample; nothing may be missing that problems.csv does not name."""
    data = load(folder)
    ids = []
    for split in data.splits.values():
        inputs, targets = split.read(list(range(len(split))))
        assert len(targets) == len(split) and 0 <= targets.min() <= targets.max()
        assert targets.max() < len(data.classes)
        for name, spec in data.modalities.items():
            assert inputs[name].shape == (len(split), *spec.shape)
        ids += split.ids
    name = split_names(folder, read_metadata(folder))[0]
    listed = {row[0] for _, row in read_csv(folder / f"splits/{name}.csv")[1:]}
    explained = {row[0] for _, row in read_csv(folder / "problems.csv")[1:]}
    assert len(set(ids)) == len(ids) and listed - explained <= set(ids) <= listed


def attack(examples: int, work: Path, paths, use, damage=None) -> None:
    """Damage one of the paths in the folder work, use it, and put all back; so many times.

    The choices are the same in every run of the tests.
    """
    kept = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    assert not any(use(paths[0]))
    for seed in range(examples):
        random = Random(seed)
        put_back(work, kept)
        path = random.choice(paths)
        (damage or damaged)(random, path)
        try:
            use(path)
        except BaseException as error:
            error.add_note(f"example {seed}: {path}")
            raise


def put_back(work: Path, kept: dict[Path, bytes]) -> None:
    """Make a folder's contents, links and made folders among them, what they were."""
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and path not in kept):
            path.unlink()
        elif path.is_dir() and path in kept:
            path.rmdir()
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def damaged(random: Random, path: Path) -> None:
    """Change a file: by the structure that it has, or byte by byte."""
    content = path.read_bytes()
    change = {".jsonl": lines_of, ".json": json_of, ".csv": table_of}.get(path.suffix)
    is_structured = change and random.random() < 0.75
    path.write_bytes(
        change(random, content.decode()) if is_structured else bytes_of(random, content)
    )


def bytes_of(random: Random, content: bytes) -> bytes:
    """Some bytes changed, a part cut off, repeated, put in, or all replaced."""
    content = bytearray(content)
    for _ in range(random.randint(1, 4)):
        # headers decide more than what follows them
        place = random.randint(0, random.choice([len(content), min(len(content), 128)]))
        number = random.choice(HUGE)
        taken, put = random.choice([
            (1, random.randbytes(1)),
            (0, random.randbytes(random.randint(1, 20))),
            (0, bytes(content[place : place + 100])),
            (random.choice([random.randint(1, 50), len(content)]), b""),
            (len(number), number),
        ])  # fmt: skip
        content[place : place + taken] = put
    return bytes(content)


def table_of(random: Random, text: str) -> bytes:
    """A CSV file with cells, rows or columns changed, or in another encoding."""
    rows = [line.split(",") for line in text.splitlines()]
    if random.random() < 0.1:
        column = random.randrange(len(rows[0]))
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    fields_of(random, rows, changes=3)
    shown = random.choice([str, str, quoted])
    lines = [",".join(map(shown, row if isinstance(row, list) else [row])) for row in rows]
    encoding = random.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "latin-1", "utf-32"])
    return ("\n".join(lines[: random.choice([1, *[None] * 15])]) + "\n").encode(encoding, "replace")


def quoted(cell) -> str:
    return '"' + str(cell).replace('"', '""') + '"'


def text_of(random: Random) -> str:
    """Characters of any script, and of none."""
    ends = random.choices([128, 0xD800], k=random.randint(1, 8))
    return "".join(chr(random.randrange(end)) for end in ends)


def value_of(random: Random):
    """A value of a wrong type, of an absurd size, or nested."""
    plain = deepcopy(random.choice(VALUES))
    word = random.choice(WORDS)
    return random.choice([plain, plain, word, word, text_of(random), [plain, word], {word: plain}])


def fields_of(random: Random, content, changes: int = 2):
    """Dicts and lists, some values in them changed, taken out, swapped, renamed or repeated."""
    for _ in range(random.randint(1, changes)):
        place = content
        while place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key, other = random.choice(keys), random.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and random.random() < 0.6:
                place = place[key]
                continue
            how = random.choice(["set", "set", "set", "drop", "swap", "move"])
            if how == "set":
                place[key] = value_of(random)
            elif how == "drop":
                del place[key]
            elif how == "swap":
                place[key], place[other] = place[other], place[key]
            elif isinstance(place, dict):
                place[random.choice(WORDS)] = place.pop(key)
            else:
                place.insert(other, place[key])
            break
    return content


def json_of(random: Random, text: str) -> bytes:
    """A JSON file with fields changed, or that is no JSON any more."""
    how = random.choice(["fields"] * 9 + ["other", "deep", "twice"])
    if how == "deep":
        return b"[" * 100_000
    if how == "twice":
        return (text + text).encode()
    changed = value_of(random) if how == "other" else fields_of(random, json.loads(text))
    return json.dumps(changed).encode()


def lines_of(random: Random, text: str) -> bytes:
    """A file of JSON lines, one of them changed."""
    lines = text.encode().splitlines()
    number = random.choice([0, random.randrange(len(lines))])  # the first may be a header
    lines[number] = json_of(random, lines[number].decode())
    return b"\n".join(lines) + b"\n"
