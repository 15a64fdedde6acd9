"""A model as a run's checkpoint holds it, with the data it was trained on."""

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.samples import Data, choosing_split
from ..models.fusions.base import Fusion
from . import checkpoint, devices, setup
from .options import check_data_root, from_config


class Trained(NamedTuple):
    """What a checkpoint is worth looking at with."""

    options: Namespace  # the flags it was trained with
    epoch: int
    data: Data
    model: Fusion
    device: torch.device
    chosen_on: str | None  # the split whose accuracies chose the epoch; of last.pt none did


def load(path: Path, flags: Namespace) -> Trained:
    """Read best.pt or last.pt; flags say where to run (`device`, `gpu_ids`) and the `data_root`.

    Without a data_root the data is where the run found it.
    """
    state = checkpoint.read_state(path)
    options = from_config(state["config"], path)
    check_data_root(options.dataset, flags.data_root)
    options.data_root = flags.data_root or options.data_root
    options.pretrained = None  # the checkpoint holds the weights
    device = devices.pick_device(flags.device, flags.gpu_ids)
    data = setup.load_data(options)
    setup.check_data(data, state["data"], path)
    if data.identity != state["data"]["identity"]:
        print(
            f"WARNING: this is not the data that {path} was trained on, as it was then: its "
            "clips, their order, labels or files differ. These are no scores of that run.",
            flush=True,
        )
    setup.check_sizes(options, data, state["model"], path)
    model = setup.build_model(options, data)
    setup.load_weights(model, state["model"], path)
    model = devices.place(model, device, options.precision)
    chosen_on = None if "optimizer" in state else choosing_split(data.splits, options.select)
    return Trained(options, state["epoch"], data, model, device, chosen_on)
