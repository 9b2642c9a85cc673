"""Draw the features of a data set in the plane by t-SNE, coloured by class, models side by side.

python tools/visualization/tsne.py data/digits/val \
    --model plain=configs/quickstart/resnet18_digits.py,work_dirs/resnet18_digits/epoch_10.pth \
    --model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo-compare`. The folder has a folder for each class, as ImageNet's val has. A feature
is the mean of a layer's map over its pixels. Writes a picture and tsne.npz.
"""  # noqa: E501

import argparse

import numpy as np

from scsa.cli import needs, run


def main() -> None:
    from scsa.visualization.models import add_model_arguments, load_models
    from scsa.visualization.output import add_output_arguments, save_arrays, save_figure

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', help='with one folder of images for each class')
    add_model_arguments(parser)
    parser.add_argument('--layer', help='name of a layer [the end of the last stage]')
    parser.add_argument('--per-class', type=int, help='at most so many images of a class [all]')
    parser.add_argument('--perplexity', type=float, default=30.0, help='of t-SNE [30]')
    parser.add_argument('--seed', type=int, default=0, help='of t-SNE [0]')
    add_output_arguments(parser, 'work_dirs/tsne')
    args = parser.parse_args()
    needs('sklearn', 'scikit-learn')

    from scsa.visualization import tsne
    from scsa.visualization.features import feature_maps
    from scsa.visualization.layers import stage_ends

    images = tsne.class_images(args.folder, args.per_class)
    models = load_models(args.models, args.device)
    layers = {m.name: args.layer or stage_ends(m.model)[-1] for m in models}
    features = {m.name: [] for m in models}
    labels = []
    for path, image in images:
        labels.append(tsne.class_of(path, args.folder))
        for m in models:
            maps = feature_maps(m, image, [layers[m.name]])
            features[m.name].append(maps[layers[m.name]].mean((1, 2)))
    summary = images.summary()
    features = {name: np.stack(rows) for name, rows in features.items()}
    points = {name: tsne.embed(x, args.perplexity, args.seed) for name, x in features.items()}
    stem = args.out_dir / 'tsne'
    print(*save_figure(tsne.draw(points, labels), stem, args.formats), sep='\n')
    print(
        save_arrays(
            stem.with_suffix('.npz'),
            labels=np.array(labels),
            **{f'{name}/features': x for name, x in features.items()},
            **{f'{name}/points': xy for name, xy in points.items()},
        )
    )
    print(summary)


if __name__ == '__main__':
    run(main)
