"""Draws the pictures of docs/gallery.md with the quick-start classifiers, as `make figures` does.

Runs the tools of tools/visualization as a user would, into work_dirs/figures, and puts what the
page shows into docs/images, each below 200 kB.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
OUT = Path('work_dirs/figures')  # relative to ROOT, as are the images below
IMAGES = OUT / 'images'
CLASSIFIERS = [
    f'--model={name}=configs/quickstart/{config}.py,work_dirs/{config}/epoch_10.pth'
    for name, config in (('plain', 'resnet18_digits'), ('SCSA', 'resnet18_digits_scsa'))
]
SIDE = 320  # of the photographs
WITH_PHOTOGRAPHS = ('features_photo_china', 'cam', 'gates')


def collect_images() -> None:
    """Two scans of handwriting, a composed scene, and scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    shutil.rmtree(ROOT / IMAGES, ignore_errors=True)
    (ROOT / IMAGES).mkdir(parents=True)
    for digit in (3, 8):
        scan = sorted((ROOT / f'data/digits/val/{digit}').iterdir())[0]
        shutil.copy2(scan, ROOT / IMAGES / f'digit_{digit}.png')
    scene = sorted((ROOT / 'data/digit_scenes/val').iterdir())[0]
    shutil.copy2(scene, ROOT / IMAGES / f'scene{scene.suffix}')
    photographs = load_sample_images()
    for name, pixels in zip(photographs.filenames, photographs.images):
        photograph = Image.fromarray(pixels)
        photograph.thumbnail((SIDE, SIDE))
        photograph.save(ROOT / IMAGES / f'photo_{Path(name).stem}.png')


def draw(tool: str, *arguments: str, models: Sequence[str] = CLASSIFIERS) -> Path:
    """Runs a tool for classifiers, both unless said; returns the folder that it wrote to."""
    out = OUT / tool
    command = [sys.executable, f'tools/visualization/{tool}.py', *arguments, *models]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    subprocess.run([*command, '--out-dir', str(out)], cwd=ROOT, env=environment, check=True)
    return ROOT / out


def publish(picture: Path, name: str) -> None:
    """Puts a picture into docs/images: JPEG with photographs in it, else PNG of 256 colours."""
    image = Image.open(picture).convert('RGB')
    target = ROOT / f'docs/images/gallery_{name}'
    if name in WITH_PHOTOGRAPHS:
        target = target.with_suffix('.jpg')
        image.save(target, quality=85, optimize=True)
    else:
        target = target.with_suffix('.png')
        image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f'{target.relative_to(ROOT)}: {target.stat().st_size // 1000} kB')


def main() -> None:
    collect_images()
    features = draw('features', str(IMAGES))
    for name in ('digit_3', 'photo_china'):
        publish(features / f'{name}.png', f'features_{name}')
    publish(draw('cam', str(IMAGES)) / 'cam_001.png', 'cam')
    gates, layer = IMAGES / 'photo_china.png', 'backbone.layer1.0.attn'
    gates = draw('attention_maps', str(gates), '--layers', layer, models=CLASSIFIERS[1:])
    publish(gates / f'photo_china/SCSA/{layer}.png', 'gates')
    fields = draw('receptive_field', 'data/digits/val', '--images', '100')
    publish(fields / 'field.png', 'receptive_field')


if __name__ == '__main__':
    main()
