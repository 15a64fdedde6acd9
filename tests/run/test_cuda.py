"""What a GPU is used for."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmpareto.data.samples import Batch
from mmpareto.methods.base import Decision, numbers


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
