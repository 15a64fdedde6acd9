"""Data that changes between a run's start and its end, or its evaluation, is not passed over."""

import json
import shutil

import pytest
import torch
from sets import write_arrays
from test_data import write_mnist

import compare
import evaluate
import train
from mmpareto.data.samples import Data, TensorSplit, digest_of, identity
from mmpareto.datasets import cgmnist
from mmpareto.system.errors import UserError

LABELS = [0, 1] * 18
FLAGS = ["--batch_size", "4", "--epochs", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    write_arrays(folder / "set", LABELS)
    train.main(["--dataset", str(folder / "set"), *FLAGS, "--out", str(folder / "run")])
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A set and its run, whose flags name the set where it was: it moves, too."""
    shutil.copytree(trained / "set", tmp_path / "set")
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


def resume(copy, root):
    """One more epoch, on a set in another place: that it has moved is no change."""
    config = json.loads((copy / "run/config.json").read_text())
    state = torch.load(copy / "run/last.pt")
    for flags in (config["flags"], state["config"]):
        flags["data_root"] = str(root)
    (copy / "run/config.json").write_text(json.dumps(config))
    torch.save(state, copy / "run/last.pt")
    (copy / "run/result.json").unlink()
    flags = [*FLAGS, "--epochs", "2", "--out", str(copy / "run"), "--resume"]
    train.main(["--dataset", str(root), *flags])


def scores(copy, root):
    evaluate.main([str(copy / "run/last.pt"), "--data_root", str(root)])


def edit_split(root, kept):
    path = root / "splits/given.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *lines[kept]]) + "\n")


CHANGES = {
    "a label": lambda root: write_arrays(root, [1, 1, *LABELS[2:]]),
    "two labels that change places": lambda root: write_arrays(root, [1, 0, *LABELS[2:]]),
    "clips added": lambda root: write_arrays(root, [*LABELS, 0, 1, 0]),
    "clips removed": lambda root: write_arrays(root, LABELS[:-6]),
    "arrays rewritten": lambda root: write_arrays(root, LABELS, [2] + [1] * 35),
    "a clip taken out of the split": lambda root: edit_split(root, slice(-1)),
    "clips in another order": lambda root: edit_split(root, slice(None, None, -1)),
}


def test_a_set_of_one_s_own_is_named(trained, capsys):
    """Its folder's name and its identity stand in the log, in config.json and in the results."""
    known = json.loads((trained / "run/config.json").read_text())["data"]
    assert known["name"] == "set" and len(known["identity"]) == 12
    log = (trained / "run/train.log").read_text()
    assert f"Data     set, recipe {known['recipe']}, identity {known['identity']}: train " in log
    scores(trained, trained / "set")
    assert f"samples, identity {known['identity']}; " in (out := capsys.readouterr().out)
    assert out.startswith("set test, ")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed(copy, change, capsys):
    root = copy / "set"
    change(root)
    before = {p.name: p.read_bytes() for p in (copy / "run").iterdir() if p.suffix != ".json"}
    scores(copy, root)
    assert "WARNING: the data has changed since" in capsys.readouterr().out.splitlines()[0]
    with pytest.raises(UserError, match=r"--resume: set has changed since .*last.pt"):
        resume(copy, root)
    after = {name: (copy / "run" / name).read_bytes() for name in before if name != "last.pt"}
    assert before | after == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("two", "one")}, "with classes two, one found, .* trained on one, two"),
        ({"recipe": {"audio": "fbank"}}, r"of recipe \w+ found, .* was trained on recipe"),
    ],
)
def test_another_set_of_as_many_classes(copy, change, message):
    write_arrays(copy / "set", LABELS, **change)
    for use in (scores, resume):
        with pytest.raises(UserError, match=message):
            use(copy, copy / "set")


def test_what_is_no_change(copy, capsys):
    """A split of one's own beside the used one, and another place."""
    scores(copy, copy / "set")
    (copy / "set/splits/mine.csv").write_text("id,split\nclip-0,train\nclip-1,test\n")
    (copy / "set").rename(copy / "moved")
    scores(copy, copy / "moved")
    resume(copy, copy / "moved")
    assert "WARNING" not in capsys.readouterr().out


def test_one_table_is_of_one_data(tmp_path, calls, capsys):
    """Told before the first run that would be for nothing; and by --collect."""
    root = write_arrays(tmp_path / "set", LABELS)
    command = ["--dataset", str(root), *FLAGS, "--methods", "uniform", "--out", str(tmp_path / "x")]
    compare.main([*command, "--seeds", "0"])
    known = json.loads((tmp_path / "x/uniform-s0/config.json").read_text())["data"]
    assert set(known) == {"recipe", "classes", "identity", "name"}
    write_arrays(root, [1, 1, *LABELS[2:]])
    told = "uniform, seed 0 and uniform, seed 1: the data has changed"
    with pytest.raises(UserError, match=told):
        compare.main([*command, "--seeds", "0,1"])
    assert len(calls) == 1
    words = [word.replace("uniform-s0", "uniform-s1") for word in calls[0]]
    words[words.index("--random_seed") + 1] = "1"
    train.main(words)
    with pytest.raises(UserError, match=told):
        compare.main([*command, "--seeds", "0,1", "--collect"])


def test_own_flags_of_the_dataset_make_other_data(tmp_path, calls, capsys):
    compare.main(
        ["--dataset", "cgdigits", "--encoder", "cnn", "--epochs", "1", "--limit_batches", "1",
         "--methods", "uniform,uniform:noise=0.5", "--seeds", "0", "--out", str(tmp_path)]
    )  # fmt: skip
    assert len(calls) == 2


def data(inputs, targets):
    splits = {"train": TensorSplit({"x": inputs}, targets)}
    return Data("x", ["a", "b"], {}, splits, {"source": "made"})


def test_identity():
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    one = data(x, y)
    others = [data(x, y.flip(0)), data(x[:2], y[:2]), data(x, torch.stack([y, y], 1))]
    others += [
        one._replace(**field)
        for field in ({"identity": "files"}, {"classes": ["b", "a"]}, {"recipe": {}})
    ]
    assert len({identity(each) for each in (one, data(x, y), *others)}) == 7
    assert digest_of([x]) == digest_of([x.clone()]) != digest_of([x + 1])
    assert digest_of([x.T]) != digest_of([torch.arange(12.0).view(3, 4)])


@pytest.mark.parametrize("dataset", ["cgmnist", "multimnist"])
def test_mnist_with_other_pictures(tmp_path, monkeypatch, dataset):
    """As Fashion-MNIST, whose files have the same names and sizes; here with the same labels."""
    monkeypatch.setattr(cgmnist, "SIZES", {True: 60, False: 10})
    monkeypatch.setattr(cgmnist, "VALIDATION", 20)
    write_mnist(tmp_path, 60, 60, 10)
    flags = ["--dataset", dataset, "--data_root", str(tmp_path), *FLAGS]
    flags += ["--encoder", "lenet" if dataset == "multimnist" else "cnn"]
    train.main([*flags, "--out", str(tmp_path / "run")])
    with open(tmp_path / "MNIST/raw/train-images-idx3-ubyte", "r+b") as file:
        file.seek(1000)
        file.write(b"\1")
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(UserError, match="has changed since"):
        train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "run"), "--resume"])
