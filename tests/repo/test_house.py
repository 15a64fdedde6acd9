"""The repository itself: style, registries, what git holds, and the scripts' form."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmpareto.run.parsers import REGISTRIES

ROOT = Path(__file__).resolve().parents[2]


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        "ruff check code tests studies",
        "ruff format --check code tests studies",
        f"pyrefly check --python-interpreter-path {sys.executable}",
        "codespell_lib README.md CONTRIBUTING.md CHANGELOG.md code data/ docs script studies tests",
    ],
    ids=["style", "format", "types", "spelling"],
)
def test_checkers(command):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_part_imports_and_every_file_is_registered(registry):
    families = {f"{prefix}:any": part for prefix, part in registry.families.items()}
    known = registry.parts | families
    parts = {name: part for name, part in known.items() if isinstance(part, str)}
    files = {p.stem for p in (ROOT / "code" / registry.package.replace(".", "/")).glob("*.py")}
    shared = {"__init__", "base", "read_out", "taught", "weighted"}
    assert files - shared == {p.split(":")[0] for p in parts.values()}
    for name in parts:
        assert registry[name].__doc__


def test_no_absolute_paths_no_caches_no_large_files():
    pattern = re.compile(r"/(home|root|work|Users|data/users)/\w")
    for path in tracked():
        assert path.suffix not in {".pyc", ".pt", ".npy", ".log", ".jsonl"}, path
        assert "__pycache__" not in path.parts
        if path.is_symlink() or not path.exists():
            continue
        assert path.stat().st_size < 300_000, path
        if path.suffix in {".py", ".sh", ".md", ".toml", ".txt"}:
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_code_is_ascii():
    for path in [
        *ROOT.glob("code/**/*.py"),
        *ROOT.glob("studies/**/*.py"),
        *(ROOT / "script").glob("*.sh"),
    ]:
        assert path.read_text(encoding="utf-8").isascii(), path


@pytest.mark.parametrize("script", sorted((ROOT / "script").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_are_plain_sh(script):
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pipefail" not in script.read_text()


def test_extras_are_the_requirements():
    """Names and lower bounds agree; `pip install .` alone brings torch and numpy only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert [name.split(">")[0] for name in project["dependencies"]] == ["torch", "numpy"]
    for file, names in (
        ("requirements.txt", [*project["dependencies"], *extras["train"], *extras["prepare"]]),
        ("tests/requirements.txt", [*extras["encoders"], *extras["dev"]]),
    ):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        lines = [line.split("#")[0].split(",")[0].strip() for line in lines]
        assert {*filter(None, lines)} == {name for name in names if "mmpareto" not in name}, file


@pytest.mark.slow  # a new interpreter imports everything
def test_imports_nothing_optional():
    """The library imports torch alone; the parts of training add torchvision only."""
    code = """if True:
        import sys
        sys.path.insert(0, "code")
        optional = {"tensorboard", "wandb", "torchjd", "matplotlib", "cv2", "av", "torchaudio",
                    "soundfile", "pebble", "msgspec", "sklearn", "scipy", "timm", "transformers"}
        from mmpareto import MMPareto, Integrator, Stats
        print(sorted({*optional, "torchvision"} & sys.modules.keys()))
        import train
        from mmpareto.run.parsers import REGISTRIES
        for registry in REGISTRIES:
            [registry[name] for name in registry]
            [registry[f"{prefix}:any"] for prefix in registry.families]
        print(sorted(optional & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n[]\n"
