"""Read checkpoints safely in a project of your own: `custom_imports = ['scsa.engine.safely']`."""

from .checkpoints import read_safely

read_safely()
