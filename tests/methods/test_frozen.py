"""--freeze: an encoder that a run leaves as it starts, whatever the method."""

import pytest
import torch
from balance import trainer_of

from mmpareto.methods import METHODS
from mmpareto.run import setup
from mmpareto.system.errors import UserError


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] * (m != "mmpareto")) for m in METHODS],
)
def test_a_frozen_encoder_stays_as_it_is(method, tmp_path):
    """Its BatchNorm, too; the other encoder and both heads learn."""
    flags = ["--method", method, "--freeze", "a", "--epochs", 4, "--limit_batches", 3]
    trainer = trainer_of(tmp_path / "run", *flags)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    for epoch in range(4):
        trainer.epoch = epoch
        steps = trainer.train_epoch()
    moved = {
        name.rpartition(".")[0]
        for name, x in trainer.model.state_dict().items()
        if not torch.equal(x, before[name])
    }
    assert not [name for name in moved if name.startswith("encoders.a.")]
    assert {"encoders.b.stages.0.0", "encoders.b.stages.0.1"} <= moved
    assert [name for name in moved if name.startswith("unimodal_heads.a")]
    assert all("a" not in step.get("encoders", {}) for step in steps)
    frozen = set(trainer.model.encoders["a"].parameters())
    assert not frozen & trainer.optimizer.state.keys()
    for given, more in (([], "; ITS WEIGHTS ARE RANDOM"), (["a=best.pt"], "")):
        trainer.flags.init_encoder = given
        header = setup.header(trainer.flags, trainer.data, trainer.model, trainer.device, 3)
        assert f"Frozen   a: no gradient, evaluation mode{more}" in header


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match=r"--freeze c: the model has no encoder .*choose of a, b"):
        trainer_of(tmp_path / "run", "--freeze", "b", "c")
