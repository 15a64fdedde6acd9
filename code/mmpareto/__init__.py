"""MMPareto: multimodal training with innocent unimodal assistance (Wei and Hu, ICML 2024)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.integrate import Stats
    from .core.integrator import Integrator, MMPareto

__all__ = ["Integrator", "MMPareto", "Stats", "__version__"]
__version__ = "0.1.0"
_HOMES = {"Integrator": "integrator", "MMPareto": "integrator", "Stats": "integrate"}


def __getattr__(name: str):
    """Import what is asked for: torch takes seconds, which a command begins without."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".core.{_HOMES[name]}", __name__), name)
