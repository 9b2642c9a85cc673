"""Effective receptive fields, stage by stage, models side by side.

python tools/visualization/receptive_field.py data/digits/val/3 --images 20 \
--model plain=configs/quickstart/resnet18_digits.py,work_dirs/resnet18_digits/epoch_10.pth \
--model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo-compare`. Writes field.png, field.json (sides in pixels) and field.npz (the fields
and the shares inside centred squares).
"""

import argparse

from scsa.cli import UserError, run


def main() -> None:
    from scsa.visualization.models import add_model_arguments, load_models
    from scsa.visualization.output import add_output_arguments, save_arrays, save_figure, save_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IMAGES', help='an image, a folder, or a glob in quotes')
    add_model_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--stages', nargs='+', type=int, help='numbers from 1; the last block [all]')
    which.add_argument('--layers', nargs='+', metavar='LAYER', help='names in place of stages')
    parser.add_argument('--images', type=int, default=50, help='at most so many [%(default)s]')
    add_output_arguments(parser, 'work_dirs/receptive_field')
    args = parser.parse_args()

    from scsa.visualization.images import Images
    from scsa.visualization.layers import stage_ends
    from scsa.visualization.receptive_field import effective_fields
    from scsa.visualization.receptive_field_figure import SHARES, draw

    fields = {}
    for model in load_models(args.models, args.device):
        layers = args.layers or stage_ends(model.model)
        if args.stages:
            if not 1 <= min(args.stages) <= max(args.stages) <= len(layers):
                raise UserError(f'--stages: {model.name} has stages 1 to {len(layers)}')
            layers = [layers[stage - 1] for stage in args.stages]
        images = Images(args.source, args.images)
        inputs = (model.prepare(image)[0] for _, image in images)
        found = effective_fields(model.model, inputs, layers)
        print(f'{model.name}: {images.summary()}')
        fields[model.name] = found

    if len({len(found) for found in fields.values()}) > 1:
        raise UserError('the models have different numbers of stages; choose some by --stages')
    numbers, arrays = {}, {}
    for name, found in fields.items():
        for layer, one in found.items():
            sides = {f'side_{share:.0%}'.rstrip('%'): one.side(share) for share in SHARES}
            print(f'{name:12} {layer:24} 50 % inside {one.side(0.5)}, 95 % {one.side(0.95)} pixels')
            numbers.setdefault(name, {})[layer] = {
                **sides, 'input': one.field.shape, 'map': one.map_size, 'offset': one.offset
            }  # fmt: skip
            arrays[f'{name}/{layer}/field'] = one.field
            arrays[f'{name}/{layer}/share'] = one.share
    stem = args.out_dir / 'field'
    save_json(stem.with_suffix('.json'), numbers)
    save_arrays(stem.with_suffix('.npz'), **arrays)
    print(*save_figure(draw(fields), stem, args.formats))


if __name__ == '__main__':
    run(main)
