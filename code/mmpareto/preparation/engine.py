"""Prepare a set clip by clip, in parallel; a later call goes on where the last one stopped."""

import multiprocessing
import shutil
import signal
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from ..data import recipes
from ..data.clips import ARRAYS, Clip, Problem, Raw, check_media, stored_kind
from ..data.layout import PROBLEMS, Spec, read_metadata
from ..data.recipes import RECIPE_OF
from ..data.samples import recipe_hash
from ..system.errors import UserError, printable
from ..system.lock import Lock
from ..system.paths import clear_errors
from ..system.processes import held_back
from ..system.tables import write_table
from .archives import members
from .arrays import Packs, common_shape, packed_bytes, packed_sources, raw_shapes
from .journal import Journal, ReadArchive, Tried
from .shared import SharedSounds
from .splits import make_splits, write_splits
from .tables import problem_rows, sweep, write_set
from .texts import Rows, Texts
from .worker import begin, convert_clip

SMALL = 50e3  # bytes of a picture or an array, generously
PATIENCE = 600  # seconds that one clip may take
# Workers are forked from a process that imports these once. That process does not look for modules
# where the program lies, so this package cannot be among them.
HEAVY = ["av", "cv2", "filelock", "pebble", "sklearn.utils", "soundfile", "torch", "torchaudio"]
HOPELESS = 50  # this many bad clips and no good one end the work early
BY_CHANCE = ("worker_died", "timeout")  # problems that may not occur in another try
REFUSED = "problems-of-last-call.csv"


