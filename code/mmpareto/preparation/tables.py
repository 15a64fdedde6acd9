"""The tables that make a folder of prepared files a set."""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..data.clips import Problem
from ..data.layout import FILES, PROBLEMS, SCHEMA, STILLS, Metadata, manifest_columns
from ..data.samples import recipe_hash
from ..system.errors import printable
from ..system.paths import sha256
from ..system.tables import quote_formula, write_table
from ..system.writing import write_json, write_text
from .journal import Journal, Tried, files_of

TOOLS = ("numpy", "torch", "torchaudio", "av", "opencv-python", "soundfile")


def write_set(
    out: Path, metadata: dict[str, Any], good: list[Tried], problems: list[dict[str, str]],
    more: dict[str, list[str]] | None = None,
) -> None:  # fmt: skip
    """Write all tables of the clips in good, metadata.json last.

    metadata: fields of `Metadata`; this function adds the others. more: {name: lines} of files that
    only some sets have; there is none without lines.
    """
    files = files_of(good)
    columns = manifest_columns(metadata["modalities"])
    write_table(out / "manifest.csv", columns, map(manifest_row, good))
    write_table(out / "files.csv", FILES, [file._asdict() for file in files])
    write_table(out / "problems.csv", PROBLEMS, problems)
    further = {name: lines for name, lines in (more or {}).items() if lines}
    for name, lines in further.items():
        write_text(out / name, "\n".join([*lines, ""]))
    tables = ["manifest.csv", "files.csv", "problems.csv", *further]
    tables += [f"splits/{name}.csv" for name in metadata["splits"]]
    lacking = Counter(n for r in good for n in metadata["modalities"] if n not in r.modalities)
    actions = Counter((row["action"], row["reason"]) for row in problems)
    counts = {
        "clips": len(good),
        "per_class": dict(sorted(Counter(record.label for record in good).items())),
        **({"lacking": dict(sorted(lacking.items()))} if lacking else {}),
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "excluded": {k: n for (action, k), n in sorted(actions.items()) if action != "kept"},
        "doubtful": {k: n for (action, k), n in sorted(actions.items()) if action == "kept"},
    }
    content = Metadata(
        SCHEMA,
        **metadata,
        counts=counts,
        recipe_hash=recipe_hash(metadata["recipe"]),
        versions={"python": platform.python_version(), **{tool: _version(tool) for tool in TOOLS}},
        sha256={name: sha256(out / name) for name in tables},
    )
    write_json(out / "metadata.json", content.as_json())


def _version(tool: str) -> str:
    try:
        return version(tool)
    except PackageNotFoundError:  # opencv-python-headless is another package
        return "unknown"


def manifest_row(record: Tried) -> dict[str, Any]:
    row = {"id": record.id, "label": record.label, "group": record.group}
    for name, item in record.modalities.items():
        row[name] = item.path
        if item.stills is not None:
            row[name + STILLS] = item.stills
    return row


def problem_rows(journal: Journal, left_out: dict[str, Problem]) -> list[dict[str, str]]:
    """Return the rows of problems.csv; left_out says why clips were not tried."""
    good = [record for _, record in sorted(journal.good.items())]
    bad = {record.id: record.problem for record in journal.bad.values() if record.problem}
    untried = {id: left_out[id] for id in left_out.keys() - journal.ids}
    rows = [(id, "excluded", problem) for id, problem in (bad | untried).items()]
    rows += [(record.id, "kept", doubt) for record in good for doubt in record.doubts]
    rows += [(id, "kept", twin) for id, twin in twins(good)]
    # a detail may quote text from a raw file
    return [
        {"id": id, "modality": problem.modality, "action": action, "reason": problem.reason,
         "detail": quote_formula(printable(problem.detail))}
        for id, action, problem in sorted(rows)
    ]  # fmt: skip


def twins(good: list[Tried]) -> Iterator[tuple[str, Problem]]:
    """Yield each clip whose raw file equals that of a clip with another label, byte for byte."""
    first: dict[tuple[str, str], Tried] = {}
    for record in good:
        for name, state in record.sources.items():
            key = name, state.sha256
            other = first.setdefault(key, record) if state.sha256 else record
            if other.label != record.label:
                detail = f"same file as {other.id}, labelled {other.label}"
                yield record.id, Problem(name, "duplicate", detail)


def sweep(out: Path, modalities: Iterable[str], good: list[Tried]) -> None:
    """Remove the files of clips that are not good: bad ones, and those a kill interrupted."""
    listed = {out / file.path for file in files_of(good)}
    for name in modalities:
        for folder, _, files in os.walk(out / name, topdown=False):
            for file in files:
                if Path(folder, file) not in listed:
                    Path(folder, file).unlink()
            with suppress(OSError):
                os.rmdir(folder)  # if it is empty
