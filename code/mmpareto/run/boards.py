"""Numbers of a run for people to watch: TensorBoard, Weights & Biases, or both, by one name."""

import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Any

from ..system.errors import UserError, reason
from ..system.paths import clear_errors

PACKAGES = {"use_tensorboard": "tensorboard", "use_wandb": "wandb"}


class Boards:
    """What --use_tensorboard and --use_wandb ask for; without both it does nothing.

    folder: the run's, in which Weights & Biases keeps its files, and wandb.id the run's id there.
    config: the run's flags. UserError if a package is missing.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder, self.config = folder, config
        self.path = config.get("tensorboard_path") or folder / "tensorboard"
        self.tensorboard: Any = None  # a SummaryWriter
        self.wandb: Any = None  # a wandb.Run
        for flag, package in PACKAGES.items():
            if config.get(flag) and not find_spec(package):
                raise UserError(f"--{flag} needs a package: run pip install {package}")

    def open(self, done: int | None) -> None:
        """Begin, or go on after the epochs done; the folder exists."""
        if self.config.get("use_tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            first = done and done + 1
            with clear_errors(f"--tensorboard_path {self.path}"):
                self.tensorboard = SummaryWriter(self.path, purge_step=first)
        if self.config.get("use_wandb"):
            self._open_wandb()

    def _open_wandb(self) -> None:
        import wandb

        file = self.folder / "wandb.id"
        with clear_errors(file):
            known = file.read_text(encoding="utf-8") if file.exists() else None
        try:
            self.wandb = wandb.init(
                project="mmpareto", name=self.folder.name, id=known, resume="allow",
                dir=self.folder, config=self.config,
                reinit="create_new", settings=wandb.Settings(console="off"),
            )  # fmt: skip
        except wandb.Error as error:
            if not known:
                rmtree(self.folder / "wandb", ignore_errors=True)
            raise UserError(
                f"--use_wandb cannot begin ({reason(error)}): run wandb login, or set "
                "WANDB_MODE=offline"
            ) from None
        # A result belongs to the epoch it was reached in, which may be an earlier one.
        self.wandb.define_metric("*", step_metric="epoch")
        with clear_errors(file):
            file.write_text(self.wandb.id, encoding="utf-8")

    def add(self, epoch: int, values: dict[str, float]) -> None:
        """Show values, {name: number}, at an epoch."""
        if self.tensorboard:
            # an error of the writer's thread is raised by the next call
            with clear_errors(f"--tensorboard_path {self.path}"):
                for name, value in values.items():
                    self.tensorboard.add_scalar(name, value, epoch)
                self.tensorboard.flush()
        if self.wandb:
            self.wandb.log({**values, "epoch": epoch})

    def complete(self) -> None:
        """Close TensorBoard's files; all has been added."""
        if self.tensorboard:
            with clear_errors(f"--tensorboard_path {self.path}"):
                self.tensorboard.close()

    def close(self) -> None:
        """End the run of Weights & Biases, as failed if an exception is on its way."""
        if self.wandb:
            self.wandb.finish(exit_code=int(sys.exc_info()[0] is not None))
            self.wandb = None
