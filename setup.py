"""Builds scsa-attention, with configs, tools and model-index.yml under `scsa/.mim`."""

import os
import shutil
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

MIM = Path('scsa', '.mim')
PACKED = [Path('configs'), Path('tools'), Path('model-index.yml')]
DEV = Path('tools', 'dev')  # for work on the project itself: not packed


def packed_files():
    """Yields every file that goes under `scsa/.mim`, relative to the checkout."""
    for top in PACKED:
        for path in sorted(top.rglob('*')) if top.is_dir() else [top]:
            if path.is_file() and '__pycache__' not in path.parts and DEV not in path.parents:
                yield path


class BuildPy(build_py):
    """Declares the packed files as package data; links them where the install is editable."""

    def _get_data_files(self):
        return [*super()._get_data_files(), self._mim_files()]

    def get_data_files_without_manifest(self):
        return [*super().get_data_files_without_manifest(), self._mim_files()]

    def _mim_files(self):
        # (package, source folder, target folder, file names), as setuptools keeps its own
        return 'scsa', '', os.path.join(self.build_lib, MIM), [str(p) for p in packed_files()]

    def run(self):
        shutil.rmtree(Path(self.build_lib, 'scsa'), ignore_errors=True)  # an earlier build's
        super().run()
        if self.editable_mode:
            link_packed()


class SDist(sdist):
    """Adds `scsa/.mim`, so that an unpacked sdist is as usable as an install."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for path in packed_files():
            target = Path(base_dir, MIM, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def link_packed():
    """Links the packed files into the checkout's `scsa/.mim`: edits of a config are seen."""
    MIM.mkdir(exist_ok=True)
    for top in PACKED:
        link = MIM / top
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        elif link.is_symlink() or link.exists():
            link.unlink()
        try:
            link.symlink_to(Path('..', '..', top), target_is_directory=top.is_dir())
        except OSError:  # a file system or a Windows account without links
            (shutil.copytree if top.is_dir() else shutil.copy2)(top, link)


def requirements(name):
    """Reads the requirements of one file, without comments and options."""
    lines = Path('requirements', f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and line[0] not in '#-']


setup(
    name='scsa-attention',
    version=run_path('scsa/version.py')['__version__'],
    description='Spatial and channel synergistic attention (SCSA) for PyTorch and OpenMMLab',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['scsa', 'scsa.*']),
    python_requires='>=3.8',
    install_requires=requirements('runtime'),
    extras_require={
        'mim': requirements('mminstall'),
        'optional': requirements('optional'),
        'tests': requirements('tests'),
        'timm': requirements('timm'),
        'visualization': requirements('visualization'),
        'onnx': requirements('onnx'),
    },
    cmdclass={'build_py': BuildPy, 'sdist': SDist},
    zip_safe=False,
)
