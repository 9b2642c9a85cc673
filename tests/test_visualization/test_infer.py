"""tools/infer.py end to end, and that it says what the model says."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tools_helpers import refusal

pytest.importorskip('mmpretrain')
from scsa.visualization.images import read_image

TOOL = 'tools/infer.py'


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_a_folder_of_images(task, spec, loaded, images, tmp_path, in_process, capsys):
    config, checkpoint = spec(task).split('=', 1)[1].split(',')
    if task == 'classification':  # whose pipeline does not resize
        images = images / 'grey.png'
    in_process(TOOL, config, checkpoint, images, '--out-dir', tmp_path, '--device', 'cpu')
    found = json.loads((tmp_path / 'predictions.json').read_text())
    count = 1 if task == 'classification' else 3
    assert found['task'] == task and len(found['images']) == count
    assert [name[-10:] for name in found['skipped']] == ['broken.png'] * (count == 3)
    assert f'{count} images, {len(found["skipped"])} skipped' in capsys.readouterr().out
    row = found['images'][-1]
    for one in found['images']:
        assert imread(tmp_path / one['drawn']).std() > 0
    model, image = loaded(task), read_image(row['image'])
    assert (row['height'], row['width']) == image.shape[:2]
    with torch.no_grad():
        (sample,) = model.model.test_step(next(iter(batches(model, image))))
    check = {'classification': check_class, 'detection': check_boxes, 'segmentation': check_map}
    check[task](row, sample, found['classes'])


def batches(model, image):
    found = model.inferencer.preprocess([image[..., ::-1]], batch_size=1)
    return ((batch[1] if model.task == 'detection' else batch) for batch in found)


def check_class(row, sample, classes):
    np.testing.assert_allclose(row['scores'], sample.pred_score.numpy(), rtol=1e-5)
    best = int(sample.pred_score.argmax())
    assert (row['label'], row['class']) == (best, classes[best])


def check_boxes(row, sample, classes):
    expected = sample.pred_instances
    assert len(row['boxes']) == len(expected) > 0
    boxes = [one['box'] for one in row['boxes']]
    np.testing.assert_allclose(boxes, expected.bboxes.numpy(), rtol=1e-4, atol=1e-3)
    assert all(one['class'] == classes[one['label']] for one in row['boxes'])


def check_map(row, sample, classes):
    from pycocotools import mask

    expected = sample.pred_sem_seg.data[0].numpy()
    again = np.zeros_like(expected)
    for one in row['segments']:
        again[mask.decode(one['mask']).astype(bool)] = one['label']
        assert one['class'] == classes[one['label']]
    np.testing.assert_array_equal(again, expected)
    assert sum(one['share'] for one in row['segments']) == pytest.approx(1)


def test_two_images_of_one_name_are_both_kept(spec, images, tmp_path, in_process):
    config, checkpoint = spec('classification').split('=', 1)[1].split(',')
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.png').write_bytes((images / 'grey.png').read_bytes())
    in_process(TOOL, config, checkpoint, f'{tmp_path}/*/x.png', '--out-dir', tmp_path / 'out')
    assert len(list((tmp_path / 'out' / 'drawn').iterdir())) == 2


def test_refusals(spec, images, monkeypatch, capsys):
    config, checkpoint = spec('classification').split('=', 1)[1].split(',')

    def line(*arguments):
        return refusal(monkeypatch, capsys, TOOL, *arguments)

    assert 'no image found: nowhere.png' in line(config, checkpoint, 'nowhere.png')
    assert 'checkpoint not found: no.pth' in line(config, 'no.pth', images)
    assert 'none of 1 images could be read' in line(config, checkpoint, images / 'broken.png')
