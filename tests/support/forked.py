"""Commands in forked processes, which need no seconds to import torch, and can be killed.

They are forked from multiprocessing's server, which has imported all that commands need.
"""

import multiprocessing
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

SUPPORT = Path(__file__).resolve().parent
PATIENCE = 300  # seconds that a command may take
COMMANDS = ["compare", "endless", "prepare", "ranks", "train"]


class Ended(NamedTuple):
    code: int  # below 0 the signal that ended it
    killed: bool  # whether it still ran when the signal was sent
    seconds: float
    session: int
    output: str


def start_server(monkeypatch) -> None:
    """Start the server, unless this process has one already: then commands import the rest."""
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1] / "code")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.set_forkserver_preload(["toys", "mmpareto.preparation.engine", *COMMANDS])
    forkserver.ensure_running()


def run(*words, signal_=0, after=None, group=False, log: Path, environment=None) -> Ended:
    """Run a command of code/, its name first; after so many seconds send it a signal.

    group: to all processes of its session, as a terminal does. environment: variables to add.
    """
    killed = False
    context = multiprocessing.get_context("forkserver")
    arguments = [str(word) for word in words], str(log), environment or {}
    process = context.Process(target=_lead, args=arguments)
    process.start()
    with suppress(ProcessLookupError):  # it has ended
        while os.getsid(process.pid) != process.pid:  # nobody can signal to a group not there yet
            time.sleep(0.001)
    began = time.monotonic()
    with suppress(ProcessLookupError):
        if after is not None:
            process.join(max(0, began + after - time.monotonic()))
            if process.is_alive():
                (os.killpg if group else os.kill)(process.pid, signal_)
                killed = True
    process.join(PATIENCE)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    seconds = time.monotonic() - began
    return Ended(process.exitcode, killed, seconds, process.pid, log.read_text())


def together(processes: int, *words, logs: Path) -> str:
    """Run a command in so many processes, as torchrun does; return what they say."""
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}

    def run_rank(rank):
        own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run(*words, environment=own, log=logs / f"{rank}.log")

    with ThreadPoolExecutor(processes) as pool:
        ended = list(pool.map(run_rank, range(processes)))
    said = "".join(rank.output for rank in ended)
    assert not any(rank.code for rank in ended), said
    return said


def is_there(leader: int) -> bool:
    """Whether a process of a session is alive."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                return True
    return False


def gone(leader: int) -> bool:
    """Whether all processes of a session end in time."""
    end = time.monotonic() + 30
    while is_there(leader) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_there(leader)


def _lead(words, log, environment):
    """In a new process: lead a session, with the patches of a test process, and be the command."""
    import torch
    import toys
    from tqdm import tqdm

    from mmpareto.datasets import DATASETS
    from mmpareto.preparation import engine
    from mmpareto.results import server

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread that could hold a lock while another one forks
    # for prepare.py's workers: those of the server would be in another session
    engine.server = lambda: multiprocessing.get_context("fork")
    DATASETS.parts = DATASETS.parts | toys.TOYS
    server.start, server.context = (lambda *_: None), engine.server
    os.setsid()  # from here on its time runs
    Path(log).write_bytes(b"")
    server.become(["python", f"{words[0]}.py", *words[1:]], os.environ | environment, log)
