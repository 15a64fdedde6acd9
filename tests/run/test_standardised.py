"""The numbers that standardise a run's arrays stay with it."""

from mmpareto.system import tensors

import shutil

import pytest
import torch
from toy_kinds import TRAINED, ToyKinds, load, runs
from toys import TOYS

import train
from mmpareto.data import standard
from mmpareto.datasets import DATASETS
from mmpareto.run import options
from mmpareto.system.errors import UserError
from train import Trainer

KINDS = [*TRAINED["kinds"], "--limit_batches", "1"]


class Moved(ToyKinds):
    """The same names, but other samples: all vectors are larger by 100."""

    @classmethod
    def load(cls, flags):
        data = super().load(flags)
        for split in data.splits.values():
            split.inputs["pose"] = split.inputs["pose"] + 100
        return data


@pytest.fixture
def moved(monkeypatch):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | TOYS | {"toy_kinds": Moved})


def trainer_of(folder, *words, resume=False):
    flags = options.parse([*KINDS, *map(str, words)])
    return Trainer(flags, train.Run(folder, options.as_config(flags) if resume else {}, resume))


def changed(path, folder, **fields):
    """Write a checkpoint again with other fields, or without those that are None."""
    state = tensors.read(path) | fields
    copy = shutil.copytree(path.parent, folder) / path.name
    tensors.write(copy, {name: value for name, value in state.items() if value is not None})
    return copy


@runs("kinds")
def test_a_run_keeps_its_numbers(trained, moved, tmp_path):
    """A set with another training split is evaluated by the numbers of the run."""
    kept = tensors.read(trained)["standard"]
    whole = ToyKinds.load(None).splits["train"].inputs["pose"]
    torch.testing.assert_close(kept["pose"], torch.stack([whole.mean(0), whole.std(0, False)]))
    assert load(trained).data.splits["test"].read([0, 1])[0]["pose"].min() > 10
    log = (trained.parent / "train.log").read_text()
    assert log.count("Arrays   standardised by the training split's mean and deviation: pose\n")


@runs("kinds")
def test_numbers_of_all_samples_and_of_this_run_only(trained, moved, tmp_path):
    """--train_size changes no numbers; an encoder that is continued brings those of its run."""
    kept = tensors.read(trained)["standard"]["pose"]
    fresh = trainer_of(tmp_path / "few", "--train_size", 16).data.standard["pose"]
    torch.testing.assert_close(fresh[0], kept[0] + 100)
    began = trainer_of(tmp_path / "new", "--init_encoder", f"pose={trained}").data
    assert torch.equal(began.standard["pose"], kept) and "deviation of its" in began.notes[-1]
    assert trainer_of(tmp_path / "a", "--init_encoder", f"film={trained}").data.standard
    plain = changed(trained, tmp_path / "plain", standard={})
    began = trainer_of(tmp_path / "b", "--init_encoder", f"pose={plain}").data
    assert began.standard == {} and began.splits["test"].read([0])[0]["pose"].min() > 140


@runs("kinds")
def test_runs_of_earlier_versions(trained, tmp_path, monkeypatch):
    """Their arrays were read as they are: evaluation goes on so, and resuming asks for it."""
    state = tensors.read(trained)
    config = {k: v for k, v in state["config"].items() if k != "standardise"}
    old = load(changed(trained, tmp_path / "old", standard=None, config=config))
    assert old.data.splits["test"].read([0])[0]["pose"].min() > 40
    new = options.as_config(options.parse(KINDS))
    assert "standardise was none, is train" in options.changes(config, new)
    assert not any(
        "standardise" in c for c in options.changes(config, {**new, "standardise": "none"})
    )
    monkeypatch.setattr(ToyKinds, "has_arrays", lambda root: False)
    assert not any("standardise" in c for c in options.changes(config, new))


@runs("kinds")
def test_numbers_that_do_not_fit(trained, tmp_path):
    for name, wrong in {"a": {"pose": torch.ones(2, 4)}, "b": {"words": torch.ones(2, 6)}}.items():
        with pytest.raises(UserError, match=f"{name}/last.pt: damaged.*no mean and deviation of"):
            load(changed(trained, tmp_path / name, standard=wrong))


@runs("kinds")
def test_teachers_share_the_numbers(trained, tmp_path):
    teacher = ["--method", "umt", "--teacher", trained]
    one = trainer_of(tmp_path / "one", *teacher)
    assert one.method.teachers
    numbers = {"pose": one.data.standard["pose"] * (1 + 1e-7)}
    assert standard.alike(numbers, one.data.standard)
    with pytest.raises(UserError, match="its arrays were standardised by other numbers"):
        trainer_of(tmp_path / "two", *teacher, "--standardise", "none")


def test_resuming_goes_on_with_them(moved, tmp_path, monkeypatch):
    flags = [*KINDS, "--out", str(tmp_path / "run")]
    train.main([*flags, "--epochs", "1"])
    kept = tensors.read(tmp_path / "run/last.pt")["standard"]["pose"]
    monkeypatch.setattr(standard, "measured", lambda data: 1 / 0)
    resumed = trainer_of(tmp_path / "run", *flags[-2:], "--epochs", 2, "--resume", resume=True)
    resumed.run.close()
    assert torch.equal(resumed.data.standard["pose"], kept)
    with pytest.raises(UserError, match="standardise was train, is none"):
        train.main([*flags, "--resume", "--epochs", "2", "--standardise", "none"])
