"""Compiles every launch of the Triton kernels exactly as a GPU would, on a machine without one.

Run by test_triton_compiles.py in a process of its own, without Triton's interpreter. A stub takes
the place of the driver and the maps lie on `meta`, so that Triton itself decides what it knows of
each argument (what divides it, what is 1) and compiles just what would be launched.

Prints one line of JSON for each compiled kernel: what it is, and what the machine code shows.
"""

import argparse
import importlib
import json
import re

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from scsa.ops.parameters import Options

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

    def run(self, kernel, cut, *args, **constants):
        compiled = kernel.warmup(
            *args, cut.splits, grid=(cut.programs,), **constants, **cut.constants
        )
        compiled.result() if hasattr(compiled, 'result') else None
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


def facts(kernel, cut, compiled):
    """What a kernel uses: of the assembler's own words and of the code it made."""
    text = compiled.asm['ptx']
    loads = [
        int(bits) // 8 * int(many[2:] if many else 1)
        for many, bits in re.findall(r'ld\.global(?:\.\w+)*?(\.v\d)?\.[bfus](\d+)', text)
    ]
    metadata = compiled.metadata
    return dict(
        kernel=kernel.fn.__name__, warps=metadata.num_warps, shared=metadata.shared, loads=loads,
        **{name: value for name, value in cut.constants.items() if name != 'num_warps'},
        **resources(compiled),
    )  # fmt: skip


def resources(compiled):
    """Registers, spilled bytes and instructions, read from the machine code by Triton's tools."""
    import subprocess
    import tempfile

    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        shown = subprocess.check_output(
            [knobs.nvidia.cuobjdump.path, '-res-usage', file.name], text=True
        )
        code = subprocess.check_output([knobs.nvidia.cuobjdump.path, '-sass', file.name], text=True)
    (registers,) = set(re.findall(r'REG:(\d+)', shown))
    (stack,) = set(re.findall(r'STACK:(\d+)', shown))
    instructions = re.findall(r'^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);', code, re.MULTILINE)
    return dict(registers=int(registers), spills=int(stack), instructions=len(instructions))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=list(SHAPES))
    parser.add_argument('--types', nargs='+', choices=TYPES, default=list(TYPES))
    parser.add_argument('--layouts', nargs='+', choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument('--capability', type=int, default=90)
    args = parser.parse_args()
    driver.set_active(Driver(args.capability))
    launches = failed = 0
    for name in args.shapes:
        for shape in SHAPES[name]:
            for dtype in args.types:
                for layout in args.layouts:
                    x = torch.empty(shape, dtype=TYPES[dtype], device='meta')
                    x = x.contiguous(memory_format=LAYOUTS[layout])
                    for window in (Options(1, 7, 'avg_pool', 0.0, False).window(x), None):
                        compiler = Compiler()
                        kernels.run = compiler.run
                        every_launch(x, window)
                        for kernel, cut, compiled in compiler.found.values():
                            launches += 1
                            about = dict(shape=shape, dtype=dtype, layout=layout)
                            if window or kernel.fn.__name__ in WITHOUT_WINDOWS:
                                print(json.dumps({**about, **facts(kernel, cut, compiled)}))
    print(json.dumps(dict(triton=triton.__version__, launches=launches, failed=failed)))


WITHOUT_WINDOWS = ('products_kernel', 'map_backward_kernel')

if __name__ == '__main__':
    main()
