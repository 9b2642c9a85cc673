"""Quantise an exported classifier to int8, and compare size, top-1 and speed with float32.

python tools/deploy/int8.py configs/quickstart/resnet18_digits_scsa.py \
    work_dirs/resnet18_digits_scsa/epoch_10.onnx

after tools/deploy/onnx.py. It is calibrated on some training images, without augmentation, and
tested on the test set of the config; docs/deploy.md has more.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: what imports `onnx` would find a file there

from scsa.cli import UserError, existing, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('onnx', type=Path, help='what tools/deploy/onnx.py wrote')
    parser.add_argument('--out', type=Path, help='file to write [the other, .int8.onnx for .onnx]')
    parser.add_argument('--images', type=int, default=200, help='to calibrate on [200]')
    parser.add_argument('--threads', type=int, default=0, help='of onnxruntime [all cores]')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    existing(args.config, 'config', 'configs/ holds those of this project')
    source = existing(args.onnx, 'ONNX file', 'write it with tools/deploy/onnx.py')
    from mmengine.config import Config

    from scsa.deploy import int8, onnx

    cfg = Config.fromfile(args.config)
    if cfg.get('default_scope') != 'mmpretrain':
        raise UserError(f'{args.config} is no classifier of mmpretrain; this tool takes no other')
    target = args.out or source.with_suffix('.int8.onnx')
    calibrating = (image for image, _ in images(cfg, cfg.train_dataloader))
    int8.quantise(source, target, itertools.islice(calibrating, args.images))
    openeds = [onnx.session(path, args.threads) for path in (source, target)]
    tested = list(images(cfg, cfg.test_dataloader))
    times = int8.milliseconds(openeds, tested[0][0])
    for path, opened, time in zip((source, target), openeds, times):
        size, right = path.stat().st_size / 2**20, int8.top1(opened, tested)
        print(f'{path}: {size:.1f} MiB, top-1 {right:.2f} %, {time:.2f} ms an image')


def images(cfg, loader):
    """Normalised (1, C, H, W) images and their labels, as they are tested."""
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.runner import Runner

    import scsa  # noqa: F401 - what the config names is registered
    from scsa.engine.config import set_loader_defaults

    dataset = dict(loader.dataset, pipeline=cfg.test_dataloader.dataset.pipeline)
    cfg = cfg.copy()
    # Shuffled: the first of a folder of images may all be of one class.
    sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.test_dataloader = dict(cfg.test_dataloader, dataset=dataset, sampler=sampler)
    set_loader_defaults(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        batches = Runner.build_dataloader(cfg.test_dataloader, seed=0)
        preprocessor = MODELS.build(dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
        for batch in batches:
            data = preprocessor(batch, False)
            for image, sample in zip(data['inputs'], data['data_samples']):
                yield image[None].numpy(), sample.gt_label.item()


if __name__ == '__main__':
    run(main)