def server() -> multiprocessing.context.BaseContext:
    """Start the process that workers are forked from, and return its context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    resource_tracker.ensure_running()  # the next call does this too, but then lets Ctrl-C in
    with held_back():
        forkserver.ensure_running()
    return context


@contextmanager
def _workers(count: int) -> Iterator[ProcessPool]:
    others = set(multiprocessing.active_children())
    pool = ProcessPool(count, context=server(), initializer=begin)
    try:
        yield pool
    finally:
        with held_back():
            pool.stop()
            # A worker that is still starting would print that the pool's locks are gone.
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            pool.join()


class Preparation:
    """Prepare a dataset of clips, for one call of prepare.py.

    flags has raw, out, workers, max_bad and the names of recipes, and allow_missing for datasets
    with lists.
    """

    def __init__(self, raw: Raw, flags: Namespace):
        self.raw, self.flags = raw, flags
        self.out, self.scratch = flags.out, flags.out / ".tmp"
        self.texts = Texts(raw, flags)
        self.recipe = recipes.named(vars(flags), raw.modalities, raw.lengths, raw.vocabularies)
        self.recipe |= raw.recipe | self.texts.recipe
        self.listed = {id for ids in raw.lists.values() for id in ids}
        self.wanted = self.listed - raw.left_out.keys() if raw.archives else set()
        # ids of this call; the set may hold others of earlier calls
        self.asked = self.wanted | {clip.id for clip in raw.clips}

    def run(self) -> None:
        """Check what can be checked, prepare what is missing, then write the set's tables."""
        raw, flags = self.raw, self.flags
        for name, kind in raw.modalities.items():
            if kind in ARRAYS:
                common_shape(name, raw_shapes(raw.clips, name))
        for note in raw.notes:
            print(printable(note), flush=True)
        paths = [source.path for clip in raw.clips for source in clip.sources.values()]
        check_media([*paths, *raw.archives], raw.hint)
        if not raw.clips and not raw.archives:
            raise UserError(f"--raw {flags.raw}: no clip found in it; {raw.hint}")
        twice = [id for id, n in Counter(clip.id for clip in raw.clips).items() if n > 1]
        if twice:
            raise UserError(
                f"--raw {flags.raw}: {len(twice)} clips found twice, first {twice[0]}: "
                "keep one file of each"
            )
        for name, listed in raw.lists.items():
            if lacking := {"train", "test"} - {part for part, _ in listed.values()}:
                what = f"split {name} has no clip for {' and '.join(sorted(lacking))}"
                raise UserError(f"--raw {flags.raw}: {what}: add some")
        if not raw.archives:
            self._check_lists({clip.id for clip in raw.clips})
        with clear_errors(f"--out {self.out}"):
            self._check_space(self._journal())  # writes nothing yet
            self.out.mkdir(parents=True, exist_ok=True)
            with Lock(self.out):
                self._run(self._journal())

    def _journal(self) -> Journal:
        return Journal(self.out, self.raw.dataset, self.recipe)

    def _run(self, journal: Journal) -> None:
        self._check_links()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        try:
            journal.start()
            self._convert_all(journal)
            self._check_bad(journal, finished=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted with {len(journal.good)} clips done; run the same command to go on"
            ) from None
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._finish(journal)

    def _check_links(self) -> None:
        """Raise UserError for a link among the places written to: it could lead anywhere."""
        folders = [self.out / name for name in self.raw.modalities]
        shards = [shard for folder in folders if folder.is_dir() for shard in folder.iterdir()]
        others = [self.scratch, self.out / "splits", self.out / "journal.jsonl"]
        for path in (*others, *folders, *shards):
            if path.is_symlink():
                raise UserError(f"{path}: is a link, which may lead out of the set: remove it")

    def _convert_all(self, journal: Journal) -> None:
        pending: dict[Future, Clip] = {}

        def collect(enough: int) -> None:
            while len(pending) > enough:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    clip = pending.pop(future)
                    journal.add(_result(future, clip))
                    for source in clip.sources.values():
                        if source.path.is_relative_to(self.scratch):  # out of an archive
                            source.path.unlink(missing_ok=True)
                    bar.update()
                    bar.set_postfix_str(f"{len(journal.bad)} bad")
                    self._check_bad(journal, finished=False)

        texts = self.texts.write(self.out)
        todo, unread = self._to_do(journal, texts), self._unread(journal)
        packs, sounds = Packs(todo, self.out), SharedSounds(todo, self.recipe, self.out)
        rows = {c.id: packs.rows(c) | sounds.rows(c) | texts[c.id] for c in todo}
        whole = [clip for clip in todo if rows[clip.id].keys() == clip.sources.keys()]
        journal.add(*(convert_clip(clip, self.recipe, self.out, rows[clip.id]) for clip in whole))
        todo = [clip for clip in todo if clip.id not in journal.good]
        if not todo and not unread:
            return  # starting workers takes longer than most small sets

        def clips() -> Iterator[Clip]:
            yield from todo
            for archive in unread:
                collect(0)
                yield from members(archive, self.raw.identify, journal.has_id, self.scratch)
                collect(0)
                journal.add(ReadArchive(archive.name, self._state(archive)))

        total, workers = len(self.asked), self.flags.workers
        done = min(len(journal.good), total)
        bar = tqdm(total=total, initial=done, unit="clip", disable=None)
        with _workers(workers) as pool, bar:
            try:
                for clip in clips():
                    task = clip, self.recipe, self.out, rows.get(clip.id, {})
                    with held_back():  # the first call starts the workers
                        future = pool.schedule(convert_clip, args=task, timeout=PATIENCE)
                    pending[future] = clip
                    collect(3 * workers)
                collect(0)
            except UserError:
                collect(0)  # an archive ended early; its clips so far are kept
                raise

    def _to_do(self, journal: Journal, texts: Rows) -> list[Clip]:
        """Return the clips to prepare; the journal forgets them, and clips no longer wanted."""
        todo = []
        for clip in self.raw.clips:
            if journal.has(clip):
                journal.relabel(clip, texts[clip.id])
            else:
                journal.forget(clip.id)
                todo.append(clip)
        if self.raw.is_whole:
            for id in journal.ids - self.asked:
                journal.forget(id)
        return todo

    def _unread(self, journal: Journal) -> list[Path]:
        """Return the archives that may hold clips to prepare or to try again."""
        archives = self.raw.archives
        reasons = {record.problem.reason for record in journal.bad.values() if record.problem}
        if archives and reasons.isdisjoint(BY_CHANCE) and all(map(journal.has_id, journal.good)):
            return [p for p in archives if journal.archives.get(p.name) != self._state(p)]
        return archives

    def _state(self, archive: Path) -> list:
        return [archive.stat().st_size, recipe_hash({"wanted": sorted(self.wanted)})]

    def _check_bad(self, journal: Journal, *, finished: bool) -> None:
        """Raise UserError for too many bad clips at the end, or if all fail at the start."""
        hopeless = not journal.good and len(journal.bad) >= HOPELESS
        if not finished and not hopeless:
            return
        asked, allowed = self.asked, self.flags.max_bad
        bad = [(id, r.problem) for id, r in sorted(journal.bad.items()) if id in asked]
        if hopeless or len(bad) > allowed * len(asked):
            reasons = Counter(problem.reason for _, problem in bad)
            told = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            raise UserError(
                f"{len(bad)} of {len(asked)} clips cannot be used ({told}), more than --max_bad "
                f"{allowed:g} allows; first {bad[0][0]}: {bad[0][1].detail}; all in "
                f"{self._write_problems(journal)}: repair or replace their files and run the same "
                "command again, or raise --max_bad"
            )

    def _check_lists(self, found: set[str]) -> None:
        missing = sorted(self.listed - found - self.raw.left_out.keys())
        if not missing:
            return
        told = (
            f"{len(missing)} of {len(self.listed)} listed clips "
            f"({len(missing) / len(self.listed):.1%}) have no raw files, first "
            f"{', '.join(missing[:10])}"
        )
        if not self.flags.allow_missing:
            raise UserError(f"--lists: {told}: get them, or give --allow_missing to leave them out")
        print(f"WARNING: {told}: they are left out", flush=True)

    def _check_space(self, journal: Journal) -> None:
        """Raise UserError if the disk is too small for the estimated size."""
        ids = self.asked - journal.good.keys()
        clips = [clip for clip in self.raw.clips if clip.id in ids]
        rows = sum(s.row is not None for clip in clips for s in clip.sources.values())
        needed = 0.0
        for name, kind in self.raw.modalities.items():
            sources = [s._replace(values=None) for clip in clips if (s := clip.sources.get(name))]
            needed += self._bytes_each(kind) * (len(ids) - len(sources) + len(set(sources)))
        needed += sum(packed_bytes(source) for _, source in packed_sources(clips)) - rows * SMALL
        folder = next(p for p in (self.out.absolute(), *self.out.absolute().parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if needed > free:
            smaller = ", or --frames 1fps" if "frames" in self.recipe else ""
            raise UserError(
                f"--out {self.out}: about {needed / 1e9:.2g} GB needed for {len(ids)} clips, "
                f"{free / 1e9:.2g} GB free: choose another disk{smaller}"
            )

    def _bytes_each(self, kind: str) -> float:
        """Return a generous estimate of the bytes of one clip's modality."""
        if kind == "audio":
            numbers = {"stft": 257 * 188, "fbank": 1024 * 128, "square112": 112 * 112}
            return 4 * numbers[self.recipe["audio"]["name"]]
        if RECIPE_OF.get(kind) == "frames":
            still = 40e3 if "short_side" in self.recipe["frames"] else 100e3
            return still * self.recipe["frames"].get("fps", 1) * self.raw.seconds
        if kind == "text":
            return 4 * self.flags.text_length
        return SMALL

    def _finish(self, journal: Journal) -> None:
        """Write the tables of the set, metadata.json last."""
        raw = self.raw
        good = [record for _, record in sorted(journal.good.items())]
        if raw.archives:
            self._check_lists(journal.ids)
        if not good:
            told = self._write_problems(journal)
            raise UserError(f"--raw {self.flags.raw}: no clip left; see {told}")
        specs = {}
        for name, kind in raw.modalities.items():
            own = [(r.id, r.modalities[name].shape) for r in good if name in r.modalities]
            if not own:
                told = self._write_problems(journal)
                raise UserError(f"--raw {self.flags.raw}: no clip left with {name}; see {told}")
            shape = common_shape(name, own)
            if kind == "text":
                specs[name] = self.texts.spec(shape)
                continue
            stored = stored_kind(kind, raw.lengths.get(name))
            specs[name] = Spec(stored, raw.vocabularies.get(name), list(shape) or None)
        before = None
        with suppress(UserError):  # no metadata yet, or damaged
            before = read_metadata(self.out)
        splits = make_splits(self.out, good, raw.lists, before, raw.held_out)
        for name in ("metadata.json", REFUSED):  # from here on the tables of the set change
            (self.out / name).unlink(missing_ok=True)
        write_splits(self.out, splits)
        journal.compact()
        sweep(self.out, specs, good)
        metadata = {"dataset": raw.dataset, "classes": raw.classes, "modalities": specs,
                    "recipe": self.recipe, "splits": splits.names,
                    "no_group_split": splits.no_group}  # fmt: skip
        rows = [raw.rows[record.id] for record in good if record.id in raw.rows]
        more = {"present.csv": rows, "vocabulary.txt": self.texts.words}
        write_set(self.out, metadata, good, self._problems(journal), more)

    def _write_problems(self, journal: Journal) -> Path:
        """Write the table of problems after a call that made no set; an older set keeps its own."""
        is_set = (self.out / "metadata.json").exists()
        path = self.out / (REFUSED if is_set else "problems.csv")
        write_table(path, PROBLEMS, self._problems(journal))
        return path

    def _problems(self, journal: Journal) -> list[dict[str, str]]:
        missing = dict.fromkeys(self.listed, Problem("", "missing", "in a list"))
        return problem_rows(journal, missing | self.raw.left_out)


def _result(future, clip: Clip) -> Tried:
    """Return the record of a clip whose conversion ended well or badly."""
    try:
        return future.result()
    except ProcessExpired as death:
        reason = f"exit code {death.exitcode}"
        if death.exitcode < 0:
            reason = signal.Signals(-death.exitcode).name
        problem = Problem("", "worker_died", f"its process ended by {reason}")
    except TimeoutError:
        problem = Problem("", "timeout", f"took more than {PATIENCE} s")
    return Tried(clip.id, clip.label, clip.group, {}, problem=problem)
