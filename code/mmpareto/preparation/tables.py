"""The tables that make a folder of prepared files a set."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..data.layout import FILES, PROBLEMS, SCHEMA, manifest_columns
from ..data.samples import recipe_hash
from ..system.paths import sha256
from ..system.tables import write_table
from ..system.writing import write_json

TOOLS = ("numpy", "torch", "torchaudio", "av", "opencv-python", "soundfile")


def write_set(
    out: Path, metadata: dict, manifest: Iterable[dict], files: Iterable[dict], problems: list[dict]
) -> None:
    """Write all tables, metadata.json last; metadata lacks only what follows from the rest."""
    write_table(out / "manifest.csv", manifest_columns(metadata["modalities"]), manifest)
    write_table(out / "files.csv", FILES, files)
    write_table(out / "problems.csv", PROBLEMS, problems)
    tables = ["manifest.csv", "files.csv", "problems.csv"]
    tables += [f"splits/{name}.csv" for name in metadata["splits"]]
    metadata = {
        "schema": SCHEMA,
        **metadata,
        "recipe_hash": recipe_hash(metadata["recipe"]),
        "versions": {"python": platform.python_version()} | _versions(),
        "sha256": {name: sha256(out / name) for name in tables},
    }
    write_json(out / "metadata.json", metadata)


def _versions() -> dict[str, str]:
    versions = {}
    for tool in TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:  # as opencv-python-headless is another package
            versions[tool] = "unknown"
    return versions
