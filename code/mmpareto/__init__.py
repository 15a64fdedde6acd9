"""MMPareto: multimodal training with innocent unimodal assistance (Wei and Hu, ICML 2024)."""

from .core import Integrator, MMPareto
from .integrate import Stats

__all__ = ["Integrator", "MMPareto", "Stats", "__version__"]
__version__ = "0.1.0"
