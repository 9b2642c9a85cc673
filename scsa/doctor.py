"""Says what is installed, what clashes and the mend, what will compute, and what tools lack.

Standard library only, but inside the functions: it must run where nothing is installed.
"""

from __future__ import annotations

import importlib
import os
import platform
import time
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from .cli import install_help
from .openmmlab import versions
from .version import __version__

OTHERS = ('torchvision', 'triton', 'timm', 'onnx', 'onnxruntime', 'onnxscript')
CLASSIFICATION = ('mmengine', 'mmcv', 'mmpretrain')
DETECTION = (*CLASSIFICATION, 'mmdet', 'mmcv.ops')
SEGMENTATION = (*CLASSIFICATION, 'mmseg', 'mmcv.ops')
MEND_OPS = '`make env-full` for detection and segmentation'
SCOPES = {'mmpretrain': CLASSIFICATION, 'mmdet': DETECTION, 'mmseg': SEGMENTATION}
# What the tools import, by folder of tools/.
TOOLS = {
    'train.py, test.py, infer.py: classification': CLASSIFICATION,
    'train.py, test.py, infer.py: detection': DETECTION,
    'train.py, test.py, infer.py: segmentation': SEGMENTATION,
    'analysis/': (*CLASSIFICATION, 'matplotlib'),
    'visualization/': (*CLASSIFICATION, 'matplotlib'),
    'data/': CLASSIFICATION,
    'dataset_converters/': ('numpy', 'PIL', 'sklearn'),
    'deploy/': (*CLASSIFICATION, 'onnx', 'onnxruntime'),
}


def diagnose(configs: list[str] = ()) -> int:
    """Prints the report.

    Args:
        configs: Configs that are to run here: what they need must be there.

    Returns:
        How many troubles were found, at most 1: the exit code.
    """
    sections, troubles = Doctor().examine(configs)
    print(f'scsa {__version__}, Python {platform.python_version()}, {platform.platform()}')
    for title, lines in sections.items():
        print(f'\n{title}')
        for line in lines:
            print(f'  {line}')
    print()
    for trouble in troubles:
        print(f'trouble: {trouble}')
    print(f'{len(troubles)} found' if troubles else 'no trouble found')
    return int(bool(troubles))


