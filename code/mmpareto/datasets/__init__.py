"""Datasets: one file each, with `defaults` for the flags and `load(options) -> data.samples.Data`.

One whose raw files code/prepare.py can read is a `shared.prepared.Prepared`. `encoder` names the
default encoder where it is not that of the modality's kind. One of multi-task learning says
`is_multitask`, and its `Data` the tasks.
"""

from ..system.registry import Registry

DATASETS = Registry(
    "dataset",
    __name__,
    {
        "cgdigits": "cgdigits:CGDigits",
        "cgmnist": "cgmnist:CGMNIST",
        "cremad": "cremad:CREMAD",
        "kinetics_sounds": "kinetics_sounds:KineticsSounds",
        "modelnet40": "modelnet40:ModelNet40",
        "multimnist": "multimnist:MultiMNIST",
        "multidigits": "multidigits:MultiDigits",
        "folder": "folder:Folder",
    },
    aliases={"kineticsound": "kinetics_sounds"},  # as the original spells it
)
