"""Methods: how a batch becomes gradients."""

from ..system.registry import Registry
from .base import Method

METHODS: Registry[Method] = Registry(
    "method",
    __name__,
    {
        "joint": "joint:Joint",
        "unimodal": "unimodal:Unimodal",
        "uniform": "uniform:Uniform",
        "pareto": "pareto:Pareto",
        "mmpareto": "mmpareto:MMParetoMethod",
        "uw": "uw:UW",
        "dwa": "dwa:DWA",
        "rlw": "rlw:RLW",
        "gblend": "gblend:GBlend",
        "ogm_ge": "ogm_ge:OGMGE",
        "greedy": "greedy:Greedy",
        "pmr": "pmr:PMR",
        "agm": "agm:AGM",
        "mla": "mla:MLA",
        "aug": "aug:AUG",
        "smv": "smv:SMV",
        "relearning": "relearning:Relearning",
        "inforeg": "inforeg:InfoReg",
        "cggm": "cggm:CGGM",
        "mmcosine": "mmcosine:MMCosine",
        "umt": "umt:UMT",
        "g2d": "g2d:G2D",
        "pcgrad": "pcgrad:PCGrad",
        "cagrad": "cagrad:CAGrad",
        "upgrad": "upgrad:UPGrad",
        "imtl_g": "imtl_g:IMTLG",
        "aligned_mtl": "aligned_mtl:AlignedMTL",
        "torchjd": "torchjd:TorchJD",
        "gradnorm": "gradnorm:GradNorm",
        "metabalance": "metabalance:MetaBalance",
    },
)
