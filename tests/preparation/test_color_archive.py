"""The import of coloured MNIST: MNIST's order is checked, and no pickle runs anything."""

import os
import pickle

import numpy as np
import pytest
import torch
from sets import error_of, prepare_set, rows
from test_data import write_mnist

from mmpareto.datasets.cgmnist import read_mnist
from mmpareto.preparation.pickled import read_arrays
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError

HEADER = b"\x93NUMPY\x01\x00\x76\x00%-117b\n" % (
    b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
)
COLORS = np.random.default_rng(0).integers(40, 255, (10, 3))


def save(path, content):
    """As the archive's files were written: a dict inside an object array, pickled."""
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


class TestPickle:
    def test_arrays_come_back(self, tmp_path):
        content = {"train_label": np.arange(5), "train_image": np.ones((2, 3), np.uint8)}
        save(tmp_path / "a.npy", content)
        found = read_arrays(tmp_path / "a.npy")
        assert found.keys() == content.keys()
        assert all(np.array_equal(found[name], content[name]) for name in content)

    @pytest.mark.parametrize("protocol", range(2, 6))
    @pytest.mark.parametrize("old", [False, True])
    def test_however_it_was_written(self, tmp_path, protocol, old):
        """Of any protocol, by numpy 1 or 2, in any order of axes and bytes."""
        content = {
            "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "b": np.arange(5, dtype=">i4"),
            "c": np.ones((1, 3), bool),
            "d": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        }
        path = tmp_path / "a.npy"
        text = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
        if old and protocol < 4:  # later ones note the length of names
            text = text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        path.write_bytes(HEADER + text)
        found = read_arrays(path)
        for name, values in content.items():
            assert np.array_equal(found[name], values) and found[name].dtype == values.dtype

    def test_as_python_2_has_written_it(self, tmp_path):
        """Bytes and text are one there, and come back as text."""

        class Old:
            def __reduce__(self):
                make, arguments, state = np.array([200, 7], "u1").__reduce__()
                return make, arguments, (*state[:4], state[4].decode("latin-1"))

        content = pickle.dumps(np.array({"a": Old()}, dtype=object), protocol=2)
        (tmp_path / "a.npy").write_bytes(HEADER + content)
        assert read_arrays(tmp_path / "a.npy")["a"].tolist() == [200, 7]

    @pytest.mark.parametrize("kind", ["O", "O,i4", "(2,)O"])
    def test_no_bytes_become_addresses(self, tmp_path, kind):
        """numpy would take them for objects, and the process die, or worse."""

        class Call:
            def __init__(self, *call):
                self.call = call

            def __reduce__(self):
                return self.call[0], self.call[1:]

        size = np.dtype(kind).itemsize
        forged = Call(np.ndarray, (), Call(np.dtype, kind), b"A" * size)
        (tmp_path / "a.npy").write_bytes(HEADER + pickle.dumps(forged))
        with pytest.raises(UserError, match="is no pickled dict of arrays"):
            read_arrays(tmp_path / "a.npy")

    def test_nothing_runs(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        save(tmp_path / "a.npy", {"train_label": Evil()})
        with pytest.raises(UserError, match=r"it calls posix\.mkdir, which no array needs"):
            read_arrays(tmp_path / "a.npy")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", pickle.dumps({})])
    def test_no_such_file(self, tmp_path, content):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(UserError, match="is no pickled dict of arrays"):
            read_arrays(tmp_path / "a.npy")

    def test_plain_array(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones(3))
        with pytest.raises(UserError, match="is no pickled dict of arrays"):
            read_arrays(tmp_path / "a.npy")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """MNIST's layout and size, with one bright row for each digit."""
    return write_mnist(tmp_path_factory.mktemp("jitter"))


@pytest.fixture(scope="module")
def content(raw):
    """Every digit times the colour of its label."""
    made = {}
    for part in ("train", "test"):
        digits, labels = (values.numpy() for values in read_mnist(raw, train=part == "train"))
        colored = digits[..., None] * (COLORS[labels] / 255)[:, None, None]
        made[f"{part}_image"], made[f"{part}_label"] = colored.astype(np.uint8), labels
    made["test_gray"] = digits
    return made


@pytest.mark.slow
def test_import(raw, content, tmp_path):
    save(raw / "mnist_10color_jitter_var_0.030.npy", content)
    metadata = prepare_set("cgmnist", raw, tmp_path / "set")
    assert rows(tmp_path / "set/problems.csv") == []
    np.testing.assert_allclose(metadata["recipe"]["palette"], COLORS / 255, atol=0.005)
    data = load_data(options.parse(["--dataset", str(tmp_path / "set")]))
    assert {k: len(s) for k, s in data.splits.items()} == {
        "train": 55000,
        "val": 5000,
        "test": 10000,
    }
    assert data.modalities["color"].shape == (3, 28, 28)
    inputs, targets = data.splits["val"].read([0, 4999], draw=3)
    assert targets.tolist() == content["train_label"][[55000, 59999]].tolist()
    expected = content["train_image"][[55000, 59999]].transpose(0, 3, 1, 2) / 255
    torch.testing.assert_close(inputs["color"], torch.from_numpy(expected).float())
    assert inputs["gray"].max() == 1
    (tmp_path / "set/metadata.json").unlink()  # as after an interruption
    (tmp_path / "set/color.npy.tmp").touch()
    assert prepare_set("cgmnist", raw, tmp_path / "set") == metadata
    (tmp_path / "set/mine.txt").touch()
    assert "it holds other things (mine.txt)" in error_of("cgmnist", raw, tmp_path / "set")


@pytest.mark.slow
def test_what_does_not_belong_together(raw, content, tmp_path):
    """Labels, pictures or shapes that are not MNIST's, each with the first index."""
    path = tmp_path / "mnist_10color_jitter_var_0.020.npy"

    def found(**changed):
        save(path, content | changed)
        return error_of("cgmnist", tmp_path, tmp_path / "set", "--mnist", raw)

    labels, images = content["train_label"].copy(), content["test_image"].copy()
    labels[[41, 77]] = labels[[77, 41]] + 1
    assert "train_label: 2 differ from MNIST's, first index 41" in found(train_label=labels)
    images[[7, 12]] = images[[12, 7]]
    message = found(test_image=images)
    assert (
        "test_image: 2 pictures have a tenth of their colour where MNIST's digit has no ink"
        in message
    )
    assert "first index 7" in message
    black = np.zeros_like(content["train_image"])
    assert "train_image: 100% of the pictures are black" in found(train_image=black)
    assert "train_image: (3, 28, 28, 3) found" in found(train_image=images[:3])
    assert "test_label: nothing found" in found(test_label=None)
    assert not (tmp_path / "set").exists()


def test_which_file(raw, tmp_path):
    assert "no mnist_10color_jitter" in error_of(
        "cgmnist", tmp_path, tmp_path / "set", "--mnist", raw
    )
    for variance in ("0.020", "0.030"):
        (tmp_path / f"mnist_10color_jitter_var_{variance}.npy").touch()
    arguments = ("cgmnist", tmp_path, tmp_path / "set", "--mnist", raw)
    assert "give --variance, one of 0.020, 0.030" in error_of(*arguments)
    assert "--variance 0.04: " in error_of(*arguments, "--variance", "0.04")


def test_split_of_the_generator(raw):
    with pytest.raises(UserError, match="--split acts only on an imported set"):
        load_data(options.parse(["--dataset", "cgmnist", "--data_root", str(raw), "--split", "x"]))
