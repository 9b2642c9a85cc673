"""How alike layers are (cka), and channels of one layer (ssim).

python tools/visualization/similarity.py cka data/digits/val --images 100 \
    --model plain=configs/quickstart/resnet18_digits.py,work_dirs/resnet18_digits/epoch_10.pth \
    --model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo-compare`; `ssim` takes the same. cka compares every layer of all models with every
other, by the unbiased estimator. ssim compares the channels of a layer with each other and with
the image, and takes the mean over the images. Both draw a picture and write the numbers.
"""  # noqa: E501

import argparse
from typing import Dict, Iterator

import numpy as np

from scsa.cli import UserError, needs, run

LAYER_HELP = dict(cka='all blocks of the backbone', ssim='the end of its first stage')


def parse_args() -> argparse.Namespace:
    from scsa.visualization.models import add_model_arguments
    from scsa.visualization.output import add_output_arguments

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='cka|ssim')
    for kind, default in LAYER_HELP.items():
        one = kinds.add_parser(
            kind, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.add_argument('source', metavar='IMAGES', help='an image, a folder, or a glob in quotes')
        add_model_arguments(one)
        one.add_argument('--layers', nargs='+', help=f'names of layers [{default}]')
        one.add_argument('--images', type=int, help='at most so many [all]')
        if kind == 'cka':
            one.add_argument('--batch', type=int, default=50, help='images at a time [50]')
            one.add_argument('--pool', action='store_true', help='average maps over their pixels')
        else:
            one.add_argument('--channels', type=int, default=64, help='the first so many [64]')
        add_output_arguments(one, 'work_dirs/similarity')
    return parser.parse_args()


def batches(args, images, models, layers) -> Iterator[Dict[str, np.ndarray]]:
    """The features of all layers of all models, --batch images at a time."""
    from scsa.visualization.features import feature_maps

    kept: Dict[str, list] = {}
    count = 0
    for path, image in images:
        for model in models:
            maps = feature_maps(model, image, layers[model.name])
            for layer, values in maps.items():
                key = f'{model.name}: {layer.replace("backbone.", "")}'
                values = values.mean((1, 2)) if args.pool else values
                mine = kept.setdefault(key, [])
                if mine and mine[0].shape != values.shape:
                    raise UserError(
                        f'{path} gives maps of another size than the images before it; '
                        'give images of one size, or --pool'
                    )
                mine.append(values)
        count += 1
        if count == args.batch:
            yield {key: np.stack(values) for key, values in kept.items()}
            kept, count = {}, 0
    if count:
        yield {key: np.stack(values) for key, values in kept.items()}


def cka(args, images, models) -> list:
    from scsa.visualization import layers, similarity
    from scsa.visualization.output import save_figure, save_json

    chosen = {model.name: args.layers or layers.blocks(model.model) for model in models}
    found, names = similarity.cka(batches(args, images, models, chosen))
    stem = args.out_dir / 'cka'
    numbers = dict(layers=names, cka=found)
    paths = save_figure(similarity.draw_cka(found, names), stem, args.formats)
    return [*paths, save_json(stem.with_suffix('.json'), numbers)]


def ssim(args, images, models) -> list:
    needs('skimage', 'scikit-image')
    from scsa.visualization import layers, similarity
    from scsa.visualization.features import feature_maps
    from scsa.visualization.output import save_figure, save_json

    found, with_image = {}, {}
    for _, image in images:
        for model in models:
            picture = model.picture(model.prepare(image)[0])
            chosen = args.layers or layers.stage_ends(model.model)[:1]
            for layer, values in feature_maps(model, image, chosen).items():
                key = f'{model.name}: {layer.replace("backbone.", "")}'
                values = values[: args.channels]
                found.setdefault(key, []).append(similarity.ssim(values))
                with_image.setdefault(key, []).append(similarity.ssim_with_image(picture, values))
    images.summary()  # which says so if none could be read
    found, with_image = (
        {key: np.mean(values, 0) for key, values in one.items()} for one in (found, with_image)
    )
    stem = args.out_dir / 'ssim'
    numbers = {key: dict(pairs=found[key], with_image=with_image[key]) for key in found}
    paths = save_figure(similarity.draw_ssim(found, with_image), stem, args.formats)
    return [*paths, save_json(stem.with_suffix('.json'), numbers)]


def main() -> None:
    args = parse_args()
    from scsa.visualization.images import Images
    from scsa.visualization.models import load_models

    images = Images(args.source, args.images, shuffled=True)
    models = load_models(args.models, args.device)
    paths = dict(cka=cka, ssim=ssim)[args.kind](args, images, models)
    print(*paths, images.summary(), sep='\n')


if __name__ == '__main__':
    run(main)
