"""What a GPU is used for; `sh script/gpu.sh` runs the tests that need one."""

import shutil

import pytest
import tiny_models
import torch
from run_files import assert_same_run, read
from torch.utils._python_dispatch import TorchDispatchMode

from mmpareto.benchmarks.timing import host_waits
from mmpareto.core.integrator import MMPareto
from mmpareto.data.batches import loader
from mmpareto.data.samples import Batch, TensorSplit
from mmpareto.methods.base import Decision, numbers
from train import Trainer


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to another device for which the host waits."""

    waits = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = call(*args, **kwargs)
        if call is torch.ops.aten._to_copy.default and args[0].device != found.device:
            self.waits += not kwargs.get("non_blocking")
        return found


def test_nothing_travels_that_the_host_waits_for(monkeypatch):
    """The meta device stands in for a GPU."""
    meta, seen = torch.device("meta"), Copies()
    batch = Batch({"a": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, torch.zeros(2).long())
    batch.to(meta)  # the first one takes the mean and deviation of pictures along
    monkeypatch.setattr(torch.Tensor, "tolist", lambda values: [0.0] * len(values))
    with seen:
        loss = batch.to(meta).inputs["a"].sum()
        numbers([Decision(loss, {"joint": loss}, measures={"both": torch.ones(())})])
    assert seen.waits == 0


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")  # torch gives advice on GPUs
class TestOnAGPU:
    @pytest.fixture
    def train(self, run):
        """Train on the GPU; return the folder."""
        return lambda *flags, **named: run("--device", "cuda", *flags, **named)

    @pytest.mark.parametrize("parts", [1, 3])
    @pytest.mark.parametrize("build", [tiny_models.build, tiny_models.mmtm])
    def test_gradients_are_those_of_the_cpu(self, build, parts):
        """In float64, of a batch at once and in micro-batches."""
        model, found = build(), []
        inputs, targets = tiny_models.batch(model)
        for device in ("cpu", "cuda"):
            model.to(device).zero_grad()
            method = MMPareto(model, model.encoders, late=model.late)
            for x, y, told in tiny_models.micro_batches(inputs, targets, parts):
                x = {name: values.to(device) for name, values in x.items()}
                joint, own = tiny_models.losses(model(x), y.to(device))
                own = {name: loss * told["share"] for name, loss in own.items()}
                method.backward(joint * told["share"], own, accumulate=not told["last"])
            found.append({n: x.cpu() for n, x in tiny_models.gradients(model).items()})
        assert found[0] and found[0].keys() == found[1].keys()
        torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)

    def test_adaptive_decides_as_on_the_cpu(self):
        """On 40 batches; some need both traversals, and some one."""
        taken, weights = [], []
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            model = tiny_models.build()
            batches = [tiny_models.batch(model, 48) for _ in range(40)]
            model.to(device)
            method = MMPareto(model, model.encoders, gramian="adaptive")
            optimizer = torch.optim.SGD(model.parameters(), 0.05)
            for inputs, targets in batches:
                moved = Batch(inputs, targets).to(torch.device(device))
                tiny_models.backward(method, moved.inputs, moved.targets)
                optimizer.step()
                optimizer.zero_grad()
                taken += [name in method.at_features.taken for name in model.encoders]
            weights.append({name: p.detach().cpu() for name, p in model.named_parameters()})
        assert taken[:80] == taken[80:] and 16 < sum(taken[:80]) < 80
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("gramian", ["parameters", "adaptive"])
    def test_bf16_and_compile(self, train, gramian):
        """The losses of the first steps are those of plain training, but for rounding."""
        found = [
            [step["loss"] for step in read(train(*flags, name=f"run{i}") / "steps.jsonl")][:2]
            for i, flags in enumerate(
                [*common, "--epochs", 1, "--limit_batches", 2, "--gramian", gramian]
                for common in ([], ["--compile"], ["--precision", "bf16", "--compile"])
            )
        ]
        assert found[1] == pytest.approx(found[0], rel=2e-3)
        assert found[2] == pytest.approx(found[0], rel=3e-2)
        assert found[2] != found[0]

    @pytest.mark.parametrize("gramian", ["parameters", "adaptive"])
    def test_resumed_to_the_bit(self, train, tmp_path, monkeypatch, gramian):
        """With --deterministic; the test resumes the folder as it was when epoch 3 began."""
        pytest.importorskip("msgspec", reason="--resume needs msgspec")
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        original = Trainer.train_epoch

        def train_epoch(self):
            if self.epoch == 2:
                shutil.copytree(self.run.folder, tmp_path / "broken")
            return original(self)

        flags = ["--epochs", 4, "--limit_batches", 3, "--deterministic", "--gramian", gramian]
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "train_epoch", train_epoch)
                whole = train(*flags, name="whole")
            again = train(*flags, "--resume", name="broken")
        finally:
            torch.use_deterministic_algorithms(False)
        assert_same_run(whole, again)

    @pytest.mark.parametrize(
        ("flags", "waits"),
        [([], 1), (["--method", "uniform"], 1), (["--gramian", "adaptive"], 2)],
    )
    def test_waits(self, train, monkeypatch, flags, waits):
        """train.py waits for the GPU once a step; adaptive once more, to decide."""
        original, found = Trainer.train_epoch, []

        def train_epoch(self):
            if self.epoch == 0:  # its first step verifies what it is given
                return original(self)
            kept = []
            found.append(host_waits(lambda: kept.append(original(self)), 1) / len(kept[0]))
            return kept[0]

        monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
        train(*flags, "--epochs", 2)
        assert found == [waits]

    def test_batches_arrive_while_the_gpu_computes(self):
        split = TensorSplit({"a": torch.randn(8, 3)}, torch.arange(8))
        batches = list(loader(split, 4, pin_memory=True))
        assert all(x.is_pinned() for b in batches for x in (b.inputs["a"], b.targets))
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000_000)  # cycles: half a second or more
        moved = [batch.to(torch.device("cuda")) for batch in batches]
        busy = not torch.cuda.current_stream().query()
        assert busy
        assert torch.equal(torch.cat([b.inputs["a"] for b in moved]).cpu(), split.inputs["a"])
        assert torch.equal(torch.cat([b.targets for b in moved]).cpu(), split.targets)
