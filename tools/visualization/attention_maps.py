"""What is inside SCSA on an image: all gates, the channel attention, the map before and after.

python tools/visualization/attention_maps.py data/digits/val/3/0045.png \
--model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo`. Writes, into a folder for each image and model, a sheet for each block
(backbone.layer1.0.attn.png …), all arrays (gates.npz), and how the gates are spread (gates.json).
"""

import argparse

from scsa.cli import UserError, run


def main() -> None:
    from scsa.visualization.models import add_model_arguments, load_models
    from scsa.visualization.output import add_output_arguments, save_arrays, save_figure, save_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', help='an image, a folder, or a glob in quotes')
    add_model_arguments(parser)
    parser.add_argument('--layers', nargs='+', metavar='LAYER', help='names of attentions [all]')
    parser.add_argument('--head', type=int, default=1, help='whose matrix is drawn [%(default)s]')
    add_output_arguments(parser, 'work_dirs/attention_maps')
    args = parser.parse_args()

    from scsa.visualization.attention_figure import draw
    from scsa.visualization.attention_maps import attention_maps, find_attentions, summary
    from scsa.visualization.images import Images, unique_stems

    images = Images(args.images)
    models = load_models(args.models, args.device)
    layers = {model.name: args.layers or find_attentions(model.model) for model in models}
    stems = unique_stems(images.paths)
    for path, image in images:
        for model in models:
            inputs = model.prepare(image)[0]
            found = attention_maps(model.model, inputs, layers[model.name])
            folder = args.out_dir / stems[path] / model.name
            for layer, arrays in found.items():
                heads = len(arrays.get('attention', [0]))
                if not 1 <= args.head <= heads:
                    raise UserError(f'--head {args.head}: {layer} has heads 1 to {heads}')
                kernels = getattr(model.model.get_submodule(layer), 'group_kernel_sizes', ())
                title = f'{model.name}, {layer}'
                figure = draw(arrays, model.picture(inputs), title, kernels, args.head - 1)
                save_figure(figure, folder / layer, args.formats)
            save_json(folder / 'gates.json', {name: summary(one) for name, one in found.items()})
            flat = {f'{name}/{key}': a for name, one in found.items() for key, a in one.items()}
            save_arrays(folder / 'gates.npz', **flat)
    print(f'{args.out_dir}: {images.summary()}')


if __name__ == '__main__':
    run(main)
