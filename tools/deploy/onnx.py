"""Export a trained model to ONNX and compare the file with the model.

python tools/deploy/onnx.py configs/quickstart/resnet18_digits_scsa.py \
    work_dirs/resnet18_digits_scsa/epoch_10.pth --dynamic --check

after `make demo`. A classifier is exported whole, a segmentor up to its logits, a detector without
decoding and NMS; docs/deploy.md has the rest.
"""

import argparse
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: what imports `onnx` would find this file there

from scsa.cli import UserError, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--out', type=Path, help='file to write [the checkpoint, .onnx for .pth]')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'), help="pixels [the config's input]"
    )
    parser.add_argument('--dynamic', action='store_true', help='leave batch, height and width open')
    parser.add_argument(
        '--check', action='store_true', help='run the file in onnxruntime and compare'
    )
    parser.add_argument(
        '--exporter', help="'trace' or 'dynamo' [dynamo from torch 2.9 on, else trace]"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import torch
    from mmengine.config import Config

    from scsa.analysis.complexity import standard_input
    from scsa.deploy import onnx
    from scsa.deploy.models import CHANNELS, TensorsOnly, normalisation, takes
    from scsa.visualization.models import load

    loaded = load('model', args.config, args.checkpoint, 'cpu')
    model = TensorsOnly(loaded.model, loaded.task).eval()
    height, width = args.shape or standard_input(Config.fromfile(args.config))
    out = args.out or Path(args.checkpoint).with_suffix('.onnx')
    # The newer exporter takes a batch of one for a constant, and a Swin's one window in the last
    # stage too; in detection and segmentation there are several.
    double = 2 if args.dynamic and loaded.task == 'classification' else 1
    example = torch.randn(1 + args.dynamic, CHANNELS, double * height, double * width)
    onnx.export(model, example, out, args.dynamic, args.exporter)
    print(f'{out}: {out.stat().st_size / 2**20:.1f} MiB, {model.what}')
    print(f'input: {CHANNELS} x {height} x {width}, {normalisation(loaded.model)}')
    if not args.check:
        return
    opened = onnx.session(out)
    sizes = [(1, height, width)]
    if args.dynamic:
        half = (height // 2, width)
        sizes += [(2, *half)] if takes(model, half) else []
        sizes += [(3, height, 2 * width), (2, 2 * height, width)][: 3 - len(sizes)]
    for batch, rows, cols in sizes:
        found = onnx.difference(model, opened, torch.randn(batch, CHANNELS, rows, cols))
        print(f'check at {batch} x {CHANNELS} x {rows} x {cols}: off by {found:.1e} of the largest')
        if not found <= onnx.BAR:
            raise UserError(
                f'{out} gives other numbers than the model, {onnx.BAR:.0e} is allowed; '
                'export without --dynamic, or with the other --exporter'
            )


if __name__ == '__main__':
    run(main)
