"""Prepared sets of an enemy: nothing of them runs, leaves its folder, fills memory, or hangs."""

import builtins
import io
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from bombs import ENDLESS, ESCAPE, Trap, huge_jpeg, huge_npy, put, sparse_npy
from damage import forbid, load, look_at, refused, told
from sets import error_of

import train
import verify
from mmpareto.system.paths import sha256

POSE = "pose/33/clip-0.npy"
STILL = "film/33/clip-0/000000.jpg"
OUTSIDE = "a path inside the set expected"


def rewritten(folder, name, old, new):
    """Change a table's text, and have metadata.json agree with it, as an enemy would."""
    path = folder / name
    path.write_text(re.sub(old, new.format(outside=folder.parent), path.read_text(), count=1))
    sums = json.loads((folder / "metadata.json").read_text())["sha256"]
    stated(folder, "sha256", {**sums, name: sha256(path)})


def stated(folder, field, value):
    """A field of metadata.json."""
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, field: value}))


def pickled(folder):
    """An array that runs something when it is unpickled, and a list of files that knows of it."""
    trap = np.array([Trap(folder.parent / "sprung")], dtype=object)
    np.save(folder / POSE, trap, allow_pickle=True)
    line = f"{POSE},{(folder / POSE).stat().st_size},{sha256(folder / POSE)}"
    rewritten(folder, "files.csv", f"(?m)^{POSE},.*$", line)


def named(folder, path):
    """A path in the manifest."""
    np.save(folder.parent / "secret.npy", np.zeros(10, np.float32))
    rewritten(folder, "manifest.csv", POSE, path)


def listed(folder):
    """A file outside, in the list of files."""
    secret = folder.parent / "secret.npy"
    np.save(secret, np.zeros(3))
    line = f"../secret.npy,{secret.stat().st_size},{sha256(secret)}\n"
    rewritten(folder, "files.csv", r"\Z", line)


def linked(folder, path):
    """A link that leads out, in the place of a file or a folder."""
    (folder / path).rename(folder.parent / "elsewhere")
    (folder / path).symlink_to(folder.parent / "elsewhere")


def row_of(folder, make):
    """As put; verify.py counts an array's rows before it looks at the file."""
    named(folder, f"{POSE}#0")
    put(folder, POSE, make)


LINK = "link instead of a file.*findings"
STATED = [
    ("splits", ["../../secret"]), ("splits", ["/etc/passwd"]), ("splits", [f"a{ESCAPE}"]),
    ("sha256", {"../secret": "0" * 64}), ("classes", ["cat", f"dog{ESCAPE}"]),
    ("classes", ["cat", "dog", "dog"]), ("modalities", {"..": {"kind": "frames"}}),
    ("modalities", {"pose": {"kind": "array", "shape": [10**9, 10**9]}}),
    ("modalities", {"text": {"kind": "tokens", "shape": [3], "vocabulary": 10**12}}),
    ("modalities", {"text": {"kind": "tokens", "shape": [3], "vocabulary": 9, "pad": 9}}),
]  # fmt: skip
# damage and what it is given; what loading says (None: nothing), what verify.py says; whether it
# needs --full
TABLE = [
    (pickled, (), "cannot be read", "array that does not load.*1 findings", True),
    *(
        (named, (path,), OUTSIDE, "path outside the set.*findings", False)
        for path in ("../secret.npy", "pose/../../secret.npy", "{outside}/secret.npy", "")
    ),
    *((linked, (path,), "link", LINK, False) for path in (POSE, "pose/33", "pose", STILL)),
    *(
        (stated, (field, value), *[rf"no metadata of a prepared set \({field}\)"] * 2, False)
        for field, value in STATED
    ),
    (listed, (), None, "path outside the set: ../secret.npy.*findings", True),
    # more stills than there can be
    (rewritten, ("manifest.csv", ",1,voice", f",{'9' * 15},voice"), "cannot be read",
     "number of stills.*findings", False),
    (put, (POSE, huge_npy), "cannot be read", "findings", False),
    (put, (POSE, sparse_npy), "cannot be read", "findings", False),
    (put, (STILL, huge_jpeg), "cannot be read", "findings", True),
    *(
        (put, (path, make), "", "findings" if path in (POSE, STILL) else "", True)
        for path in ("metadata.json", "manifest.csv", "splits/group.csv", POSE, STILL)
        for make in ENDLESS
    ),
    *((row_of, (make,), "", "findings", False) for make in ENDLESS),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "given", "loading", "verified", "full"), TABLE)
def test_refused(copy, guarded, capsys, damage, given, loading, verified, full):
    damage(copy, *given)
    line = refused(look_at, copy)
    assert line is None if loading is None else re.search(loading, line)
    line = told(lambda: verify.check(copy, full=full))
    assert re.search(verified, capsys.readouterr().out + line, re.S)


@pytest.mark.parametrize("path", ["metadata.json", "manifest.csv", POSE, STILL])
def test_files_that_may_not_be_read(copy, monkeypatch, capsys, path):
    for module, function in (os, "stat"), (builtins, "open"), (io, "open"):
        forbid(monkeypatch, module, copy / path, function)
    line = told(verify.check, copy)
    assert f"{copy / path}" in line or f"unreadable file: {path} (Perm" in capsys.readouterr().out
    assert "Permission denied" in line or "1 findings" in line


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_the_set_itself_may_be_a_link(copy):
    (copy.parent / "linked").symlink_to(copy)
    look_at(copy.parent / "linked")
    verify.check(copy.parent / "linked")


def test_samples_that_flags_ask_for(copy, guarded):
    line = told(load, copy, "--image_size", "100000")
    assert "--image_size, --num_frames: a sample of film" in line


@pytest.fixture
def elsewhere(tmp_path):
    """Where a link in a set or in a run's folder leads: nothing is written there, or removed."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    yield folder
    assert [p.name for p in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["pose", "pose/33", ".tmp", "splits", "journal.jsonl"])
def test_preparing_over_a_link(raw, copy, elsewhere, name):
    path = copy / name
    target = elsewhere
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        target = path.rename(elsewhere.parent / "journal")
    path.symlink_to(target)
    line = error_of("folder", raw, copy, "--vocabulary", "text=10")
    assert f"{path.name}: is a link" in line


def test_training_over_a_link(tmp_path, elsewhere):
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
