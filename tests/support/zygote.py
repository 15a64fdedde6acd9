"""Commands in forked processes, which need no seconds to import torch, and can be killed.

As a program it has imported all that commands need. It reads tasks from stdin, a JSON line each,
runs each in a child that leads a session of its own, and answers with what became of it.
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

SUPPORT = Path(__file__).resolve().parent
PATIENCE = 300  # seconds that a command may take
COMMANDS = ("compare", "endless", "prepare", "train")


class Ended(NamedTuple):
    code: int  # below 0 the signal that ended it
    killed: bool  # whether it still ran when the signal was sent
    seconds: float
    session: int
    output: str


class Zygote:
    """The tests' side of it."""

    def __init__(self):
        path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1] / "code")])
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, *words, signal=0, after=None, group=False, log: Path) -> Ended:
        """Run a command of code/, its name first; after so many seconds send it a signal.

        group: to all processes of its session, as a terminal does.
        """
        task = {"words": [str(word) for word in words], "log": str(log)}
        task |= {"signal": int(signal), "after": after, "group": group}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()), output=log.read_text())

    def close(self) -> None:
        with self.process:  # whose end is that of stdin
            self.process.stdin.close()


def session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == leader and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def gone(leader: int, seconds: float = 30) -> bool:
    """Whether all processes of a session end in time."""
    end = time.monotonic() + seconds
    while session(leader):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Forked:
    """Stands where subprocess.Popen starts `python COMMAND.py WORDS`, and forks instead."""

    def __init__(self, command, *, env, stdout=None, stderr=None, stdin=None, pass_fds=()):
        # Python forgets a Ctrl-C that comes while what is registered for a fork is called.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.pid, self.returncode = os.fork(), None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if not self.pid:
            for number, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file if isinstance(file, int) else file.fileno(), number)
            os.environ.clear()
            os.environ.update(env)
            _become([Path(command[1]).stem, *command[2:]])

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)


def _become(words):
    """Be the command that words say, to the end of this process."""
    from mmpareto.system import entry

    sys.argv = [f"{words[0]}.py", *words[1:]]
    # what this process had before may be of another kind than the file behind the number is now
    sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))  # noqa: SIM115
    code = 1
    try:
        entry.run(importlib.import_module(words[0]).main)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(task):
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        os.setsid()
        log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _become(task["words"])
    killed = False
    while os.getsid(pid) != pid:  # a group that is not there yet cannot be sent a signal
        time.sleep(0.001)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic() - began
        if ended:
            return {
                "code": os.waitstatus_to_exitcode(status), "killed": killed, "seconds": now,
                "session": pid,
            }  # fmt: skip
        if task["after"] is not None and now > task["after"] and not killed:
            (os.killpg if task["group"] else os.kill)(pid, task["signal"])
            killed = True
        if now > PATIENCE:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.002)


def main():
    import torch
    import toys
    from tqdm import tqdm

    from mmpareto.datasets import DATASETS
    from mmpareto.preparation import engine
    from mmpareto.results import jobs

    for command in COMMANDS:
        importlib.import_module(command)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread that could hold a lock while another one forks
    # for prepare.py's workers, in the place of a server that would have to import everything
    engine.server = lambda: multiprocessing.get_context("fork")
    DATASETS.parts = DATASETS.parts | toys.TOYS
    jobs.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
