"""Draw the feature maps of layers as a grid, models side by side.

python tools/visualization/features.py data/digits/val/3 --images 2 \
    --model plain=configs/quickstart/resnet18_digits.py,work_dirs/resnet18_digits/epoch_10.pth \
    --model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo-compare`. For each image a picture and the maps, IMAGE.npz, one array for each
model and layer, (C, H, W).
"""  # noqa: E501

import argparse

from scsa.cli import UserError, run


def main() -> None:
    from scsa.visualization.models import add_model_arguments, load_models
    from scsa.visualization.output import add_output_arguments, save_arrays, save_figure

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IMAGES', help='an image, a folder, or a glob in quotes')
    add_model_arguments(parser)
    parser.add_argument('--layers', nargs='+', help='names of layers [the end of each stage]')
    parser.add_argument(
        '--channels', type=int, default=9, help='channels to draw, those that vary most [9]'
    )
    parser.add_argument('--images', type=int, help='at most so many [all]')
    add_output_arguments(parser, 'work_dirs/features')
    args = parser.parse_args()
    if args.channels < 0:
        raise UserError(f'--channels {args.channels}: give 0, which draws the mean alone, or more')

    from scsa.visualization import features
    from scsa.visualization.images import Images, unique_stems

    images = Images(args.source, args.images)
    models = load_models(args.models, args.device)
    layers = features.choose_layers(models, args.layers)
    stems = unique_stems(images.paths)
    for path, image in images:
        maps = {m.name: features.feature_maps(m, image, layers[m.name]) for m in models}
        picture = models[0].picture(models[0].prepare(image)[0])
        stem = args.out_dir / stems[path]
        save_figure(features.draw(picture, maps, args.channels), stem, args.formats)
        save_arrays(
            stem.with_name(f'{stem.name}.npz'),
            **{f'{name}/{layer}': m for name, by in maps.items() for layer, m in by.items()},
        )
    print(f'{args.out_dir}: {images.summary()}')


if __name__ == '__main__':
    run(main)