class Doctor:
    """One examination; packages are imported once, and what that raised is kept."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.troubles: list[str] = []

    def examine(self, configs: list[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Returns the lines of each section, and the troubles, each with its mend."""
        found = versions.installed()
        sections = {'packages': self.packages(found)}
        self.troubles += versions.troubles(found, find_spec('pkg_resources') is not None)
        torch = self.load('torch')
        if torch is None:
            self.troubles.append(
                f'{self.failures["torch"]}; everything here needs torch. `make env` brings it too'
            )
            return sections, self.troubles
        sections['mmcv'] = [self.operators(torch, found)]
        devices = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
        sections['path'] = [self.path(torch, device) for device in devices]
        sections['self test'] = [line for device in devices for line in self.self_test(device)]
        sections['tools'] = [f'{name:46}{self.lacking(needs)}' for name, needs in TOOLS.items()]
        for config in configs:
            self.check_config(config)
        return sections, self.troubles

    def packages(self, found: dict[str, str]) -> list[str]:
        """Versions of what is installed."""
        for name in OTHERS:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return [f'{name:20}{found[name]}' for name in sorted(found)] or ['none']

    def load(self, name: str) -> ModuleType | None:
        """Imports a module; what that raises is kept, and a trouble unless it is not installed."""
        if name in self.failures:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            self.failures[name] = install_help(error.name or name)
            if (error.name or name).split('.')[0] not in (name.split('.')[0], 'mmcv'):
                self.troubles.append(f'{name} cannot be imported: {self.failures[name]}')
        except Exception as error:  # a broken install raises whatever it likes
            text = ' '.join(str(error).split())
            self.failures[name] = f'{name} cannot be imported: {type(error).__name__}: {text}'
            if name != 'torch':  # said with its mend
                self.troubles.append(self.failures[name])
        return None

    def operators(self, torch: ModuleType, found: dict[str, str]) -> str:
        """Whether mmcv has its compiled operators, for the GPU too where there is one."""
        if self.load('mmcv') is None:
            return self.failures['mmcv']
        if self.load('mmcv.ops') is None:
            whole = [name for name in ('mmcv', 'onedl-mmcv') if name in found]
            if whole:
                self.troubles.append(
                    f'{whole[0]} {found[whole[0]]} was built without its compiled operators, which '
                    'mmdet and mmseg import: `make env-full` builds them; by hand: '
                    f'`MMCV_WITH_OPS=1 pip install --no-build-isolation --force-reinstall '
                    f'--no-deps --no-binary :all: {whole[0]}=={found[whole[0]]}`'
                )
            kind = whole[0] if whole else 'mmcv-lite'
            return f'{kind}, without compiled operators: enough for classification; {MEND_OPS}'
        if not torch.cuda.is_available():
            return 'with compiled operators'
        try:
            box, score = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).cuda(), torch.ones(1).cuda()
            importlib.import_module('mmcv.ops').nms(box, score, 0.5)
        except Exception as error:  # RuntimeError, or an operator that is not there
            self.troubles.append(
                f'the operators of mmcv do not run on the GPU: {type(error).__name__}: '
                f'{" ".join(str(error).split())}; build them where nvcc of CUDA '
                f'{torch.version.cuda} is: `make env-full`'
            )
            return 'with compiled operators for the CPU only'
        return 'with compiled operators, for the GPU too'

    def path(self, torch: ModuleType, device: str) -> str:
        """Which path computes on a device, and why not Triton's kernels."""
        from .ops import dispatch

        asked = os.environ.get('SCSA_BACKEND', 'auto')
        if asked not in dispatch.BACKENDS:
            self.troubles.append(
                f'SCSA_BACKEND={asked} is unknown; use one of {", ".join(dispatch.BACKENDS)}'
            )
            return f'none: SCSA_BACKEND={asked} is unknown'
        x = torch.zeros(1, 4, 8, 8, device=device)
        reason = dispatch.why_not_triton(x)
        if asked == 'triton' and reason:
            self.troubles.append(f'SCSA_BACKEND=triton {reason}; set SCSA_BACKEND=auto')
        if not reason and asked == 'auto' and not dispatch.wants_triton(x):
            reason = 'made whole networks no faster on an H100; SCSA_BACKEND=triton asks for it'
        taken = asked if asked != 'auto' else 'eager' if reason else 'triton'
        return f'{device}: {taken}' + (f' (triton {reason})' if reason else '')

    def self_test(self, device: str) -> list[str]:
        """Compares every path that can run with the numbers of the published formulation."""
        from . import selftest

        lines = []
        for name in selftest.paths(device):
            start = time.perf_counter()
            try:
                error = selftest.compare(name, device)
            except Exception as failure:  # what a broken install raises is what is asked for
                self.troubles.append(f'path {name} fails on {device}: {failure}')
                continue
            seconds = time.perf_counter() - start
            lines.append(f'{device}: {name} is off by {error:.1e} ({seconds:.1f} s)')
            if not error <= selftest.TOLERANCE:
                self.troubles.append(
                    f'path {name} gives wrong numbers on {device}: off by {error:.1e}, '
                    f'{selftest.TOLERANCE:.0e} is allowed; set SCSA_BACKEND to another and tell us'
                )
        return lines

    def lacking(self, needs: tuple[str, ...]) -> str:
        """What of some modules cannot be imported, or that nothing is lacking."""
        mends = [self.failures[name] for name in needs if self.load(name) is None]
        return '; '.join(dict.fromkeys(mends)) or 'ready'

    def check_config(self, path: str) -> None:
        """Adds what a config needs and is not here to the troubles."""
        if not Path(path).is_file():
            self.troubles.append(f'config not found: {path}; configs/ holds those of this project')
            return
        mmengine = self.load('mmengine')
        if mmengine is None:
            self.troubles.append(f'config {path} needs OpenMMLab: {self.failures["mmengine"]}')
            return
        try:
            from mmengine.config import Config

            scope = Config.fromfile(path, import_custom_modules=False).get('default_scope')
        except Exception as error:  # a config is a program: it can fail in any way
            self.troubles.append(f'config {path} cannot be read: {type(error).__name__}: {error}')
            return
        lacking = self.lacking(SCOPES.get(scope, CLASSIFICATION))
        if lacking != 'ready':
            self.troubles.append(f'config {path} is one of {scope}, which needs more: {lacking}')
