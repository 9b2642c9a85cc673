"""Train a YOLO with SCSA on the digit scenes: python examples/ultralytics/train.py SCENES [EPOCHS].

SCENES is a folder of tools/dataset_converters/digit_scenes.py.
"""

import json
import shutil
import sys
from pathlib import Path

from ultralytics import YOLO
from ultralytics.data.converter import convert_coco

import scsa.integrations.ultralytics  # noqa: F401, the layers of the YAML


def to_yolo(scenes: Path) -> Path:
    """Writes the scenes in YOLO's form into scenes/yolo; returns the YAML of that data set."""
    out = scenes / 'yolo'
    if not out.exists():
        convert_coco(str(scenes / 'annotations'), str(out), cls91to80=False)
        for split in ('train', 'val'):
            shutil.copytree(scenes / split, out / 'images' / split)
    names = {digit: str(digit) for digit in range(10)}
    data = dict(path=str(out.resolve()), train='images/train', val='images/val', names=names)
    (out / 'data.yaml').write_text(json.dumps(data))  # JSON is YAML
    return out / 'data.yaml'


def main() -> None:
    scenes, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    model = YOLO(str(Path(__file__).with_name('scsa-yolo11n.yaml')))
    model.train(data=str(to_yolo(scenes)), epochs=epochs, imgsz=160, project='work_dirs/yolo')
    print(model.export(format='onnx', imgsz=160))


if __name__ == '__main__':
    main()
