"""The repository itself: style, registries, what git holds, and the scripts' form."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmpareto.run.options import REGISTRIES

ROOT = Path(__file__).resolve().parents[2]


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines()]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_style(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "code", "tests", "studies"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_types():
    done = subprocess.run(
        [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_part_imports_and_every_file_is_registered(registry):
    parts = {name: part for name, part in registry.parts.items() if isinstance(part, str)}
    files = {p.stem for p in (ROOT / "code" / registry.package.replace(".", "/")).glob("*.py")}
    shared = {"__init__", "base"}
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


def test_training_imports_nothing_optional():
    """A GPU server's own torch, torchvision, numpy, scikit-learn and tqdm are enough to start."""
    code = """if True:
        import sys
        sys.path.insert(0, "code")
        import train
        for registry in train.options.REGISTRIES:
            [registry[name] for name in registry]
        optional = {"tensorboard", "torchjd", "matplotlib", "cv2", "av", "torchaudio", "soundfile",
                    "pebble", "msgspec"}
        print(sorted(optional & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
