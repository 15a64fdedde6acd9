"""Consoles that are closed, full or gone, limits of the system, and paths nobody would choose.

Every end is one line and exit code 2, or the work is done all the same.
"""

from mmpareto.system import entry

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compare
import evaluate
import train
from mmpareto.data.batches import loader
from mmpareto.data.samples import TensorSplit
from mmpareto.system.errors import UserError

CODE = Path(__file__).resolve().parents[2] / "code"
FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]


def spoken(program: str, tmp_path, *, closed=(), stdout=None, **environment):
    """A program of ours whose streams are as said: its exit code, and what it says on stderr."""
    shell = "".join(f" {number}>&-" for number in closed)
    command = f'"$0" -c "$1"{shell}'
    program = f"import sys\nfrom mmpareto.system import entry\ndef main(words):\n {program}\n"
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, f"{program}entry.run(main)"],
        env={**os.environ, "PYTHONPATH": str(CODE), **environment},
        stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stderr.decode(errors="replace")


class TestStreams:
    @pytest.mark.parametrize("program", ["print('x' * 10)", "print('x' * 100_000)", "sys.exit(0)"])
    @pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=str)
    def test_closed_from_the_start(self, tmp_path, program, closed):
        assert spoken(program, tmp_path, closed=closed) == (0, "")

    def test_a_file_does_not_become_stdout(self, tmp_path):
        program = "open_ = open('%s', 'w'); assert open_.fileno() > 2; print('shown')"
        assert spoken(program % (tmp_path / "out"), tmp_path, closed=[0, 1, 2])[0] == 0
        assert (tmp_path / "out").read_text() == ""

    @pytest.mark.parametrize("count", [1, 100_000])
    def test_full(self, tmp_path, count):
        """At once, or with what was held back to the end."""
        with open("/dev/full", "w") as full:
            code, said = spoken(f"print('x' * {count})", tmp_path, stdout=full)
        assert code == 2 and said.count("\n") == 1
        assert said.startswith("error: stdout: cannot be written (No space left on device)")

    @pytest.mark.parametrize("count", [1, 100_000])
    def test_reader_that_has_gone(self, tmp_path, count):
        """As with `| head -1`."""
        reader, writer = os.pipe()
        os.close(reader)
        code, said = spoken(f"print('x' * {count})", tmp_path, stdout=writer)
        os.close(writer)
        assert code == 2 and said.count("\n") == 1
        assert said.startswith("error: stdout: cannot be written (Broken pipe)")

    def test_the_own_error_comes_first(self, tmp_path):
        program = "from mmpareto.system import errors; print('x'); raise errors.UserError('mine')"
        assert spoken(program, tmp_path, closed=[1]) == (2, "error: mine\n")
        assert spoken(program, tmp_path, closed=[2]) == (2, "")

    @pytest.mark.parametrize(
        "how", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {}], ids=str
    )
    def test_text_that_the_console_cannot_show(self, tmp_path, how):
        program = r"print('\u732b \xb1 \udcff', 'shown'); print('\udcff', file=sys.stderr)"
        code, said = spoken(program, tmp_path, **how)
        assert code == 0 and said.strip()


