"""SCSA, spatial and channel synergistic attention (arXiv 2407.05128)."""

from .attention import PCSA, SCSA, SMSA
from .openmmlab.registration import register
from .ops import backend
from .version import __version__

__all__ = ['PCSA', 'SCSA', 'SMSA', '__version__', 'backend']

register()
