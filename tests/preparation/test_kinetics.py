"""Kinetics-Sounds from folders and from archives, and ModelNet40."""

import json
import shutil
import tarfile
from functools import cache

import pytest
from sets import SMALL, contents, error_of, journal_lines, prepare_set, rows

from mmpareto.benchmarks import synthetic
from mmpareto.datasets.kinetics_sounds import CLASSES as SOUNDS
from mmpareto.datasets.modelnet40 import CLASSES as OBJECTS


@pytest.fixture(scope="module")
def ids():
    return synthetic.kinetics_ids(12)


@pytest.fixture(scope="module")
def kinetics_lists(ids, tmp_path_factory):
    """Train names with start and end, test names with the start alone, as published."""
    folder = tmp_path_factory.mktemp("lists")
    train, test = [], []
    for i, (id, label) in enumerate(ids.items()):
        number = SOUNDS.index(label)
        if i % 3:
            train.append(f"{id},10,{number}\r\n")
        else:
            test.append(f"{id[:11]}_{int(id[12:18])},10,{number}\r\n")
    (folder / "my_train.txt").write_text("".join(train))
    (folder / "my_test.txt").write_text("".join(test))
    return folder


@pytest.fixture(scope="module", autouse=True)
def clips_made_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "kinetics_clip", cache(synthetic.kinetics_clip))
        yield


@pytest.fixture(scope="module")
def raw_folders(ids, tmp_path_factory):
    raw = tmp_path_factory.mktemp("kinetics") / "raw"
    synthetic.write_kinetics(raw, ids, seconds=1.0)
    return raw


@pytest.fixture(scope="module")
def from_folders(raw_folders, tmp_path_factory):
    """The set of folders named after classes, which are links; one leads in a circle."""
    folder = tmp_path_factory.mktemp("kinetics")
    (folder / "raw").mkdir()
    for path in raw_folders.iterdir():
        (folder / "raw" / path.name).symlink_to(path)
    (folder / "raw/loop").symlink_to(folder / "raw")
    prepare_set("kinetics_sounds", folder / "raw", folder / "set")
    return folder / "set"


class TestKinetics:
    def test_folders_named_after_classes(self, ids, from_folders):
        assert {row[0]: row[1] for row in rows(from_folders / "manifest.csv")} == ids
        assert sum(id.startswith("-") for id in ids) == 3
        metadata = json.loads((from_folders / "metadata.json").read_text())
        assert metadata["modalities"]["audio"]["shape"] == [1024, 128]

    def test_archive_with_lists(self, ids, kinetics_lists, from_folders, tmp_path):
        """Listed clips are kept, once each, under any path; AppleDouble twins and links are not."""
        path, out = tmp_path / "raw/part.tar", tmp_path / "set"
        path.parent.mkdir()
        more = [("notlisted_x_000000_000010", SOUNDS[0]), *ids.items(), *list(ids.items())[:3]]
        with tarfile.open(path, "w") as tar:
            for id, label in more:
                content = synthetic.kinetics_clip(id, label, 1.0)
                for name in (f"./._{id}.mp4", f"../../{id}.MP4"):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, synthetic.io.BytesIO(content))
            link = tarfile.TarInfo(f"{next(iter(ids))}.mp4")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        metadata = prepare_set("kinetics_sounds", path.parent, out, "--lists", kinetics_lists)
        assert metadata["splits"][0] == "custom"  # synthetic lists are nobody's
        assert {row[0]: row[1] for row in rows(out / "manifest.csv")} == ids
        assert dict(rows(out / "splits/custom.csv")).keys() == ids.keys()
        assert rows(out / "problems.csv") == [] and not list(out.rglob("*.mp4"))
        assert (from_folders / "files.csv").read_bytes() == (out / "files.csv").read_bytes()

    def test_archive_needs_lists(self, tmp_path):
        with tarfile.open(self.made(tmp_path / "raw") / "part_0.tar", "w"):
            pass
        assert "part_0.tar needs --lists" in error_of("kinetics_sounds", tmp_path / "raw", tmp_path)

    def test_files_that_are_no_clips_of_the_set(self, kinetics_lists, tmp_path):
        """The error names the place where it looked for labels: lists come before folders."""
        stray = self.made(tmp_path / "raw" / SOUNDS[0]) / "not_listed__000000_000010.mp4"
        stray.touch()
        message = error_of(
            "kinetics_sounds", tmp_path / "raw", tmp_path / "set", "--lists", kinetics_lists
        )
        assert message.endswith("YOUTUBEID_START_END.mp4 and in --lists")
        stray.rename(tmp_path / "raw" / stray.name)
        message = error_of("kinetics_sounds", tmp_path / "raw", tmp_path / "set")
        assert message.endswith("in a folder named after its class")

    def test_damage_and_second_chances(self, ids, kinetics_lists, tmp_path):
        """Clips before the cut are kept; the whole archive completes the set.

        It is read again for a clip that lost files or had bad luck.
        """
        path, out = tmp_path / "raw/part_0.tar.gz", tmp_path / "set"
        synthetic.write_kinetics_archive(path, ids, seconds=1.0)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        arguments = ("kinetics_sounds", tmp_path / "raw", out, "--lists", kinetics_lists)
        assert "part_0.tar.gz: is damaged or cut off after" in error_of(*arguments)
        assert journal_lines(out) > 2
        path.write_bytes(content)
        assert prepare_set(*arguments)["counts"]["clips"] == 12

        whole = contents(out)
        next(out.rglob("*.npy")).unlink()
        prepare_set(*arguments)
        assert contents(out) == whole
        journal = (out / "journal.jsonl").read_text().splitlines()
        entry = json.loads(journal[-1])
        bad = {"id": entry["id"], "label": entry["label"], "group": entry["group"], "sources": {}}
        bad["problem"] = ["", "worker_died", "its process ended by SIGKILL"]
        (out / "journal.jsonl").write_text("\n".join([*journal[:-1], json.dumps(bad)]) + "\n")
        prepare_set(*arguments)
        assert contents(out) == whole

    def test_part_by_part(self, ids, kinetics_lists, tmp_path):
        """The set grows with every part; without the others, listed clips are missing."""
        names = list(ids)
        out = tmp_path / "set"
        for part, chosen in enumerate((names[:6], names[6:])):
            raw = tmp_path / f"raw{part}"
            archive = {id: ids[id] for id in chosen}
            synthetic.write_kinetics_archive(raw / "part.tar.gz", archive, seconds=1.0)
        message = error_of("kinetics_sounds", tmp_path / "raw0", out, "--lists", kinetics_lists)
        assert "6 of 12 listed clips (50.0%) have no raw files" in message
        metadata = prepare_set("kinetics_sounds", tmp_path / "raw1", out, "--lists", kinetics_lists)
        assert metadata["counts"]["clips"] == 12

    def test_no_sound_track(self, raw_folders, from_folders, tmp_path):
        raw = shutil.copytree(raw_folders, tmp_path / "raw")
        out = shutil.copytree(from_folders, tmp_path / "set")
        silent = next(raw.rglob("*.mp4"))
        frames = synthetic.pictures(0, 31, 24, SMALL, synthetic.Random(0))
        synthetic.write_video(silent, frames, "libx264", None)
        prepare_set("kinetics_sounds", raw, out, "--max_bad", 0.1)
        (problem,) = rows(out / "problems.csv")
        assert problem[0] == silent.stem and problem[2:4] == ["excluded", "no_audio_stream"]

    @staticmethod
    def made(folder):
        folder.mkdir(parents=True)
        return folder


