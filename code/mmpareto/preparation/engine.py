"""Preparing a set clip by clip: in parallel, atomically, and from where the last call stopped."""

import json
import multiprocessing
import os
import shutil
import signal
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, TimeoutError, wait
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from ..data import recipes
from ..data.clips import ARRAYS, Bad, Clip, Problem, Raw, check_media
from ..data.layout import FILES, MANIFEST, PROBLEMS, stills_column
from ..data.samples import recipe_hash
from ..system import tables
from ..system.errors import UserError, printable
from ..system.interrupts import held_back
from ..system.lock import Lock
from ..system.paths import clear_errors
from ..system.tables import quote_formula
from .archives import members
from .journal import Journal
from .media import load_array
from .splits import write_splits
from .tables import write_set
from .worker import begin, convert_clip

PATIENCE = 600  # seconds that one clip may take
# What workers import, imported once in the process that they are forked from. This package cannot
# be among it: that process does not look for modules where the program lies.
HEAVY = ["av", "cv2", "sklearn.utils", "soundfile", "torch", "torchaudio"]
HOPELESS = 50  # so many bad clips without a good one end the work early
BY_CHANCE = ("worker_died", "timeout")  # problems that another try may not have
REFUSED = "problems-of-last-call.csv"
STORED_KINDS = {"audio": "spectrogram"}  # by kind of the source, where it is another