def ended(main, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        entry.run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1.0 TiB for an array"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory(error, monkeypatch, capsys):
    def main(words):
        raise error

    code, said = ended(main, monkeypatch, capsys)
    assert code == 2 and said.startswith(f"error: not enough memory ({error}")
    assert "--batch_size" in said and said.count("\n") == 1


def test_memory_of_a_cpu(monkeypatch, capsys):
    code, said = ended(lambda words: torch.empty(10**15), monkeypatch, capsys)
    assert code == 2 and said.startswith("error: not enough memory") and said.count("\n") == 1


def test_a_bug_of_ours_keeps_its_trace(monkeypatch):
    def main(words):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        entry.run(main)


class TestLimits:
    def split(self):
        return TensorSplit({"x": torch.zeros(8, 2)}, torch.zeros(8, dtype=torch.long))

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM])
    def test_processes(self, monkeypatch, number):
        """As `ulimit -u` leaves none, which does not bind root."""

        def none():
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fork", none)
        with pytest.raises(UserError, match=r"--workers 2: .*ulimit -a shows it") as error:
            list(loader(self.split(), 4, workers=2))
        assert os.strerror(number) in str(error.value)

    @pytest.mark.slow
    @pytest.mark.parametrize("limit", [16, 55, 56])
    def test_open_files(self, tmp_path, limit):
        command = f'ulimit -n {limit}; exec "$0" "$@"'
        words = [sys.executable, str(CODE / "train.py"), *FLAGS[2:], "--limit_batches", "1",
                 "--batch_size", "8", "--workers", "2", "--out", str(tmp_path / "run")]  # fmt: skip
        done = subprocess.run(["sh", "-c", command, *words], capture_output=True, text=True)
        if limit < 56:
            assert done.returncode == 2
            told = f"error: --workers 2: needs about 56 open files, the limit is {limit}: "
            assert done.stderr.startswith(told) and done.stderr.count("\n") == 1
        else:
            assert done.returncode == 0, done.stderr


@pytest.mark.slow
class TestSharedMemory:
    """Containers have 64 MB of it, unless told otherwise: no waiting for a batch that got lost."""

    @pytest.fixture
    def command(self, tmp_path):
        """Runs with so little of it, in a mount namespace of its own."""
        if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
            pytest.skip("no mount namespaces here")

        def run(size, *words):
            mount = f"mount -t tmpfs -o size={size} none /dev/shm"
            python = [sys.executable, str(Path(train.__file__))]
            return subprocess.run(
                ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *python, *words],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip

        return run

    @pytest.mark.parametrize("size", ["4k", "64k", "700k"])
    def test_full(self, command, tmp_path, size):
        done = command(size, "--encoder", "cnn", "--epochs", "1", "--limit_batches", "4",
                       "--workers", "2", "--out", str(tmp_path / "run"))  # fmt: skip
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "--workers" in errors[0] and "--shm-size" in errors[0]


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        ["a b", "-a\nb", "\u732b\udcff", "$(touch x)", "a" * 255, "x=y"],
        ids=ascii,
    )
    def test_names(self, tmp_path, monkeypatch, name, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", name])
        sys.stdout.reconfigure(errors="backslashreplace")  # as entry.run does
        train.main([*FLAGS, f"--out={name}"])
        train.main([*FLAGS, f"--out={name}", "--epochs", "2", "--resume"])
        evaluate.main([f"./{name}/best.pt"])
        if len(name) < 200:
            compare.main(
                [*FLAGS, "--methods", "joint", "--seeds", "0", f"--out={name}2", "--print_commands"]
            )
        assert {path.name for path in tmp_path.iterdir()} == {name}

    @pytest.mark.parametrize(
        ("out", "told"),
        [
            ("file", "file is a file: give a folder"),
            ("file/run", "file is a file: give a folder"),
            ("loop", "loop is a link that leads nowhere: give a folder"),
            ("loop/run", "loop is a link that leads nowhere: give a folder"),
            ("dangling", "dangling is a link that leads nowhere: give a folder"),
            ("a" * 256, "File name too long"),
            ("a/" * 3000, "File name too long"),
        ],
        ids=lambda x: ascii(x)[:20],
    )
    def test_no_folder(self, tmp_path, monkeypatch, out, told):
        monkeypatch.chdir(tmp_path)
        Path("file").write_text("text")
        Path("loop").symlink_to("loop")
        Path("dangling").symlink_to("nowhere")
        before = {path.name for path in tmp_path.iterdir()}
        for call in (train.main, compare.main):
            seeds = ["--methods", "joint", "--seeds", "0"] if call is compare.main else []
            with pytest.raises(UserError, match=told) as error:
                call([*FLAGS, *seeds, "--out", out])
            assert "\n" not in str(error.value)
        assert {path.name for path in tmp_path.iterdir()} == before