class TestModelNet:
    def test_views(self, tmp_path, capsys):
        """A view missing, numbers 0 to 11 instead of 1 to 12, upper-case endings, odd folders."""
        raw, out = tmp_path / "raw", tmp_path / "set"
        synthetic.write_modelnet(raw, OBJECTS[:3], {"train": 2, "test": 1})
        (raw / "bathtub/train/bathtub_0002.obj.shaded_v003.png").unlink()
        name, folder = "airplane_0001.obj.shaded_v{:03d}.png", raw / "airplane/train"
        for number in range(1, 13):
            (folder / name.format(number)).rename(folder / name.format(number - 1))
        sources = {path.name.lower(): path.read_bytes() for path in raw.rglob("*.png")}
        for path in (raw / "bed").rglob("*.png"):
            path.rename(path.with_suffix(".PNG"))
        (raw / "spoon").mkdir()
        metadata = prepare_set("modelnet40", raw, out)
        assert "3 of 40 classes; folders of no class: spoon" in capsys.readouterr().out
        assert metadata["counts"]["per_class"] == {"airplane": 2, "bathtub": 2, "bed": 3}
        assert metadata["splits"][0] == "official"
        assert [[row[0], row[3]] for row in rows(out / "problems.csv")] == [
            ["airplane_0001", "views_missing"], ["bathtub_0002", "views_missing"],
        ]  # fmt: skip
        for id, _, _, front, rear in rows(out / "manifest.csv"):
            for path, view in ((front, 1), (rear, 7)):
                assert (out / path).read_bytes() == sources[f"{id}.obj.shaded_v{view:03d}.png"]

    def test_one_part_only(self, tmp_path):
        synthetic.write_modelnet(tmp_path / "raw", OBJECTS[:2], {"train": 2, "test": 0})
        message = error_of("modelnet40", tmp_path / "raw", tmp_path / "set")
        assert "split official has no clip for test" in message

    def test_wrong_level(self, tmp_path):
        synthetic.write_modelnet(tmp_path / "a/raw", OBJECTS[:1], {"train": 1, "test": 1})
        message = error_of("modelnet40", tmp_path / "a", tmp_path / "set")
        assert f"did you mean {tmp_path / 'a/raw'}?" in message
