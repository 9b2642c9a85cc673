"""SCSA, spatial and channel synergistic attention (arXiv 2407.05128)."""

from importlib.util import find_spec

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

if find_spec('torch') is not None:
    from .attention import PCSA, SCSA, SMSA
    from .insertion import insert, published_keys, remove
    from .openmmlab.registration import register
    from .ops import backend

    register()
else:  # `python -m scsa doctor` and the tools are to say it in one line

    def __getattr__(name: str) -> None:
        if name in __all__:
            raise ModuleNotFoundError(
                f'scsa.{name} needs torch, which is not installed: pip install torch', name='torch'
            )
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
