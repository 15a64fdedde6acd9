"""How commands end, from their first moment on: Ctrl-C never prints a trace."""

from mmpareto.system import entry

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [*ROOT.glob("code/*.py"), *ROOT.glob("studies/*.py"), ROOT / "studies/claim/run.py"]
COMMANDS = sorted(str(path.relative_to(ROOT)) for path in PROGRAMS)
LIGHT = ("code/prepare.py", "code/verify.py")  # which import neither torch nor numpy for --help


def interrupted_at(command: str, library: str, **options) -> tuple[int, str]:
    """The end of a command that is sent Ctrl-C when it has just opened a library's file."""
    process = subprocess.Popen(
        [sys.executable, ROOT / command, "--help"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while library not in maps.read_text() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    return process.returncode, output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_python_without_torch(command):
    """As a person has who did not activate the environment; -S hides what is installed."""
    done = subprocess.run(
        [sys.executable, "-S", ROOT / command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and ". .venv/bin/activate" in done.stderr


@pytest.mark.parametrize("library", ["libtorch", "numpy/_core", "torch/_C"])
def test_interrupted_while_it_imports(library):
    assert interrupted_at("code/train.py", library) == (-signal.SIGINT, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(set(COMMANDS) - set(LIGHT) - {"code/train.py"}))
def test_every_command_interrupted_while_it_imports(command):
    assert interrupted_at(command, "libtorch") == (-signal.SIGINT, "")


@pytest.mark.slow
def test_ignored_from_the_start():
    """As nohup and a shell's & do it."""
    code, output = interrupted_at(
        "code/train.py", "libtorch", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    assert code == 0 and "usage: train.py" in output


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_run(before, monkeypatch, capsys):
    within = []

    def main(arguments):
        within.append(signal.getsignal(signal.SIGINT))
        raise KeyboardInterrupt

    kept = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(SystemExit, match="130"):
            entry.run(main)
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, kept)
    ignored = before == signal.SIG_IGN
    assert within == [signal.SIG_IGN if ignored else signal.default_int_handler]
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupt_that_python_wraps(capsys):
    """In a class body's __set_name__, as while torch imports a part of itself."""

    def main(arguments):
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    with pytest.raises(SystemExit, match="130"):
        entry.run(main)
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupt_that_python_would_drop(capsys):
    """In a __del__, as where a DataLoader ends its processes."""

    class Loader:
        def __del__(self):
            raise KeyboardInterrupt

    def main(arguments):
        Loader()
        time.sleep(20)

    with pytest.raises(SystemExit, match="130"):
        entry.run(main)
    assert capsys.readouterr().err == "interrupted\n"