def server() -> multiprocessing.context.BaseContext:
    """The process that workers are forked from, started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    resource_tracker.ensure_running()  # a part of the next call, which lets Ctrl-C in again
    with held_back():
        forkserver.ensure_running()
    return context


class Preparation:
    """One call of prepare.py for a dataset of clips.

    flags: raw, out, workers, max_bad and the names of recipes; allow_missing where there are lists.
    """

    def __init__(self, raw: Raw, flags: Namespace):
        self.raw, self.flags = raw, flags
        self.out, self.scratch = flags.out, flags.out / ".tmp"
        self.recipe = recipes.named(vars(flags), raw.modalities, raw.lengths, raw.vocabularies)
        self.modalities = {
            name: {"kind": STORED_KINDS.get(kind, kind)} for name, kind in raw.modalities.items()
        }
        for name, size in raw.vocabularies.items():
            self.modalities[name]["vocabulary"] = size

    def run(self) -> None:
        """Check what can be checked, prepare what is missing, then write the set's tables."""
        raw, flags = self.raw, self.flags
        for name, kind in raw.modalities.items():
            if kind in ARRAYS:
                _common_shape(name, _raw_shapes(raw.clips, name))
        for note in raw.notes:
            print(printable(note), flush=True)
        paths = [source.path for clip in raw.clips for source in clip.sources.values()]
        check_media([*paths, *raw.archives], raw.hint)
        if not raw.clips and not raw.archives:
            raise UserError(f"--raw {flags.raw}: no clip found in it; {raw.hint}")
        twice = [id for id, n in Counter(clip.id for clip in raw.clips).items() if n > 1]
        if twice:
            raise UserError(f"--raw {flags.raw}: {len(twice)} clips found twice, first {twice[0]}")
        for name, listed in raw.lists.items():
            if lacking := {"train", "test"} - {part for part, _ in listed.values()}:
                parts = " and ".join(sorted(lacking))
                raise UserError(
                    f"--raw {flags.raw}: split {name} has no clip for {parts}: add some"
                )
        if not raw.archives:
            self._check_lists({clip.id for clip in raw.clips} | raw.left_out.keys())
        with clear_errors(f"--out {self.out}"):
            self._check_space(self._journal())  # writes nothing yet
            self.out.mkdir(parents=True, exist_ok=True)
            with Lock(self.out):
                self._run(self._journal())

    def _journal(self) -> Journal:
        return Journal(self.out, self.raw.dataset, self.recipe)

    def _check_links(self) -> None:
        """UserError for a link where files are written, and removed: it could lead anywhere."""
        folders = [self.out / name for name in self.modalities]
        shards = [shard for folder in folders if folder.is_dir() for shard in folder.iterdir()]
        others = [self.scratch, self.out / "splits", self.out / "journal.jsonl"]
        for path in (*others, *folders, *shards):
            if path.is_symlink():
                raise UserError(f"{path}: is a link, which could lead out of the set: take it out")

    def _run(self, journal: Journal) -> None:
        self._check_links()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        try:
            journal.start()
            self._convert_all(journal)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted with {len(journal.good())} clips done; run the same command to go on"
            ) from None
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
            journal.close()
        self._finish(journal)

    def _convert_all(self, journal: Journal) -> None:
        todo = []
        for clip in self.raw.clips:
            if journal.has(clip):
                journal.relabel(clip)
            else:
                journal.forget(clip.id)
                todo.append(clip)
        if self.raw.is_whole:
            for id in journal.records.keys() - {clip.id for clip in self.raw.clips}:
                journal.forget(id)
        total = len(self._asked())
        batches: list[tuple[Path | None, Iterable[Clip]]] = [(None, todo)]
        again = bool(self.raw.archives) and self._lacks_some(journal)
        batches += [(path, self._extracted(path, journal, again)) for path in self.raw.archives]
        others = set(multiprocessing.active_children())
        pool = ProcessPool(self.flags.workers, context=server(), initializer=begin)
        pending = {}

        def collect(enough: int) -> None:
            while len(pending) > enough:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    clip = pending.pop(future)
                    journal.add(_result(future, clip))
                    self._forget_extracted(clip)
                    bar.update()
                    bar.set_postfix_str(f"{len(journal.bad_ids)} bad")
                    self._check_bad(journal, finished=False)

        done = min(len(journal.records) - len(journal.bad_ids), total)
        with tqdm(total=total, initial=done, unit="clip", disable=None) as bar:
            try:
                for archive, clips in batches:
                    for clip in clips:
                        with held_back():  # the first call starts the workers
                            future = pool.schedule(
                                convert_clip, args=[clip, self.recipe, self.out], timeout=PATIENCE
                            )
                        pending[future] = clip
                        collect(3 * self.flags.workers)
                    collect(0)
                    if archive:
                        journal.add_archive(archive.name, self._state(archive))
            except UserError:
                collect(0)  # an archive ended early; what came out of it is kept
                raise
            finally:
                with held_back():
                    pool.stop()
                    # One that is still coming up would find the pool's locks gone, and say so.
                    for process in set(multiprocessing.active_children()) - others:
                        process.kill()
                    pool.join()
        self._check_bad(journal, finished=True)

    def _extracted(self, archive: Path, journal: Journal, again: bool) -> Iterator[Clip]:
        """Clips of an archive, unless it was read to its end before."""
        if again or journal.archives.get(archive.name) != self._state(archive):
            yield from members(archive, self.raw.identify, journal.has_id, self.scratch)

    def _lacks_some(self, journal: Journal) -> bool:
        """Whether clips have lost files since, or might do better at a second try."""
        chance = any(r["problem"][1] in BY_CHANCE for r in journal.bad())
        return chance or not all(journal.has_id(r["id"]) for r in journal.good())

    def _state(self, archive: Path) -> list:
        return [archive.stat().st_size, recipe_hash({"wanted": sorted(self._wanted())})]

    def _listed(self) -> set[str]:
        return {id for ids in self.raw.lists.values() for id in ids}

    def _wanted(self) -> set[str]:
        return self._listed() - self.raw.left_out.keys()

    def _asked(self) -> set[str]:
        """The clips that this call is about; the set may hold more, of earlier calls."""
        in_archives = self._wanted() if self.raw.archives else set()
        return in_archives | {clip.id for clip in self.raw.clips}

    def _forget_extracted(self, clip: Clip) -> None:
        for source in clip.sources.values():
            if source.path.is_relative_to(self.scratch):
                source.path.unlink(missing_ok=True)

    def _check_bad(self, journal: Journal, *, finished: bool) -> None:
        """UserError for too many bad clips at the end, and where nothing works from the start."""
        hopeless = len(journal.records) == len(journal.bad_ids) >= HOPELESS
        if not finished and not hopeless:
            return
        asked = self._asked()
        bad = [record for record in journal.bad() if record["id"] in asked]
        if hopeless or len(bad) > self.flags.max_bad * len(asked):
            reasons = Counter(record["problem"][1] for record in bad)
            counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            path = self._write_problems(journal)
            raise UserError(
                f"{len(bad)} of {len(asked)} clips cannot be used ({counts}), more than --max_bad "
                f"{self.flags.max_bad:g} allows; first {bad[0]['id']}: {bad[0]['problem'][2]}; all "
                f"in {path}: mend or replace their files and run this again, "
                "or raise --max_bad"
            )

    def _check_lists(self, found: set[str]) -> None:
        listed = self._listed()
        missing = sorted(listed - found)
        if missing and not self.flags.allow_missing:
            raise UserError(
                f"--lists: {len(missing)} of {len(listed)} listed clips "
                f"({len(missing) / len(listed):.1%}) have no raw files, first "
                f"{', '.join(missing[:10])}: get them, or --allow_missing to go without"
            )

    def _check_space(self, journal: Journal) -> None:
        """UserError if the disk is too small for an estimate of what is to come."""
        clips = len(self._asked() - (journal.records.keys() - journal.bad_ids))
        needed = clips * sum(map(self._bytes_each, self.raw.modalities.values()))
        folder = next(p for p in (self.out.absolute(), *self.out.absolute().parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"--out {self.out}: about {needed / 1e9:.2g} GB needed for {clips} clips, "
                f"{free / 1e9:.2g} GB free: choose another disk"
                + (", or --frames 1fps" if "frames" in self.recipe else "")
            )

    def _bytes_each(self, kind: str) -> float:
        """A generous guess at what one clip's modality takes."""
        if kind == "audio":
            return {"stft": 257 * 188 * 4, "fbank": 1024 * 128 * 4}[self.recipe["audio"]["name"]]
        if kind == "frames":
            still = 40e3 if "short_side" in self.recipe["frames"] else 100e3
            return still * self.recipe["frames"].get("fps", 1) * self.raw.seconds
        return 50e3

    def _finish(self, journal: Journal) -> None:
        """The tables of the set; metadata.json last."""
        good = journal.good()
        if self.raw.archives:
            self._check_lists({r["id"] for r in (*good, *journal.bad())} | self.raw.left_out.keys())
        if not good:
            path = self._write_problems(journal)
            raise UserError(f"--raw {self.flags.raw}: no clip left; see {path}")
        for name in self.modalities:
            shapes = ((r["id"], r["modalities"][name]["shape"]) for r in good)
            if shape := _common_shape(name, shapes):
                self.modalities[name]["shape"] = list(shape)
        for name in ("metadata.json", REFUSED):  # from here on the tables of the set change
            (self.out / name).unlink(missing_ok=True)
        rows = [(r["id"], r["label"], r["group"]) for r in good]
        split_names = write_splits(self.out, rows, self.raw.lists)
        journal.compact()
        _sweep(self.out, self.modalities, good)
        metadata = {
            "dataset": self.raw.dataset,
            "classes": self.raw.classes,
            "modalities": self.modalities,
            "recipe": self.recipe,
            "splits": split_names,
            "counts": self._counts(journal),
        }
        files = [f for r in good for item in r["modalities"].values() for f in item["files"]]
        write_set(
            self.out,
            metadata,
            map(_manifest_row, good),
            [dict(zip(FILES, file, strict=True)) for file in files],
            self._problems(journal),
        )

    def _counts(self, journal: Journal) -> dict:
        good = journal.good()
        actions = Counter((row["action"], row["reason"]) for row in self._problems(journal))
        return {
            "clips": len(good),
            "per_class": dict(sorted(Counter(r["label"] for r in good).items())),
            "files": sum(len(i["files"]) for r in good for i in r["modalities"].values()),
            "bytes": sum(f[1] for r in good for i in r["modalities"].values() for f in i["files"]),
            "excluded": {k: n for (action, k), n in sorted(actions.items()) if action != "kept"},
            "doubtful": {k: n for (action, k), n in sorted(actions.items()) if action == "kept"},
        }

    def _write_problems(self, journal: Journal) -> Path:
        """For a call that ends without a set; a set that is there keeps its own table."""
        is_set = (self.out / "metadata.json").exists()
        path = self.out / (REFUSED if is_set else "problems.csv")
        tables.write_table(path, PROBLEMS, self._problems(journal))
        return path

    def _problems(self, journal: Journal) -> list[dict]:
        good, bad = journal.good(), journal.bad()
        rows = [(r["id"], "excluded", *r["problem"]) for r in bad]
        tried = {r["id"] for r in (*good, *bad)}
        left_out = {id: p for id, p in self.raw.left_out.items() if id not in tried}
        rows += [(id, "excluded", *problem) for id, problem in left_out.items()]
        known = tried | left_out.keys()
        missing = self._listed() - known
        rows += [(id, "excluded", "", "missing", "in a list") for id in missing]
        rows += [(r["id"], "kept", *doubt) for r in good for doubt in r["doubts"]]
        rows += [(id, "kept", *problem) for id, problem in _twins(good)]
        order = ("id", "action", "modality", "reason", "detail")
        # a detail may quote what a file says of itself
        rows = [(*row, quote_formula(printable(detail))) for *row, detail in sorted(rows)]
        return [dict(zip(order, row, strict=True)) for row in rows]


def _raw_shapes(clips: list[Clip], modality: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(id, shape) of a modality's arrays as they will be kept; reads no more than headers."""
    for clip in clips:
        source = clip.sources[modality]
        with suppress(Bad):  # told with the other bad clips
            shape = load_array(source).shape
            yield clip.id, shape if source.length is None else (source.length, *shape[1:])


def _common_shape(modality: str, shapes: Iterable[tuple[str, Sequence | None]]) -> tuple[int, ...]:
    """The shape of all (id, shape), () if they have none; UserError where two differ."""
    found: dict[tuple[int, ...], str] = {}
    for id, shape in shapes:
        found.setdefault(tuple(shape or ()), id)
        if len(found) > 1:
            (one, first), (other, second) = found.items()
            raise UserError(
                f"modality {modality}: {first} has shape {one}, {second} has {other}: give all "
                f"arrays one shape, or --length {modality}=N to pad or cut their first axis"
            )
    return next(iter(found), ())


def _result(future, clip: Clip) -> dict:
    """The record of a clip whose conversion has ended, however it ended."""
    record = {"id": clip.id, "label": clip.label, "group": clip.group, "sources": {}}
    try:
        return json.loads(json.dumps(future.result()))
    except ProcessExpired as death:
        reason = f"exit code {death.exitcode}"
        if death.exitcode < 0:
            reason = signal.Signals(-death.exitcode).name
        return {**record, "problem": ["", "worker_died", f"its process ended by {reason}"]}
    except TimeoutError:
        return {**record, "problem": ["", "timeout", f"took more than {PATIENCE} s"]}


def _manifest_row(record: dict) -> dict:
    row = {column: record[column] for column in MANIFEST}
    for name, item in record["modalities"].items():
        row[name] = item["path"]
        if item["stills"] is not None:
            row[stills_column(name)] = item["stills"]
    return row


def _sweep(out: Path, modalities: dict, good: list[dict]) -> None:
    """Remove what clips left behind that were bad this time, or killed before they were noted."""
    listed = {out / f[0] for r in good for item in r["modalities"].values() for f in item["files"]}
    for name in modalities:
        for folder, _, files in os.walk(out / name, topdown=False):
            for file in files:
                if Path(folder, file) not in listed:
                    Path(folder, file).unlink()
            with suppress(OSError):
                os.rmdir(folder)  # if it is empty


def _twins(good: list[dict]) -> list[tuple[str, Problem]]:
    """Clips whose raw file is another's, byte for byte, under another label."""
    first, twins = {}, []
    for record in good:
        for name, (*_, digest) in record["sources"].items():
            other = first.setdefault((name, digest), record) if digest else record
            if other["label"] != record["label"]:
                detail = f"same file as {other['id']}, labelled {other['label']}"
                twins.append((record["id"], Problem(name, "duplicate", detail)))
    return twins
