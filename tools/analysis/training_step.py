"""A training step of an ImageNet config on made-up images: images a second and peak memory.

python tools/analysis/training_step.py configs/classification/resnet50_1xb128_in1k_scsa.py --amp
"""

import argparse
import json
from pathlib import Path

from scsa.cli import existing, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--batch', type=int, help="images a step [the config's]")
    parser.add_argument('--size', type=int, default=224, help='of the images [224]')
    parser.add_argument('--steps', type=int, default=20, help='timed [20]')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    import torch
    from mmengine.config import Config

    import scsa  # noqa: F401, configs without SCSA do not import it
    from scsa.benchmark import training_step

    cfg = Config.fromfile(existing(args.config, 'config', 'configs/classification holds ours'))
    if args.amp:
        training_step.use_amp(cfg)
    device = torch.device(args.device)
    figures = training_step.measure(cfg, device, args.batch, args.size, args.steps)
    print(json.dumps(figures))
    if args.out:
        args.out.write_text(json.dumps(figures) + '\n', 'utf-8')


if __name__ == '__main__':
    run(main)
