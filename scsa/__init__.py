"""SCSA, spatial and channel synergistic attention (arXiv 2407.05128)."""

from .attention import PCSA, SCSA, SMSA
from .insertion import insert, published_keys, remove
from .openmmlab.registration import register
from .ops import backend
from .version import __version__

__all__ = [
    'PCSA',
    'SCSA',
    'SMSA',
    '__version__',
    'backend',
    'insert',
    'published_keys',
    'remove',
]

register()
