"""A run's folder: write its files, and continue them when the run is resumed."""

import json
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ..core import distributed
from ..system import tensors
from ..system.errors import UserError
from ..system.lock import NAME as LOCK
from ..system.lock import Lock
from ..system.paths import blocker_of, clear_errors
from ..system.writing import write_json
from . import options, report
from .boards import Boards
from .checkpoint import DataRecord, Resumable, read_state
from .environment import environment, from_here, next_command
from .records import Config, Result, read_config, read_epochs, read_result

LOGS = ("train.log", "epochs.jsonl", "steps.jsonl")
FILES = "config.json", "last.pt", "best.pt", "result.json", "diverged.json"
UNFINISHED = {f"{name}.tmp" for name in FILES}
NOTHING = UNFINISHED | {LOCK}  # a folder without a run may hold these


class Run:
    """The folder of one run.

    config.json     flags, environment and command        last.pt     the state after the last epoch
    train.log       what the console shows                best.pt     the model of the best epoch
    epochs.jsonl    one line per epoch                    result.json the test scores, at the end
    steps.jsonl     one line per optimizer step               diverged.json why training ended early

    This process holds the folder from its check, or its creation, until `close`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], resume: bool):
        """Check the folder against config; nothing is written before `start`."""
        self.folder, self.config = folder, config
        self.state: Resumable | None = None
        self.before: Config | None = None  # config.json of the run that is resumed
        self.known: list[tuple[float | None, float]] = []  # conflict and seconds of every epoch
        self.boards = Boards(folder, config)
        self.lock: Lock | None = None
        with clear_errors(f"--out {folder}"):
            self.is_new = blocker_of(folder) != folder
            if self.is_new:
                return
            is_used = any(path.name not in NOTHING for path in folder.iterdir())
            if is_used:
                self._check_used(resume)
            if distributed.is_first():
                self.lock = Lock(folder)
            try:
                if is_used and (folder / "last.pt").exists():
                    self._read_state()
            except UserError:
                self.close()
                raise

    def close(self) -> None:
        """Release the folder to other processes."""
        self.boards.close()
        if self.lock:
            self.lock.release()

    def _check_used(self, resume: bool) -> None:
        is_run = (self.folder / "config.json").exists()
        if not resume:
            found = "holds a run: add --resume to go on with it, or" if is_run else "is not empty:"
            raise UserError(f"--out {self.folder}: the folder {found} give another --out")
        if not is_run:
            raise UserError(
                f"--out {self.folder}: it holds no run to resume (no config.json in it): give the "
                "folder of a run, or drop --resume and give another --out"
            )
        self.before = read_config(self.folder)
        check_flags(self.folder, self.before.flags, self.config)
        for name in LOGS:  # new lines would be written wherever a link leads
            if (self.folder / name).is_symlink():
                raise UserError(f"--resume: {self.folder / name} is a link: put the file there")

    def _read_state(self) -> None:
        self.state = read_state(self.folder / "last.pt", Resumable)
        check_epochs(self.folder, self.state.epoch, self.config)
        for name in LOGS:
            path, size = self.folder / name, self.state.logs.get(name, math.inf)
            if not path.exists() or path.stat().st_size < size:
                raise UserError(
                    f"--resume: {path} is missing or shorter than last.pt says: restore it, or "
                    "give another --out"
                )
        epochs = read_epochs(self.folder, self.state.logs["epochs.jsonl"])
        self.known = [(epoch.conflict, epoch.seconds) for epoch in epochs]

    def start(self, header: list[str], data: DataRecord) -> None:
        """Create the folder, or cut its logs back to the last whole epoch; then log the header."""
        distributed.barrier()  # everyone has checked the folder
        if not distributed.is_first():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=not self.is_new)
        except FileExistsError:
            raise UserError(f"--out {self.folder}: another run has just taken it") from None
        except OSError as error:
            raise UserError(
                f"--out {self.folder}: cannot be created ({error.strerror}): give another --out"
            ) from None
        try:
            self._open(data)
        except UserError:
            self.close()
            if self.is_new:
                with suppress(OSError):
                    self.folder.rmdir()  # it is empty
            raise
        resumed = [f"Resumed after epoch {self.state.epoch}"] if self.state else []
        for line in header + resumed:
            self.log(line)

    def _open(self, data: DataRecord) -> None:
        if self.is_new:
            with clear_errors(f"--out {self.folder}"):
                self.lock = Lock(self.folder)
        self.boards.open(self.state.epoch if self.state else None)
        earlier = self.before.past() if self.before else []
        config = {"flags": self.config, "data": vars(data), **environment(), "earlier": earlier}
        write_json(self.folder / "config.json", _plain(config))
        with clear_errors(f"--out {self.folder}"):
            for name in (*UNFINISHED, "result.json", "diverged.json"):
                (self.folder / name).unlink(missing_ok=True)
            for name in LOGS:
                with open(self.folder / name, "ab") as file:
                    file.truncate(self.state.logs[name] if self.state else 0)

    def log(self, line: str) -> None:
        """Show a line on the console, on a terminal at its width, and keep it in train.log."""
        watched = sys.stdout.isatty()
        tqdm.write(report.fitted(line, shutil.get_terminal_size().columns) if watched else line)
        sys.stdout.flush()
        self._append("train.log", line + "\n")

    def record(self, steps: list[dict], epoch: dict, row: str) -> None:
        """Keep an epoch's numbers and show its row."""
        if not distributed.is_first():
            return
        self.known.append((epoch["conflict"], epoch["seconds"]))
        self._append("steps.jsonl", "".join(_json_line(step) for step in steps))
        self._append("epochs.jsonl", _json_line(epoch))
        self.log(row)
        self.boards.add(epoch["epoch"], _named(epoch))

    def save(self, name: str, state: dict[str, Any]) -> None:
        if distributed.is_first():
            with clear_errors(self.folder):
                logs = {log: (self.folder / log).stat().st_size for log in LOGS}
            tensors.write(self.folder / name, {**state, "config": self.config, "logs": logs})
        distributed.barrier()  # the others may read it

    def finish(self, selected: str, results: dict[str, dict], **measured: int | None) -> None:
        """Show and keep the scores, by rule; selected names the rule that counts.

        measured holds further fields of `Result`.
        """
        if not distributed.is_first():
            return
        for rule, scores in results.items():
            named = {f"result ({rule})/{name}": value for name, value in scores.items()}
            self.boards.add(scores["epoch"], named)
        self.boards.complete()
        for line in closing_lines(self.folder, selected, results, measured["stopped"]):
            self.log(line)
        with clear_errors(path := self.folder / "epochs.jsonl"):
            path.stat()  # a comparison reads it with the result
        result = {
            "selected": selected,
            "results": results,
            **measured,
            "conflict": report.mean(conflict for conflict, _ in self.known),
            "seconds_per_epoch": report.mean(seconds for _, seconds in self.known),
        }
        write_json(self.folder / "result.json", _plain(result))

    def note_divergence(self, reason: str) -> None:
        if distributed.is_first():
            write_json(self.folder / "diverged.json", {"reason": reason})

    def _append(self, name: str, text: str) -> None:
        with clear_errors(self.folder / name), open(self.folder / name, "ab") as file:
            file.write(text.encode(errors="backslashreplace"))  # paths need not be text
            file.flush()
            os.fsync(file.fileno())


