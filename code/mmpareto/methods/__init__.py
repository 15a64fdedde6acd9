"""Methods: how a batch becomes gradients."""

from ..registry import Registry

METHODS = Registry(
    "method",
    __name__,
    {
        "joint": "joint:Joint",
        "unimodal": "unimodal:Unimodal",
        "uniform": "uniform:Uniform",
        "pareto": "pareto:Pareto",
        "mmpareto": "mmpareto:MMPareto",
        "gblend": "gblend:GBlend",
        "ogm_ge": "ogm_ge:OGMGE",
        "greedy": "greedy:Greedy",
        "pmr": "pmr:PMR",
        "agm": "agm:AGM",
    },
)
