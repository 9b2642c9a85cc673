"""Class activation maps: where an image speaks for what a model says, models side by side.

python tools/visualization/cam.py data/digits/val/3/0045.png \
--model plain=configs/quickstart/resnet18_digits.py,work_dirs/resnet18_digits/epoch_10.pth \
--model SCSA=configs/quickstart/resnet18_digits_scsa.py,work_dirs/resnet18_digits_scsa/epoch_10.pth

after `make demo-compare`. Writes sheets of six images (cam_001.png …) with their heat maps
(cam_001.npz …), and classes, scores and peaks (cam.json). Classification, detection,
segmentation.
"""

import argparse

from scsa.cli import needs, run


def main() -> None:
    from scsa.visualization.models import add_model_arguments, load_models
    from scsa.visualization.output import add_output_arguments, save_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', help='an image, a folder, or a glob in quotes')
    add_model_arguments(parser)
    parser.add_argument('--layer', help='its name [the last block of the last stage]')
    parser.add_argument('--class', dest='category', help="name or number [the model's prediction]")
    parser.add_argument(
        '--method',
        default='gradcam',
        choices=['gradcam', 'gradcam++', 'xgradcam', 'layercam'],
        help='[%(default)s]',
    )
    add_output_arguments(parser, 'work_dirs/cam')
    args = parser.parse_args()

    needs('pytorch_grad_cam', 'grad-cam')
    from scsa.visualization.cam import NothingFound, explain
    from scsa.visualization.cam_figure import ROWS, numbers, write_sheet
    from scsa.visualization.images import Images

    def explained(image, model):
        try:
            return explain(model, image, args.layer, args.category, args.method)
        except NothingFound:
            return None

    images = Images(args.images)
    models = load_models(args.models, args.device)
    rows, found, sheets = [], [], 0
    for path, image in images:
        rows.append((path, image, {model.name: explained(image, model) for model in models}))
        found += numbers(rows[-1])
        if len(rows) == ROWS:
            sheets += 1
            write_sheet(rows, args.out_dir / f'cam_{sheets:03d}', args.formats)
            rows.clear()
    if rows:
        write_sheet(rows, args.out_dir / f'cam_{sheets + 1:03d}', args.formats)
    save_json(args.out_dir / 'cam.json', found)
    for one in found:
        said = f'{one["class"]} {one["score"]:.3f}' if one['found'] else 'nothing found'
        print(f'{one["image"]}  {one["model"]}: {said}')
    print(f'{args.out_dir}: {images.summary()}')


if __name__ == '__main__':
    run(main)
