"""Rows of packed arrays stay packed in the set: few files, the same samples."""

import re

import numpy as np
import pytest
from sets import contents, prepare_set, rows

import verify
from mmpareto.data.layout import read_metadata
from mmpareto.data.lists import read_manifest
from mmpareto.data.reading import Array
from mmpareto.datasets.shared import prepared
from mmpareto.datasets.shared.prepared import PreparedSplit
from mmpareto.preparation import arrays
from mmpareto.system.errors import UserError

COUNT = 12


@pytest.fixture
def raw(tmp_path):
    """Twelve clips: a row of one array, a row of another in turned order, and four tokens."""
    root = tmp_path / "raw"
    root.mkdir()
    pose = np.random.default_rng(0).normal(size=(COUNT + 1, 2, 3))
    pose[COUNT] = np.nan  # no clip uses it
    np.save(root / "pose.npy", pose)
    np.save(root / "sound.npy", pose[:COUNT, 0].astype(np.float16))
    np.save(root / "text.npy", np.arange(4 * COUNT).reshape(COUNT, 4) % 9)
    lines = ["id,label,pose,sound,text:tokens"]
    lines += [
        f"c{i:02},{'ab'[i % 2]},pose.npy#{i},sound.npy#{COUNT - 1 - i},text.npy#{i}"
        for i in range(COUNT)
    ]
    (root / "clips.csv").write_text("\n".join(lines))
    return root


FLAGS = ("--vocabulary", "text=9", "--length", "text=5")


def samples(out, share, monkeypatch):
    monkeypatch.setattr(prepared, "SHARE", share)
    metadata = read_metadata(out)
    readers = {"pose": Array((2, 3)), "sound": Array((3,)), "text": Array((5,), np.int64)}
    found = list(read_manifest(out, metadata).values())
    split = PreparedSplit(out, found, readers, {"a": 0, "b": 1})
    assert split.hold() == bool(share)
    return split.read([7, 2, 11])[0]


def test_few_files_and_the_same_samples(raw, tmp_path, monkeypatch):
    """Held or streamed, read in blocks of two rows, and prepared by no worker."""
    monkeypatch.setattr(arrays, "BLOCK", 12)
    monkeypatch.setattr("mmpareto.preparation.engine._workers", None)
    out = tmp_path / "set"
    assert prepare_set("folder", raw, out, *FLAGS)["counts"]["files"] == 3
    assert len([path for path in contents(out) if path.endswith(".npy")]) == 3
    pose, sound, text = (np.load(raw / f"{name}.npy") for name in ("pose", "sound", "text"))
    for share in (1, 0):
        found = samples(out, share, monkeypatch)
        for place, i in enumerate((7, 2, 11)):
            assert np.array_equal(found["pose"][place], pose[i].astype(np.float32))
            assert np.array_equal(found["sound"][place], sound[COUNT - 1 - i].astype(np.float32))
            assert found["text"][place].tolist() == [*text[i], 0]


def test_a_bad_row_excludes_its_clip_alone(raw, tmp_path):
    """So does a row that the file does not have; repeated and repaired, it is as made anew."""
    text, pose, out = (raw / "clips.csv").read_text(), np.load(raw / "pose.npy"), tmp_path / "set"
    good = pose.copy()
    pose[3, 1, 2] = np.inf
    np.save(raw / "pose.npy", pose)
    (raw / "clips.csv").write_text(text.replace("text.npy#5", "text.npy#99"))
    prepare_set("folder", raw, out, *FLAGS, "--max_bad", 0.5)
    assert [row[:4] for row in rows(out / "problems.csv")] == [
        ["c03", "pose", "excluded", "not_finite"],
        ["c05", "text", "excluded", "unreadable"],
    ]
    verify.check(out, full=True)
    np.save(raw / "pose.npy", good)
    (raw / "clips.csv").write_text(text)
    prepare_set("folder", raw, out, *FLAGS)
    prepare_set("folder", raw, tmp_path / "anew", *FLAGS)
    assert contents(out) == contents(tmp_path / "anew")


def test_killed_before_the_tables(raw, tmp_path):
    out = tmp_path / "set"
    prepare_set("folder", raw, out, *FLAGS)
    before = contents(out)
    lines = before["journal.jsonl"].splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:30])
    (out / "metadata.json").unlink()
    (out / "pose/left.npy").write_bytes(b"half")
    prepare_set("folder", raw, out, *FLAGS)
    assert contents(out) == before


def test_verify_reads_the_rows_in_use(raw, tmp_path, capsys):
    out = tmp_path / "set"
    prepare_set("folder", raw, out, *FLAGS)
    manifest = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(re.sub(r"(pose/\w+\.npy)#7,", r"\1#12,", manifest))
    with pytest.raises(UserError):
        verify.check(out)
    assert "array with NaN or infinite numbers: pose/" in capsys.readouterr().out
