"""Arrays of different lengths become sequences, padded with NaN."""

import numpy as np
import pytest
from sets import error_of, prepare_set, rows

import verify
from mmpareto.preparation.arrays import before_padding
from mmpareto.run import options, setup

RAW = {"pose": [(4, 2), (7, 2), (9, 2)], "pulse": [(4,), (7,), (9,)]}
FLAGS = ["--length", "pose=7", "pulse=8"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    lines = ["id,label,pose,pulse"]
    for i in range(30):
        for name, shapes in RAW.items():
            np.save(root / f"{name}{i}.npy", np.random.default_rng(i).normal(9, 2, shapes[i % 3]))
        lines.append(f"c{i},{'ab'[i % 2]},pose{i}.npy,pulse{i}.npy")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_prepared_with_their_true_lengths(raw, tmp_path, capsys):
    out = tmp_path / "set"
    prepare_set("folder", raw, out, *FLAGS)
    verify.main([str(out), "--full"])
    for row in rows(out / "manifest.csv"):
        pose, pulse = (np.load(out / path) for path in row[3:])
        source = np.load(raw / f"pose{row[0][1:]}.npy")[:7]
        np.testing.assert_allclose(pose[: len(source)], source, rtol=1e-6)
        assert pose.shape == (7, 2) and np.isnan(pose[len(source) :]).all()
        assert pulse.shape == (8, 1) and np.isnan(pulse).sum() in (4, 1, 0)
    flags = options.parse(["--dataset", str(out), "--batch_size", "8"])
    assert {m.kind for m in setup.load_data(flags).modalities.values()} == {"sequence"}


def test_steps_before_the_padding():
    """NaN at the end is padding; before it, or in place of all steps, it is damage."""
    values = np.ones((3, 4, 2))
    values[0, 3:], values[1, 1:] = np.nan, np.nan
    assert before_padding(values).tolist() == [[1, 1]] * (3 + 1 + 4)
    for place in ((2, 1), (2, 3, 0), (1, 0)):
        wrong = values.copy()
        wrong[place] = np.nan
        assert np.isnan(before_padding(wrong)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "told"),
    [(np.zeros((0, 2)), "has no time steps, one or more expected"),
     (np.full((4, 2), np.nan), "holds NaN or infinite numbers")],
)  # fmt: skip
def test_refused(raw, tmp_path, values, told):
    path = raw / "pose3.npy"
    before = path.read_bytes()
    np.save(path, values)
    assert told in error_of("folder", raw, tmp_path / "set", *FLAGS)
    path.write_bytes(before)
