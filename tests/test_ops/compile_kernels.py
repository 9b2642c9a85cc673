"""Compiles every launch of the Triton kernels for a GPU that need not be there.

Run by test_triton_compiles.py in a process of its own, without Triton's interpreter.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scsa import SCSA
from scsa.ops import fused
from scsa.ops.eager import Options

TYPES = {
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
    torch.int64: '*i64',
}


class Recorder:
    """Stands in for a kernel and keeps what it was launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **blocks: self.launches.append((self.kernel, args, blocks))


def compile_launch(kernel, args, blocks, capability):
    """What Triton does at a launch: pointers are aligned, 1 and None are constants."""
    signature, constants, attributes = {}, {}, {}
    for index, (name, value) in enumerate(zip(kernel.arg_names, [*args, *blocks.values()])):
        if index >= len(args) or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(index,)] = 'constexpr', value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(index,)] = [['tt.divisibility', 16]]
        else:
            signature[name] = 'i32' if isinstance(value, int) else 'fp32'
    assert [*blocks] == kernel.arg_names[len(args) :]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32))


def main(kernels, capability, dtype, layout, options):
    launches = []
    for name, kernel in kernels.items():
        setattr(fused, name, Recorder(kernel, launches))
    module = SCSA(64, **options)
    x = torch.randn(2, 64, 30, 28).to(dtype).contiguous(memory_format=layout)
    settings = Options(
        64 // module.head_num, 7, 'avg_pool', module.attn_drop.p, module.gate_layer == 'softmax'
    )
    seed = torch.ones(1, dtype=torch.int64) if settings.dropout else None
    out, kept = fused.forward(settings, x, module.raw_parameters(), seed)
    fused.backward(settings, out, x, kept, module.raw_parameters(), seed)
    for launch in launches:
        compiled = compile_launch(*launch, capability)
        assert compiled.metadata.shared <= 64 * 1024, launch[0]  # what every such GPU has
    print(len(launches), 'launches compiled')


if __name__ == '__main__':
    kernels = {name: k for name, k in vars(fused).items() if name.endswith('_kernel')}
    if sys.argv[1] == 'plain':
        main(kernels, 80, torch.float16, torch.contiguous_format, {})
        main(kernels, 90, torch.float32, torch.channels_last, {})
    else:
        everything = dict(head_num=2, qkv_bias=True, attn_drop_ratio=0.1, gate_layer='softmax')
        main(kernels, 75, torch.float16, torch.channels_last, everything)
        main(kernels, 75, torch.bfloat16, torch.channels_last, everything)
        main(kernels, 90, torch.bfloat16, torch.contiguous_format, everything)
