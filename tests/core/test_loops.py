"""docs/loops.md: every loop there trains as train.py does, on one process and on two."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from balance import trainer_of
from torch.testing import assert_close
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (ROOT / "docs/loops.md").read_text(encoding="utf-8").split("\n## ")
START, *BLOCKS = (
    found[1] for part in SECTIONS if (found := re.search(r"```python\n(.*?)```", part, re.DOTALL))
)
LOOPS = dict(zip(("torch", "accelerate", "lightning", "transformers"), BLOCKS, strict=True))
START_OF_ONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
SAVED = """
import os
torch.save(model.state_dict(), os.environ["RANK"])
"""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def losses(model, batch):
    inputs, targets = batch
    output = model(inputs)
    return output.joint_loss(targets), output.unimodal_losses(targets)


@pytest.fixture(params=LOOPS)
def loop(request, tmp_path, monkeypatch):
    """The block of one section, in a folder where one process of torchrun could run it."""
    pytest.importorskip(request.param)
    monkeypatch.chdir(tmp_path)
    if request.param == "torch":
        for key, value in START_OF_ONE.items():
            monkeypatch.setenv(key, value)
    return LOOPS[request.param]


def test_trains_as_train_py(loop, tmp_path):
    """From the same weights, on the same batches, to the same weights after an epoch."""
    trainer = trainer_of(tmp_path / "run", "--method", "mmpareto", "--weight_decay", 0)
    trainer.order.epoch = 1
    batches = list(trainer.loaders["train"])
    samples = [
        ({key: values[i] for key, values in batch.inputs.items()}, batch.targets[i])
        for batch in batches
        for i in range(len(batch.targets))
    ]
    imports = [line for line in START.splitlines() if re.match("import|from", line)]
    space = {"model": copy.deepcopy(trainer.model), "samples": samples, "losses": losses}
    space["loader"] = DataLoader(samples, batch_size=16)
    assert len(trainer.train_epoch()) == len(batches) > 5
    exec("\n".join([*imports, loop]), space)
    assert_close(space["model"].state_dict(), trainer.model.state_dict(), rtol=1e-6, atol=1e-6)


def test_two_processes(loop, tmp_path):
    """Two processes with half of each batch do what one does with all of it."""
    exec(START + loop, space := {})
    page = (START + loop + SAVED).replace("batch_size=16", "batch_size=8")
    if "lightning" in loop:  # it would shuffle
        own = 'devices=2, strategy="ddp", accelerator="cpu", use_distributed_sampler=False, '
        page = page.replace("max_epochs", own + "max_epochs")
        page = page.replace(", loader)", ", DataLoader(samples[trainer.global_rank::2], 8))")
    (tmp_path / "page.py").write_text(page)
    more = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(ROOT / "code")}
    words = "torch.distributed.run --standalone --nproc_per_node 2 page.py"
    subprocess.run([sys.executable, "-m", *words.split()], check=True, env=os.environ | more)
    for rank in "01":
        found = torch.load(tmp_path / rank)
        assert_close(found, space["model"].state_dict(), rtol=1e-6, atol=1e-6)
