"""Datasets, one file each; `base.Dataset` shows what a dataset must define."""

from ..system.registry import Registry
from .base import Dataset

DATASETS: Registry[Dataset] = Registry(
    "dataset",
    __name__,
    {
        "cgdigits": "cgdigits:CGDigits",
        "cgmnist": "cgmnist:CGMNIST",
        "avmnist": "avmnist:AVMNIST",
        "cremad": "cremad:CREMAD",
        "avmnist_clean": "avmnist_clean:AVMNISTClean",
        "ave": "ave:AVE",
        "kinetics_sounds": "kinetics_sounds:KineticsSounds",
        "mosei": "sentiment:MOSEI",
        "mosi": "sentiment:MOSI",
        "modelnet40": "modelnet40:ModelNet40",
        "vggsound": "vggsound:VGGSound",
        "food101": "food101:Food101",
        "multimnist": "multimnist:MultiMNIST",
        "multidigits": "multidigits:MultiDigits",
        "ucf101": "ucf101:UCF101",
        "folder": "folder:Folder",
    },
    aliases={"kineticsound": "kinetics_sounds"},  # as the original spells it
)
