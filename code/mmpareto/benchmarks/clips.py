"""Reading and preparing clips, on synthetic ones with CREMA-D's names and containers."""

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..data.batches import ShuffledBatches, loader
from ..data.layout import manifest_columns, read_metadata
from ..data.recipes import named
from ..data.samples import to_device
from ..datasets.cremad import CREMAD
from ..system.flags import non_negative, positive
from ..system.tables import read_table
from .timing import compare, show_ratio


def add_flags(parser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--clips", type=positive(int), default=256, help="synthetic clips (default: %(default)s)")
    add("--raw", type=Path, metavar="DIR", help="raw CREMA-D clips to use instead")
    # fmt: on


def add_loader_flags(parser) -> None:
    add_flags(parser)
    parser.add_argument("--workers", type=non_negative(int), default=0,
                        help="processes of both readers (default: %(default)s)")  # fmt: skip


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
        time_loaders(raw, folder, flags)


def time_loaders(raw: Path, folder: Path, flags: Namespace) -> None:
    """Seconds for one training epoch of batches as the model takes them."""
    prepare(raw, folder / "ours", "3fps")
    prepare(raw, folder / "plain", "ogmge-1fps")  # stills of 480x360, as the field keeps them
    wanted = Namespace(dataset="cremad", data_root=folder / "ours", split="random")
    wanted.num_frames, wanted.image_size = 2, 224
    split = CREMAD.load(wanted).splits["train"]
    cpu = torch.device("cpu")

    def ours(epoch: int) -> int:
        order = ShuffledBatches(len(split), 64, seed=0)
        order.epoch = epoch
        count = 0
        for inputs, targets in loader(split, order, workers=flags.workers):
            count += len(targets)
            to_device(inputs, cpu)
        return count

    reader = PlainReader(folder / "plain", [row["id"] for row in split.rows])

    def plain(epoch: int) -> int:
        batches = DataLoader(reader, 64, shuffle=True, drop_last=True, num_workers=flags.workers)
        return sum(len(audio) for audio, _ in batches)

    seconds = compare({"plain": plain, "ours": ours}, flags.repeats)
    count = ours(0)
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:8}{1e3 * middle / count:8.2f} ms a clip  {count / middle:8.0f} clips/s")
    show_ratio(seconds, "plain", "ours")


class PlainReader(Dataset):
    """How the field reads a clip: two JPEG stills through PIL and torchvision, audio as .pt."""

    def __init__(self, root: Path, ids: list[str]):
        metadata = read_metadata(root)
        columns = manifest_columns(metadata.modalities)
        rows = read_table(root / "manifest.csv", columns)
        self.clips = []
        wanted = set(ids)
        for row in (row for row in rows if row["id"] in wanted):
            stills = [str(path) for path in sorted((root / row["visual"]).iterdir())]
            sound = root / f"{row['id']}.pt"
            torch.save(torch.from_numpy(np.load(root / row["audio"])), sound)
            self.clips.append((stills, sound))
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

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
        time_preparing(raw, folder, flags)
        show_stages(raw)


def time_preparing(raw: Path, folder: Path, flags: Namespace) -> None:
    """Seconds of whole prepare.py calls."""
    clips = len(CREMAD.collect(Namespace(raw=raw, lists=[])).clips)
    number = iter(range(1000))

    def with_workers(workers: int) -> Callable[[int], None]:
        return lambda epoch: prepare(raw, folder / f"{next(number)}", "3fps", workers=workers)

    seconds = compare({"1 worker": with_workers(1), "2 workers": with_workers(2)}, flags.repeats)
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:10}{middle:8.1f} s  {clips / middle:8.1f} clips/s, start and tables included")
    show_ratio(seconds, "1 worker", "2 workers")


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
            worker.convert_clip(clip, recipe, Path(out))
        profile = cProfile.Profile()
        profile.enable()
        for clip in clips:
            worker.convert_clip(clip, recipe, Path(out))
        profile.disable()
    stages = {"_stills": "decode frames", "_jpeg": "resize, JPEG", "_samples": "read sound",
              "spectrogram": "resample, STFT", "sha256": "hash raw files",
              "_store": "write, hash"}  # fmt: skip
    for (_, _, name), numbers in pstats.Stats(profile).stats.items():
        if name in stages:
            print(f"  {stages[name]:16}{1e3 * numbers[3] / len(clips):8.2f} ms a clip")


def prepare(raw: Path, out: Path, frames: str, workers: int = 2) -> None:
    from ..preparation.engine import Preparation

    flags = Namespace(raw=raw, out=out, frames=frames, audio="stft", workers=workers, max_bad=0.01)
    flags.lists, flags.allow_missing = [], False
    Preparation(CREMAD.collect(flags), flags).run()
