"""Reading and preparing clips, on synthetic ones with CREMA-D's names and containers."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..data.batches import ShuffledBatches, loader
from ..data.layout import manifest_columns, read_metadata
from ..data.recipes import named
from ..data.samples import to_device
from ..datasets.cremad import CREMAD
from ..system.tables import read_table
from .timing import compare, show_ratio

STAGES = {  # functions of a worker, in words
    "_stills": "decode frames", "_jpeg": "resize, JPEG", "_samples": "read sound",
    "spectrogram": "resample, STFT", "sha256": "hash raw files", "_store": "write, hash",
}  # fmt: skip


@contextmanager
def raw_clips(flags: Namespace) -> Iterator[tuple[Path, Path]]:
    """The raw clips that the flags ask for, and an empty folder to work in."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        raw = flags.raw or Path(folder, "raw")
        if flags.raw is None:
            from . import synthetic

            print(f"making {flags.clips} synthetic clips", flush=True)
            synthetic.write_cremad(raw, flags.clips)
        yield raw, Path(folder)


def measure_loader(flags: Namespace) -> None:
    """Clips a second of our reader and of a plain one, on clips made for it."""
    with raw_clips(flags) as (raw, folder):
        prepare(raw, folder / "ours", "3fps")
        prepare(raw, folder / "plain", "ogmge-1fps")  # stills of 480x360, as the field keeps them
        wanted = Namespace(dataset="cremad", data_root=folder / "ours", split="random")
        wanted.num_frames, wanted.image_size, wanted.crop = 2, 224, "still"
        split = CREMAD.load(wanted).splits["train"]
        order, epochs = ShuffledBatches(len(split), 64, seed=0), count()

        def ours() -> None:
            order.epoch = next(epochs)
            for inputs, *_ in loader(split, order, workers=flags.workers):
                to_device(inputs, torch.device("cpu"))

        reader = PlainReader(folder / "plain", {row["id"] for row in split.rows})

        def plain() -> None:
            for _ in DataLoader(
                reader, 64, shuffle=True, drop_last=True, num_workers=flags.workers
            ):
                pass

        seconds = compare({"plain": plain, "ours": ours}, flags.seconds)
    clips = len(split) // 64 * 64
    for name, times in seconds.items():
        each = median(times) / clips
        print(f"{name:8}{1e3 * each:8.2f} ms a clip  {1 / each:8.0f} clips/s")
    show_ratio(seconds, "plain", "ours")


class PlainReader(Dataset):
    """How the field reads a clip: two JPEG stills through PIL and torchvision, audio as .pt."""

    def __init__(self, root: Path, ids: set[str]):
        columns = manifest_columns(read_metadata(root).modalities)
        self.clips = []
        for row in read_table(root / "manifest.csv", columns):
            if row["id"] in ids:
                sound = root / f"{row['id']}.pt"
                torch.save(torch.from_numpy(np.load(root / row["audio"])), sound)
                self.clips.append((sorted((root / row["visual"]).iterdir()), sound))
        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        stills, sound = self.clips[index]
        chosen = [stills[0], stills[len(stills) // 2]]
        pictures = [self.transform(Image.open(path).convert("RGB")) for path in chosen]
        return torch.load(sound)[None], torch.stack(pictures)


def measure_prepare(flags: Namespace) -> None:
    """Clips a second of prepare.py with several workers and with one, and seconds of each stage."""
    with raw_clips(flags) as (raw, folder):
        numbers = count()
        jobs = {
            name: lambda workers=workers: prepare(raw, folder / f"{next(numbers)}", "3fps", workers)
            for workers, name in ((1, "1 worker"), (2, "2 workers"))
        }
        seconds = compare(jobs, flags.seconds)
        clips = len(CREMAD.collect(Namespace(raw=raw, lists=[])).clips)
        for name, times in seconds.items():
            print(
                f"{name:10}{median(times):8.1f} s  {clips / median(times):8.1f} clips/s, "
                "start and tables included"
            )
        show_ratio(seconds, "1 worker", "2 workers")
        show_stages(raw)


def show_stages(raw: Path) -> None:
    """Milliseconds of each stage of a clip, by this process's profiler."""
    import cProfile
    import pstats

    from ..preparation import worker

    found = CREMAD.collect(Namespace(raw=raw, lists=[]))
    recipe = named(CREMAD.recipes, found.modalities, {}, {})
    worker.begin()
    with tempfile.TemporaryDirectory() as out:
        Path(out, ".tmp").mkdir()
        clips = found.clips[:100]
        for clip in clips[:3]:
            worker.convert_clip(clip, recipe, Path(out), {})
        with cProfile.Profile() as profile:
            for clip in clips:
                worker.convert_clip(clip, recipe, Path(out), {})
    for (_, _, name), numbers in pstats.Stats(profile).stats.items():
        if name in STAGES:
            print(f"  {STAGES[name]:16}{1e3 * numbers[3] / len(clips):8.2f} ms a clip")


def prepare(raw: Path, out: Path, frames: str, workers: int = 2) -> None:
    from ..preparation.engine import Preparation

    flags = Namespace(raw=raw, out=out, frames=frames, audio="stft", workers=workers, max_bad=0.01)
    flags.lists, flags.allow_missing = [], False
    Preparation(CREMAD.collect(flags), flags).run()
