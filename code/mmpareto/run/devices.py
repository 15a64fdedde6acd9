"""Choose where a run computes: its device and its processes; place the model there."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

from ..core import distributed
from ..models.fusions.base import Fusion
from ..system.errors import UserError

# {number of dimensions: the memory format with channels last}
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pick_device(name: str, gpu_ids: str | None) -> torch.device:
    """Return the device to train on; warn about a GPU that cannot be used."""
    ids = [] if gpu_ids is None else [part.strip() for part in gpu_ids.split(",")]
    if len(ids) > 1:
        raise UserError(
            f"--gpu_ids {gpu_ids}: one process trains on one GPU: for a run on several GPUs, call "
            f"CUDA_VISIBLE_DEVICES={gpu_ids} sh script/distributed.sh; for several methods or "
            f"seeds, call code/compare.py --gpu_ids {gpu_ids}"
        )
    if ids and distributed.is_launched():
        raise UserError(
            f"--gpu_ids {gpu_ids}: torchrun gives every process its GPU: drop --gpu_ids, choose "
            f"with CUDA_VISIBLE_DEVICES={gpu_ids}"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    reason = "".join(f" ({str(w.message).splitlines()[0]})" for w in caught)
    if ids or name == "cuda" or (name == "auto" and usable):
        if not usable:
            raise UserError(
                f"--{'gpu_ids' if ids else 'device cuda'}: torch {torch.__version__} finds no "
                f"usable GPU{reason}: use --device cpu, or mend the driver"
            )
        if name not in ("auto", "cuda"):
            raise UserError(
                f"--gpu_ids chooses a CUDA GPU, but --device is {name}: drop one of these two flags"
            )
        count = torch.cuda.device_count()
        if ids and not (ids[0].isdecimal() and int(ids[0]) < count):
            raise UserError(
                f"--gpu_ids {gpu_ids}: expected a number below {count}, the number of GPUs here"
            )
        if distributed.is_launched():
            ids = [os.environ["LOCAL_RANK"]]
            if int(ids[0]) >= count:
                raise UserError(
                    f"process {ids[0]} of this machine finds {count} GPUs: start no more "
                    "processes than GPUs, or give --device cpu"
                )
        device = torch.device("cuda", int(ids[0]) if ids else torch.cuda.current_device())
        torch.cuda.set_device(device)
        return device
    mps = torch.backends.mps.is_available()
    if name == "mps" and not mps:
        raise UserError("--device mps: no Apple GPU is usable here: use --device cpu")
    if name == "auto" and any(Path("/dev").glob("nvidia[0-9]*")):
        print(
            f"WARNING: this machine has an NVIDIA GPU that torch {torch.__version__} cannot "
            f"use{reason}. TRAINING ON THE CPU.",
            flush=True,
        )
    return torch.device("mps" if name == "mps" or (name == "auto" and mps) else "cpu")


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held at once so far, in bytes.

    On a CUDA GPU it is what tensors took there, elsewhere the resident memory. Processes that load
    data are not counted. On Linux, neither are pages of files, such as torch's own code: a forked
    process has only those that it touches itself, so that they would tell how a run was started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # ru_maxrss would also count the program that has started this one
        status = Path("/proc/self/status").read_text()
        found = dict(re.findall(r"^(VmHWM|RssFile):\s*(\d+) kB", status, re.MULTILINE))
        return 1024 * (int(found["VmHWM"]) - int(found["RssFile"]))
    except (OSError, KeyError):  # not Linux
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of a run, as `distributed.joined` does."""
    try:
        with distributed.joined():
            yield
    except distributed.Lost as error:
        raise UserError(f"{error}; --resume goes on after the last whole epoch") from None


def seed_everything(seed: int, deterministic: bool) -> None:
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def place(model: Fusion, device: torch.device, precision: str) -> Fusion:
    """Move the model to device and precision; convolutions get the fastest memory format."""
    model.precision = precision
    # 1.5 times as fast in evaluation on a CPU, 3 times in training a small video net, and the fast
    # format of bfloat16 on a GPU
    is_channels_last = device.type == "cpu" or precision == "bf16"
    model = model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() in LAYOUTS:
            layout = LAYOUTS[tensor.dim()] if is_channels_last else torch.contiguous_format
            tensor.data = tensor.data.to(memory_format=layout)
    return model


def synchronised(model: Fusion, device: torch.device) -> Fusion:
    """Return the model with BatchNorm's statistics taken over the whole batch, of all processes."""
    if device.type != "cuda":
        raise UserError(f"--sync_bn works on CUDA GPUs only, not on {device}: drop --sync_bn")
    if not distributed.is_launched():
        raise UserError("--sync_bn acts only in several processes: use script/distributed.sh")
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
