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
from mmpareto.data import batches
from mmpareto.data.batches import loader
from mmpareto.data.samples import TensorSplit
from mmpareto.system.errors import UserError

CODE = Path(__file__).resolve().parents[2] / "code"
SPLIT = TensorSplit({"x": torch.zeros(8, 2)}, torch.zeros(8, dtype=torch.long))
FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]


def spoken(program: str, *, closed=(), stdout=None, **environment):
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
    @pytest.mark.parametrize(
        ("program", "closed"),
        [("print('x' * 10)", closed) for closed in ([0], [1], [2], [0, 1, 2])]
        + [(program, [0, 1, 2]) for program in ("print('x' * 100_000)", "sys.exit(0)")],
    )
    def test_closed_from_the_start(self, program, closed):
        assert spoken(program, closed=closed) == (0, "")

    def test_a_file_does_not_become_stdout(self, tmp_path):
        program = "open_ = open('%s', 'w'); assert open_.fileno() > 2; print('shown')"
        assert spoken(program % (tmp_path / "out"), closed=[0, 1, 2])[0] == 0
        assert (tmp_path / "out").read_text() == ""

    @pytest.mark.parametrize("count", [1, 100_000])
    @pytest.mark.parametrize("end", ["No space left on device", "Broken pipe"])
    def test_cannot_be_written(self, count, end):
        """At once, or with what was held back to the end; a reader that has gone, as `head -1`."""
        if end == "Broken pipe":
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open("/dev/full", os.O_WRONLY)
        code, said = spoken(f"print('x' * {count})", stdout=writer)
        os.close(writer)
        assert code == 2 and said.count("\n") == 1
        assert said.startswith(f"error: stdout: cannot be written ({end})")

    def test_the_own_error_comes_first(self):
        program = "from mmpareto.system import errors; print('x'); raise errors.UserError('mine')"
        assert spoken(program, closed=[1]) == (2, "error: mine\n")
        assert spoken(program, closed=[2]) == (2, "")

    @pytest.mark.parametrize(
        "how", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {}], ids=str
    )
    def test_text_that_the_console_cannot_show(self, how):
        program = r"print('\u732b \xb1 \udcff', 'shown'); print('\udcff', file=sys.stderr)"
        code, said = spoken(program, **how)
        assert code == 0 and said.strip()


def throw(error):
    raise error


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda: throw(MemoryError("Unable to allocate 1.0 TiB")), "Unable to allocate 1.0 TiB"),
        (lambda: throw(torch.OutOfMemoryError("CUDA out of memory.")), "CUDA out of memory."),
        (lambda: torch.empty(10**15), ""),  # of a CPU, in words of torch
    ],
)
def test_memory(use, told, capsys):
    with pytest.raises(SystemExit) as end:
        entry.run(lambda words: use())
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(f"error: not enough memory ({told}")
    assert "--batch_size" in said and said.count("\n") == 1


def test_a_bug_of_ours_keeps_its_trace():
    with pytest.raises(RuntimeError, match="bug"):
        entry.run(lambda words: throw(RuntimeError("bug")))


class TestLimits:
    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM])
    def test_processes(self, monkeypatch, number):
        """As `ulimit -u` leaves none, which does not bind root."""
        monkeypatch.setattr(os, "fork", lambda: throw(OSError(number, os.strerror(number))))
        with pytest.raises(UserError, match=r"--workers 2: .*ulimit -a shows it") as error:
            list(loader(SPLIT, 4, workers=2))
        assert os.strerror(number) in str(error.value)

    @pytest.mark.parametrize("limit", [16, 55])
    def test_open_files(self, monkeypatch, limit):
        monkeypatch.setattr(batches, "getrlimit", lambda _: (limit, limit))
        told = f"--workers 2: needs about 56 open files, the limit is {limit}: "
        with pytest.raises(UserError, match=told):
            loader(SPLIT, 4, workers=2)

    def train(self, tmp_path, batches, *shell):
        """What train.py ends with after a shell's command."""
        words = [sys.executable, str(CODE / "train.py"), *FLAGS[2:], "--workers", "2",
                 "--limit_batches", str(batches), "--out", str(tmp_path / "run")]  # fmt: skip
        return subprocess.run([*shell, *words], capture_output=True, text=True, timeout=120)

    @pytest.mark.slow
    def test_enough_open_files(self, tmp_path):
        done = self.train(tmp_path, 1, "sh", "-c", 'ulimit -n 56; exec "$0" "$@"')
        assert done.returncode == 0, done.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize("size", ["4k", "64k", "700k"])
    def test_shared_memory(self, tmp_path, size):
        """Containers have 64 MB of it; less, in a mount namespace of its own, loses no batch."""
        if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
            pytest.skip("no mount namespaces here")
        mount = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$0" "$@"'
        done = self.train(tmp_path, 4, "unshare", "-m", "sh", "-c", mount)
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "--workers" in errors[0] and "--shm-size" in errors[0]


class TestPaths:
    @pytest.mark.parametrize("name", ["-a\nb c=$(touch x)\u732b\udcff", "a" * 255], ids=ascii)
    def test_names(self, tmp_path, monkeypatch, name, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", name])
        sys.stdout.reconfigure(errors="backslashreplace")  # as entry.run does
        train.main([*FLAGS, f"--out={name}"])
        train.main([*FLAGS, f"--out={name}", "--epochs", "2", "--resume"])
        evaluate.main([f"./{name}/best.pt"])
        if len(name) < 200:
            words = ["--methods", "joint", "--seeds", "0", f"--out={name}2", "--print_commands"]
            compare.main([*FLAGS, *words])
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
