"""Prepared sets of an enemy: nothing of them runs, leaves its folder, fills memory, or hangs."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
from bombs import ENDLESS, ESCAPE, Trap, huge_jpeg, huge_npy, sparse_npy
from damage import read_all, refused, told
from sets import error_of, rows

import train
import verify
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.paths import sha256

ARRAY = "pose/*/*.npy"
JPEG = "film/*/*/000000.jpg"
OUTSIDE = "a path inside the set expected"


def rewrite(folder, name, change):
    """Change a table's text, and have metadata.json agree with it, as an enemy would."""
    path = folder / name
    path.write_text(change(path.read_text()))
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["sha256"][name] = sha256(path)
    (folder / "metadata.json").write_text(json.dumps(metadata))


def pose_of(folder) -> str:
    """The path inside the set of a clip's array."""
    return next(cell for cell in rows(folder / "manifest.csv")[0] if cell.startswith("pose/"))


def pickled(folder):
    """An array that runs something when it is unpickled, and a list of files that knows of it."""
    path = pose_of(folder)
    trap = Trap(folder.parent / "sprung")
    np.save(folder / path, np.array([trap], dtype=object), allow_pickle=True)
    line = f"{path},{(folder / path).stat().st_size},{sha256(folder / path)}"
    rewrite(folder, "files.csv", lambda text: re.sub(f"(?m)^{path},.*$", line, text))


def named(path):
    """A path in the manifest."""

    def change(folder):
        secret = folder.parent / "secret.npy"
        np.save(secret, np.zeros(10, np.float32))
        new = path.format(outside=secret)
        rewrite(folder, "manifest.csv", lambda text: text.replace(pose_of(folder), new))

    return change


def linked(pattern, up=0):
    """A link that leads out, in the place of a file or of a folder that it is in."""

    def change(folder):
        path = next(folder.glob(pattern))
        for _ in range(up):
            path = path.parent
        path.rename(folder.parent / "elsewhere")
        path.symlink_to(folder.parent / "elsewhere")

    return change


def stated(field, value):
    """A field of metadata.json."""

    def change(folder):
        metadata = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps({**metadata, field: value}))

    return change


def listed(folder):
    """A file outside, in the list of files."""
    secret = folder.parent / "secret.npy"
    np.save(secret, np.zeros(3))
    line = f"../secret.npy,{secret.stat().st_size},{sha256(secret)}\n"
    rewrite(folder, "files.csv", lambda text: text + line)


def counted(folder):
    """More stills than there can be."""
    header, first, *others = (folder / "manifest.csv").read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("film.stills")] = "9" * 15
    text = "\n".join([header, ",".join(cells), *others]) + "\n"
    rewrite(folder, "manifest.csv", lambda _: text)


def put(pattern, make):
    """Something else in the place of a file."""

    def change(folder):
        path = next(folder.glob(pattern))
        path.unlink()
        make(path)

    return change


def row_of(make):
    """As the above; verify.py counts an array's rows before it looks at the file."""

    def change(folder):
        path = pose_of(folder)
        text = (folder / "manifest.csv").read_text()
        (folder / "manifest.csv").write_text(text.replace(path, f"{path}#0"))
        put(path, make)(folder)

    return change


def no_metadata(field):
    return (said := rf"no metadata of a prepared set \({field}\)"), said


