"""MMPareto: multimodal training with innocent unimodal assistance (Wei and Hu, ICML 2024)."""

from .core import Integrator, MMPareto
from .integrate import Stats
from .version import VERSION as __version__

__all__ = ["Integrator", "MMPareto", "Stats", "__version__"]
