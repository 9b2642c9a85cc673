"""Compiles every launch of the Triton kernels exactly as a GPU would, on a machine without one.

Run by test_triton_compiles.py in a process of its own, without Triton's interpreter. A stub takes
the place of the driver and the maps lie on `meta`, so that Triton itself decides what it knows of
each argument (what divides it, what is 1) and compiles just what would be launched.

Prints one line of JSON for each compiled kernel: what it is, and what the machine code shows.
"""

import argparse
import importlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from scsa.attention.steps import Options

kernels = importlib.import_module('scsa.ops.passes.triton')

TYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
SHAPES = {  # batch, channels, height, width; the stages of ResNet-50, MobileNetV2, detectors
    'resnet': [(64, 64, 56, 56), (64, 128, 28, 28), (64, 256, 14, 14), (64, 512, 7, 7)],
    'mobilenet': [(96, 32, 112, 112), (96, 96, 56, 56), (96, 144, 28, 28), (96, 960, 7, 7)],
    'detection': [
        (2, 64, 200, 336), (2, 128, 100, 168), (2, 256, 50, 84), (2, 512, 25, 42),
        (1, 64, 199, 333), (1, 8, 1, 1), (16, 96, 13, 10),
    ],
}  # fmt: skip


class Driver:
    """As much of a GPU as Triton asks for before it launches."""

    def __init__(self, capability):
        self.target = GPUTarget('cuda', capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device('meta')


class Compiler:
    """Takes the place of the launches of the passes."""

    def __init__(self):
        self.found = {}  # what was compiled, by its hash
        self.failed = []  # what was not, with the error

    def run(self, kernel, cut, *tensors, **sizes):
        arguments = dict(**cut.sizes, **sizes, **cut.constants)
        try:
            compiled = kernel.warmup(*tensors, grid=(cut.programs,), **arguments)
        except Exception as error:  # a compiler raises whatever it likes
            self.failed.append((kernel, cut, f'{type(error).__name__}: {error}'))
        else:
            self.found[compiled.hash] = (kernel, cut, compiled)


def every_launch(x, window):
    batch, channels, height, width = x.shape
    a_h = kernels.floats(x, batch, channels, height)
    a_w = kernels.floats(x, batch, channels, width)
    kernels.strips(x)
    if window:
        kernels.tokens(x, a_h, a_w, window)
    kernels.apply(x, a_h, a_w, x)
    kernels.backward_passes(x, window)


_resources = {}  # by the hash of a kernel: many launches are of one


def facts(kernel, cut, compiled, code):
    """What a kernel uses, read from the assembler's text and from the machine code."""
    loads = [
        int(bits) // 8 * int(many[2:] if many else 1)
        for many, bits in re.findall(
            r'ld\.global(?:\.\w+)*?(\.v\d)?\.[bfus](\d+)', compiled.asm['ptx']
        )
    ]
    metadata = compiled.metadata
    if compiled.hash not in _resources:
        _resources[compiled.hash] = resources(compiled, code)
    return dict(
        **name_of(kernel, cut), warps=metadata.num_warps, shared=metadata.shared, loads=loads,
        **_resources[compiled.hash],
    )  # fmt: skip


def name_of(kernel, cut):
    constants = {name: value for name, value in cut.constants.items() if name != 'num_warps'}
    return dict(kernel=kernel.fn.__name__, **constants)


def resources(compiled, code):
    """Registers and spilled bytes; with `code` also the number of instructions (seconds each)."""
    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        shown = run_tool(tool, '-res-usage', file.name)
        lines = run_tool(tool, '-sass', file.name) if code else ''
    (registers,), (stack,) = (set(re.findall(rf'{key}:(\d+)', shown)) for key in ('REG', 'STACK'))
    found = dict(registers=int(registers), spills=int(stack))
    if code:
        found['instructions'] = len(re.findall(r'^\s+/\*[0-9a-f]{4,}\*/\s', lines, re.MULTILINE))
    return found


def run_tool(*command):
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout


def main():
    """Compiles what the arguments name; ends in 1 if anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=list(SHAPES))
    parser.add_argument('--types', nargs='+', choices=TYPES, default=list(TYPES))
    parser.add_argument('--layouts', nargs='+', choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument('--capabilities', nargs='+', type=int, default=[90])
    parser.add_argument('--code', action='store_true', help='count instructions too')
    args = parser.parse_args()
    launches = failures = 0
    shapes = [shape for name in args.shapes for shape in SHAPES[name]]
    for about in itertools.product(args.capabilities, shapes, args.types, args.layouts):
        capability, shape, dtype, layout = about
        driver.set_active(Driver(capability))
        about = dict(zip(('capability', 'shape', 'dtype', 'layout'), about))
        x = torch.empty(shape, dtype=TYPES[dtype], device='meta')
        x = x.contiguous(memory_format=LAYOUTS[layout])
        for window in (Options(1, 7, 'avg_pool', 0.0, False).window(x), None):
            compiler = Compiler()
            kernels.run = compiler.run
            every_launch(x, window)
            launches += len(compiler.found) + len(compiler.failed)
            failures += len(compiler.failed)
            for kernel, cut, compiled in compiler.found.values():
                row = facts(kernel, cut, compiled, args.code)
                print(json.dumps({**about, 'windows': bool(window), **row}), flush=True)
            for kernel, cut, error in compiler.failed:
                print(json.dumps({**about, **name_of(kernel, cut), 'error': error}), flush=True)
    print(json.dumps(dict(triton=triton.__version__, launches=launches, failures=failures)))
    return min(failures, 1)


if __name__ == '__main__':
    sys.exit(main())