class Finished(NamedTuple):
    """The files of a finished run, each read once."""

    config: Config
    result: Result


def closing_lines(
    folder: Path, selected: str, results: dict[str, dict], stopped: int | None
) -> list[str]:
    """Return a finished run's last lines: its results, and the command that looks into them."""
    path = from_here(folder / ("last.pt" if selected == "last" else "best.pt"))
    return [*report.result_lines(results, stopped), f"Evaluate {next_command('evaluate.py', path)}"]


def finished(folder: Path, config: dict[str, Any]) -> Finished | None:
    """Return the finished run in folder, None if there is none; UserError if its flags differ."""
    if not (folder / "result.json").exists():
        return None
    known = read_config(folder)
    check_flags(folder, known.flags, config)
    result = read_result(folder)
    done = int(result.results["last"]["epoch"])
    check_epochs(folder, done, config)
    return Finished(known, result) if result.stopped or done == config["epochs"] else None


def check_epochs(folder: Path, done: int, config: dict[str, Any]) -> None:
    if done > config["epochs"]:
        raise UserError(
            f"{folder} holds {done} epochs, --epochs says {config['epochs']}: give another --out"
        )


def check_flags(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if changes := options.changes(old, new):
        raise UserError(
            f"--resume: {folder} was trained with other flags ({'; '.join(changes)}): repeat its "
            "flags (config.json has its command), or give another --out"
        )


def _named(epoch: dict) -> dict[str, float]:
    """Return an epoch's numbers by its names on boards, as val/Acc, train/loss, train/gray/cos."""
    part = {name: epoch["split"] for name in epoch if name.startswith(("Acc", "F1", "split_"))}
    named = {f"{part.get(name, 'train')}/{name}": value for name, value in epoch.items()}
    for encoder, stats in epoch["encoders"].items():
        named |= {f"train/{encoder}/{field}": value for field, value in stats.items()}
    return {name: value for name, value in named.items() if isinstance(value, int | float)}


def _json_line(content: dict) -> str:
    return json.dumps(_plain(content), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Replace NaN and infinity by null, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
