"""A run's folder: what is written where, and where a resumed run goes on."""

import json
import math
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import sklearn
import torch
import torchvision
from tqdm import tqdm

from . import __version__, checkpoint, options, report
from .errors import UserError
from .options import REPOSITORY

LOGS = ("train.log", "epochs.jsonl", "steps.jsonl")


class Run:
    """The folder of one run.

    config.json     flags, environment and command        last.pt     the state after the last epoch
    train.log       what the console shows                best.pt     the model of the best epoch
    epochs.jsonl    one line per epoch                    result.json the test scores, at the end
    steps.jsonl     one line per optimizer step
    """

    def __init__(self, folder: Path, config: dict[str, Any], resume: bool):
        """Check the folder against config; nothing is written before `start`."""
        self.folder, self.config = folder, config
        self.state: dict[str, Any] | None = None
        self.board = None
        blocker = next((p for p in (folder, *folder.parents) if p.exists()), None)
        if blocker is not None and not blocker.is_dir():
            raise UserError(f"--out {folder}: {blocker} is a file: give a folder")
        if config.get("use_tensorboard") and not find_spec("tensorboard"):
            raise UserError("--use_tensorboard needs a package: run pip install tensorboard")
        if resume and (folder / "last.pt").exists():
            self.state = checkpoint.read_state(folder / "last.pt")
            check_flags(folder, self.state["config"], config)
        elif folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()):
            if not resume:
                advice = "give another one, or --resume to go on"
            elif (folder / "config.json").exists():
                return  # stopped before its first checkpoint
            else:
                advice = "it holds no run to resume: give another one"
            raise UserError(f"--out {folder}: the folder is not empty: {advice}")

    def start(self, header: list[str]) -> None:
        """Create the folder, or cut its logs back to the last whole epoch; then log the header."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {self.folder}: cannot be created ({error.strerror})") from None
        for unfinished in self.folder.glob("*.tmp"):
            unfinished.unlink()
        (self.folder / "result.json").unlink(missing_ok=True)
        sizes = self.state["logs"] if self.state else {}
        for name in LOGS:
            with open(self.folder / name, "ab") as file:
                file.truncate(sizes.get(name, 0))
        if self.state:
            epoch = self.state["epoch"]
            header = [*header, f"Resumed after epoch {epoch}"]
        else:
            self._write_json("config.json", {"flags": self.config, **environment()})
        for line in header:
            self.log(line)
        if self.config["use_tensorboard"]:
            from torch.utils.tensorboard import SummaryWriter

            path = self.config["tensorboard_path"] or self.folder / "tensorboard"
            first = self.state["epoch"] + 1 if self.state else None
            self.board = SummaryWriter(path, purge_step=first)

    def log(self, line: str) -> None:
        """Show a line on the console and keep it in train.log."""
        tqdm.write(line)
        sys.stdout.flush()
        self._append("train.log", line + "\n")

    def record(self, steps: list[dict], epoch: dict, row: str) -> None:
        """Keep an epoch's numbers and show its row."""
        self._append("steps.jsonl", "".join(_json_line(step) for step in steps))
        self._append("epochs.jsonl", _json_line(epoch))
        self.log(row)
        if self.board:
            for name, value in _flat(epoch):
                self.board.add_scalar(name, value, epoch["epoch"])
            self.board.flush()

    def save(self, name: str, state: dict[str, Any]) -> None:
        logs = {log: (self.folder / log).stat().st_size for log in LOGS}
        checkpoint.write(self.folder / name, {**state, "config": self.config, "logs": logs})

    def finish(self, selected: str, results: dict[str, dict]) -> None:
        """Show and keep the test scores; selected names the rule whose scores are the result."""
        for line in report.result_lines(results):
            self.log(line)
        lines = (self.folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines]
        self._write_json(
            "result.json",
            {
                "selected": selected,
                "results": results,
                "conflict": report.mean(epoch["conflict"] for epoch in epochs),
                "seconds_per_epoch": report.mean(epoch["seconds"] for epoch in epochs),
            },
        )

    def _append(self, name: str, text: str) -> None:
        try:
            with open(self.folder / name, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(
                f"{self.folder / name}: cannot be written ({error.strerror}); checkpoints up to "
                "the last whole epoch are safe, go on with --resume"
            ) from None

    def _write_json(self, name: str, content: dict) -> None:
        text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
        checkpoint.write_atomically(self.folder / name, lambda file: file.write(text.encode()))


def finished(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of the finished run in folder, None without one; UserError if its flags differ."""
    if not (folder / "result.json").exists():
        return None
    check_flags(folder, read_json(folder / "config.json")["flags"], config)
    result = read_json(folder / "result.json")
    return result if result["results"]["last"]["epoch"] >= config["epochs"] else None


def check_flags(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if changes := options.changes(old, new):
        raise UserError(
            f"--resume: {folder} was trained with other flags ({'; '.join(changes)}): repeat its "
            "flags (config.json has its command), or give another --out"
        )


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}): is this the folder of a run?") from None


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its flags."""
    versions = {"mmpareto": __version__, "python": platform.python_version()}
    for module in (torch, torchvision, numpy, sklearn):
        versions[module.__name__] = module.__version__
    return {
        "versions": versions,
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "command": shlex.join(["python", *sys.argv]),
    }


def commit() -> str:
    """This repository's commit, "+changes" where files differ from it; "unknown" without git."""
    git = shutil.which("git")
    if not git or not (REPOSITORY / ".git").exists():
        return "unknown"

    def ask(*words: str) -> str:
        command = [git, "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return (ask("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changes else "")


def _flat(epoch: dict) -> list[tuple[str, float]]:
    """TensorBoard's names: val/Acc, train/loss..."""
    part = {name: epoch["split"] for name in epoch if name.startswith(("Acc", "F1"))}
    numbers = {name: value for name, value in epoch.items() if isinstance(value, int | float)}
    return [(f"{part.get(name, 'train')}/{name}", value) for name, value in numbers.items()]


def _json_line(content: dict) -> str:
    return json.dumps(_plain(content), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