# damage, what loading says (None: nothing), what verify.py says, whether it needs --full
TABLE = {
    "pickle": (pickled, "cannot be read", "array that does not load.*1 findings", True),
    **{
        f"path {path}": (named(path), OUTSIDE, "path outside the set.*findings", False)
        for path in ("../secret.npy", "pose/../../secret.npy", "{outside}", "")
    },
    **{
        f"link {pattern} {up}": (linked(pattern, up), "link", "link instead of a file.*findings", 0)
        for pattern, up in ((ARRAY, 0), (ARRAY, 1), (ARRAY, 2), (JPEG, 0))
    },
    **{
        f"metadata {field} {value}"[:60]: (stated(field, value), *no_metadata(field), False)
        for field, value in (
            ("splits", ["../../secret"]), ("splits", ["/etc/passwd"]), ("splits", [f"a{ESCAPE}"]),
            ("sha256", {"../secret": "0" * 64}), ("classes", ["cat", f"dog{ESCAPE}"]),
            ("classes", ["cat", "dog", "dog"]), ("modalities", {"..": {"kind": "frames"}}),
            ("modalities", {"pose": {"kind": "array", "shape": [10**9, 10**9]}}),
            ("modalities", {"text": {"kind": "tokens", "shape": [3], "vocabulary": 10**12}}),
        )
    },
    "list": (listed, None, "path outside the set: ../secret.npy.*findings", True),
    "stills": (counted, "cannot be read", "number of stills.*findings", False),
    "huge array": (put(ARRAY, huge_npy), "cannot be read", "findings", False),
    "sparse array": (put(ARRAY, sparse_npy), "cannot be read", "findings", False),
    "huge picture": (put(JPEG, huge_jpeg), "cannot be read", "findings", True),
    **{
        f"{make.__name__} {pattern}": (put(pattern, make), "", verified, True)
        for make in ENDLESS
        for pattern, verified in (
            ("metadata.json", ""), ("manifest.csv", ""), ("splits/*.csv", ""),
            (ARRAY, "findings"), (JPEG, "findings"),
        )
    },
    **{f"{make.__name__} row": (row_of(make), "", "findings", False) for make in ENDLESS},
}  # fmt: skip


@pytest.mark.parametrize(("change", "loading", "verified", "full"), TABLE.values(), ids=TABLE)
def test_refused(copy, memory, patience, capsys, change, loading, verified, full):
    change(copy)
    line = refused(read_all, copy)
    assert line is None if loading is None else re.search(loading, line)
    line = told(lambda: verify.check(copy, full=full))
    assert re.search(verified, capsys.readouterr().out + line, re.S)
    assert not (copy.parent / "sprung").exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_the_set_itself_may_be_a_link(copy):
    (copy.parent / "linked").symlink_to(copy)
    read_all(copy.parent / "linked")
    verify.check(copy.parent / "linked")


def test_samples_that_flags_ask_for(copy, memory):
    words = ["--dataset", str(copy), "--batch_size", "1", "--image_size", "100000"]
    line = told(lambda: load_data(options.parse(words)))
    assert "--image_size, --num_frames: a sample of film" in line


class TestWriting:
    """Nothing is written, or removed, where a link in a set or in a run's folder leads."""

    @pytest.fixture
    def elsewhere(self, tmp_path):
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        (folder / "precious").write_text("precious")
        yield folder
        assert [p.name for p in folder.iterdir()] == ["precious"]
        assert (folder / "precious").read_text() == "precious"

    @pytest.mark.parametrize("name", ["pose", "pose/*", ".tmp", "splits", "journal.jsonl"])
    def test_sets(self, raw, copy, elsewhere, name):
        path = next(copy.glob(name), copy / name)
        target = elsewhere
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            target = shutil.copy(path, elsewhere.parent / "journal")
            path.unlink()
        path.symlink_to(target)
        line = error_of("folder", raw, copy, "--vocabulary", "text=10")
        assert f"{path.name}: is a link" in line

    def test_runs(self, tmp_path, elsewhere):
        words = ["--dataset", "toy", "--encoder", "cnn", "--method", "uniform", "--out"]
        words += [str(tmp_path / "run"), "--limit_batches", "1", "--resume"]
        train.main([*words, "--epochs", "1"])
        log = tmp_path / "run/train.log"
        log.unlink()
        log.symlink_to(elsewhere / "precious")
        assert "train.log is a link" in told(train.main, [*words, "--epochs", "2"])
        log.unlink()
        log.write_bytes(bytes(10**5))
        (tmp_path / "run/config.json.tmp").symlink_to(elsewhere / "precious")
        train.main([*words, "--epochs", "2"])
