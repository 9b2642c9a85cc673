"""Counts parameters, FLOPs and activations of configs, and what they have more than the first.

python tools/analysis/complexity.py PLAIN.py OURS.py [--shape 224] [--by-module 3]
"""

import argparse

from scsa.cli import UserError, existing, run

NOTE = """
GFLOPs: multiply-adds of convolutions, linear layers, norms and products of two maps, for one image.
Elementwise, pooling: one for each value that an activation, sum, product or softmax gives and that
a pooling reads; not in GFLOPs. As mmpretrain publishes: both, without the products of two maps.
Activations: values that convolutions, linear layers and products give. SCSA counts the same by
every path: what is counted is its plain composition."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help="side, or height and width [config's]",
    )
    parser.add_argument(
        '--by-module', nargs='?', type=int, const=3, metavar='DEPTH', help='also as a tree [3]'
    )
    args = parser.parse_args()
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        raise UserError('--shape: give a side, or height and width, in pixels')
    return args


def main() -> None:
    args = parse_args()
    from mmengine.config import Config

    import scsa  # noqa: F401, configs without SCSA do not import it
    from scsa.analysis import complexity
    from scsa.engine.config import explained

    found, sizes = {}, {}
    for path in args.configs:
        cfg = Config.fromfile(existing(path, 'config', 'configs/ holds those of this project'))
        size = tuple((args.shape * 2)[:2]) if args.shape else complexity.standard_input(cfg)
        with explained(TypeError, ValueError):
            model = complexity.build(cfg)
        found[path], sizes[path] = complexity.analyze(model, *size), size
    print(complexity.tables(found, sizes))
    for path, one in found.items():
        if one.not_counted:
            print(f'{path}: no cost is known of: {", ".join(one.not_counted)}')
    print(NOTE)
    if args.by_module is not None:
        for path, one in found.items():
            print(f'\n{path}\n{complexity.tree(one, args.by_module)}')


if __name__ == '__main__':
    run(main)
