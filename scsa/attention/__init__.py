"""The attention of SCSA (arXiv 2407.05128) in plain PyTorch: nothing else is imported here."""

from .pcsa import PCSA
from .reference import scsa_reference
from .scsa import SCSA
from .smsa import SMSA

__all__ = ['PCSA', 'SCSA', 'SMSA', 'scsa_reference']
