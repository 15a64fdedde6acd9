"""A model as a run's checkpoint holds it, with the data it was trained on."""

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.samples import Data, Split, choosing_split
from ..models.fusions.base import Fusion
from ..system.errors import UserError
from . import checkpoint, devices, setup
from .options import check_data_root, from_config


class Trained(NamedTuple):
    """What a checkpoint is worth looking at with."""

    flags: Namespace  # of its training
    epoch: int
    data: Data
    model: Fusion
    device: torch.device
    chosen_on: str | None  # the split whose accuracies chose the epoch; of last.pt none did

    def part(self, name: str) -> Split:
        """The split that --part names."""
        if name not in self.data.splits:
            raise UserError(f"--part {name}: {self.data.name} has {', '.join(self.data.splits)}")
        return self.data.splits[name]


def load(path: Path, flags: Namespace) -> Trained:
    """Read best.pt or last.pt; flags say where to run (`device`, `gpu_ids`) and the `data_root`.

    Without a data_root the data is where the run found it.
    """
    state = checkpoint.read_state(path)
    own = from_config(state["config"], path)
    check_data_root(own.dataset, flags.data_root)
    own.data_root = flags.data_root or own.data_root
    own.pretrained = None  # the checkpoint holds the weights
    device = devices.pick_device(flags.device, flags.gpu_ids)
    data = setup.load_data(own)
    setup.check_data(data, state["data"], path)
    if data.identity != state["data"]["identity"]:
        print(
            f"WARNING: this is not the data that {path} was trained on, as it was then: its "
            "clips, their order, labels or files differ. These are no scores of that run.",
            flush=True,
        )
    setup.check_sizes(own, data, state["model"], path)
    model = setup.build_model(own, data)
    setup.load_weights(model, state["model"], path)
    model = devices.place(model, device, own.precision)
    chosen_on = None if "optimizer" in state else choosing_split(data.splits, own.select)
    return Trained(own, state["epoch"], data, model, device, chosen_on)
